//! What the service has seen, noted for those who look: how large caches are, and what is pinned.

use rusqlite::params;
use serde::Serialize;

use super::{CacheId, Queue, QueueError, sqlite};

/// Why nothing of backfill's goes to the cache `c` for now, but for pauses, in words; NULL: nothing keeps it.
pub(super) const BACKFILL_WAITS: &str = "coalesce(
    (SELECT 'the disk of ' || d.place || ' is ' || d.level
     FROM disks d WHERE d.level <> 'ok' AND d.place IN ('store', 'state directory', 'cache ' || c.name)
     ORDER BY d.rowid LIMIT 1),
    CASE c.too_large WHEN 1 THEN 'the cache is larger than its `max_size`'
                     WHEN 2 THEN 'how large the cache is can''t be found out; the log says why' END)";

/// What is pinned for queued paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Pinned {
    /// How many paths.
    pub paths: u64,
    /// Bytes of their archives.
    pub bytes: u64,
}

impl Queue {
    /// Notes how many bytes a cache has, and whether that is more than it may have.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn note_size(&mut self, cache: CacheId, bytes: u64, is_too_large: bool, now: i64) -> Result<(), QueueError> {
        let noted = self.db.execute(
            "UPDATE caches SET size = ?2, sized = ?3, too_large = ?4 WHERE id = ?1",
            params![cache.0, bytes as i64, now, is_too_large],
        );
        noted.map(drop).map_err(sqlite("note a cache's size"))
    }

    /// Notes that it can't be found out how many bytes a cache has.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn note_size_unknown(&mut self, cache: CacheId) -> Result<(), QueueError> {
        let noted = self.db.execute("UPDATE caches SET too_large = 2 WHERE id = ?1", [cache.0]);
        noted.map(drop).map_err(sqlite("note that a cache's size isn't known"))
    }

    /// Forgets of these caches that they have more than they may: they may have something else now, or whatever they like.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn forget_too_large(&mut self, caches: &[CacheId]) -> Result<(), QueueError> {
        for cache in caches {
            self.db
                .execute("UPDATE caches SET too_large = 0 WHERE id = ?1 AND too_large", [cache.0])
                .map_err(sqlite("forget that a cache is too large"))?;
        }
        Ok(())
    }

    /// Notes what is pinned; `None`: it isn't known.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn note_pinned(&mut self, pinned: Option<Pinned>) -> Result<(), QueueError> {
        let pinned = pinned.map(|Pinned { paths, bytes }| format!("{paths} {bytes}"));
        self.note("pinned", pinned.as_deref(), "note what is pinned")
    }

    /// What is pinned, as far as it is known.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn pinned(&self) -> Result<Option<Pinned>, QueueError> {
        let noted = self.noted("pinned", "look what is pinned")?;
        Ok(noted.and_then(|noted| {
            let (paths, bytes) = noted.split_once(' ')?;
            Some(Pinned { paths: paths.parse().ok()?, bytes: bytes.parse().ok()? })
        }))
    }
}
