//! From paths that somebody has named to all that they need, step by step: a cache may have a path and lack something that
//! it needs, far behind what the path itself refers to.
//!
//! A closure can be as large as the store, so it is held here and nowhere else: what a path refers to is asked for when the
//! path is in the cache, each path once for each backfill. One that is under way just then is claimed once more when it has
//! landed ([`Queue::settle`]), since nobody has looked what it refers to.
//!
//! A path belongs to the backfill that asked for it last. Where two are at the same closure at the same time, the one may so be
//! through while the other still sees to what they share.

use rusqlite::params;

use super::work::execute;
use super::{Job, Queue, QueueError, sqlite};
use crate::nix::StorePath;

impl Queue {
    /// Asks for what the paths of these jobs refer to, as far as their backfill hasn't: call it before the jobs are settled,
    /// so that the backfill isn't taken to be through in between. Jobs that belong to none have no part in it.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`]; then nothing has changed.
    pub fn walk(&mut self, steps: &[(Job, Vec<StorePath>)], now: i64) -> Result<(), QueueError> {
        let tx = self.begin().map_err(sqlite("begin to walk on"))?;
        for (job, references) in steps {
            let Some(run) = job.walk else { continue };
            for reference in references {
                // 2 and 5 are Done and Gone, which `Event::Admitted` opens again. What has failed or is held is the run's to
                // report.
                execute(
                    &tx,
                    "INSERT INTO jobs (path, cache, state, lane, needed, changed, run) VALUES (?1, ?2, 0, ?3, 1, ?4, ?5)
                     ON CONFLICT (path, cache) DO UPDATE
                         SET run = excluded.run, needed = 1, lane = min(lane, excluded.lane),
                             attempts = CASE WHEN state IN (2, 5) THEN 0 ELSE attempts END,
                             not_before = CASE WHEN state IN (2, 5) THEN 0 ELSE not_before END,
                             was_done = (state = 2 AND NOT evicted AND excluded.lane = 1),
                             changed = CASE WHEN state IN (2, 5) THEN excluded.changed ELSE changed END,
                             state = CASE WHEN state IN (2, 5) THEN 0 ELSE state END
                         WHERE run IS NOT excluded.run",
                    params![reference.base_name(), job.cache.0, job.lane as i64, now, run.0],
                )?;
            }
        }
        tx.commit().map_err(sqlite("commit a walk"))
    }
}
