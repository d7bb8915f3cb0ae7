//! From paths that somebody has named to all that they need, step by step: a cache may have a path and lack something that
//! it needs, far behind what the path itself refers to.
//!
//! A closure can be as large as the store, so it is held here and nowhere else: what a path refers to is asked for when the
//! path is in the cache, each path once for each backfill. One that is under way just then is claimed once more when it has
//! landed (`queue/settle`), since nobody has looked what it refers to. Where several backfills ask for one path, what it
//! refers to is asked for by each of them (`queue/shared`).

use rusqlite::{Transaction, params};

use super::shared::{has_asked, is_its_own, job_of, share, walking};
use super::work::execute;
use super::{Job, QueueError, RunId, sqlite};
use crate::nix::StorePath;

/// Asks for what the path of a job refers to, as far as those backfills haven't that ask for its closure: before the job is
/// settled, so that none is taken to be through in between.
pub(super) fn walk(tx: &Transaction<'_>, job: &Job, references: &[StorePath], now: i64) -> Result<(), QueueError> {
    for run in walking(tx, job.id)? {
        for reference in references {
            ask(tx, run, job, reference, now)?;
        }
    }
    Ok(())
}

fn ask(tx: &Transaction<'_>, run: RunId, job: &Job, reference: &StorePath, now: i64) -> Result<(), QueueError> {
    let inserted = tx
        .prepare_cached(
            "INSERT INTO jobs (path, cache, state, lane, needed, changed, run) VALUES (?1, ?2, 0, ?3, 1, ?4, ?5)
             ON CONFLICT (path, cache) DO NOTHING",
        )
        .and_then(|mut insert| insert.execute(params![reference.base_name(), job.cache.0, job.lane as i64, now, run.0]))
        .map_err(sqlite("ask for a reference"))?;
    let Some(id) = job_of(tx, reference.base_name(), job.cache.0)?.filter(|_| inserted == 0) else { return Ok(()) };
    if has_asked(tx, run, id)? {
        return Ok(());
    }
    share(tx, id, Some(run))?;
    // 2 and 5 are Done and Gone, which `Event::Admitted` opens again. What has failed or is held is the run's to report.
    execute(
        tx,
        "UPDATE jobs SET run = ?2, needed = 1, lane = min(lane, ?3),
             attempts = CASE WHEN state IN (2, 5) THEN 0 ELSE attempts END,
             doubts = CASE WHEN state IN (2, 5) THEN 0 ELSE doubts END,
             was_done = CASE WHEN state IN (2, 5) THEN state = 2 AND NOT evicted AND ?3 = 1 ELSE was_done END,
             not_before = CASE WHEN state IN (2, 5) THEN 0 ELSE not_before END,
             changed = CASE WHEN state IN (2, 5) THEN ?4 ELSE changed END,
             state = CASE WHEN state IN (2, 5) THEN 0 ELSE state END
         WHERE id = ?1",
        params![id, run.0, job.lane as i64, now],
    )?;
    is_its_own(tx, id)
}
