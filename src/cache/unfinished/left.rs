//! Notes of earlier runs, and what they say is left where nobody tidies up: what was sent to another place that the policy
//! named for the same cache, or for one that it doesn't name any more. Only people can delete that, so they are told, once by
//! each process that finds it, as long as the notes are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::{fs, io};

use tracing::warn;

use super::{REFUSED_KEPT, REFUSED_KEPT_FOR};
use crate::cache::run;

/// The folders and the places of which this process has told: it is no news when the policy is read or a cache opened again.
static TOLD: Mutex<BTreeSet<(PathBuf, String)>> = Mutex::new(BTreeSet::new());

/// What an earlier run has noted.
pub(super) struct Left {
    pub(super) note: PathBuf,
    text: String,
}

/// An upload, as it was noted.
pub(super) struct Noted<'a> {
    /// Where it was sent to: [`Place::address`](super::Place::address).
    pub(super) place: &'a str,
    pub(super) object: &'a str,
    /// The narinfo for which it was sent.
    pub(super) narinfo: &'a str,
    /// The name of the upload in parts, if it had one.
    pub(super) parts: Option<&'a str>,
}

impl Left {
    /// None where a power failure cut the note: what was sent, if anything was, can't be found by it.
    pub(super) fn noted(&self) -> Option<Noted<'_>> {
        let mut lines = self.text.lines();
        let (place, object, narinfo) = (lines.next()?, lines.next()?, lines.next()?);
        Some(Noted { place, object, narinfo, parts: lines.next() })
    }
}

/// All notes of a folder that aren't this process's. Blocks.
pub(super) fn of_earlier_runs(folder: &Path) -> io::Result<Vec<Left>> {
    let files = fs::read_dir(folder)?.flatten();
    let old = files.filter(|file| !file.file_name().to_str().is_some_and(run::is_own));
    Ok(old.filter_map(|file| Some(Left { text: fs::read_to_string(file.path()).ok()?, note: file.path() })).collect())
}

/// Tells where the uploads of these notes may have left something. What is old of the notes, or too much, is forgotten then.
/// Blocks.
pub(super) fn tell(folder: &Path, left: &[Left]) {
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for noted in left.iter().filter_map(Left::noted) {
        *places.entry(noted.place).or_default() += 1;
    }
    let cache = folder.file_name().unwrap_or_default().to_string_lossy();
    let is_news = |place: &str| {
        let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
        told.insert((folder.to_owned(), place.to_owned()))
    };
    for (place, uploads) in places.into_iter().filter(|(place, _)| is_news(place)) {
        warn!(
            "uploads that were cut ({uploads}) may have left something in {place}, where nobody deletes it, since the policy \
             does not name that for the cache {cache} any more; what it is, the notes in {} say",
            folder.display()
        );
    }
    for (count, Left { note, .. }) in left.iter().enumerate() {
        let age = fs::metadata(note).and_then(|note| note.modified()).ok().and_then(|modified| modified.elapsed().ok());
        if count >= REFUSED_KEPT || age.unwrap_or_default() >= REFUSED_KEPT_FOR {
            // Should it stay, it is told of again.
            let _ = fs::remove_file(note);
        }
    }
}

/// Tells where uploads to a cache may have left something that isn't on any server any more, by the folder in which it noted
/// them. Blocks.
pub fn tell_of_cut_uploads(folder: &Path) {
    // Where there is nothing that could be read, there is nothing to tell.
    tell(folder, &of_earlier_runs(folder).unwrap_or_default());
}
