//! Looking at the queue: what `status` and `queue list` show.

use rusqlite::{OptionalExtension, Row, params};
use serde::Serialize;

use super::seen::BACKFILL_WAITS;
use super::work::path_column;
use super::{CacheId, JobState, Queue, QueueError, Step, Volume, sqlite};

/// How many jobs of a cache are in which state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CacheCounts {
    /// The cache's name in the policy.
    pub name: String,
    /// Its URL.
    pub url: String,
    /// Waiting to be uploaded.
    pub pending: u64,
    /// Being uploaded, or claimed by a process that has ended.
    pub uploading: u64,
    /// In the cache.
    pub done: u64,
    /// Of those, what the cache has dropped since, to have no more than its `max_size`.
    pub dropped: u64,
    /// Of those, what backfill has asked for once more, and what hasn't been looked for since.
    pub again: u64,
    /// Held back by a reference.
    pub held: u64,
    /// Failed for good.
    pub failed: u64,
    /// Garbage-collected before they were uploaded.
    pub gone: u64,
    /// Bytes sent for what is done, or was before it was asked for again.
    pub bytes_sent: u64,
    /// Bytes read for that.
    pub bytes_read: u64,
    /// Bytes of it that needn't be sent, since they were compressed, or since the cache had the content.
    pub bytes_saved: u64,
    /// Since when (ms since 1970) the cache as a whole takes nothing.
    pub waiting_since: Option<i64>,
    /// Why it takes nothing.
    pub waiting_why: Option<String>,
    /// When (ms since 1970) it is asked again, where it has asked for the pause itself; otherwise that is within seconds.
    pub waiting_until: Option<i64>,
    /// Whether what it takes nothing for is credentials: it has none, or none that it accepts.
    pub lacks_credentials: bool,
    /// Since when (ms since 1970) it is being asked whether it takes anything, without an answer yet.
    pub asked_since: Option<i64>,
    /// Why nothing of backfill's goes there, where some of it waits: a disk has little room, or the cache is too large.
    pub backfill_waits: Option<String>,
    /// Bytes that it had, where the service keeps it within a size.
    pub size: Option<u64>,
    /// When (ms since 1970) that was seen.
    pub sized: Option<i64>,
    /// Whether that is meant to be so, since this host is its own server.
    #[serde(skip)]
    pub is_off: bool,
    /// The cache's number.
    #[serde(skip)]
    pub id: CacheId,
}

/// Whether a cache as a whole takes paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing<'a> {
    /// It does.
    Takes,
    /// Not for now. Whoever asked for a path waits.
    Waits {
        /// Why.
        why: &'a str,
        /// Until when (ms since 1970), where it has asked for the pause itself.
        until: Option<i64>,
        /// Whether it has no credentials, or none that it accepts.
        lacks_credentials: bool,
    },
    /// Not on this host, and why. Nobody waits.
    Off(&'a str),
}

impl CacheCounts {
    /// A cache that has had no jobs yet.
    #[must_use]
    pub fn none(name: &str, url: &str) -> Self {
        Self {
            name: name.to_owned(),
            url: url.to_owned(),
            pending: 0,
            uploading: 0,
            done: 0,
            dropped: 0,
            again: 0,
            held: 0,
            failed: 0,
            gone: 0,
            bytes_sent: 0,
            bytes_read: 0,
            bytes_saved: 0,
            waiting_since: None,
            waiting_why: None,
            waiting_until: None,
            lacks_credentials: false,
            asked_since: None,
            backfill_waits: None,
            size: None,
            sized: None,
            is_off: false,
            id: CacheId(0),
        }
    }

    /// How much has been uploaded to it.
    #[must_use]
    pub fn volume(&self) -> Volume {
        Volume { read: self.bytes_read, sent: self.bytes_sent, saved: self.bytes_saved }
    }

    /// Its jobs, in whatever state.
    #[must_use]
    pub fn jobs(&self) -> u64 {
        self.pending + self.uploading + self.done + self.held + self.failed + self.gone
    }
}

/// Which jobs to look at; `None` is any.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    /// In this state.
    pub state: Option<JobState>,
    /// For the caches of this name or URL.
    pub cache: Option<String>,
    /// Whose base name contains this.
    pub path: Option<String>,
    /// At most so many.
    pub limit: Option<usize>,
}

