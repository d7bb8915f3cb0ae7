//! The connections of this process to databases of Nix's, and how all of them are closed when its files are replaced.
//!
//! A database with a write-ahead log is three files. SQLite maps `db.sqlite-shm` once for each process and database file, and
//! whoever opens the database in this process later gets that mapping, too. So where a database is restored file by file, one
//! connection that was opened in between has a log and an index that belong to another database, and hands them to all that
//! are opened while it is there. Worse: where it has the *new* index beside the *old* log, the lock that it has on the index
//! tells Nix that the index is in use and true, and every command of Nix's fails with `disk I/O error` as long as that lasts.
//! SQLite makes the index anew only for who comes when nobody has it open.
//!
//! So all connections of this process have the same three files open; when those at the path are others, all are closed
//! before one is opened, and none is opened before the files have been left alone for [`SETTLES`].

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tracing::warn;

use super::DatabaseError;
use super::files::{self, Files};

/// Files that were replaced are left alone for so long after the last change that was seen, since more may follow: those of a
/// restored backup come within some milliseconds of each other, or as far apart as the largest takes to copy.
const SETTLES: Duration = Duration::from_secs(2);

static ALL: Mutex<Connections> = Mutex::new(Connections { slots: Vec::new(), replaced: Vec::new() });

/// A connection, as its owner has it. It may be closed by others.
pub(super) struct Held(Arc<Slot>);

struct Slot {
    path: PathBuf,
    /// The same without links, as it was when it was opened.
    real: PathBuf,
    files: Files,
    connection: Mutex<Option<Connection>>,
}

struct Connections {
    slots: Vec<Weak<Slot>>,
    replaced: Vec<Replaced>,
}

/// A database that was replaced and isn't opened yet.
struct Replaced {
    path: PathBuf,
    files: Option<Files>,
    since: Instant,
}

impl Held {
    /// The files that were opened.
    pub(super) fn files(&self) -> Files {
        self.0.files
    }

    /// Whether they are no longer those at the path, or somebody has found that out already.
    pub(super) fn is_replaced(&self) -> bool {
        self.0.is_replaced()
    }

    /// Asks by it; `None` where it was closed.
    pub(super) fn ask<T>(&self, question: impl FnOnce(&Connection) -> T) -> Option<T> {
        self.0.lock().as_ref().map(question)
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Option<Connection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_replaced(&self) -> bool {
        Files::at_resolved(&self.path, &self.real).map_or(true, |now| now != self.files) || self.lock().is_none()
    }
}

/// Opens a connection by `open`, which has to read by it so that all of its files are open, and says what else it found.
///
/// # Errors
/// [`DatabaseError::Replaced`] while the files are changing; what `open` says.
pub(super) fn open<T>(
    path: &Path,
    open: impl Fn() -> Result<(Connection, T), DatabaseError>,
) -> Result<(Held, T), DatabaseError> {
    // Held to the end: nobody else may open one meanwhile.
    let mut all = all();
    all.close_replaced();
    // The first try may make files; so may a Nix that begins or ends.
    for _ in 0..4 {
        let before = Files::at(path)?;
        if !all.has_settled(path, before, Instant::now()) {
            break;
        }
        let (connection, found) = open()?;
        if Files::at(path)? == before {
            let (path, real, connection) = (path.to_owned(), files::resolved(path), Mutex::new(Some(connection)));
            let slot = Arc::new(Slot { path, real, files: before, connection });
            all.slots.push(Arc::downgrade(&slot));
            return Ok((Held(slot), found));
        }
    }
    Err(DatabaseError::Replaced { path: path.to_owned() })
}

/// Closes all connections to databases whose files are no longer those that were opened. Waits for whoever is just asking.
pub fn close_replaced() {
    all().close_replaced();
}

fn all() -> MutexGuard<'static, Connections> {
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connections {
    fn close_replaced(&mut self) {
        let mut closed: Vec<PathBuf> = Vec::new();
        self.slots.retain(|slot| {
            let Some(slot) = slot.upgrade() else { return false };
            if !slot.is_replaced() {
                return true;
            }
            if slot.lock().take().is_some() && !closed.contains(&slot.path) {
                closed.push(slot.path.clone());
            }
            false
        });
        for path in closed {
            warn!(
                "files of the Nix database {} were replaced: it is closed, and opened anew once they are left alone",
                path.display()
            );
            let files = Files::at(&path).ok();
            self.replaced.retain(|replaced| replaced.path != path);
            self.replaced.push(Replaced { path, files, since: Instant::now() });
        }
    }

    /// Whether a database may be opened that has these files now.
    fn has_settled(&mut self, path: &Path, files: Files, now: Instant) -> bool {
        let Some(replaced) = self.replaced.iter_mut().find(|replaced| replaced.path == path) else { return true };
        if replaced.files != Some(files) {
            (replaced.files, replaced.since) = (Some(files), now);
        }
        if now.saturating_duration_since(replaced.since) < SETTLES {
            return false;
        }
        self.replaced.retain(|replaced| replaced.path != path);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nix::Identity;

    fn files(database: u64, log: u64) -> Files {
        let of = |ino| Identity { dev: 1, ino };
        Files { database: of(database), log: Some(of(log)), index: None }
    }

    #[test]
    fn what_was_replaced_is_opened_once_it_is_left_alone() {
        let (path, began) = (Path::new("/db.sqlite"), Instant::now());
        let replaced = Replaced { path: path.to_owned(), files: Some(files(2, 1)), since: began };
        let mut all = Connections { slots: Vec::new(), replaced: vec![replaced] };
        let second = Duration::from_secs(1);
        assert!(all.has_settled(Path::new("/another"), files(1, 1), began), "nothing is known of that one");
        for (files, after, settled) in [
            (files(2, 1), 1, false),
            // The next file comes.
            (files(2, 2), 2, false),
            (files(2, 2), 3, false),
            (files(2, 2), 4, true),
            (files(2, 2), 4, true),
        ] {
            assert_eq!(all.has_settled(path, files, began + second * after), settled, "{files:?} after {after} s");
        }
    }
}
