//! What a cache's configuration being another means for its jobs.

use rusqlite::OptionalExtension;

use super::links::release_dependents;
use super::work::{execute, ids, start_anew};
use super::{CacheId, Event, JobState, Queue, QueueError, sqlite};

/// What has failed of a cache; in the words of the index `jobs_open`.
pub(super) const FAILED: &str = "SELECT id FROM jobs WHERE state = 4 AND state <> 2 AND cache = ?1";

/// What is claimed for a cache; in the words of the index `jobs_open`.
pub(super) const OUTDATE: &str = "UPDATE jobs SET outdated = 1 WHERE state = 1 AND state <> 2 AND cache = ?1";

impl Queue {
    /// Notes what a cache is served with, by a fingerprint of its configuration. Where it is another than before, what has
    /// failed is pending again, since the old configuration may have been why: all that in one transaction. Returns how
    /// many jobs that were.
    ///
    /// A cache whose fingerprint wasn't known before keeps what has failed.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`]; then nothing has changed.
    pub fn serve_cache(&mut self, cache: CacheId, fingerprint: &str, now: i64) -> Result<u64, QueueError> {
        let tx = self.begin().map_err(sqlite("begin to compare a cache's configuration"))?;
        let known: Option<String> = tx
            .query_row("SELECT fingerprint FROM caches WHERE id = ?1", [cache.0], |row| row.get(0))
            .optional()
            .map(Option::flatten)
            .map_err(sqlite("read a cache's fingerprint"))?;
        if known.as_deref() == Some(fingerprint) {
            return Ok(0);
        }
        tx.execute("UPDATE caches SET fingerprint = ?2 WHERE id = ?1", (cache.0, fingerprint))
            .map_err(sqlite("note a cache's fingerprint"))?;
        let failed = match known {
            Some(_) => ids(&tx, FAILED, [cache.0])?,
            None => Vec::new(),
        };
        for id in &failed {
            start_anew(&tx, *id, JobState::Failed, Event::Reconfigured, now)?;
            release_dependents(&tx, *id, now)?;
        }
        if known.is_some() {
            execute(&tx, OUTDATE, [cache.0])?;
        }
        tx.commit().map_err(sqlite("commit a cache's configuration"))?;
        Ok(failed.len() as u64)
    }
}