/// One job, to be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JobView {
    /// The job's number.
    pub id: i64,
    /// Base name of its path.
    pub path: String,
    /// The cache's name.
    pub cache: String,
    /// The cache's URL; under another one the same name was another cache.
    pub url: String,
    /// Its state's name.
    pub state: &'static str,
    /// Whether it is of a backfill, and of nothing fresh.
    #[serde(skip)]
    pub is_backfill: bool,
    /// Of what is being uploaded, the name of the [`Step`]; none within the first seconds, and where nobody is at work.
    pub step: Option<&'static str>,
    /// How often it has failed so far.
    pub attempts: u32,
    /// Not tried again before (ms since 1970); 0 for at once.
    pub not_before: i64,
    /// How many references' jobs it waits for.
    pub waits_for: u32,
    /// Why it is held, has failed, or is tried again.
    pub reason: Option<String>,
    /// Why its cache as a whole takes nothing, where that is what a pending job waits for.
    pub cache_waits: Option<String>,
    /// Why its cache is paused, or backfill to it, where that is what a pending job waits for.
    pub paused: Option<String>,
    /// Why nothing of backfill's goes to its cache, where that is what a pending job waits for.
    pub backfill_waits: Option<String>,
    /// When (ms since 1970) the cache is asked again, where it has asked for the pause itself.
    pub cache_waits_until: Option<i64>,
    /// Milliseconds since 1970 of the last change.
    pub changed: i64,
}

