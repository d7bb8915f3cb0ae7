//! What still waits to be uploaded, for who keeps it from being collected meanwhile.
//!
//! It is looked for while the queue is at work, and may be asked of one that has hundreds of thousands of jobs: so each query
//! reads the newest first, as they stand in an index, and ends when it has enough.

use std::collections::HashSet;

use rusqlite::{Row, Transaction, params};

use super::work::path_column;
use super::{CacheId, Queue, QueueError, sqlite};
use crate::limit::Lane;
use crate::nix::StorePath;

/// What may be claimed, in a lane of a cache.
const CLAIMABLE: &str = "
    SELECT id, path FROM jobs INDEXED BY jobs_claimable
    WHERE cache = ?1 AND lane = ?2 AND state = 0 AND blockers = 0
    ORDER BY id DESC LIMIT ?3";

/// What is under way to a cache, which is never much.
const CLAIMED: &str = "
    SELECT id, path FROM jobs INDEXED BY jobs_open
    WHERE state = 1 AND state <> 2 AND cache = ?1 AND lane = ?2
    ORDER BY id DESC LIMIT ?3";

/// What waits for its references. It is listed with them, since nothing else keeps it.
const BLOCKED: &str = "
    SELECT jobs.id, path FROM (SELECT DISTINCT job FROM waits ORDER BY job DESC LIMIT ?3) AS blocked
    CROSS JOIN jobs ON jobs.id = blocked.job
    WHERE state = 0 AND cache = ?1 AND lane = ?2";

impl Queue {
    /// The paths that are to be uploaded to any of these caches, those under way among them, each once: fresh ones before
    /// backfill's, the newest first, and at most `limit`. What is held isn't among them, nor what is for a cache that is off.
    /// Where more than `limit` jobs wait for references, only the newest of them are looked at.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn waiting(&self, caches: &[CacheId], limit: usize) -> Result<Vec<StorePath>, QueueError> {
        let explain = sqlite("list what waits");
        // All of one moment: what is given back meanwhile would be missed.
        let tx = self.db.unchecked_transaction().map_err(&explain)?;
        let mut paths = Vec::new();
        let mut seen = HashSet::new();
        for lane in [Lane::Fresh, Lane::Backfill] {
            for path in newest(&tx, caches, lane, limit).map_err(&explain)? {
                if paths.len() < limit && seen.insert(path.clone()) {
                    paths.push(path);
                }
            }
            if paths.len() == limit {
                break;
            }
        }
        Ok(paths)
    }
}

/// The newest that wait in a lane of these caches, each once.
fn newest(tx: &Transaction<'_>, caches: &[CacheId], lane: Lane, limit: usize) -> rusqlite::Result<Vec<StorePath>> {
    let mut newest: Vec<(i64, StorePath)> = Vec::new();
    let mut is_off = tx.prepare_cached("SELECT 1 FROM caches WHERE id = ?1 AND off = 1")?;
    for cache in caches {
        if is_off.exists([cache.0])? {
            continue;
        }
        for sql in [CLAIMABLE, CLAIMED, BLOCKED] {
            let mut statement = tx.prepare_cached(sql)?;
            let rows = statement.query_map(params![cache.0, lane as i64, limit as i64], numbered_path)?;
            for row in rows {
                newest.push(row?);
            }
        }
        // After each cache, so that it never becomes much more than is wanted.
        newest.sort_unstable_by_key(|(id, _)| std::cmp::Reverse(*id));
        let mut seen = HashSet::new();
        newest.retain(|(_, path)| seen.insert(path.clone()));
        newest.truncate(limit);
    }
    Ok(newest.into_iter().map(|(_, path)| path).collect())
}

fn numbered_path(row: &Row<'_>) -> rusqlite::Result<(i64, StorePath)> {
    Ok((row.get(0)?, path_column(row, 1)?))
}

#[cfg(test)]
mod tests {
    use super::super::{Admission, Ended, Outcome, Standing, Wanted};
    use super::*;
    use crate::limit::Lane;

