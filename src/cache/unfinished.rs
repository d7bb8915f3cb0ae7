//! Uploads that have begun and are not shown yet: what becomes of them when they fail, are called off, or this process is
//! killed.
//!
//! Each is noted in a file of the state directory before its first byte is sent, and the note goes when all is tidied up:
//! parts that were sent are aborted, and an archive that no narinfo names is deleted. What an earlier run has noted is
//! tidied up at the next start.
//!
//! A note goes too, and with it every claim to the archive, just before the narinfo is sent: from then on the narinfo may be
//! there, whatever is heard of it. A crash just there leaves an archive that nobody names, which does no harm but take up
//! room; deleting one that a narinfo names would.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::debug;

use super::{CacheError, run};

/// How long to wait before what could not be taken back is tried again.
const PAUSES: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(10), Duration::from_secs(60), Duration::from_secs(600)];

/// Where archives are sent, as far as they can be taken back from there.
pub(super) trait Place: Clone + Send + Sync + 'static {
    /// As notes and messages call it.
    fn name(&self) -> &str;

    /// Aborts what was sent in parts under that name, and deletes what was put. That nothing is there is fine. The error is
    /// for the log.
    fn take_back(&self, object: &str, parts: Option<&str>) -> impl Future<Output = Result<(), String>> + Send;
}

/// An archive on its way. Dropped before [`Upload::let_go`], it is taken back.
pub(super) struct Upload<P: Place> {
    place: P,
    /// A note of it; `None` once it has been let go.
    note: Option<PathBuf>,
    object: String,
    parts: Option<String>,
}

/// The folder of a cache's notes.
#[derive(Clone)]
pub(super) struct Notes {
    folder: PathBuf,
}

impl Notes {
    /// Makes the folder if it is missing.
    pub(super) fn open(folder: &Path) -> Result<Self, CacheError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|source| CacheError::Io { action: "create", path: folder.to_owned(), source })?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// Notes an upload that is about to begin.
    pub(super) async fn begin<P: Place>(&self, place: &P, object: String) -> Result<Upload<P>, CacheError> {
        let note = self.folder.join(run::new_name());
        add(note.clone(), format!("{}\n{object}\n", place.name()), false).await?;
        Ok(Upload { place: place.clone(), note: Some(note), object, parts: None })
    }

    /// Tidies up what earlier runs have left there. What can't be tidied up now stays noted.
    pub(super) async fn tidy_up<P: Place>(self, place: P) {
        let left_over = move || -> io::Result<Vec<(PathBuf, String)>> {
            let files = fs::read_dir(&self.folder)?.flatten();
            let old = files.filter(|file| !file.file_name().to_str().is_some_and(run::is_own));
            Ok(old.filter_map(|file| Some((file.path(), fs::read_to_string(file.path()).ok()?))).collect())
        };
        let Ok(Ok(notes)) = spawn_blocking(left_over).await else { return };
        for (note, text) in notes {
            let mut lines = text.lines();
            let (whose, object, parts) = (lines.next(), lines.next(), lines.next());
            // Cut short by a power failure: nothing was sent before it was whole.
            let Some(object) = object else {
                let _ = fs::remove_file(note);
                continue;
            };
            if whose == Some(place.name()) {
                tokio::spawn(take_back(place.clone(), object.to_owned(), parts.map(str::to_owned), note));
            }
        }
    }
}

impl<P: Place> Upload<P> {
    /// The store has given the upload in parts a name: noted, and made durable, before the first part is sent.
    pub(super) async fn in_parts(&mut self, id: &str) -> Result<(), CacheError> {
        self.parts = Some(id.to_owned());
        match &self.note {
            Some(note) => add(note.clone(), format!("{id}\n"), true).await,
            None => Ok(()),
        }
    }

    /// The parts are put together: from now on it is an object as any other.
    pub(super) fn put_together(&mut self) {
        self.parts = None;
    }

    /// The narinfo is about to be sent: from now on the archive stays, whatever becomes of that.
    pub(super) fn let_go(mut self) {
        if let Some(note) = self.note.take() {
            // Should it stay, the archive would be deleted at the next start: so it must not.
            if let Err(error) = fs::remove_file(&note) {
                debug!("remove {}: {error}", note.display());
                let _ = fs::write(&note, "");
            }
        }
    }
}

impl<P: Place> Drop for Upload<P> {
    fn drop(&mut self) {
        let Some(note) = self.note.take() else { return };
        // Where there is no runtime any more, the next start does it.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(take_back(self.place.clone(), self.object.clone(), self.parts.take(), note));
        }
    }
}

/// Takes an upload back and forgets the note. Tries again for a while where its server can't be reached: what made the
/// upload fail may last. What is still there then waits for the next start.
async fn take_back<P: Place>(place: P, object: String, parts: Option<String>, note: PathBuf) {
    let mut pauses = PAUSES.into_iter();
    loop {
        match place.take_back(&object, parts.as_deref()).await {
            Ok(()) => {
                let _ = fs::remove_file(note);
                return;
            }
            Err(why) => debug!("what was sent of {object} stays in {} for now: {why}", place.name()),
        }
        match pauses.next() {
            Some(pause) => sleep(pause).await,
            None => return,
        }
    }
}

/// Adds to a note: the place, the object, and the name of the upload in parts, a line each.
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
