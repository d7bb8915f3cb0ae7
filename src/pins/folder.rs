//! The links by which paths are pinned, in a folder below the runtime directory.
//!
//! They have numbers for names, and the lowest that is free is used again: Nix notes each name of a link that it is told of
//! until it next collects garbage, and these stay few.
//!
//! The folder is named after the place of the state directory, not after what lies there: a queue that had to be replaced
//! finds what the old one pinned, and releases what isn't queued any more.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::nix::{StoreDir, StorePath};
use crate::queue::name_of;

/// Below the runtime directory; in it each state directory has a folder of its own.
const PINS: &str = "pins";

/// A path that is pinned, once Nix knows of the link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pin {
    pub(super) path: StorePath,
    pub(super) link: PathBuf,
}

/// Whether Nix knows of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// It has been told.
    Yes,
    /// The link was found when the folder was opened: an earlier process may have ended before it told Nix.
    Perhaps,
    /// It has been made since, and pins nothing yet.
    No,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    number: u32,
    known: Known,
}

/// The links of one state directory.
#[derive(Debug)]
pub(super) struct PinFolder {
    folder: PathBuf,
    store_dir: StoreDir,
    links: BTreeMap<StorePath, Link>,
    taken: BTreeSet<u32>,
    /// All lower numbers are taken.
    free_from: u32,
}

impl PinFolder {
    /// Reads what there is of a state directory, which must exist. What is no pin is removed, or passed over if it can't be.
    pub(super) fn open(runtime_dir: &Path, state_dir: &Path, store_dir: StoreDir) -> io::Result<Self> {
        let folder = runtime_dir.join(PINS).join(name_of(&fs::canonicalize(state_dir)?));
        let links = match entries(&folder) {
            // A file in the place of the folder, if it isn't one higher up.
            Err(error) if error.kind() == ErrorKind::NotADirectory => fs::remove_file(&folder).map(|()| Vec::new())?,
            links => links?,
        };
        let mut opened = Self { folder, store_dir, links: BTreeMap::new(), taken: BTreeSet::new(), free_from: 0 };
        links.iter().for_each(|name| opened.take_in(name));
        Ok(opened)
    }

    /// Takes in what lies in the folder by that name.
    fn take_in(&mut self, name: &OsString) {
        let link = self.folder.join(name);
        let number = name.to_str().and_then(|name| name.parse().ok().filter(|number: &u32| number.to_string() == name));
        let path = fs::read_link(&link).ok().and_then(|target| self.store_dir.parse(target.to_str()?).ok());
        if let Some((number, path)) = number.zip(path)
            && !self.links.contains_key(&path)
        {
            self.links.insert(path, Link { number, known: Known::Perhaps });
            self.taken.insert(number);
        } else if let Err(error) = remove(&link) {
            warn!("{} is no pin and can't be removed: {error}", link.display());
            self.taken.extend(number);
        }
    }

    /// Whether others have removed any of them: `storewatch unpin`, or who cleans up.
    pub(super) fn lacks_some(&self) -> bool {
        let there = fs::read_dir(&self.folder).map_or(0, Iterator::count);
        there < self.links.len()
    }

    /// Has links to these paths and to no others.
    pub(super) fn pin_just(&mut self, wanted: &[StorePath]) -> io::Result<()> {
        let kept: BTreeSet<_> = wanted.iter().collect();
        self.release(|path, _| !kept.contains(path))?;
        for path in wanted {
            if !self.links.contains_key(path) {
                self.pin(path)?;
            }
        }
        Ok(())
    }

    /// The pins that Nix may not know of.
    pub(super) fn unknown(&self) -> Vec<Pin> {
        let unknown = self.links.iter().filter(|(_, link)| link.known != Known::Yes);
        unknown.map(|(path, link)| Pin { path: path.clone(), link: self.link(link.number) }).collect()
    }

    /// Notes that Nix knows of the link of this path.
    pub(super) fn note_known(&mut self, path: &StorePath) {
        if let Some(link) = self.links.get_mut(path) {
            link.known = Known::Yes;
        }
    }

    /// Removes the links that Nix has never been told of: they pin nothing, and would look as if they did. Of one that was
    /// found, Nix may have been told by an earlier process, so it stays.
    pub(super) fn release_unknown(&mut self) -> io::Result<()> {
        self.release(|_, link| link.known == Known::No)
    }

    /// Makes the link of a path. It pins nothing before Nix knows of it.
    fn pin(&mut self, path: &StorePath) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        loop {
            let number = (self.free_from..).find(|number| !self.taken.contains(number)).unwrap_or_default();
            let made = symlink(self.store_dir.full(path), self.link(number));
            match made {
                Ok(()) => {
                    self.links.insert(path.clone(), Link { number, known: Known::No });
                }
                // Somebody else has put something there.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
            self.taken.insert(number);
            self.free_from = number + 1;
            if self.links.contains_key(path) {
                return Ok(());
            }
        }
    }

    /// Removes the links of which this is said.
    fn release(&mut self, is_released: impl Fn(&StorePath, &Link) -> bool) -> io::Result<()> {
        let released = self.links.iter().filter(|(path, link)| is_released(path, link));
        let released: Vec<_> = released.map(|(path, link)| (path.clone(), link.number)).collect();
        for (path, number) in released {
            remove(&self.link(number))?;
            self.links.remove(&path);
            self.taken.remove(&number);
            self.free_from = self.free_from.min(number);
        }
        Ok(())
    }

    fn link(&self, number: u32) -> PathBuf {
        self.folder.join(number.to_string())
    }
}

/// What was released, and what couldn't be.
#[derive(Debug, Default)]
pub struct Released {
    /// So many pins.
    pub pins: u64,
    /// What is still there, and what the system says of it.
    pub left: Vec<(PathBuf, io::Error)>,
}

/// Releases all pins below a runtime directory, whichever state directory they belong to, as far as can be.
#[must_use]
pub fn release_all(runtime_dir: &Path) -> Released {
    let pins = runtime_dir.join(PINS);
    let mut released = Released::default();
    for folder in released.listed(&pins) {
        // What is no folder holds no pins.
        if !fs::symlink_metadata(&folder).is_ok_and(|found| found.is_dir()) {
            released.remove(&folder);
            continue;
        }
        for link in released.listed(&folder) {
            released.pins += u64::from(released.remove(&link));
        }
        // One that a service has just pinned something in stays.
        let _ = fs::remove_dir(&folder);
    }
    let _ = fs::remove_dir(&pins);
    released
}

impl Released {
    /// What lies in a folder.
    fn listed(&mut self, folder: &Path) -> Vec<PathBuf> {
        match entries(folder) {
            Ok(names) => names.into_iter().map(|name| folder.join(name)).collect(),
            Err(error) => {
                self.left.push((folder.to_owned(), error));
                Vec::new()
            }
        }
    }

    /// Removes something, and says whether it is gone.
    fn remove(&mut self, there: &Path) -> bool {
        remove(there).map_err(|error| self.left.push((there.to_owned(), error))).is_ok()
    }
}

/// The names in a folder; none where there is no folder.
fn entries(folder: &Path) -> io::Result<Vec<OsString>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.file_name())).collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn remove(link: &Path) -> io::Result<()> {
    match fs::remove_file(link) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
