//! Uploads that have begun and are not shown yet: what becomes of them when they fail, are called off, or this process is
//! killed.
//!
//! Each is noted in a file of the state directory before its first byte is sent, and the note goes when all is tidied up:
//! parts that were sent are aborted, and an archive that no narinfo names is deleted. What an earlier run has noted is
//! tidied up at the next start, if it was sent to where the cache still is; what isn't, is told (`left`). A state directory
//! may have come back from a backup, or be the copy of another host's: its notes are of uploads that have ended long ago. So
//! an archive stays that the narinfo names for which it was sent, and so does each whose note is older than a day; one that
//! nobody needs after all is found by a prune.
//!
//! A note goes too, and with it every claim to the archive, before the narinfo is sent: from then on the narinfo may be
//! there, whatever is heard of it. So it must not come back with a power failure either: the folder is synced, and where
//! that fails no narinfo is sent. From then on the archive is expected (`Contents::expect`), so that the next try, or the
//! next run, names it and sends nothing again. A crash in between leaves an archive that nobody names, which does no harm but
//! take up room; deleting one that a narinfo names would. So do a power failure in the first seconds of a small one, whose
//! note isn't synced, and one between a store's beginning of an upload in parts and its name's being noted.

mod left;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::sleep;
use tracing::{debug, info};

pub use self::left::tell_of_cut_uploads;
use self::left::{Left, Noted};
use super::{CacheError, Class, layout, run};
use crate::report::one_line;

/// How long to wait before what could not be taken back is tried again.
const PAUSES: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(10), Duration::from_secs(60), Duration::from_secs(600)];

/// Where nothing may be taken back, so many notes are kept all the same, a few hundred bytes each: the right to may be given
/// later.
const REFUSED_KEPT: usize = 1_000;

/// They are kept for so long: 30 days.
const REFUSED_KEPT_FOR: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What a note of an earlier run says of an archive is believed for so long, 1 day: another path's narinfo may name that
/// archive by now, if the state directory came back from a backup.
const BELIEVED_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// Where archives are sent, as far as they can be taken back from there.
pub(super) trait Place: Clone + Send + Sync + 'static {
    /// As messages call it.
    fn name(&self) -> &str;

    /// As notes call it, and no other place.
    fn address(&self) -> String;

    /// What notes call a file of the cache.
    fn noted(&self, file: &str) -> String;

    /// The narinfo that is shown under that name, if one is.
    fn shown(&self, narinfo: &str) -> impl Future<Output = Result<Option<String>, CacheError>> + Send;

    /// Aborts what was sent in parts under that name. That there is nothing is fine.
    fn abort(&self, object: &str, parts: &str) -> impl Future<Output = Result<(), CacheError>> + Send;

    /// Deletes what was put under that name. That there is nothing is fine.
    fn delete(&self, object: &str) -> impl Future<Output = Result<(), CacheError>> + Send;
}

/// What is to be taken back.
struct Sent<'a> {
    object: &'a str,
    /// The name of the upload in parts.
    parts: Option<&'a str>,
    /// The narinfo for which it was sent, where an earlier run has sent it: it may be shown.
    narinfo: Option<&'a str>,
}

/// An archive on its way. Dropped before [`Upload::let_go`], it is taken back.
pub(super) struct Upload<P: Place> {
    place: P,
    notes: Notes,
    /// A note of it; `None` once it has been let go.
    note: Option<PathBuf>,
    object: String,
    /// Where the place is about to begin an upload in parts.
    beginning: Option<JoinHandle<Begun>>,
    /// The name of the upload in parts.
    parts: Option<String>,
}

/// The name that an upload in parts was given, and whether it could be noted.
type Begun = Result<(String, Result<(), CacheError>), CacheError>;

/// The folder of a cache's notes.
#[derive(Clone)]
pub(super) struct Notes {
    folder: PathBuf,
    removals: Arc<Removals>,
    /// How many were kept of those that may not be taken back.
    refused: Arc<AtomicUsize>,
}

/// Notes that were removed for good, and how many of those removals are durable.
#[derive(Default)]
struct Removals {
    made: AtomicU64,
    /// Locked while the folder is synced: who comes meanwhile shares the next sync.
    synced: Mutex<u64>,
}

