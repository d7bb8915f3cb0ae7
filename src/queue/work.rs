//! Working the queue off: claim, settle, recover, and what one job's end means for those that wait for it.

use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::{CacheId, Delivery, Event, Job, JobState, Queue, QueueError, sqlite};
use crate::limit::Lane;
use crate::nix::StorePath;

/// What became of a claimed job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// In the cache, durably.
    Delivered(Delivery),
    /// To be tried again, not before a time (milliseconds since 1970).
    Retry {
        /// Not before.
        not_before: i64,
        /// What went wrong.
        reason: String,
    },
    /// Given back as it was: nothing went wrong with this path.
    Returned,
    /// To be done once these references, which the cache lacks, have been.
    WaitsFor(Vec<StorePath>),
    /// A reference can't be delivered.
    Held {
        /// Which, and why not.
        reason: String,
    },
    /// Trying again is of no use.
    Failed {
        /// What went wrong, and what to do.
        reason: String,
    },
    /// The path is no longer valid.
    Gone,
    /// The policy doesn't want it any more: the job is deleted.
    Withdrawn {
        /// By which rule.
        reason: String,
    },
}

/// A job that should wait longer than this was delayed by a clock that stood wrong (ms): longer than the longest pause
/// between two tries.
const LONGEST_DELAY: i64 = 60 * 60 * 1000;

/// What was collected is remembered for so long (ms), for whoever wonders.
const GONE_KEPT: i64 = 7 * 24 * 60 * 60 * 1000;

/// What is done is remembered for so long (ms). Should it be asked for again later, its cache is asked.
const DONE_KEPT: i64 = 90 * 24 * 60 * 60 * 1000;

