//! Working the queue off: claim, recover, and what people ask for by hand.

use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::links::{forget_waits, release_dependents, unblock};
use super::{CacheId, Event, Job, JobState, Queue, QueueError, Step, sqlite};
use crate::limit::Lane;
use crate::nix::StorePath;

// The statements below that look for jobs of one state say `state <> 2` as well: `jobs_open` is an index of those alone, and
// SQLite takes it only for who says so in its words.

/// What a crash has left claimed.
pub(super) const RECOVER: &str = "UPDATE jobs SET state = 0 WHERE state = 1 AND state <> 2";

/// What waits for its time.
pub(super) const HURRY: &str = "UPDATE jobs SET not_before = 0 WHERE state = 0 AND state <> 2 AND not_before > 0";

/// What was tried of a cache, or waits for its time.
pub(super) const BEGIN_ANEW: &str = "UPDATE jobs SET not_before = 0, attempts = 0, doubts = 0
     WHERE state = 0 AND state <> 2 AND cache = ?1 AND (attempts > 0 OR not_before > 0)";

/// What is held.
pub(super) const HELD: &str = "SELECT id FROM jobs WHERE state = 3 AND state <> 2";

/// A job that should wait longer than this was delayed by a clock that stood wrong (ms): longer than the longest pause
/// between two tries.
const LONGEST_DELAY: i64 = 60 * 60 * 1000;

impl Queue {
    /// Takes back what a crash or an aborted run left claimed. Returns how many jobs that were.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn recover(&mut self) -> Result<u64, QueueError> {
        self.db.execute("UPDATE caches SET asked_since = NULL, too_large = 0", []).map_err(sqlite("recover"))?;
        let recovered = self.db.execute(RECOVER, []);
        Ok(recovered.map_err(sqlite("recover claimed jobs"))? as u64)
    }

    /// Claims up to `limit` jobs of a cache and lane that nothing holds back, in the order they came; none of backfill's
    /// where that is [noted](Queue::note_paused) as paused.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn claim(&mut self, cache: CacheId, lane: Lane, limit: usize, now: i64) -> Result<Vec<Job>, QueueError> {
        self.claim_by(
            "SELECT id FROM jobs
             WHERE cache = ?1 AND lane = ?5 AND state = 0 AND blockers = 0
               AND (?5 = 0 OR (SELECT backfill_paused FROM caches WHERE id = ?1) IS NULL)
               AND (not_before <= ?2 OR not_before > ?2 + ?4)
             ORDER BY id LIMIT ?3",
            params![cache.0, now, limit as i64, LONGEST_DELAY, lane as i64],
        )
    }

    /// As [`Queue::claim`], of those fresh jobs alone whose paths were found to be such as a garbage collection would take.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn claim_collectable(&mut self, cache: CacheId, limit: usize, now: i64) -> Result<Vec<Job>, QueueError> {
        self.claim_by(
            "SELECT id FROM jobs INDEXED BY jobs_collectable
             WHERE cache = ?1 AND lane = 0 AND state = 0 AND blockers = 0 AND collectable = 1
               AND (not_before <= ?2 OR not_before > ?2 + ?4)
             ORDER BY id LIMIT ?3",
            params![cache.0, now, limit as i64, LONGEST_DELAY],
        )
    }

    /// Claims the one job to try a cache with that took nothing, whether or not its time has come, since it is the cache that
    /// is tried: the one that was tried least, and of those the one whose last try is longest ago. Of the lanes up to `last`
    /// alone.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn claim_probe(&mut self, cache: CacheId, last: Lane, now: i64) -> Result<Vec<Job>, QueueError> {
        self.claim_by(
            "SELECT coalesce(
                 -- The first of those that have not been tried at all, for which little has to be looked at.
                 (SELECT id FROM jobs INDEXED BY jobs_claimable
                  WHERE cache = ?1 AND lane <= ?3 AND state = 0 AND blockers = 0 AND attempts = 0 AND not_before = 0
                    AND (lane = 0 OR (SELECT backfill_paused FROM caches WHERE id = ?1) IS NULL)
                  ORDER BY lane, id LIMIT 1),
                 (SELECT id FROM jobs INDEXED BY jobs_claimable
                  WHERE cache = ?1 AND lane <= ?3 AND state = 0 AND blockers = 0
                    AND (lane = 0 OR (SELECT backfill_paused FROM caches WHERE id = ?1) IS NULL)
                  ORDER BY attempts, not_before, lane, id LIMIT 1))",
            params![cache.0, now, last as i64],
        )
    }

    /// Claims the jobs that a query selects by their ids; `?2` is the time.
    fn claim_by(&mut self, selected: &str, params: impl rusqlite::Params) -> Result<Vec<Job>, QueueError> {
        let claim = format!(
            "UPDATE jobs SET state = 1, changed = ?2, outdated = 0, step = NULL WHERE id IN ({selected})
             RETURNING id, path, cache, lane, attempts, doubts, needed,
                       EXISTS (SELECT 1 FROM runs WHERE walks = 1 AND finished IS NULL
                                 AND (runs.id = run OR runs.id IN (SELECT s.run FROM shared s
                                                                   WHERE s.job = jobs.id AND s.state IS NULL))),
                       collectable, reason,
                       (SELECT noted FROM distrusted d WHERE d.path = jobs.path AND d.cache = jobs.cache),
                       EXISTS (SELECT 1 FROM distrusted d WHERE d.cache = jobs.cache)"
        );
        let mut statement = self.db.prepare_cached(&claim).map_err(sqlite("claim jobs"))?;
        let mut jobs = statement
            .query_map(params, job_from_row)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(sqlite("claim jobs"))?;
        jobs.sort_by_key(|job| job.id);
        Ok(jobs)
    }

    /// Notes how far uploads have come that are under way, by the numbers of their jobs.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`]; then nothing has changed.
    pub fn note_steps(&mut self, steps: &[(i64, Step)]) -> Result<(), QueueError> {
        let tx = self.begin().map_err(sqlite("begin to note how far uploads are"))?;
        for (job, step) in steps {
            execute(&tx, "UPDATE jobs SET step = ?2 WHERE id = ?1 AND state = 1", params![job, *step as i64])?;
        }
        tx.commit().map_err(sqlite("note how far uploads are"))
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

    /// Lets everything that waits for its time be tried at once: after a suspend, the network may be another.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn hurry(&mut self) -> Result<u64, QueueError> {
        let hurried = self.db.execute(HURRY, []);
        Ok(hurried.map_err(sqlite("hurry waiting jobs"))? as u64)
    }

    /// A cache that took nothing takes paths again: what could not be sent meanwhile begins anew, as if it had not been
    /// tried, since that it failed says nothing of the path.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn begin_anew(&mut self, cache: CacheId) -> Result<u64, QueueError> {
        let begun = self.db.execute(BEGIN_ANEW, [cache.0]);
        Ok(begun.map_err(sqlite("begin waiting jobs anew"))? as u64)
    }

    /// Gives everything that is held another chance, since what held it may have changed. Why it was held is kept, so that
    /// nobody is told of it again who knows it.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn release_held(&mut self, now: i64) -> Result<u64, QueueError> {
        let tx = self.begin().map_err(sqlite("begin a release"))?;
        let held = ids(&tx, HELD, [])?;
        for id in &held {
            forget_waits(&tx, *id)?;
            let why = reason_of(&tx, *id)?;
            change(&tx, *id, JobState::Held, Event::Released, why.as_deref(), now)?;
        }
        tx.commit().map_err(sqlite("commit a release"))?;
        Ok(held.len() as u64)
    }

    /// Tries failed and held jobs again, and frees what waits for them; their caches are tried at once, too, should they take
    /// nothing. Returns how many jobs that were.
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
                Some(state @ JobState::Failed) => start_anew(&tx, *id, state, Event::Retried, now)?,
                Some(JobState::Pending) => {
                    tx.execute("UPDATE jobs SET not_before = 0 WHERE id = ?1", [id]).map_err(sqlite("retry a job"))?;
                }
                _ => continue,
            }
            release_dependents(&tx, *id, now)?;
            execute(
                &tx,
                "UPDATE caches SET retried = 1
                 WHERE waiting_why IS NOT NULL AND id = (SELECT cache FROM jobs WHERE id = ?1)",
                [id],
            )?;
            retried += 1;
        }
        tx.commit().map_err(sqlite("commit a retry"))?;
        Ok(retried)
    }

    /// The caches that are to be tried at once, since somebody has asked for jobs of theirs by hand. Each is told once.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn take_retried(&mut self) -> Result<Vec<CacheId>, QueueError> {
        let explain = sqlite("look for caches to be tried");
        // Asked again and again, mostly in vain: only what is there is written.
        let take = "UPDATE caches SET retried = 0 WHERE retried = 1 RETURNING id";
        let mut asked = self.db.prepare_cached(take).map_err(&explain)?;
        let rows = asked.query_map([], |row| row.get(0).map(CacheId)).map_err(&explain)?;
        rows.collect::<Result<Vec<_>, _>>().map_err(explain)
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