impl Notes {
    /// Makes the folder if it is missing.
    pub(super) fn open(folder: &Path) -> Result<Self, CacheError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|source| CacheError::Io { action: "create", path: folder.to_owned(), source })?;
        Ok(Self { folder: folder.to_owned(), removals: Arc::default(), refused: Arc::default() })
    }

    /// Notes that an archive is about to be sent, and the narinfo that will name it.
    pub(super) async fn begin<P: Place>(
        &self,
        place: &P,
        object: String,
        narinfo: &str,
    ) -> Result<Upload<P>, CacheError> {
        let note = self.folder.join(run::new_name());
        if let Err(error) = add(note.clone(), format!("{}\n{object}\n{narinfo}\n", place.address()), false).await {
            // On a full disk there may be a file with nothing in it.
            let _ = self.remove(&note).await;
            return Err(error);
        }
        let (place, notes) = (place.clone(), self.clone());
        Ok(Upload { place, notes, note: Some(note), object, beginning: None, parts: None })
    }

    /// Takes an archive back that was let go and that no narinfo names for certain.
    pub(super) async fn take_back_unshown<P: Place>(&self, place: &P, object: String, narinfo: &str) {
        // What can't be noted is tried once.
        match self.begin(place, object.clone(), narinfo).await {
            Ok(upload) => upload.take_back().await,
            Err(_) => drop(place.delete(&object).await),
        }
    }

    /// Tidies up what earlier runs have left of that place, one after the other. What can't be tidied up now stays noted,
    /// and so does all that comes behind it, which would fare no better, unless it was this one that may not be deleted.
    pub(super) async fn tidy_up<P: Place>(self, place: P) {
        let (folder, address) = (self.folder.clone(), place.address());
        let look = move || {
            let left = left::of_earlier_runs(&folder).unwrap_or_default();
            let is_own = |left: &Left| left.noted().is_none_or(|noted| noted.place == address);
            let (own, others): (Vec<_>, Vec<_>) = left.into_iter().partition(is_own);
            left::tell(&folder, &others);
            own
        };
        let Ok(own) = spawn_blocking(look).await else { return };
        for left in own {
            let Some(Noted { object, narinfo, parts, .. }) = left.noted() else {
                let _ = self.remove(&left.note).await;
                continue;
            };
            let sent = Sent { object, parts, narinfo: Some(narinfo) };
            if let Err(error) = self.take_back(&place, &sent, &left.note).await
                && !is_refused(&error)
            {
                return;
            }
        }
    }

    /// Takes an upload back, and tries again for a while where its place can't be reached: what made the upload fail may
    /// last. What is still there then waits for the next start, and so does what may not be deleted, within bounds.
    async fn take_back<P: Place>(&self, place: &P, sent: &Sent<'_>, note: &Path) -> Result<(), CacheError> {
        let mut pauses = PAUSES.into_iter();
        loop {
            let Err(error) = self.take_back_once(place, sent, note).await else { return Ok(()) };
            debug!("what was sent of {} stays in {} for now: {}", sent.object, place.name(), one_line(&error));
            if is_refused(&error) {
                self.keep_within_bounds(place, note, &error).await;
                return Err(error);
            }
            match pauses.next() {
                Some(pause) => sleep(pause).await,
                None => return Err(error),
            }
        }
    }

    /// Forgets the note of what may not be deleted, if it is old or there are many of them.
    async fn keep_within_bounds<P: Place>(&self, place: &P, note: &Path, error: &CacheError) {
        let refused = self.refused.fetch_add(1, Ordering::Relaxed);
        if refused == 0 {
            let name = place.name();
            info!("what is left of failed uploads stays in {name}, where it may not be deleted: {}", one_line(error));
        }
        if refused >= REFUSED_KEPT || age(note).await >= REFUSED_KEPT_FOR {
            // Should it stay, it is forgotten at the next start.
            let _ = self.remove(note).await;
        }
    }

    /// Takes an upload back, and forgets the note when that went well.
    async fn take_back_once<P: Place>(&self, place: &P, sent: &Sent<'_>, note: &Path) -> Result<(), CacheError> {
        if let Some(parts) = sent.parts {
            place.abort(sent.object, parts).await?;
        }
        let may_be_named = match sent.narinfo {
            Some(narinfo) => age(note).await >= BELIEVED_FOR || names(place, narinfo, sent.object).await?,
            None => false,
        };
        if !may_be_named {
            place.delete(sent.object).await?;
        }
        // Should it stay, the next start deletes what isn't there.
        let _ = self.remove(note).await;
        Ok(())
    }

    /// Removes a note; that it isn't there is fine.
    async fn remove(&self, note: &Path) -> Result<(), CacheError> {
        let file = note.to_owned();
        let removed = spawn_blocking(move || match fs::remove_file(file) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        });
        let removed = removed.await.map_err(|_| CacheError::LostThread { action: "forget an upload" })?;
        removed.map_err(|source| self.failed("remove a file in", source))
    }

    /// Removes a note so that no power failure brings it back.
    async fn remove_for_good(&self, note: &Path) -> Result<(), CacheError> {
        self.remove(note).await?;
        let mine = self.removals.made.fetch_add(1, Ordering::SeqCst) + 1;
        let mut synced = self.removals.synced.lock().await;
        if *synced >= mine {
            return Ok(());
        }
        let made = self.removals.made.load(Ordering::SeqCst);
        let folder = self.folder.clone();
        let done = spawn_blocking(move || File::open(folder)?.sync_all()).await;
        let done = done.map_err(|_| CacheError::LostThread { action: "forget an upload" })?;
        done.map_err(|source| self.failed("sync", source))?;
        *synced = made;
        Ok(())
    }

    /// How many notes were removed for good, and how many of those removals are durable.
    #[cfg(test)]
    pub(super) async fn removals(&self) -> (u64, u64) {
        (self.removals.made.load(Ordering::SeqCst), *self.removals.synced.lock().await)
    }

    /// Errors name the folder, not a file whose name is another each time.
    fn failed(&self, action: &'static str, source: io::Error) -> CacheError {
        CacheError::Io { action, path: self.folder.clone(), source }
    }
}

