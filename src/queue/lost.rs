//! A queue whose files are removed or replaced while it is open, and one that is damaged.
//!
//! Who has a file open doesn't lose it when somebody removes it. So all that was in the queue is still known to this process,
//! and to nobody else: it is written down again where it was. Without that it would be gone with the process, and nothing
//! would say that there was a queue before.

use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::schema::{file_at, named};
use super::{Queue, QueueError, sqlite};

/// What became of a queue that is no longer in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutBack {
    /// It was gone, and all of it is there again.
    AsItWas,
    /// It was gone, and can't be read any more: an empty one is in its place, which is filled by looking at everything.
    Anew,
    /// Another one is in its place, and stays.
    Replaced,
}

impl Queue {
    /// Whether the database and its log still lie where they were opened: where their file system was unmounted, or they
    /// were removed, nobody else would find what is written into them.
    #[must_use]
    pub fn is_in_its_place(&self) -> bool {
        self.files[0].is_some() && self.files == Self::files_at(&self.path)
    }

    /// What is there now: the database, and its log.
    pub(super) fn files_at(path: &Path) -> [Option<(u64, u64)>; 2] {
        [file_at(path), file_at(&named(path, "-wal"))]
    }

    /// Puts back what was removed, under the [`StateLock`](super::StateLock). After that this one is to be given up and the
    /// queue opened anew.
    ///
    /// # Errors
    /// [`QueueError::StateDir`], [`QueueError::Sqlite`].
    pub fn put_back(&mut self) -> Result<PutBack, QueueError> {
        // What this connection would do at its end it would do by name, to the log of the one that is there then.
        self.db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(sqlite("give up its log"))?;
        match file_at(&self.path) {
            None => {}
            there if there == self.files[0] => {
                // Its log alone is gone, and what was in there is still open here.
                self.db
                    .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
                    .map_err(sqlite("take in its log"))?;
                return Ok(PutBack::AsItWas);
            }
            Some(_) => return Ok(PutBack::Replaced),
        }
        let new = Self::begin_new(&self.path)?;
        // SQLite takes names that are text only.
        let copied = new.to_str().map(|new| self.db.execute("VACUUM INTO ?1", [new]).map_err(sqlite("copy it")));
        match copied {
            Some(Ok(_)) => Self::put_in_place(&new, &self.path).map(|()| PutBack::AsItWas),
            Some(Err(error)) if !error.is_corruption() => Err(error),
            _ => {
                Self::mark_as_replaced(&self.path)?;
                Self::make(&self.path, true).map(|_| PutBack::Anew)
            }
        }
    }

    /// Opens its file anew and reads in it: who has had it open reads much from memory, and would find out late. Where it can't
    /// be opened for another reason, that says nothing of it.
    ///
    /// # Errors
    /// What shows that it is damaged.
    pub fn look_for_damage(&self) -> Result<(), QueueError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let look = |db: Connection| db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()));
        match Connection::open_with_flags(&self.path, flags).and_then(look).map_err(sqlite("look for damage")) {
            Err(error) if error.is_corruption() => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}
