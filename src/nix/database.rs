//! The Nix database, read-only: which paths are valid, since when, and what is known of each.
//!
//! Invariant 4 ("nobody waits") is kept here: a connection is opened for reading alone, every statement is reset
//! before its call returns, and [`Database::batch`] ends its read transaction at a number of rows and at a time. A
//! reader that stayed longer would block Nix's checkpoint, and the write-ahead log would grow without end.
//!
//! What a newcomer might add and must not:
//! - `immutable=1`, where the database can't be opened otherwise: it doesn't see the write-ahead log, so paths would
//!   come late or never. That is what [`DatabaseError::Denied`] and the daemon are for.
//! - Opening `db.sqlite` with [`std::fs::File`], if only to look at it: closing *any* descriptor of a file drops all
//!   POSIX locks that this process holds on it, those of another connection's running read among them. This module asks by
//!   path (`stat`, `access`) only.
//! - Patience: a call gives up after [`BUSY_TIMEOUT`]. The caller has a timer and comes back.

mod connections;
mod error;
mod files;
mod kept;
mod open;
mod realisations;
mod row;
#[cfg(test)]
mod tests;
mod torn;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, params};
use tracing::warn;

use self::connections::Held;
pub use self::connections::close_replaced;
pub use self::error::{Access, DatabaseError};
pub use self::files::Identity;
use self::open::{Found, connect};
use self::row::Columns;
use self::torn::DotLock;
use super::{PathInfo, StoreDir, StorePath};

/// The newest `STATE/db/schema` this was written for; Nix 2.0 (2018) to 2.34 have it.
pub const KNOWN_SCHEMA: u32 = 10;

const REFERENCES: &str = "SELECT path FROM Refs JOIN ValidPaths ON id = reference WHERE referrer = ?1";

/// How long a call waits for a lock. Long enough for one commit of Nix's, short enough that a shutdown isn't held up.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// A read-only connection to `db.sqlite`. All calls block, for milliseconds at most where Nix isn't just committing.
pub struct Database {
    connection: Held,
    path: PathBuf,
    store_dir: StoreDir,
    columns: Columns,
    /// Whether Nix writes ahead. That doesn't change while the files are those that were opened, since it comes and goes with
    /// the log.
    writes_ahead: bool,
    dot_lock: DotLock,
    patience: Duration,
}

/// Rows of a batch at most.
const BATCH_ROWS: usize = 2_000;

/// A read transaction lasts at most so long. Beside a write-ahead log it only holds up a checkpoint.
const BATCH_TIME: Duration = Duration::from_millis(50);

/// Without one nothing keeps Nix from writing while it is read, and a read that was torn is done again (`torn`): so a batch
/// has to fit between two commits.
const BATCH_TIME_WITHOUT_WAL: Duration = Duration::from_millis(10);

/// How much one [`Database::batch`] may read: [`Database::limits`] says what is usual.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Rows at most, malformed ones included.
    pub rows: usize,
    /// How long the read transaction may last. One row is read in any case, so that a scan gets on.
    pub time: Duration,
}

/// Some rows of `ValidPaths`, by ascending id.
#[derive(Debug, Default)]
pub struct Batch {
    /// The paths, their references not asked for.
    pub paths: Vec<PathInfo>,
    /// Rows that can't be made sense of: to be reported and passed over, so that one of them doesn't end a scan.
    pub malformed: Vec<MalformedRow>,
    /// The highest id that was read; `after` where there was none. What the cursor may advance to.
    pub reached: i64,
    /// Whether nothing was left behind `reached` when it was read.
    pub complete: bool,
}

/// A row of `ValidPaths` that Nix would not have written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MalformedRow {
    /// Its id.
    pub id: i64,
    /// Whose it is, if that much can be understood.
    pub path: Option<StorePath>,
    /// When it says that it was registered (seconds since 1970), if it says so.
    pub registration_time: Option<i64>,
    /// What is wrong with it.
    pub why: String,
}

/// What tells one registration from another under the same id, after a database was restored or made anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowMark {
    /// The full path as it stands in the row: text, because a cursor may rest on a malformed row as well.
    pub path: String,
    /// Seconds since 1970.
    pub registration_time: i64,
}

impl fmt::Display for MalformedRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, path, why, .. } = self;
        match path {
            Some(path) => write!(f, "row {id} of the Nix database, {path}: {why}"),
            None => write!(f, "row {id} of the Nix database: {why}"),
        }
    }
}

impl Batch {
    /// Says which rows are passed over.
    pub fn tell_malformed(&self) {
        for row in &self.malformed {
            warn!("what can't be understood is passed over: {row}");
        }
    }
}

