//! The durable queue: what is to be uploaded, where to, and how far that has come.
//!
//! One SQLite database in the state directory. Invariants kept here:
//!
//! - **Nothing lost.** [`Queue::admit`] writes the jobs and moves the cursor in one transaction. The database runs in
//!   WAL mode with `synchronous = NORMAL`: a power failure may take back the newest transactions, but always jobs and
//!   cursor together, so the paths are simply found again. A job becomes [`JobState::Done`] only after its cache says
//!   that the path is safe there, so what is taken back is at worst asked for once more.
//! - **Nothing broken.** A job that [waits](Outcome::WaitsFor) for the jobs of its references can't be claimed before
//!   they are done.
//! - What one job goes through is decided by [`JobState::after`] and written as `… WHERE id = ? AND state = ?`. Admission,
//!   claim and recovery change many jobs by one statement, which names the same states.
//!
//! What happens at a crash: jobs found [`JobState::Uploading`] at the next start go back to pending
//! ([`Queue::recover`]). A database that can't be read is moved aside, never deleted ([`Queue::open`]), and filled
//! again by a scan.
//!
//! Deliberately absent: what Nix knows of a path. It is asked again when a job is claimed.

mod admit;
mod at_work;
mod by_hand;
mod collectable;
mod contents;
mod delivered;
mod disks;
mod distrust;
mod doubt;
mod evict;
mod finds_nothing;
mod handle;
mod job;
mod links;
mod lock;
mod lost;
mod meta;
mod migrations;
mod policy;
mod reconfigure;
mod route;
mod run;
mod schema;
mod seen;
mod settle;
mod shared;
mod sums;
#[cfg(test)]
mod tests;
mod tidy;
mod view;
mod waiting;
mod walk;
mod work;

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::ffi::SQLITE_IOERR_SHMSIZE;
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

pub use admit::{Admission, Cursor, Ended, Mark, Wanted};
pub use at_work::{AtWork, name_of};
pub use by_hand::Paused;
pub use contents::Content;
use contents::Expected;
pub use disks::DiskView;
pub use distrust::Distrust;
pub use finds_nothing::FindsNothing;
pub use handle::QueueHandle;
pub use job::{CacheId, Delivery, Event, Job, JobState, Step, Volume};
pub use lock::{Followed, LockError, StateLock};
pub use lost::PutBack;
pub use route::Routes;
pub use run::{PassedOver, Run, RunId, RunScope, Why};
pub use schema::Opened;
pub use seen::Pinned;
pub use settle::Outcome;
pub use sums::{Left, RunSummary, Undelivered};
pub use tidy::Tidying;
pub use view::{CacheCounts, JobFilter, JobView, Standing};

