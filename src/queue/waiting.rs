//! What still waits to be uploaded, for who keeps it from being collected meanwhile.

use rusqlite::params;

use super::work::path_column;
use super::{CacheId, Queue, QueueError, sqlite};
use crate::nix::StorePath;

impl Queue {
    /// The paths that are to be uploaded to any of these caches, those under way among them, each once: fresh ones before
    /// backfill's, the newest first, and at most `limit`. What is held isn't among them, nor what is for a cache that is off.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn waiting(&self, caches: &[CacheId], limit: usize) -> Result<Vec<StorePath>, QueueError> {
        let caches = serde_json::Value::from_iter(caches.iter().map(|cache| cache.0)).to_string();
        let listed = || sqlite("list what waits");
        let mut statement = self
            .db
            .prepare_cached(
                "SELECT path FROM jobs INDEXED BY jobs_open
                 WHERE state IN (0, 1) AND state <> 2
                   AND cache IN (SELECT value FROM json_each(?1)) AND cache NOT IN (SELECT id FROM caches WHERE off = 1)
                 GROUP BY path ORDER BY min(lane), max(id) DESC LIMIT ?2",
            )
            .map_err(listed())?;
        let rows = statement.query_map(params![caches, limit as i64], |row| path_column(row, 0)).map_err(listed())?;
        rows.collect::<Result<_, _>>().map_err(listed())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Admission, Ended, Standing, Wanted};
    use super::*;
    use crate::limit::Lane;

    fn path(n: u8) -> StorePath {
        StorePath::from_base_name(&format!("{}-p", char::from(b'0' + n).to_string().repeat(32))).expect("a store path")
    }

    #[test]
    fn fresh_paths_come_first_and_each_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut queue = Queue::open(dir.path()).expect("opened").queue;
        let [one, two, off] = ["one", "two", "off"].map(|name| queue.cache_id(name, "file:///c").expect("a cache"));
        let mut admit = |lane, n, caches: &[CacheId]| {
            let wanted = [Wanted { path: path(n), row: None, caches: caches.to_vec() }];
            let ended = Ended::StartsAnew;
            let admission = Admission { lane, ended, needed: false, run: None, wanted: &wanted, now: 1 };
            queue.admit(&admission, None).expect("admitted");
        };
        admit(Lane::Fresh, 1, &[one, two]);
        admit(Lane::Fresh, 2, &[two, one]);
        admit(Lane::Backfill, 3, &[one]);
        admit(Lane::Fresh, 4, &[off]);
        queue.note_cache(off, Standing::Off("it is this host"), 1).expect("noted");
        let waiting = |queue: &Queue, caches: &[CacheId], limit| queue.waiting(caches, limit).expect("listed");
        assert_eq!(waiting(&queue, &[one, two, off], 10), [path(2), path(1), path(3)]);
        assert_eq!(waiting(&queue, &[one, two, off], 1), [path(2)]);
        assert_eq!(waiting(&queue, &[two], 10), [path(2), path(1)], "another's is nobody's business");
        assert!(waiting(&queue, &[], 10).is_empty());
        let claimed = queue.claim(one, Lane::Fresh, 1, 1).expect("claimed");
        assert_eq!(claimed[0].path, path(1));
        assert_eq!(waiting(&queue, &[one], 10), [path(2), path(1), path(3)], "it may come back");
    }
}
