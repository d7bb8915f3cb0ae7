//! Opening a database, and finding out what kind of one it is.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::row::Columns;
use super::torn::DotLock;
use super::{BUSY_TIMEOUT, DatabaseError, KNOWN_SCHEMA, error};

/// What is found out about a database when it is opened.
pub(super) struct Found {
    pub(super) columns: Columns,
    pub(super) writes_ahead: bool,
    pub(super) dot_lock: DotLock,
}

/// Opens the database for reading, and finds out what it has.
///
/// # Errors
/// Every kind of [`DatabaseError`] but `Malformed` and `Replaced`.
pub(super) fn connect(path: &Path) -> Result<(Connection, Found), DatabaseError> {
    let explain = |error| DatabaseError::from_sqlite("open Nix database", path, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(explain)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(explain)?;
    connection.execute_batch("PRAGMA query_only = ON").map_err(explain)?;
    // Otherwise a query is planned anew for each value that is bound to it, which takes longer than most of ours do.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map_err(explain)?;
    let dot_lock = DotLock::of(path);
    // Nix notes it once it has made the tables, so it is looked for first.
    let schema = schema_beside(path);
    let look = |c: &Connection| (!is_empty(c)?).then(|| Columns::look_up(c)).transpose();
    let found = read(&connection, &dot_lock, BUSY_TIMEOUT, look).map_err(explain)?;
    let columns = found
        .ok_or_else(|| DatabaseError::Empty { path: path.to_owned(), was_made: schema.is_some() })?
        .map_err(|why| DatabaseError::NotNix { path: path.to_owned(), why })?;
    if let Some(found) = schema.filter(|found| *found > KNOWN_SCHEMA) {
        return Err(DatabaseError::NewerSchema { path: path.to_owned(), found, known: KNOWN_SCHEMA });
    }
    let writes_ahead = read(&connection, &dot_lock, BUSY_TIMEOUT, wal).map_err(explain)?;
    Ok((connection, Found { columns, writes_ahead, dot_lock }))
}

/// Runs queries of which it isn't known yet whether they take the patience that a database without a write-ahead log does.
fn read<T>(
    connection: &Connection,
    dot_lock: &DotLock,
    patience: Duration,
    query: impl Fn(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    match wal(connection) {
        Ok(true) => query(connection),
        Ok(false) => dot_lock.read(connection, patience, query),
        // Met in mid-commit before anything was read of it: only without a write-ahead log there is a journal.
        Err(error) if error::is_to_be_rolled_back(&error) => dot_lock.read(connection, patience, query),
        Err(error) => Err(error),
    }
}

/// Whether the database had a write-ahead log when it was last read.
fn wal(connection: &Connection) -> rusqlite::Result<bool> {
    connection.prepare_cached("PRAGMA journal_mode")?.query_row([], |row| Ok(row.get_ref(0)?.as_str()? == "wal"))
}

/// Whether a database has no tables yet.
pub(super) fn is_empty(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0))
}

/// The number in the file `schema`; `None` where it is missing or no number: then the tables alone are looked at.
fn schema_beside(db_path: &Path) -> Option<u32> {
    fs::read_to_string(db_path.with_file_name("schema")).ok()?.trim().parse().ok()
}
