//! What has come of a backfill so far, and what is left of it.

use super::seen::BACKFILL_WAITS;
use super::{PassedOver, Queue, QueueError, RunId, Volume, Why, sqlite};

/// A job of a backfill that has failed or is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undelivered {
    /// Base name of its path.
    pub path: String,
    /// Name of its cache.
    pub cache: String,
    /// Why.
    pub reason: String,
}

/// What of a backfill is still to be done for one cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Name of the cache.
    pub cache: String,
    /// How many paths.
    pub paths: u64,
    /// Why the cache takes nothing at all for now.
    pub takes_nothing: Option<String>,
    /// Why it takes no backfill for now.
    pub backfill_waits: Option<String>,
    /// Whether that is so since this host is the cache's own server: then these paths are not waited for.
    pub is_off: bool,
    /// Why the cache is paused, for these paths at least.
    pub paused: Option<String>,
    /// Since when (ms since 1970) the cache is being asked whether it takes anything, without an answer yet.
    pub asked_since: Option<i64>,
    /// How many of the paths are being sent.
    pub being_sent: u64,
    /// Why the path that was tried most often could not be uploaded yet.
    pub last_failure: Option<String>,
}

/// What has come of a backfill so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunSummary {
    /// Uploaded.
    pub uploaded: u64,
    /// How much that was.
    pub volume: Volume,
    /// The cache had them already.
    pub already_there: u64,
    /// An upstream has them.
    pub at_upstream: u64,
    /// Not uploaded on their own account, by which rule.
    pub passed_over: Vec<(PassedOver, u64)>,
    /// Failed for good.
    pub failed: u64,
    /// Held, since a reference can't be delivered.
    pub held: u64,
    /// Garbage-collected meanwhile.
    pub gone: u64,
    /// Dropped from their cache before it was their turn, since it may have no more than a size.
    pub dropped: u64,
    /// Not done yet, at caches that aren't off.
    pub open: u64,
}

impl Queue {
    /// What of a backfill is still to be done, cache by cache, and what it waits for.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn left(&self, run: RunId) -> Result<Vec<Left>, QueueError> {
        let mut statement = self
            .db
            // Beside `max` the other columns are of the row that has it.
            .prepare_cached(&format!(
                "SELECT c.name, count(*),
                        c.waiting_why, CASE WHEN sum(j.lane) > 0 THEN {BACKFILL_WAITS} END,
                        j.reason, c.off, max(j.attempts),
                        coalesce(c.paused, CASE WHEN j.lane = 1 THEN 'for backfill ' || c.backfill_paused END),
                        c.asked_since, total(j.step = 3)
                 FROM (SELECT cache, lane, attempts, reason, CASE state WHEN 1 THEN step END AS step FROM jobs INDEXED BY jobs_open_of_run
                       WHERE state IN (0, 1) AND run = ?1
                       UNION ALL
                       SELECT j.cache, j.lane, j.attempts, j.reason, CASE j.state WHEN 1 THEN j.step END FROM shared s JOIN jobs j ON j.id = s.job
                       WHERE s.run = ?1 AND s.state IS NULL AND j.state IN (0, 1)) j
                 JOIN caches c ON c.id = j.cache GROUP BY c.id ORDER BY c.name, c.id",
            ))
            .map_err(sqlite("list what is left of a backfill"))?;
        statement
            .query_map([run.0], |row| {
                Ok(Left {
                    cache: row.get(0)?,
                    paths: row.get::<_, i64>(1)? as u64,
                    takes_nothing: row.get(2)?,
                    backfill_waits: row.get(3)?,
                    last_failure: row.get(4)?,
                    is_off: row.get(5)?,
                    paused: row.get(7)?,
                    asked_since: row.get(8)?,
                    being_sent: row.get::<_, f64>(9)? as u64,
                })
            })
            .and_then(Iterator::collect)
            .map_err(sqlite("list what is left of a backfill"))
    }

    /// The jobs of a backfill that have failed or are held.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn undelivered(&self, run: RunId) -> Result<Vec<Undelivered>, QueueError> {
        let mut statement = self
            .db
            .prepare(
                "SELECT j.path, c.name, coalesce(j.reason, '') FROM asked_for j JOIN caches c ON c.id = j.cache
                 WHERE j.run = ?1 AND j.state IN (3, 4) ORDER BY j.state DESC, j.id",
            )
            .map_err(sqlite("list what was not delivered"))?;
        statement
            .query_map([run.0], |row| Ok(Undelivered { path: row.get(0)?, cache: row.get(1)?, reason: row.get(2)? }))
            .and_then(Iterator::collect)
            .map_err(sqlite("list what was not delivered"))
    }

    /// What has come of a backfill so far.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn run_summary(&self, run: RunId) -> Result<RunSummary, QueueError> {
        // Bytes by `total`: `sum` fails where it is too large.
        let mut summary = self
            .db
            .prepare_cached(
                "SELECT coalesce(sum(state = 2 AND NOT found), 0),
                        CAST(total(uploaded) FILTER (WHERE state = 2 AND NOT found) AS INTEGER),
                        coalesce(sum(state = 2 AND found = 1), 0), coalesce(sum(state = 4), 0),
                        coalesce(sum(state = 3), 0), coalesce(sum(state = 5), 0),
                        coalesce(sum(state IN (0, 1) AND cache NOT IN (SELECT id FROM caches WHERE off = 1)), 0),
                        coalesce(sum(state = 2 AND found = 2), 0),
                        CAST(total(read) FILTER (WHERE state = 2 AND NOT found) AS INTEGER),
                        CAST(total(saved) FILTER (WHERE state = 2 AND NOT found) AS INTEGER),
                        coalesce(sum(state = 2 AND found = 3), 0)
                 FROM asked_for WHERE run = ?1",
            )
            .and_then(|mut statement| {
                statement.query_row([run.0], |row| {
                    Ok(RunSummary {
                        uploaded: row.get::<_, i64>(0)? as u64,
                        volume: Volume {
                            read: row.get::<_, i64>(8)? as u64,
                            sent: row.get::<_, i64>(1)? as u64,
                            saved: row.get::<_, i64>(9)? as u64,
                        },
                        already_there: row.get::<_, i64>(2)? as u64,
                        failed: row.get::<_, i64>(3)? as u64,
                        held: row.get::<_, i64>(4)? as u64,
                        gone: row.get::<_, i64>(5)? as u64,
                        open: row.get::<_, i64>(6)? as u64,
                        at_upstream: row.get::<_, i64>(7)? as u64,
                        dropped: row.get::<_, i64>(10)? as u64,
                        passed_over: Vec::new(),
                    })
                })
            })
            .map_err(sqlite("sum a backfill up"))?;
        let mut statement = self
            .db
            .prepare_cached(
                "SELECT rule, denied, count FROM run_skips WHERE run = ?1 ORDER BY denied, count DESC, rule",
            )
            .map_err(sqlite("sum skipped paths up"))?;
        summary.passed_over = statement
            .query_map([run.0], |row| {
                Ok((PassedOver { by: row.get(0)?, why: Why::from_number(row.get(1)?) }, row.get::<_, i64>(2)? as u64))
            })
            .and_then(Iterator::collect)
            .map_err(sqlite("sum skipped paths up"))?;
        Ok(summary)
    }
}
