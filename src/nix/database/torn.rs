//! Reading a database without a write-ahead log (`use-sqlite-wal = false`), where no lock protects us.
//!
//! Nix then locks by a folder, `db.sqlite.lock` (SQLite's `unix-dotfile`), instead of locking the file. It doesn't see the
//! locks of a usual reader, so none of our reads ever holds it up; nor are its locks seen by us, and a read may meet a
//! commit that is half written: rows passed over, or ones that are rolled back again. Taking part in that kind of lock is out
//! of the question: it needs to write in Nix's folder, and a lock left by a process that was killed stops Nix for good.
//!
//! So a read is checked afterwards, and done again if Nix was writing meanwhile:
//!
//! ```text
//! version? ─ locked? ── read ── locked? ─ version?        both not locked, both versions equal: what was read is true
//! ```
//!
//! Whoever wrote during the read was either at it at one of the looks at the lock, or began and ended between them, and
//! then the version (SQLite's change counter) has grown.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Error, ffi};

/// Between two attempts: some commits of Nix's on a fast disk.
const PAUSE: Duration = Duration::from_millis(2);

/// What Nix locks by.
pub(super) struct DotLock(PathBuf);

impl DotLock {
    /// The lock of the database at that path, which SQLite resolves.
    pub(super) fn of(db_path: &Path) -> Self {
        let mut path = db_path.canonicalize().unwrap_or_else(|_| db_path.to_owned()).into_os_string();
        path.push(".lock");
        Self(path.into())
    }

    /// Reads until nobody wrote meanwhile, or for as long as `patience`.
    pub(super) fn read<T>(
        &self,
        connection: &Connection,
        patience: Duration,
        query: impl Fn(&Connection) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let until = Instant::now() + patience;
        loop {
            // An error may come of a torn read as well, so it isn't believed before the last attempt.
            let failed = match self.attempt(connection, &query) {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_BUSY), None),
                Err(error) => error,
            };
            if Instant::now() >= until {
                return Err(failed);
            }
            thread::sleep(PAUSE);
        }
    }

    /// `None` where somebody wrote, or may have written, during the read.
    fn attempt<T>(
        &self,
        connection: &Connection,
        query: impl Fn(&Connection) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Option<T>> {
        let before = version(connection)?;
        if self.is_held() {
            return Ok(None);
        }
        let found = query(connection);
        let written = self.is_held() || version(connection)? != before;
        if written { Ok(None) } else { found.map(Some) }
    }

    fn is_held(&self) -> bool {
        self.0.symlink_metadata().is_ok()
    }
}

/// Grows with each commit of another connection; asking reads the file's change counter.
fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))
}