impl Queue {
    /// Takes back what a crash or an aborted run left claimed. Returns how many jobs that were.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn recover(&mut self) -> Result<u64, QueueError> {
        let recovered = self.db.execute("UPDATE jobs SET state = 0 WHERE state = 1", []);
        Ok(recovered.map_err(sqlite("recover claimed jobs"))? as u64)
    }

    /// Forgets what has ended long ago, so that the queue doesn't grow for ever.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn prune(&mut self, now: i64) -> Result<(), QueueError> {
        let tx = self.begin().map_err(sqlite("begin to prune"))?;
        for (state, kept) in [(JobState::Gone, GONE_KEPT), (JobState::Done, DONE_KEPT)] {
            execute(&tx, "DELETE FROM jobs WHERE state = ?1 AND changed < ?2", params![state as i64, now - kept])?;
        }
        execute(&tx, "DELETE FROM runs WHERE finished < ?1", [now - DONE_KEPT])?;
        execute(&tx, "DELETE FROM run_skips WHERE run NOT IN (SELECT id FROM runs)", [])?;
        tx.commit().map_err(sqlite("commit what was pruned"))
    }

    /// Claims up to `limit` jobs of a cache and lane that nothing holds back, in the order they came.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn claim(&mut self, cache: CacheId, lane: Lane, limit: usize, now: i64) -> Result<Vec<Job>, QueueError> {
        self.claim_by(
            "UPDATE jobs SET state = 1, changed = ?2, outdated = 0
             WHERE id IN (SELECT id FROM jobs
                          WHERE cache = ?1 AND lane = ?5 AND state = 0 AND blockers = 0
                            AND (not_before <= ?2 OR not_before > ?2 + ?4)
                          ORDER BY id LIMIT ?3)
             RETURNING id, path, cache, lane, attempts, needed",
            params![cache.0, now, limit as i64, LONGEST_DELAY, lane as i64],
        )
    }

    /// Claims the one job to try a cache with that took nothing: the one that was tried least.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn claim_probe(&mut self, cache: CacheId, now: i64) -> Result<Vec<Job>, QueueError> {
        self.claim_by(
            "UPDATE jobs SET state = 1, changed = ?2, outdated = 0
             WHERE id IN (SELECT id FROM jobs
                          WHERE cache = ?1 AND state = 0 AND blockers = 0
                            AND (not_before <= ?2 OR not_before > ?2 + ?3)
                          ORDER BY attempts, lane, id LIMIT 1)
             RETURNING id, path, cache, lane, attempts, needed",
            params![cache.0, now, LONGEST_DELAY],
        )
    }

    fn claim_by(&mut self, sql: &'static str, params: impl rusqlite::Params) -> Result<Vec<Job>, QueueError> {
        let mut statement = self.db.prepare_cached(sql).map_err(sqlite("claim jobs"))?;
        let mut jobs = statement
            .query_map(params, job_from_row)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(sqlite("claim jobs"))?;
        jobs.sort_by_key(|job| job.id);
        Ok(jobs)
    }

    /// The earliest time (ms since 1970) at which a job that only waits for its time may be claimed.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn next_due(&self, now: i64) -> Result<Option<i64>, QueueError> {
        self.db
            // With the index's own condition in it, or it would look at everything that is pending, after each upload.
            .prepare_cached(
                "SELECT min(not_before) FROM jobs
                 WHERE state = 0 AND blockers = 0 AND not_before > 0 AND not_before > ?1",
            )
            .and_then(|mut statement| statement.query_row([now], |row| row.get(0)))
            .map_err(sqlite("look for the next job"))
    }

    /// Lets everything that waits for its time be tried at once, of one cache or of all: after a suspend, the network may
    /// be another; and a cache that is back takes what it could not take before.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn hurry(&mut self, cache: Option<CacheId>) -> Result<u64, QueueError> {
        let hurried = self.db.execute(
            "UPDATE jobs SET not_before = 0 WHERE state = 0 AND not_before > 0 AND cache = coalesce(?1, cache)",
            [cache.map(|cache| cache.0)],
        );
        Ok(hurried.map_err(sqlite("hurry waiting jobs"))? as u64)
    }

    /// Writes down what became of claimed jobs, all in one transaction.
    ///
    /// # Errors
    /// [`QueueError::WrongState`] if one wasn't claimed any more, [`QueueError::Sqlite`]; then nothing has changed.
    pub fn settle(&mut self, outcomes: &[(Job, Outcome)], now: i64) -> Result<(), QueueError> {
        let tx = self.begin().map_err(sqlite("begin to settle"))?;
        for (job, outcome) in outcomes {
            settle_one(&tx, job, outcome, now)?;
        }
        tx.commit().map_err(sqlite("commit what was settled"))
    }

    /// Gives everything that is held another chance, since what held it may have changed.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn release_held(&mut self) -> Result<u64, QueueError> {
        let tx = self.begin().map_err(sqlite("begin a release"))?;
        let held = ids(&tx, "SELECT id FROM jobs WHERE state = 3", [])?;
        for id in &held {
            forget_waits(&tx, *id)?;
            change(&tx, *id, JobState::Held, Event::Released, None, 0)?;
        }
        tx.commit().map_err(sqlite("commit a release"))?;
        Ok(held.len() as u64)
    }

    /// Tries failed and held jobs again, and frees what waits for them. Returns how many jobs that were.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn retry(&mut self, jobs: &[i64], now: i64) -> Result<u64, QueueError> {
        let tx = self.begin().map_err(sqlite("begin a retry"))?;
        let mut retried = 0;
        for id in jobs {
            match state_of(&tx, *id)? {
                Some(JobState::Held) => {
                    forget_waits(&tx, *id)?;
                    change(&tx, *id, JobState::Held, Event::Retried, None, now)?;
                }
                Some(JobState::Failed) => start_anew(&tx, *id, Event::Retried, now)?,
                Some(JobState::Pending) => {
                    tx.execute("UPDATE jobs SET not_before = 0 WHERE id = ?1", [id]).map_err(sqlite("retry a job"))?;
                }
                _ => continue,
            }
            release_dependents(&tx, *id, now)?;
            retried += 1;
        }
        tx.commit().map_err(sqlite("commit a retry"))?;
        Ok(retried)
    }

    /// Deletes jobs, whatever their state. Returns how many there were.
    ///
    /// What waited for one looks at its references again, and asks for this one again if it still needs it.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn drop_jobs(&mut self, jobs: &[i64], now: i64) -> Result<u64, QueueError> {
        let tx = self.begin().map_err(sqlite("begin to drop jobs"))?;
        let mut dropped = 0;
        for id in jobs {
            unblock(&tx, *id, now)?;
            dropped += delete(&tx, *id)?;
        }
        tx.commit().map_err(sqlite("commit dropped jobs"))?;
        Ok(dropped)
    }
}

