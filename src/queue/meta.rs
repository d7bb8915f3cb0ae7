//! What there is one of: short texts, each under a name of its own.

use rusqlite::{OptionalExtension, params};

use super::{Queue, QueueError, sqlite};

impl Queue {
    /// What was noted last under that name. `action` says what is asked for.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub(super) fn noted(&self, key: &str, action: &'static str) -> Result<Option<String>, QueueError> {
        self.db
            .prepare_cached("SELECT value FROM meta WHERE key = ?1")
            .and_then(|mut statement| statement.query_row([key], |row| row.get(0)).optional())
            .map_err(sqlite(action))
    }

    /// Notes it, in place of what was noted before; with `None`, there is nothing any more.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub(super) fn note(&mut self, key: &str, value: Option<&str>, action: &'static str) -> Result<(), QueueError> {
        let noted = match value {
            Some(value) => {
                self.db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)", params![key, value])
            }
            None => self.db.execute("DELETE FROM meta WHERE key = ?1", [key]),
        };
        noted.map(drop).map_err(sqlite(action))
    }
}
