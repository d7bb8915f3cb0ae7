//! Which job waits for which, because the one's path refers to the other's.

use rusqlite::{OptionalExtension, Transaction, params};

use super::shared::{follow, job_of, share};
use super::work::{change, execute, ids, start_anew};
use super::{Event, Job, JobState, QueueError, RunId, sqlite};
use crate::limit::Lane;
use crate::nix::StorePath;

/// Lets `job` wait for the job of a reference in the same cache, which is made or opened again if need be.
/// Returns the state in which the reference's job is now.
pub(super) fn wait_for(
    tx: &Transaction<'_>,
    job: &Job,
    reference: &StorePath,
    now: i64,
) -> Result<JobState, QueueError> {
    if let Some(known) = job_of(tx, reference.base_name(), job.cache.0)? {
        share(tx, known, run_of(tx, job.id)?)?;
    }
    execute(
        tx,
        "INSERT INTO jobs (path, cache, state, lane, needed, changed, run)
         VALUES (?1, ?2, 0, ?3, 1, ?4, (SELECT run FROM jobs WHERE id = ?5))
         ON CONFLICT (path, cache) DO UPDATE
             SET needed = 1, lane = min(lane, excluded.lane),
                 -- What is done once more for a backfill is that backfill's.
                 run = CASE WHEN state IN (2, 5) THEN coalesce(excluded.run, run) ELSE run END",
        params![reference.base_name(), job.cache.0, job.lane as i64, now, job.id],
    )?;
    let (id, state) = tx
        .prepare_cached("SELECT id, state FROM jobs WHERE path = ?1 AND cache = ?2")
        .and_then(|mut statement| {
            statement.query_row(params![reference.base_name(), job.cache.0], |row| Ok((row.get(0)?, row.get(1)?)))
        })
        .map_err(sqlite("look a reference's job up"))?;
    follow(tx, job.id, id)?;
    raise(tx, id, job.lane)?;
    let mut state = JobState::from_number(state).unwrap_or(JobState::Failed);
    // The cache lacks it, so a job that ended well has to be done again.
    if let Some(reopened) = state.after(Event::Admitted).filter(|_| state != JobState::Failed) {
        start_anew(tx, id, state, Event::Admitted, now)?;
        state = reopened;
    }
    let inserted = tx
        .prepare_cached("INSERT OR IGNORE INTO waits (job, for) VALUES (?1, ?2)")
        .and_then(|mut statement| statement.execute([job.id, id]))
        .map_err(sqlite("let a job wait"))?;
    execute(tx, "UPDATE jobs SET blockers = blockers + ?2 WHERE id = ?1", params![job.id, inserted as i64])?;
    Ok(state)
}

/// The backfill that asked for a job last.
fn run_of(tx: &Transaction<'_>, id: i64) -> Result<Option<RunId>, QueueError> {
    tx.prepare_cached("SELECT run FROM jobs WHERE id = ?1 AND run IS NOT NULL")
        .and_then(|mut statement| statement.query_row([id], |row| row.get(0).map(RunId)).optional())
        .map_err(sqlite("look who has asked for a job"))
}

/// What a job waits for, directly or not, moves up to its lane.
fn raise(tx: &Transaction<'_>, id: i64, lane: Lane) -> Result<(), QueueError> {
    execute(
        tx,
        "WITH RECURSIVE needed (id) AS (
             SELECT ?1 UNION SELECT waits.for FROM waits JOIN needed ON waits.job = needed.id)
         UPDATE jobs SET lane = ?2 WHERE id IN needed AND lane > ?2",
        params![id, lane as i64],
    )
}

/// A job has ended well, or has gone: those that waited for it wait for one less.
pub(super) fn unblock(tx: &Transaction<'_>, id: i64, now: i64) -> Result<(), QueueError> {
    let freed = ids(tx, "SELECT job FROM waits WHERE for = ?1", [id])?;
    execute(tx, "DELETE FROM waits WHERE for = ?1", [id])?;
    for dependent in freed {
        execute(tx, "UPDATE jobs SET blockers = blockers - 1 WHERE id = ?1", [dependent])?;
        let is_free = tx
            .prepare_cached("SELECT 1 FROM jobs WHERE id = ?1 AND state = 3 AND blockers = 0")
            .and_then(|mut statement| statement.exists([dependent]))
            .map_err(sqlite("look for a held job"))?;
        if is_free {
            change(tx, dependent, JobState::Held, Event::Released, None, now)?;
            release_dependents(tx, dependent, now)?;
        }
    }
    Ok(())
}

/// Everything that waits for this job, directly or not, is held: pending jobs become held ones.
pub(super) fn hold_dependents(tx: &Transaction<'_>, job: &Job, now: i64) -> Result<(), QueueError> {
    let reason = format!("needs {}, which can't be delivered", job.path);
    for dependent in dependents(tx, job.id, JobState::Pending)? {
        change(tx, dependent, JobState::Pending, Event::Blocked, Some(&reason), now)?;
    }
    Ok(())
}

/// Everything that is held since it waits for this job, directly or not, waits in hope again.
pub(super) fn release_dependents(tx: &Transaction<'_>, id: i64, now: i64) -> Result<(), QueueError> {
    for dependent in dependents(tx, id, JobState::Held)? {
        change(tx, dependent, JobState::Held, Event::Released, None, now)?;
    }
    Ok(())
}

fn dependents(tx: &Transaction<'_>, id: i64, state: JobState) -> Result<Vec<i64>, QueueError> {
    ids(
        tx,
        "WITH RECURSIVE dependent (id) AS (
             SELECT job FROM waits WHERE for = ?1
             UNION SELECT waits.job FROM waits JOIN dependent ON waits.for = dependent.id)
         SELECT id FROM jobs WHERE id IN dependent AND state = ?2",
        [id, state as i64],
    )
}

pub(super) fn forget_waits(tx: &Transaction<'_>, id: i64) -> Result<(), QueueError> {
    execute(tx, "DELETE FROM waits WHERE job = ?1", [id])?;
    execute(tx, "UPDATE jobs SET blockers = 0 WHERE id = ?1", [id])
}