impl Queue {
    /// The caches that have jobs or had any, with their counts, by name.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn counts(&self) -> Result<Vec<CacheCounts>, QueueError> {
        // `sum` fails where a sum of bytes is too large, and nobody could see anything any more for one that says nonsense.
        let mut statement = self
            .db
            .prepare_cached(&format!(
                "SELECT c.id, c.name, c.url, c.waiting_since, c.waiting_why,
                        coalesce(sum(j.state = 0 AND NOT j.was_done), 0), coalesce(sum(j.state = 1), 0),
                        coalesce(sum(j.state = 2 OR (j.state = 0 AND j.was_done)), 0),
                        coalesce(sum(j.state = 3), 0), coalesce(sum(j.state = 4), 0), coalesce(sum(j.state = 5), 0),
                        CAST(total(j.uploaded) AS INTEGER), c.off,
                        CAST(total(j.read) AS INTEGER), CAST(total(j.saved) AS INTEGER),
                        c.waiting_until, coalesce(sum(j.state = 2 AND j.evicted), 0),
                        coalesce(sum(j.state = 0 AND j.was_done), 0), c.size, c.sized,
                        CASE WHEN sum(j.state = 0 AND j.lane = 1) > 0 THEN {BACKFILL_WAITS} END,
                        c.lacks_credentials, c.asked_since
                 FROM caches c LEFT JOIN jobs j ON j.cache = c.id GROUP BY c.id ORDER BY c.name, c.id",
            ))
            .map_err(sqlite("count jobs"))?;
        let count = |row: &Row<'_>, column: usize| row.get::<_, i64>(column).map(|count| count as u64);
        statement
            .query_map([], |row| {
                Ok(CacheCounts {
                    id: CacheId(row.get(0)?),
                    name: row.get(1)?,
                    url: row.get(2)?,
                    waiting_since: row.get(3)?,
                    waiting_why: row.get(4)?,
                    pending: count(row, 5)?,
                    uploading: count(row, 6)?,
                    done: count(row, 7)?,
                    dropped: count(row, 16)?,
                    held: count(row, 8)?,
                    failed: count(row, 9)?,
                    gone: count(row, 10)?,
                    bytes_sent: count(row, 11)?,
                    is_off: row.get(12)?,
                    bytes_read: count(row, 13)?,
                    bytes_saved: count(row, 14)?,
                    waiting_until: row.get(15)?,
                    again: count(row, 17)?,
                    size: row.get::<_, Option<i64>>(18)?.map(i64::unsigned_abs),
                    sized: row.get(19)?,
                    backfill_waits: row.get(20)?,
                    lacks_credentials: row.get(21)?,
                    asked_since: row.get(22)?,
                })
            })
            .and_then(Iterator::collect)
            .map_err(sqlite("count jobs"))
    }

    /// Forgets which caches an earlier process has found to be off. Whoever works the queue off next finds it out anew, and
    /// until then a backfill would take itself for through.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn forget_what_was_off(&mut self) -> Result<(), QueueError> {
        let forgotten = self.db.execute("UPDATE caches SET off = 0 WHERE off = 1", []);
        forgotten.map(drop).map_err(sqlite("forget what was off"))
    }

    /// Notes whether a cache as a whole takes paths, and why not. Returns since when (ms since 1970) it takes nothing.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn note_cache(&mut self, cache: CacheId, standing: Standing<'_>, now: i64) -> Result<Option<i64>, QueueError> {
        let (why, until, off, lacks_credentials) = match standing {
            Standing::Takes => (None, None, false, false),
            Standing::Waits { why, until, lacks_credentials } => (Some(why), until, false, lacks_credentials),
            Standing::Off(why) => (Some(why), None, true, false),
        };
        let noted = self.db.query_row(
            "UPDATE caches SET waiting_why = ?2, waiting_until = ?5, off = ?4, retried = 0, lacks_credentials = ?6,
                 -- Of credentials it is said since when they are missing, not since when anything is.
                 waiting_since = CASE WHEN ?2 IS NULL THEN NULL
                                      WHEN lacks_credentials = ?6 THEN coalesce(waiting_since, ?3) ELSE ?3 END
             WHERE id = ?1 RETURNING waiting_since",
            params![cache.0, why, now, off, until, lacks_credentials],
            |row| row.get(0),
        );
        noted.optional().map(Option::flatten).map_err(sqlite("note a cache's state"))
    }

    /// Notes since when (ms since 1970) a cache is being asked whether it takes anything; `None`: it has answered, or whoever
    /// asked has given up.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn note_asked(&mut self, caches: &[CacheId], since: Option<i64>) -> Result<(), QueueError> {
        for cache in caches {
            self.db
                .prepare_cached("UPDATE caches SET asked_since = ?2 WHERE id = ?1")
                .and_then(|mut update| update.execute(params![cache.0, since]))
                .map_err(sqlite("note that a cache is asked"))?;
        }
        Ok(())
    }

    /// Forgets which caches are being asked: whoever is to be is asked anew, or isn't asked any more.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn forget_asked(&mut self) -> Result<(), QueueError> {
        let forgotten = self.db.execute("UPDATE caches SET asked_since = NULL WHERE asked_since IS NOT NULL", []);
        forgotten.map(drop).map_err(sqlite("forget which caches are asked"))
    }

    /// Jobs, the newest change first.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobView>, QueueError> {
        let mut statement = self
            .db
            .prepare_cached(&format!(
                "SELECT j.id, j.path, c.name, j.state, j.attempts, j.not_before, j.blockers, j.reason, j.changed,
                        CASE WHEN j.state = 0 THEN c.waiting_why END,
                        CASE WHEN j.state = 0 THEN coalesce(c.paused, CASE WHEN j.lane = 1 THEN 'for backfill ' || c.backfill_paused END) END,
                        c.url, CASE WHEN j.state = 0 THEN c.waiting_until END,
                        CASE WHEN j.state = 0 AND j.lane = 1 THEN {BACKFILL_WAITS} END,
                        CASE WHEN j.state = 1 THEN j.step END, j.lane = 1
                 FROM jobs j JOIN caches c ON c.id = j.cache
                 WHERE (?1 IS NULL OR j.state = ?1) AND (?2 IS NULL OR ?2 IN (c.name, c.url))
                   AND (?3 IS NULL OR instr(j.path, ?3) > 0)
                 ORDER BY j.changed DESC, j.id DESC LIMIT ?4",
            ))
            .map_err(sqlite("list jobs"))?;
        let state = filter.state.map(|state| state as i64);
        let limit = filter.limit.map_or(-1, |limit| limit as i64);
        statement
            .query_map(params![state, filter.cache, filter.path, limit], |row| {
                let path = path_column(row, 1)?;
                let state = JobState::from_number(row.get(3)?);
                let step = row.get::<_, Option<i64>>(14)?.and_then(Step::from_number);
                Ok(JobView {
                    id: row.get(0)?,
                    path: path.base_name().to_owned(),
                    cache: row.get(2)?,
                    state: state.map_or("unknown", JobState::name),
                    is_backfill: row.get(15)?,
                    step: step.map(Step::name),
                    attempts: row.get(4)?,
                    not_before: row.get(5)?,
                    waits_for: row.get(6)?,
                    reason: row.get(7)?,
                    changed: row.get(8)?,
                    cache_waits: row.get(9)?,
                    paused: row.get(10)?,
                    url: row.get(11)?,
                    cache_waits_until: row.get(12)?,
                    backfill_waits: row.get(13)?,
                })
            })
            .and_then(Iterator::collect)
            .map_err(sqlite("list jobs"))
    }
}