/// A job that has ended is pending again, as if it had never been tried. What was sent of it before stays known. Admission
/// does the same to many.
pub(super) fn start_anew(
    tx: &Transaction<'_>,
    id: i64,
    from: JobState,
    event: Event,
    now: i64,
) -> Result<(), QueueError> {
    change(tx, id, from, event, None, now)?;
    execute(tx, "UPDATE jobs SET attempts = 0, doubts = 0, not_before = 0 WHERE id = ?1", [id])
}

/// Moves one job on, if it is where it should be.
pub(super) fn change(
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

pub(super) fn delete(tx: &Transaction<'_>, id: i64) -> Result<u64, QueueError> {
    execute(tx, "DELETE FROM waits WHERE job = ?1", [id])?;
    execute(tx, "DELETE FROM shared WHERE job = ?1", [id])?;
    let deleted = tx.execute("DELETE FROM jobs WHERE id = ?1", [id]).map_err(sqlite("delete a job"))?;
    Ok(deleted as u64)
}

fn reason_of(tx: &Transaction<'_>, id: i64) -> Result<Option<String>, QueueError> {
    tx.prepare_cached("SELECT reason FROM jobs WHERE id = ?1")
        .and_then(|mut statement| statement.query_row([id], |row| row.get(0)))
        .map_err(sqlite("look why a job is held"))
}

pub(super) fn state_of(tx: &Transaction<'_>, id: i64) -> Result<Option<JobState>, QueueError> {
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
        doubts: row.get(5)?,
        needed: row.get(6)?,
        walk: row.get(7)?,
        collectable: row.get(8)?,
        reason: row.get(9)?,
        distrusted: row.get(10)?,
        among_distrusted: row.get(11)?,
    })
}

pub(super) fn path_column(row: &Row<'_>, column: usize) -> rusqlite::Result<StorePath> {
    let text: String = row.get(column)?;
    StorePath::from_base_name(&text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
    })
}
