//! What a cache has dropped since it may have no more than a size: it isn't there any more, and isn't to come back by itself.

use rusqlite::params;

use super::contents::forget_contents;
use super::{CacheId, JobState, Queue, QueueError, sqlite};
use crate::nix::{HashPart, StorePath};

/// Ends as dropped (`found = 3`) what waits in backfill's lane for a path that was in the cache until now, and that nobody has
/// named and nothing needs: `Event::Dropped`. `walks` is set for backfills of paths that were named.
const NOT_BACK: &str = "UPDATE jobs SET state = 2, found = 3, evicted = 1, was_done = 0, reason = NULL
     WHERE path >= ?1 AND path < ?2 AND cache = ?3 AND state = 0 AND lane = 1 AND blockers = 0 AND NOT needed
       AND NOT EXISTS (SELECT 1 FROM waits WHERE for = jobs.id)
       AND NOT EXISTS (SELECT 1 FROM runs WHERE walks = 1 AND finished IS NULL
                         AND (runs.id = run OR runs.id IN (SELECT s.run FROM shared s
                                                           WHERE s.job = jobs.id AND s.state IS NULL)))";

impl Queue {
    /// Notes that a cache has dropped paths, which are known by their hash parts, and archives, by where they lay: their
    /// contents are forgotten, what is done stays done but counts as dropped, and whoever believes that one is there is told
    /// to ask. What a backfill of the whole store was to look for there, and waits, counts as dropped too, or the backfill
    /// would bring all of it back. All or nothing.
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
            let mut end = queue.db.prepare_cached(NOT_BACK).map_err(sqlite("note what was dropped"))?;
            for hash in paths {
                // `.` comes behind `-`, which follows the hash part in each name.
                let (from, to) = (format!("{hash}-"), format!("{hash}."));
                let done = params![from, to, cache.0, JobState::Done as i64];
                note.execute(done).map_err(sqlite("note what was dropped"))?;
                end.execute(params![from, to, cache.0]).map_err(sqlite("note what was dropped"))?;
            }
            drop((note, end));
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
