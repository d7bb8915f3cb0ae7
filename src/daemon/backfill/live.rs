//! What garbage collection would keep: the closure of the roots.

use rusqlite::Connection;

use crate::nix::{Database, DatabaseError, StorePath};
use crate::queue::{QueueError, sqlite};

/// Rows of the Nix database, in a table of SQLite's own: it goes to a temporary file where a closure is large, so that
/// memory stays bounded.
pub(super) struct Live {
    db: Connection,
}

/// Why the closure isn't known.
#[derive(Debug, thiserror::Error)]
pub(super) enum LiveError {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Queue(#[from] QueueError),
}

impl Live {
    /// Nothing yet.
    pub(super) fn new() -> Result<Self, QueueError> {
        // An empty name is a database on disk that is gone when it is closed.
        let db = Connection::open("").map_err(sqlite("open a temporary table"))?;
        db.execute_batch(
            "CREATE TABLE live (id INTEGER PRIMARY KEY, followed INTEGER NOT NULL DEFAULT 0);
             CREATE INDEX to_follow ON live (id) WHERE followed = 0;",
        )
        .map_err(sqlite("make a temporary table"))?;
        Ok(Self { db })
    }

    /// Adds a path, if it is valid.
    pub(super) fn add(&self, database: &Database, path: &StorePath) -> Result<(), LiveError> {
        let Some(id) = database.id_of(path)? else { return Ok(()) };
        self.add_row(id).map_err(Into::into)
    }

    fn add_row(&self, id: i64) -> Result<(), QueueError> {
        self.db
            .prepare_cached("INSERT OR IGNORE INTO live (id) VALUES (?1)")
            .and_then(|mut insert| insert.execute([id]))
            .map(drop)
            .map_err(sqlite("note a live path"))
    }

    /// Adds what is referred to, until nothing is missing.
    pub(super) fn close(&self, database: &Database) -> Result<(), LiveError> {
        loop {
            let next = self
                .db
                .prepare_cached("UPDATE live SET followed = 1 WHERE id = (SELECT min(id) FROM live WHERE followed = 0) RETURNING id")
                .and_then(|mut update| {
                    let mut rows = update.query([])?;
                    let id = rows.next()?.map(|row| row.get::<_, i64>(0)).transpose()?;
                    while rows.next()?.is_some() {}
                    Ok(id)
                })
                .map_err(sqlite("take a live path"))?;
            let Some(id) = next else { return Ok(()) };
            for reference in database.reference_ids(id)? {
                self.add_row(reference)?;
            }
        }
    }

    /// Whether garbage collection would keep this row.
    pub(super) fn contains(&self, id: i64) -> Result<bool, QueueError> {
        self.db
            .prepare_cached("SELECT 1 FROM live WHERE id = ?1")
            .and_then(|mut select| select.exists([id]))
            .map_err(sqlite("look for a live path"))
    }
}