/// Why the queue can't be used.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The state directory can't be made or written.
    #[error("use the state directory {dir}")]
    StateDir {
        /// The state directory.
        dir: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Nothing has been queued in this state directory yet.
    #[error("no queue in {dir}")]
    NoQueue {
        /// The state directory.
        dir: PathBuf,
    },
    /// A later storewatch wrote it; this one would misread it.
    #[error("{path} has queue schema {found}, this storewatch knows up to {known}")]
    NewerSchema {
        /// The queue's database.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The newest schema version known here.
        known: i64,
    },
    /// The service that owns the queue hasn't brought it up to this version yet.
    #[error("{path} was made by an older storewatch")]
    OlderSchema {
        /// The queue's database.
        path: PathBuf,
    },
    /// Something else bears the database's name, and there can be none. It may be somebody's, so it isn't moved aside.
    #[error("{path} is no regular file, and the queue's database has to be there")]
    NoFile {
        /// Where the queue's database has to be.
        path: PathBuf,
    },
    /// It can't be read, and only who works the queue off may replace it.
    #[error("{path} is corrupt")]
    Corrupt {
        /// The queue's database.
        path: PathBuf,
    },
    /// A job was not in the state that the caller believed: two work on one queue, or there is a defect.
    #[error("job {job} was not {expected:?} any more")]
    WrongState {
        /// The job's number.
        job: i64,
        /// The state that it should have been in.
        expected: JobState,
    },
    /// SQLite failed.
    #[error("queue database: {action}")]
    Sqlite {
        /// What was being done: verb and object.
        action: &'static str,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The thread that owns the queue has ended.
    #[error("the queue is closed")]
    Closed,
}

/// What a person may do where nothing can be written into the state directory any more.
pub const FULL: &str = "the file system of the state directory is full: make room there; nothing is lost, and what became \
                        valid meanwhile is found again";

impl QueueError {
    /// What a person may do about it, where the error itself doesn't say.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        const NOT_YOURS: &str =
            "only its owner may: run this as the user that the service runs as, or give another --state-dir";
        match self {
            Self::StateDir { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => Some(NOT_YOURS),
            _ if matches!(self.sqlite_code(), Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen)) => Some(NOT_YOURS),
            _ if self.is_about_room() => Some(FULL),
            Self::StateDir { .. } => Some("give a directory that you can write with --state-dir"),
            Self::OlderSchema { .. } => Some("start the new `storewatch run` once; it brings the queue up to date"),
            _ if self.is_corruption() => {
                Some("the next start of `storewatch run` moves it aside and fills a new one; nothing is deleted")
            }
            Self::NoQueue { .. } => {
                Some("`storewatch run` or `storewatch backfill` makes one; give --state-dir if it is elsewhere")
            }
            Self::NoFile { .. } => Some("move it elsewhere if nothing needs it there, or give another --state-dir"),
            Self::NewerSchema { .. } => Some("use the newer storewatch, or another --state-dir"),
            _ => None,
        }
    }

    /// What kind of failure SQLite says it was, where it was one of SQLite's.
    #[must_use]
    pub fn sqlite_code(&self) -> Option<ErrorCode> {
        let Self::Sqlite { source, .. } = self else { return None };
        source.sqlite_error_code()
    }

    /// Whether it failed since the disk is full: once there is room the same may succeed.
    #[must_use]
    pub fn is_about_room(&self) -> bool {
        match self {
            Self::StateDir { source, .. } => is_full(source),
            // The file by which processes share a write-ahead log grows before the log does.
            Self::Sqlite { source: rusqlite::Error::SqliteFailure(error, _), .. } => {
                error.code == ErrorCode::DiskFull || error.extended_code == SQLITE_IOERR_SHMSIZE
            }
            _ => false,
        }
    }

    /// Whether the database can't be read, or is none.
    #[must_use]
    pub fn is_corruption(&self) -> bool {
        let code = self.sqlite_code();
        matches!(self, Self::Corrupt { .. })
            || matches!(code, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
    }
}

/// Whether the system has no room left, for this user at least.
pub(crate) fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

/// Gives a SQLite error its context.
pub(crate) fn sqlite(action: &'static str) -> impl Fn(rusqlite::Error) -> QueueError {
    move |source| QueueError::Sqlite { action, source }
}

/// The queue's clock: milliseconds since 1970.
#[must_use]
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// The queue's database, opened. Blocking; [`QueueHandle`] is the asynchronous way to it.
pub struct Queue {
    db: Connection,
    path: PathBuf,
    /// SQLite's count of other connections' commits, when it was looked at last.
    data_version: i64,
    /// The files that were opened, database and log, by device and number.
    files: [Option<(u64, u64)>; 2],
    expected: Expected,
}

impl Queue {
    /// The database's file name within the state directory.
    pub const FILE_NAME: &str = "queue.sqlite";

    /// Begins a transaction that will write: it takes the write lock at once, since one that read first could find, at its
    /// first write, that another process has written meanwhile.
    fn begin(&mut self) -> rusqlite::Result<Transaction<'_>> {
        self.db.transaction_with_behavior(TransactionBehavior::Immediate)
    }

    /// Does several things in one transaction: others see all of it or nothing, and no change of theirs comes in between.
    /// What is done there must not begin a transaction of its own.
    ///
    /// # Errors
    /// What `verbs` returns, or [`QueueError::Sqlite`]; then nothing has changed.
    pub fn at_once<T>(&mut self, verbs: impl FnOnce(&mut Self) -> Result<T, QueueError>) -> Result<T, QueueError> {
        self.db.execute_batch("BEGIN IMMEDIATE").map_err(sqlite("begin"))?;
        let done = verbs(self);
        let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
        let ended = self.db.execute_batch(end).map_err(sqlite("end a transaction"));
        if ended.is_err() && done.is_ok() {
            // Whatever kept it from being committed, the connection must not stay in it.
            let _ = self.db.execute_batch("ROLLBACK");
        }
        done.and_then(|value| ended.map(|()| value))
    }

    /// Where the database lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}