impl<P: Place> Upload<P> {
    /// Begins an upload in parts, which is given a name: noted, and made durable, before the first part is sent. Dropped
    /// meanwhile, that goes on by itself until there is a name to abort it by.
    ///
    /// # Errors
    /// That of `begin`; [`CacheError::Io`] where the name can't be noted.
    pub(super) async fn begin_parts(
        &mut self,
        begin: impl Future<Output = Result<String, CacheError>> + Send + 'static,
    ) -> Result<String, CacheError> {
        let note = self.note.clone();
        let beginning = self.beginning.insert(tokio::spawn(async move {
            let id = begin.await?;
            let noted = match note {
                Some(note) => add(note, format!("{id}\n"), true).await,
                None => Ok(()),
            };
            Ok((id, noted))
        }));
        let begun = beginning.await;
        self.beginning = None;
        let (id, noted) = begun.map_err(|_| CacheError::LostThread { action: "begin an upload" })??;
        self.parts = Some(id.clone());
        noted.map(|()| id)
    }

    /// The parts are put together: from now on it is an object as any other.
    pub(super) fn put_together(&mut self) {
        self.parts = None;
    }

    /// For certain nothing of it was taken, so that there is nothing to be taken back: who may not write may not delete
    /// either, and would be refused again and again.
    pub(super) async fn nothing_was_taken(&mut self) {
        if let Some(note) = self.note.take() {
            // Should it stay, the next start deletes what isn't there.
            let _ = self.notes.remove(&note).await;
        }
    }

    /// The narinfo is about to be sent: from now on the archive stays, whatever becomes of that. Where that can't be made
    /// certain, the archive is taken back.
    ///
    /// # Errors
    /// [`CacheError::Io`]: no narinfo may be sent.
    pub(super) async fn let_go(mut self) -> Result<(), CacheError> {
        if let Some(note) = self.note.clone() {
            self.notes.remove_for_good(&note).await?;
            self.note = None;
        }
        Ok(())
    }

    /// Takes it back now, or, where that fails, as if it were dropped.
    pub(super) async fn take_back(mut self) {
        let Some(note) = self.note.clone() else { return };
        let sent = Sent { object: &self.object, parts: self.parts.as_deref(), narinfo: None };
        if self.notes.take_back_once(&self.place, &sent, &note).await.is_ok() {
            self.note = None;
        }
    }
}

impl<P: Place> Drop for Upload<P> {
    fn drop(&mut self) {
        let Some(note) = self.note.take() else { return };
        // Where there is no runtime any more, the next start does it.
        let Ok(runtime) = Handle::try_current() else { return };
        let (place, notes, object) = (self.place.clone(), self.notes.clone(), self.object.clone());
        let (beginning, mut parts) = (self.beginning.take(), self.parts.take());
        runtime.spawn(async move {
            if let Some(beginning) = beginning
                && let Ok(Ok((id, _))) = beginning.await
            {
                parts = Some(id);
            }
            // What can't be taken back was told, and stays noted.
            let sent = Sent { object: &object, parts: parts.as_deref(), narinfo: None };
            let _ = notes.take_back(&place, &sent, &note).await;
        });
    }
}

/// Whether a narinfo that is shown names an archive.
async fn names<P: Place>(place: &P, narinfo: &str, object: &str) -> Result<bool, CacheError> {
    let shown = place.shown(narinfo).await?;
    Ok(shown.is_some_and(|text| layout::archive_of(&text).is_some_and(|url| place.noted(url) == object)))
}

/// How long ago a note was written. One whose age can't be learnt is new, as are those from times to come.
async fn age(note: &Path) -> Duration {
    let file = note.to_owned();
    let modified = spawn_blocking(move || fs::metadata(file)?.modified()).await;
    modified.ok().and_then(Result::ok).and_then(|modified| modified.elapsed().ok()).unwrap_or_default()
}

/// Whether what was sent may not be deleted, which time alone doesn't change.
fn is_refused(error: &CacheError) -> bool {
    matches!(error.class(), Class::Credentials | Class::Permanent)
}

/// Adds to a note: the place, the object, its narinfo, and the name of the upload in parts, a line each.
async fn add(file: PathBuf, text: String, durable: bool) -> Result<(), CacheError> {
    let path = file.clone();
    let written = spawn_blocking(move || {
        let mut note = OpenOptions::new().create(true).append(true).open(&file)?;
        note.write_all(text.as_bytes())?;
        if durable { note.sync_all() } else { Ok(()) }
    });
    let written = written.await.map_err(|_| CacheError::LostThread { action: "note an upload" })?;
    written.map_err(|source| {
        // Not the file's own name, which is another each time.
        let folder = path.parent().unwrap_or(&path).to_owned();
        CacheError::Io { action: "write a file in", path: folder, source }
    })
}

#[cfg(test)]
mod tests;