    #[test]
    fn fresh_paths_come_first_and_each_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut queue = Queue::open(dir.path()).expect("opened").queue;
        let [one, two, off] = ["one", "two", "off"].map(|name| queue.cache_id(name, "file:///c").expect("a cache"));
        let mut admit = |lane, n, caches: &[CacheId]| {
            let wanted = [Wanted { path: StorePath::nth(n), row: None, registered: 0, caches: caches.to_vec() }];
            let ended = Ended::StartsAnew;
            let admission = Admission { lane, ended, ..Admission::of_new(&wanted, 1) };
            queue.admit(&admission, None).expect("admitted");
        };
        admit(Lane::Fresh, 1, &[one, two]);
        admit(Lane::Fresh, 2, &[two, one]);
        admit(Lane::Backfill, 3, &[one]);
        admit(Lane::Fresh, 4, &[off]);
        queue.note_cache(off, Standing::Off("it is this host"), 1).expect("noted");
        let waiting = |queue: &Queue, caches: &[CacheId], limit| queue.waiting(caches, limit).expect("listed");
        assert_eq!(waiting(&queue, &[one, two, off], 10), [StorePath::nth(2), StorePath::nth(1), StorePath::nth(3)]);
        assert_eq!(waiting(&queue, &[one, two, off], 1), [StorePath::nth(2)]);
        assert_eq!(
            waiting(&queue, &[two], 10),
            [StorePath::nth(2), StorePath::nth(1)],
            "another's is nobody's business"
        );
        assert!(waiting(&queue, &[], 10).is_empty());
        let claimed = queue.claim(one, Lane::Fresh, 1, 1).expect("claimed");
        assert_eq!(claimed[0].path, StorePath::nth(1));
        assert_eq!(
            waiting(&queue, &[one], 10),
            [StorePath::nth(2), StorePath::nth(1), StorePath::nth(3)],
            "it may come back"
        );
    }
    #[test]
    fn what_waits_for_references_is_listed_with_them_and_a_lane_is_that_of_the_path() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut queue = Queue::open(dir.path()).expect("opened").queue;
        let [one, two] = ["one", "two"].map(|name| queue.cache_id(name, "file:///c").expect("a cache"));
        let mut admit = |lane, n, caches: &[CacheId]| {
            let wanted = [Wanted { path: StorePath::nth(n), row: None, registered: 0, caches: caches.to_vec() }];
            let ended = Ended::StartsAnew;
            let admission = Admission { lane, ended, ..Admission::of_new(&wanted, 1) };
            queue.admit(&admission, None).expect("admitted");
        };
        admit(Lane::Backfill, 1, &[one, two]);
        admit(Lane::Fresh, 2, &[one]);
        admit(Lane::Fresh, 1, &[two]);
        admit(Lane::Backfill, 4, &[one]);
        let claimed = queue.claim(one, Lane::Fresh, 1, 1).expect("claimed").remove(0);
        queue.settle(&[(claimed, Outcome::WaitsFor(vec![StorePath::nth(3)]))], &[], 1).expect("settled");
        let waiting = queue.waiting(&[one, two], 10).expect("listed");
        assert_eq!(waiting, [StorePath::nth(3), StorePath::nth(2), StorePath::nth(1), StorePath::nth(4)]);
        assert_eq!(queue.waiting(&[one, two], 3).expect("listed"), waiting[..3]);
    }

    #[test]
    fn the_whole_queue_is_never_read_for_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let queue = Queue::open(dir.path()).expect("opened").queue;
        for (sql, index) in [
            (CLAIMABLE, "SEARCH jobs USING INDEX jobs_claimable (cache=? AND lane=?)"),
            (CLAIMED, "SEARCH jobs USING INDEX jobs_open (state=? AND cache=?)"),
            (BLOCKED, "SEARCH jobs USING INTEGER PRIMARY KEY (rowid=?)"),
        ] {
            let mut statement = queue.db.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).expect("good SQL");
            let steps = statement.query_map(params![1, 0, 10], |row| row.get::<_, String>(3)).expect("a plan");
            let plan = steps.collect::<Result<Vec<_>, _>>().expect("a plan").join("; ");
            assert!(plan.contains(index) && !plan.contains("TEMP B-TREE"), "{plan}");
        }
    }
}