fn settle_one(tx: &Transaction<'_>, job: &Job, outcome: &Outcome, now: i64) -> Result<(), QueueError> {
    if state_of(tx, job.id)?.is_none() {
        // Dropped by hand while it was under way.
        return Ok(());
    }
    let move_on = |event, reason: Option<&str>| change(tx, job.id, JobState::Uploading, event, reason, now);
    match outcome {
        Outcome::Delivered(delivery) => {
            move_on(Event::Delivered, None)?;
            match delivery {
                Delivery::Uploaded { sent, .. } => execute(
                    tx,
                    "UPDATE jobs SET found = 0, uploaded = ?2 WHERE id = ?1",
                    params![job.id, *sent as i64],
                )?,
                // Perhaps since it was sent before: that stays as it is.
                Delivery::AlreadyThere | Delivery::AtUpstream => {
                    execute(tx, "UPDATE jobs SET found = 1 WHERE id = ?1", [job.id])?
                }
            }
            unblock(tx, job.id, now)
        }
        Outcome::Gone => {
            move_on(Event::Collected, None)?;
            unblock(tx, job.id, now)
        }
        Outcome::Returned => move_on(Event::Returned, None),
        Outcome::Retry { not_before, reason } => {
            move_on(Event::Returned, Some(reason))?;
            execute(
                tx,
                "UPDATE jobs SET not_before = ?2, attempts = attempts + 1 WHERE id = ?1",
                params![job.id, not_before],
            )
        }
        Outcome::WaitsFor(references) => {
            let mut held_by = None;
            for reference in references {
                let state = wait_for(tx, job, reference, now)?;
                if matches!(state, JobState::Failed | JobState::Held) {
                    held_by = Some((reference, state));
                }
            }
            match held_by {
                None => move_on(Event::Returned, None),
                Some((reference, state)) => {
                    let reason = format!("needs {reference}, which is {}", state.name());
                    move_on(Event::Blocked, Some(&reason))?;
                    hold_dependents(tx, job, now)
                }
            }
        }
        Outcome::Held { reason } => {
            move_on(Event::Blocked, Some(reason))?;
            hold_dependents(tx, job, now)
        }
        // Its cache's configuration is another since it was claimed: it is tried with that one.
        Outcome::Failed { .. } if is_outdated(tx, job.id)? => move_on(Event::Returned, None),
        Outcome::Failed { reason } => {
            move_on(Event::Refused, Some(reason))?;
            hold_dependents(tx, job, now)
        }
        Outcome::Withdrawn { .. } => {
            hold_dependents(tx, job, now)?;
            execute(
                tx,
                "UPDATE jobs SET blockers = blockers - 1 WHERE id IN (SELECT job FROM waits WHERE for = ?1)",
                [job.id],
            )?;
            execute(tx, "DELETE FROM waits WHERE for = ?1", [job.id])?;
            delete(tx, job.id).map(|_| ())
        }
    }
}

/// A failed job is pending again, as if it had never been tried.
pub(super) fn start_anew(tx: &Transaction<'_>, id: i64, event: Event, now: i64) -> Result<(), QueueError> {
    change(tx, id, JobState::Failed, event, None, now)?;
    execute(tx, "UPDATE jobs SET attempts = 0 WHERE id = ?1", [id])
}

fn is_outdated(tx: &Transaction<'_>, id: i64) -> Result<bool, QueueError> {
    tx.prepare_cached("SELECT outdated FROM jobs WHERE id = ?1")
        .and_then(|mut statement| statement.query_row([id], |row| row.get(0)))
        .map_err(sqlite("look a job up"))
}

/// Moves one job on, if it is where it should be.
fn change(
    tx: &Transaction<'_>,
    id: i64,
    from: JobState,
    event: Event,
    reason: Option<&str>,
    now: i64,
) -> Result<(), QueueError> {
    let wrong = QueueError::WrongState { job: id, expected: from };
    let Some(to) = from.after(event) else { return Err(wrong) };
    let changed = tx
        .prepare_cached("UPDATE jobs SET state = ?3, reason = ?4, changed = ?5 WHERE id = ?1 AND state = ?2")
        .and_then(|mut statement| statement.execute(params![id, from as i64, to as i64, reason, now]))
        .map_err(sqlite("change a job's state"))?;
    if changed == 1 { Ok(()) } else { Err(wrong) }
}