impl Database {
    /// Opens the database and makes sure that it is Nix's and of a schema that is understood.
    ///
    /// # Errors
    /// Every kind of [`DatabaseError`] but `Malformed`.
    pub fn open(db_path: &Path, store_dir: &StoreDir) -> Result<Self, DatabaseError> {
        let (connection, Found { columns, writes_ahead, dot_lock }) = connections::open(db_path, || connect(db_path))?;
        Ok(Self {
            connection,
            path: db_path.to_owned(),
            store_dir: store_dir.clone(),
            columns,
            writes_ahead,
            dot_lock,
            patience: BUSY_TIMEOUT,
        })
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that is being read.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.connection.files().database
    }

    /// Whether the path no longer names the files that are being read, or this was closed for that: it must be opened again.
    #[must_use]
    pub fn replaced(&self) -> bool {
        self.connection.is_replaced()
    }

    /// The highest id that was ever given to a path, 0 if none was. A garbage collection doesn't lower it.
    ///
    /// # Errors
    /// `Busy` or `Other`.
    pub fn last_id(&self) -> Result<i64, DatabaseError> {
        let sql = "SELECT max(ifnull((SELECT seq FROM sqlite_sequence WHERE name = 'ValidPaths'), 0),
                              ifnull((SELECT max(id) FROM ValidPaths), 0))";
        self.reading("read last id", |c| c.prepare_cached(sql)?.query_row([], |row| row.get(0)))
    }

    /// What the row with that id says, to be compared with what it said before.
    ///
    /// # Errors
    /// `Busy` or `Other`.
    pub fn row_mark(&self, id: i64) -> Result<Option<RowMark>, DatabaseError> {
        self.reading("read row of cursor", |c| {
            c.prepare_cached("SELECT path, CAST(registrationTime AS INTEGER) FROM ValidPaths WHERE id = ?1")?
                .query_row([id], |row| {
                    let path = String::from_utf8_lossy(row.get_ref(0)?.as_bytes()?).into_owned();
                    Ok(RowMark { path, registration_time: row.get(1)? })
                })
                .optional()
        })
    }

    /// The last row that there is up to that id, with its own id.
    ///
    /// # Errors
    /// `Busy` or `Other`.
    pub fn last_row_mark(&self, up_to: i64) -> Result<Option<(i64, RowMark)>, DatabaseError> {
        let sql = "SELECT max(id) FROM ValidPaths WHERE id <= ?1";
        let last =
            self.reading("read row of cursor", |c| c.prepare_cached(sql)?.query_row([up_to], |row| row.get(0)))?;
        let Some(id) = last else { return Ok(None) };
        // Collected in between: the next look finds another.
        Ok(self.row_mark(id)?.map(|mark| (id, mark)))
    }

    /// Reads the rows behind the id `after`, ascending, in one short read transaction.
    ///
    /// # Errors
    /// `Busy` or `Other`. A malformed row is none: it is in [`Batch::malformed`].
    pub fn batch(&self, after: i64, limits: &BatchLimits) -> Result<Batch, DatabaseError> {
        self.reading("read new paths", |c| {
            let mut statement = c.prepare_cached(self.columns.batch_sql())?;
            let mut rows = statement.query([after])?;
            let started = Instant::now();
            let mut batch = Batch { reached: after, ..Batch::default() };
            let mut read = 0;
            while read == 0 || (read < limits.rows && started.elapsed() < limits.time) {
                let Some(row) = rows.next()? else {
                    batch.complete = true;
                    break;
                };
                let id = row.get(0)?;
                match row::path_info(row, id, &self.store_dir) {
                    Ok(info) => batch.paths.push(info),
                    Err(why) => {
                        let path = row::store_path(row, 1, &self.store_dir).ok();
                        let registration_time = row.get(3).ok();
                        batch.malformed.push(MalformedRow { id, path, registration_time, why });
                    }
                }
                batch.reached = id;
                read += 1;
            }
            Ok(batch)
        })
    }

    /// All that is known of one path, its references included; `None` if it isn't valid.
    ///
    /// # Errors
    /// `Busy`, `Other`, or `Malformed` for its row or that of a reference.
    pub fn path_info(&self, path: &StorePath) -> Result<Option<PathInfo>, DatabaseError> {
        let full = self.store_dir.full(path);
        let found = self.reading("read path info", |c| {
            // Row and references must be those of one moment.
            let transaction = c.unchecked_transaction()?;
            let info = c
                .prepare_cached(self.columns.path_sql())?
                .query_row([&full], |row| {
                    let id = row.get(0)?;
                    Ok((id, row::path_info(row, id, &self.store_dir)))
                })
                .optional()?;
            let Some((id, info)) = info else { return Ok(None) };
            let references = self.references_in(c, id)?;
            transaction.finish()?;
            Ok(Some(info.and_then(|info| Ok(PathInfo { references: Some(references?), ..info }))))
        })?;
        found.transpose().map_err(|why| DatabaseError::Malformed { row: full, why })
    }

    /// The paths which the path with that id refers to, itself perhaps among them, sorted; none where there is no such id.
    ///
    /// # Errors
    /// `Busy`, `Other`, or `Malformed` for the row of a reference.
    pub fn references(&self, id: i64) -> Result<Vec<StorePath>, DatabaseError> {
        self.reading("read references", |c| self.references_in(c, id))?
            .map_err(|why| DatabaseError::Malformed { row: format!("id {id}"), why })
    }

    /// The ids of the same, whatever their rows say.
    ///
    /// # Errors
    /// `Busy` or `Other`.
    pub fn reference_ids(&self, id: i64) -> Result<Vec<i64>, DatabaseError> {
        self.reading("read references", |c| {
            let mut statement = c.prepare_cached("SELECT reference FROM Refs WHERE referrer = ?1")?;
            statement.query_map([id], |row| row.get(0))?.collect()
        })
    }

    /// The same as paths, for a row that was read by [`Database::batch`]; `None`, and a word to whoever reads the log, where they can't be
    /// understood.
    ///
    /// # Errors
    /// `Busy`, `Replaced` or `Other`.
    pub fn references_of(&self, info: &PathInfo) -> Result<Option<Vec<StorePath>>, DatabaseError> {
        match info.id.map_or(Ok(Vec::new()), |id| self.references(id)) {
            Ok(references) => Ok(Some(references)),
            Err(DatabaseError::Malformed { why, .. }) => {
                warn!(path = %info.path, "its references can't be understood: {why}");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn references_in(&self, c: &Connection, id: i64) -> rusqlite::Result<Result<Vec<StorePath>, String>> {
        let mut statement = c.prepare_cached(REFERENCES)?;
        let mut rows = statement.query([id])?;
        let mut references = Vec::new();
        while let Some(row) = rows.next()? {
            match row::store_path(row, 0, &self.store_dir) {
                Ok(reference) => references.push(reference),
                Err(why) => return Ok(Err(format!("a reference: {why}"))),
            }
        }
        references.sort_unstable();
        Ok(Ok(references))
    }

    /// The id of a path, whatever else its row says; `None` if it isn't valid.
    ///
    /// # Errors
    /// `Busy` or `Other`.
    pub fn id_of(&self, path: &StorePath) -> Result<Option<i64>, DatabaseError> {
        let full = self.store_dir.full(path);
        self.reading("ask whether a path is valid", |c| {
            let mut statement = c.prepare_cached("SELECT id FROM ValidPaths WHERE path = ?1")?;
            statement.query_row([&full], |row| row.get(0)).optional()
        })
    }

    /// Whether the path is valid now.
    ///
    /// # Errors
    /// `Busy` or `Other`.
    pub fn is_valid(&self, path: &StorePath) -> Result<bool, DatabaseError> {
        let full = self.store_dir.full(path);
        self.reading("ask whether a path is valid", |c| {
            c.prepare_cached("SELECT 1 FROM ValidPaths WHERE path = ?1")?.exists(params![full])
        })
    }

    /// Whether Nix writes ahead (`use-sqlite-wal`). Where it doesn't, what is read while Nix writes has to be read again.
    #[must_use]
    pub fn uses_wal(&self) -> bool {
        self.writes_ahead
    }

    /// What a batch may read so that nobody waits for it: some 2 MB of paths, in a transaction that is soon over.
    #[must_use]
    pub fn limits(&self) -> BatchLimits {
        BatchLimits { rows: BATCH_ROWS, time: if self.uses_wal() { BATCH_TIME } else { BATCH_TIME_WITHOUT_WAL } }
    }

    /// Runs one call's queries, more than once where that is needed. The statements they prepare are locals of theirs, so
    /// they are reset when it returns.
    fn reading<T>(
        &self,
        verb: &'static str,
        query: impl Fn(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, DatabaseError> {
        self.ask(verb, |connection| match self.writes_ahead {
            true => query(connection),
            false => self.dot_lock.read(connection, self.patience, query),
        })
    }

    fn ask<T>(
        &self,
        verb: &'static str,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, DatabaseError> {
        match self.connection.ask(question) {
            Some(answer) => answer.map_err(|error| DatabaseError::from_sqlite(verb, &self.path, error)),
            None => Err(DatabaseError::Replaced { path: self.path.clone() }),
        }
    }
}
