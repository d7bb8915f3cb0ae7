//! Which of the queued paths a garbage collection would take, should there be one now: a verdict that is noted of each job.

use rusqlite::params;

use super::work::path_column;
use super::{CacheId, Queue, QueueError, sqlite};
use crate::nix::StorePath;

/// By the one index that passes over backfill: there may be half a million of its jobs, waiting for the very room that is
/// lacking when this is asked.
pub(super) const FRESH_BEHIND: &str = "
    SELECT id, path FROM jobs INDEXED BY jobs_claimable
    WHERE cache = ?1 AND lane = 0 AND state = 0 AND blockers = 0 AND id > ?2 ORDER BY id LIMIT ?3";

impl Queue {
    /// Some fresh jobs of a cache that can be claimed, if not before their time, behind the job `after`: their numbers,
    /// ascending, and their paths. What waits for its references isn't among them: it is found later.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn fresh_behind(
        &mut self,
        cache: CacheId,
        after: i64,
        limit: usize,
    ) -> Result<Vec<(i64, StorePath)>, QueueError> {
        let mut statement = self.db.prepare_cached(FRESH_BEHIND).map_err(sqlite("list fresh jobs"))?;
        statement
            .query_map(params![cache.0, after, limit as i64], |row| Ok((row.get(0)?, path_column(row, 1)?)))
            .and_then(Iterator::collect)
            .map_err(sqlite("list fresh jobs"))
    }

    /// Notes of jobs whether a garbage collection would take their paths. Returns of how many that is news.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`]; then nothing has changed.
    pub fn note_collectable(&mut self, verdicts: &[(i64, bool)]) -> Result<usize, QueueError> {
        let tx = self.begin().map_err(sqlite("begin to note what may be collected"))?;
        let noted: rusqlite::Result<usize> = (|| {
            let mut note = tx.prepare_cached("UPDATE jobs SET collectable = ?2 WHERE id = ?1 AND collectable <> ?2")?;
            verdicts.iter().map(|(id, verdict)| note.execute(params![id, verdict])).sum()
        })();
        noted.and_then(|news| tx.commit().map(|()| news)).map_err(sqlite("note what may be collected"))
    }
}
