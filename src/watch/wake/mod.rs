//! Wake-ups: something may have happened in a folder, so it is worth a look.
//!
//! An event is never a fact. It may be lost (a full queue, a store on NFS), late (macOS coalesces) or mean nothing, so
//! whoever waits here also has a timer, and looks for itself (invariant 1). What this room promises instead:
//!
//! - the first event wakes at once, a flood wakes every `pace::SPACING`, or more seldom where many paths are found each time,
//!   and the last event of a flood is followed by one more wake-up that comes after it by as much (why: see `pace`);
//! - idle, nothing wakes;
//! - nothing grows: what is known of a folder is a few bits;
//! - the futures are cancel-safe;
//! - folders are watched, not files, because `db.sqlite-wal` and a policy file are deleted and made anew.
//!
//! Reading `db.sqlite` makes no event here. SQLite opens the log for writing even in a read-only connection, so that
//! listening to closed files would make each look the cause of the next; contents, names coming and going are enough.
//!
//! What differs by platform is in this folder and nowhere else: `linux` (inotify) and `other` (FSEvents or kqueue).

mod pace;
#[cfg(test)]
mod tests;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::future;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tokio::time::{Instant, sleep_until};

#[cfg(target_os = "linux")]
use self::linux::{Source, limit};
#[cfg(not(target_os = "linux"))]
use self::other::{Source, limit};
use self::pace::{Next, Pace};

/// A folder to watch, and which names in it matter.
#[derive(Clone, Debug)]
pub struct Folder {
    /// The folder; it need not be there yet.
    pub path: PathBuf,
    /// File names that matter, without a folder; none means all. `db.sqlite-shm` is left out for a reason: it changes
    /// whenever somebody reads.
    pub names: Vec<OsString>,
}

/// Wakes whoever waits for changes in some folders.
pub struct Wake {
    folders: Vec<Watched>,
    source: Option<Source>,
    pace: Pace,
    silent: bool,
}

struct Watched {
    folder: Folder,
    /// Device and inode that are being watched; a folder made anew has others.
    armed: Option<(u64, u64)>,
    /// Whether it was said that this folder is not watched.
    told: bool,
}

/// A folder that has turned out not to be watched. The timer alone serves it until [`Wake::rearm`] succeeds.
#[derive(Debug)]
pub struct Unwatched {
    /// Its place in what was given to [`Wake::start`].
    pub folder: usize,
    /// Why.
    pub why: WakeError,
}

