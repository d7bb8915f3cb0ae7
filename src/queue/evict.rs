//! What a cache has dropped since it may have no more than a size: it isn't there any more, and isn't to come back by itself.

use rusqlite::params;

use super::contents::forget_contents;
use super::{CacheId, JobState, Queue, QueueError, sqlite};
use crate::nix::{HashPart, StorePath};

impl Queue {
    /// Notes that a cache has dropped paths, which are known by their hash parts, and archives, by where they lay: their
    /// contents are forgotten, what is done stays done but counts as dropped, and whoever believes that one is there is told
    /// to ask. All or nothing.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`]; then nothing has changed.
    pub fn note_evicted(&mut self, cache: CacheId, paths: &[HashPart], archives: &[String]) -> Result<(), QueueError> {
        self.at_once(|queue| {
            forget_contents(&queue.db, cache, archives)?;
            let mut note = queue
                .db
                .prepare_cached(
                    "UPDATE jobs SET evicted = 1 WHERE path >= ?1 AND path < ?2 AND cache = ?3 AND state = ?4",
                )
                .map_err(sqlite("note what was dropped"))?;
            for hash in paths {
                // `.` comes behind `-`, which follows the hash part in each name.
                let range = params![format!("{hash}-"), format!("{hash}."), cache.0, JobState::Done as i64];
                note.execute(range).map_err(sqlite("note what was dropped"))?;
            }
            drop(note);
            queue.doubt()
        })
    }

    /// A cache that has no size any more may have everything again that it has dropped.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn forget_evicted(&mut self, cache: CacheId) -> Result<(), QueueError> {
        let forgotten = self.db.execute("UPDATE jobs SET evicted = 0 WHERE cache = ?1 AND evicted = 1", [cache.0]);
        forgotten.map(drop).map_err(sqlite("forget what was dropped"))
    }

    /// The paths that are claimed for a cache.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn under_way(&mut self, cache: CacheId) -> Result<Vec<StorePath>, QueueError> {
        let mut statement = self
            .db
            .prepare_cached("SELECT path FROM jobs INDEXED BY jobs_open WHERE state = 1 AND state <> 2 AND cache = ?1")
            .map_err(sqlite("list what is under way"))?;
        statement
            .query_map([cache.0], |row| super::work::path_column(row, 0))
            .and_then(Iterator::collect)
            .map_err(sqlite("list what is under way"))
    }
}
