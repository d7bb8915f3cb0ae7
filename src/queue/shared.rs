//! What belongs to several backfills. A job has the one that asked for it last; here stand the others that asked for it
//! before and aren't through, so that each sums up all that it has asked for.
//!
//! A row without a state goes with its job. Where a job that has ended is begun anew for another backfill, the row keeps how
//! it ended for this one.

use rusqlite::{OptionalExtension, Transaction, params};

use super::work::execute;
use super::{QueueError, RunId, sqlite};

/// Whether any backfill but this one isn't through, so that there may be something to be shared.
pub(super) fn may_be_shared(tx: &Transaction<'_>, run: Option<RunId>) -> Result<bool, QueueError> {
    tx.prepare_cached("SELECT 1 FROM runs WHERE finished IS NULL AND id IS NOT ?1")
        .and_then(|mut statement| statement.exists([run.map(|run| run.0)]))
        .map_err(sqlite("look for other backfills"))
}

/// Before a job is begun anew, or given to `run`: keeps for others how it ended, and for whose it is that it is theirs as well.
pub(super) fn share(tx: &Transaction<'_>, job: i64, run: Option<RunId>) -> Result<(), QueueError> {
    // 2, 4 and 5 are Done, Failed and Gone.
    execute(
        tx,
        "UPDATE shared SET (state, found, uploaded, read, saved, reason) =
             (SELECT state, found, uploaded, read, saved, reason FROM jobs WHERE id = ?1)
         WHERE job = ?1 AND state IS NULL AND (SELECT state FROM jobs WHERE id = ?1) IN (2, 4, 5)",
        [job],
    )?;
    let Some(run) = run else { return Ok(()) };
    execute(
        tx,
        "INSERT OR REPLACE INTO shared (run, job, state, found, uploaded, read, saved, reason)
         SELECT run, id, CASE WHEN state IN (2, 4, 5) THEN state END, found, uploaded, read, saved, reason
         FROM jobs WHERE id = ?1 AND run IS NOT ?2 AND run IN (SELECT id FROM runs WHERE finished IS NULL)",
        params![job, run.0],
    )
}

/// After that: whose the job is now has no need of a row.
pub(super) fn is_its_own(tx: &Transaction<'_>, job: i64) -> Result<(), QueueError> {
    execute(tx, "DELETE FROM shared WHERE job = ?1 AND run = (SELECT run FROM jobs WHERE id = ?1)", [job])
}

/// Whether a backfill has asked for that job.
pub(super) fn has_asked(tx: &Transaction<'_>, run: RunId, job: i64) -> Result<bool, QueueError> {
    tx.prepare_cached(
        "SELECT 1 FROM jobs WHERE id = ?1 AND run = ?2 UNION ALL SELECT 1 FROM shared WHERE job = ?1 AND run = ?2",
    )
    .and_then(|mut statement| statement.exists(params![job, run.0]))
    .map_err(sqlite("look who has asked for a path"))
}

/// The backfills for which what the job's path refers to is to be looked for, too.
pub(super) fn walking(tx: &Transaction<'_>, job: i64) -> Result<Vec<RunId>, QueueError> {
    let explain = sqlite("look whether a closure is asked for");
    let mut statement = tx
        .prepare_cached(
            "SELECT id FROM runs WHERE walks = 1 AND finished IS NULL
               AND (id = (SELECT run FROM jobs WHERE id = ?1)
                    OR id IN (SELECT run FROM shared WHERE job = ?1 AND state IS NULL))",
        )
        .map_err(&explain)?;
    let rows = statement.query_map([job], |row| row.get(0).map(RunId)).map_err(&explain)?;
    rows.collect::<Result<_, _>>().map_err(&explain)
}

/// A job that was delivered is claimed once more, for a closure: those backfills that ask for the path alone are served.
pub(super) fn serve_who_walks_not(tx: &Transaction<'_>, job: i64) -> Result<(), QueueError> {
    execute(
        tx,
        "UPDATE shared SET (state, found, uploaded, read, saved) =
             (SELECT 2, found, uploaded, read, saved FROM jobs WHERE id = ?1)
         WHERE job = ?1 AND state IS NULL AND run NOT IN (SELECT id FROM runs WHERE walks = 1)",
        [job],
    )
}

/// A job that another waits for is asked for by all who have asked for that.
pub(super) fn follow(tx: &Transaction<'_>, dependent: i64, job: i64) -> Result<(), QueueError> {
    execute(
        tx,
        "INSERT OR IGNORE INTO shared (run, job)
         SELECT run, ?2 FROM shared WHERE job = ?1 AND state IS NULL
         UNION SELECT run, ?2 FROM jobs WHERE id = ?1 AND run IN (SELECT id FROM runs WHERE finished IS NULL)",
        params![dependent, job],
    )?;
    is_its_own(tx, job)
}

/// The number of the job of a path for a cache.
pub(super) fn job_of(tx: &Transaction<'_>, path: &str, cache: i64) -> Result<Option<i64>, QueueError> {
    tx.prepare_cached("SELECT id FROM jobs WHERE path = ?1 AND cache = ?2")
        .and_then(|mut statement| statement.query_row(params![path, cache], |row| row.get(0)).optional())
        .map_err(sqlite("look a job up"))
}
