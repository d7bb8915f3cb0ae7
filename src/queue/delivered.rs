//! Which paths a cache was given, for caches that can't say so themselves.

use rusqlite::params;

use super::{CacheId, JobState, Queue, QueueError, sqlite};
use crate::nix::StorePath;

impl Queue {
    /// Those of these paths whose job for the cache is done.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn delivered(&mut self, cache: CacheId, paths: &[StorePath]) -> Result<Vec<StorePath>, QueueError> {
        let mut done = self
            .db
            .prepare_cached("SELECT 1 FROM jobs WHERE path = ?1 AND cache = ?2 AND state = ?3 AND evicted = 0")
            .map_err(sqlite("look for what is done"))?;
        let mut delivered = Vec::new();
        for path in paths {
            let is_done = done.exists(params![path.base_name(), cache.0, JobState::Done as i64]);
            if is_done.map_err(sqlite("look for what is done"))? {
                delivered.push(path.clone());
            }
        }
        Ok(delivered)
    }
}