/// Why a folder isn't watched. None of these loses a path: they only make it come later.
#[derive(Debug, thiserror::Error)]
pub enum WakeError {
    /// It isn't there (yet, or any more).
    #[error("`{path}` isn't there", path = path.display())]
    Missing {
        /// The folder.
        path: PathBuf,
    },
    /// This user's share of the kernel's watches is used up. Keeps a crowded host from looking like a broken program.
    #[error("no file system events: `{limit}` is used up")]
    Exhausted {
        /// Which setting to raise.
        limit: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
    /// Anything else: no permission, a file system without events.
    #[error("watch `{path}`", path = path.display())]
    Other {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// What a source of events has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// Something that matters changed in that folder.
    Changed(usize),
    /// That folder is no longer watched.
    Gone(usize),
    /// Events were lost: anything may have changed.
    All,
}

impl Wake {
    /// Starts watching what is there, and never fails: call [`Wake::rearm`] to learn of what isn't watched.
    ///
    /// Look at the folders yourself after this call, not before it: there is no wake-up for what was there already.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn start(folders: Vec<Folder>) -> Self {
        let watched = |folder| Watched { folder, armed: None, told: false };
        let mut wake = Self {
            pace: Pace::new(folders.len()),
            folders: folders.into_iter().map(watched).collect(),
            source: None,
            silent: false,
        };
        // What fails here fails again, and is told, at the first `rearm`.
        for index in 0..wake.folders.len() {
            let _told_by_rearm = wake.arm(index);
        }
        wake
    }

    /// Watches nothing and never wakes: the timer is left to find everything.
    #[must_use]
    pub fn silent() -> Self {
        Self { folders: Vec::new(), source: None, pace: Pace::new(0), silent: true }
    }

    /// Waits for a change and gives the place of its folder in what was given to [`Wake::start`].
    ///
    /// Cancel-safe: a change that was seen but not given is given by the next call.
    pub async fn changed(&mut self) -> usize {
        loop {
            self.drain();
            match self.pace.next(Instant::now().into_std()) {
                Next::Now(folder) => return folder,
                // Meanwhile events pile up in the kernel, where equal ones become one.
                Next::At(time) => sleep_until(Instant::from_std(time)).await,
                Next::Idle => match &mut self.source {
                    Some(source) => source.ready().await,
                    None => future::pending().await,
                },
            }
        }
    }

    /// Says how many paths were found at the last wake-up for that folder: the more, the longer until the next one.
    pub fn found(&mut self, folder: usize, paths: usize) {
        self.pace.found(folder, paths);
    }

    /// Whether all that was given to [`Wake::start`] is being watched, so that the timer is there for lost events alone.
    #[must_use]
    pub fn watches_all(&self) -> bool {
        !self.silent && self.folders.iter().all(|watched| watched.armed.is_some())
    }

    /// Watches what isn't watched and should be: for the caller's timer. Costs one `stat` a folder where all is well.
    ///
    /// A folder that is watched again counts as changed. What can't be watched is told once, until it works again.
    pub fn rearm(&mut self) -> Vec<Unwatched> {
        if self.silent {
            return Vec::new();
        }
        self.drain();
        let mut unwatched = Vec::new();
        for index in 0..self.folders.len() {
            let was = self.folders[index].armed;
            match self.arm(index) {
                Ok(()) => {
                    if self.folders[index].armed != was {
                        self.pace.event(index);
                    }
                    self.folders[index].told = false;
                }
                Err(why) if !self.folders[index].told => {
                    self.folders[index].told = true;
                    unwatched.push(Unwatched { folder: index, why });
                }
                Err(_) => {}
            }
        }
        unwatched
    }

    /// Makes sure that the folder which is now at that path is being watched.
    fn arm(&mut self, index: usize) -> Result<(), WakeError> {
        let watched = &mut self.folders[index];
        let path = &watched.folder.path;
        let found = fs::metadata(path).map(|found| (found.dev(), found.ino()));
        if let (Ok(found), Some(armed)) = (&found, watched.armed)
            && *found == armed
        {
            return Ok(());
        }
        if watched.armed.take().is_some()
            && let Some(source) = &mut self.source
        {
            source.disarm(index, path);
        }
        let found = found.map_err(|source| WakeError::new(path, source))?;
        let source = match &mut self.source {
            Some(source) => source,
            none => none.insert(Source::new().map_err(|source| WakeError::new(path, source))?),
        };
        source.arm(index, &watched.folder).map_err(|source| WakeError::new(path, source))?;
        watched.armed = Some(found);
        Ok(())
    }

    /// Takes note of all events that are there.
    fn drain(&mut self) {
        let Some(source) = &mut self.source else { return };
        let (folders, pace) = (&mut self.folders, &mut self.pace);
        let ended = source.drain(|seen| match seen {
            Seen::Changed(index) => pace.event(index),
            Seen::Gone(index) => {
                folders[index].armed = None;
                pace.event(index);
            }
            Seen::All => (0..folders.len()).for_each(|index| pace.event(index)),
        });
        if ended.is_err() {
            // Nothing more will come of it; `rearm` makes another.
            self.source = None;
            folders.iter_mut().for_each(|watched| watched.armed = None);
        }
    }
}

impl Folder {
    /// Whether an event about that name matters.
    fn cares_for(&self, name: &OsStr) -> bool {
        self.names.is_empty() || self.names.iter().any(|wanted| wanted == name)
    }
}

impl WakeError {
    fn new(path: &Path, source: io::Error) -> Self {
        match (limit(&source), source.kind()) {
            (Some(limit), _) => Self::Exhausted { limit, source },
            (None, io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Self::Missing { path: path.to_owned() },
            (None, _) => Self::Other { path: path.to_owned(), source },
        }
    }

    /// Whether the folder simply isn't there, which is usual for a policy that nobody has written.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }
}