/// Lets `job` wait for the job of a reference in the same cache, which is made or opened again if need be.
/// Returns the state in which the reference's job is now.
fn wait_for(tx: &Transaction<'_>, job: &Job, reference: &StorePath, now: i64) -> Result<JobState, QueueError> {
    execute(
        tx,
        "INSERT INTO jobs (path, cache, state, lane, needed, changed, run)
         VALUES (?1, ?2, 0, ?3, 1, ?4, (SELECT run FROM jobs WHERE id = ?5))
         ON CONFLICT (path, cache) DO UPDATE SET needed = 1, lane = min(lane, excluded.lane)",
        params![reference.base_name(), job.cache.0, job.lane as i64, now, job.id],
    )?;
    let (id, state) = tx
        .prepare_cached("SELECT id, state FROM jobs WHERE path = ?1 AND cache = ?2")
        .and_then(|mut statement| {
            statement.query_row(params![reference.base_name(), job.cache.0], |row| Ok((row.get(0)?, row.get(1)?)))
        })
        .map_err(sqlite("look a reference's job up"))?;
    raise(tx, id, job.lane)?;
    let mut state = JobState::from_number(state).unwrap_or(JobState::Failed);
    // The cache lacks it, so a job that ended well has to be done again.
    if let Some(reopened) = state.after(Event::Admitted).filter(|_| state != JobState::Failed) {
        change(tx, id, state, Event::Admitted, None, now)?;
        execute(tx, "UPDATE jobs SET attempts = 0, not_before = 0, uploaded = NULL WHERE id = ?1", [id])?;
        state = reopened;
    }
    let inserted = tx
        .prepare_cached("INSERT OR IGNORE INTO waits (job, for) VALUES (?1, ?2)")
        .and_then(|mut statement| statement.execute([job.id, id]))
        .map_err(sqlite("let a job wait"))?;
    execute(tx, "UPDATE jobs SET blockers = blockers + ?2 WHERE id = ?1", params![job.id, inserted as i64])?;
    Ok(state)
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
fn unblock(tx: &Transaction<'_>, id: i64, now: i64) -> Result<(), QueueError> {
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
fn hold_dependents(tx: &Transaction<'_>, job: &Job, now: i64) -> Result<(), QueueError> {
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

fn forget_waits(tx: &Transaction<'_>, id: i64) -> Result<(), QueueError> {
    execute(tx, "DELETE FROM waits WHERE job = ?1", [id])?;
    execute(tx, "UPDATE jobs SET blockers = 0 WHERE id = ?1", [id])
}

fn delete(tx: &Transaction<'_>, id: i64) -> Result<u64, QueueError> {
    execute(tx, "DELETE FROM waits WHERE job = ?1", [id])?;
    let deleted = tx.execute("DELETE FROM jobs WHERE id = ?1", [id]).map_err(sqlite("delete a job"))?;
    Ok(deleted as u64)
}

fn state_of(tx: &Transaction<'_>, id: i64) -> Result<Option<JobState>, QueueError> {
    tx.prepare_cached("SELECT state FROM jobs WHERE id = ?1")
        .and_then(|mut statement| statement.query_row([id], |row| row.get(0)).optional())
        .map(|number| number.and_then(JobState::from_number))
        .map_err(sqlite("look a job up"))
}

pub(super) fn execute(
    tx: &Transaction<'_>,
    sql: &'static str,
    params: impl rusqlite::Params,
) -> Result<(), QueueError> {
    tx.prepare_cached(sql).and_then(|mut statement| statement.execute(params)).map_err(sqlite("update jobs"))?;
    Ok(())
}

pub(super) fn ids(tx: &Transaction<'_>, sql: &str, params: impl rusqlite::Params) -> Result<Vec<i64>, QueueError> {
    let mut statement = tx.prepare_cached(sql).map_err(sqlite("select jobs"))?;
    let rows = statement.query_map(params, |row| row.get(0)).map_err(sqlite("select jobs"))?;
    rows.collect::<Result<_, _>>().map_err(sqlite("select jobs"))
}

fn job_from_row(row: &Row<'_>) -> rusqlite::Result<Job> {
    let lane: i64 = row.get(3)?;
    Ok(Job {
        id: row.get(0)?,
        path: path_column(row, 1)?,
        cache: CacheId(row.get(2)?),
        lane: if lane == 0 { Lane::Fresh } else { Lane::Backfill },
        attempts: row.get(4)?,
        needed: row.get(5)?,
    })
}

pub(super) fn path_column(row: &Row<'_>, column: usize) -> rusqlite::Result<StorePath> {
    let text: String = row.get(column)?;
    StorePath::from_base_name(&text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
    })
}
