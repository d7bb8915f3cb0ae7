//! Taking paths in: jobs and cursor in one transaction.

use rusqlite::{OptionalExtension, Transaction, params};

use super::links::forget_waits;
use super::shared::{is_its_own, job_of, may_be_shared, share};
use super::work::{change, execute, ids};
use super::{CacheId, Event, JobState, Queue, QueueError, RunId, sqlite};
use crate::limit::Lane;
use crate::nix::{RowMark, StoreDir, StorePath};

/// A path that the policy sends somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The path.
    pub path: StorePath,
    /// `ValidPaths.id`, where the database was read.
    pub row: Option<i64>,
    /// When Nix registered it (seconds since 1970).
    pub registered: i64,
    /// The caches it goes to.
    pub caches: Vec<CacheId>,
}

/// What is admitted together.
pub struct Admission<'a> {
    /// Which lane new jobs stand in; a job in the backfill lane that is admitted as fresh moves up.
    pub lane: Lane,
    /// What becomes of a job that has ended before.
    pub ended: Ended,
    /// Whether the paths are needed, whatever the policy says of them on their own account.
    pub needed: bool,
    /// The backfill that asks.
    pub run: Option<RunId>,
    /// The paths.
    pub wanted: &'a [Wanted],
    /// Milliseconds since 1970.
    pub now: i64,
}

impl<'a> Admission<'a> {
    /// Of what is new.
    #[must_use]
    pub fn of_new(wanted: &'a [Wanted], now: i64) -> Self {
        let ended = Ended::StartsAnewIfRegisteredAnew;
        Self { lane: Lane::Fresh, ended, needed: false, run: None, wanted, now }
    }
}

/// What becomes of a job that had ended before its path was admitted again. Gone ones always start anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Stays ended: an old row is only seen anew.
    Stays,
    /// Starts anew if Nix has registered the path anew: under another number or, where one of the two numbers isn't known
    /// since the daemon was asked, after the job had ended.
    StartsAnewIfRegisteredAnew,
    /// Starts anew: somebody asks for it.
    StartsAnew,
    /// Starts anew, but for what its cache has dropped since it may have no more than a size: that would only drop something
    /// else for it.
    StartsAnewUnlessEvicted,
}

/// Stands for any store directory; none is called that.
const EVERY_STORE: &str = "";

/// How far the Nix database has been taken up, and by what it is recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The last `ValidPaths.id` taken up.
    pub row: i64,
    /// The last row up to there that was left when this was written: another one there means another database.
    pub mark: Option<Mark>,
    /// Device and inode of the database.
    pub file: (u64, u64),
    /// Rows up to here are not new, they are read again since the database or the queue was another before.
    pub rescan_to: i64,
}

/// A row by which the database is recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Its id.
    pub row: i64,
    /// Its path, in full.
    pub path: String,
    /// Its registration time (seconds since 1970).
    pub time: i64,
}

impl Mark {
    /// Whether the row that is found in its place is another.
    #[must_use]
    pub fn is_other_than(&self, found: &RowMark) -> bool {
        (&self.path, self.time) != (&found.path, found.registration_time)
    }
}

impl From<(i64, RowMark)> for Mark {
    fn from((row, mark): (i64, RowMark)) -> Self {
        Self { row, path: mark.path, time: mark.registration_time }
    }
}

impl Queue {
    /// The number of a cache, by name and URL; noted if it is new.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn cache_id(&mut self, name: &str, url: &str) -> Result<CacheId, QueueError> {
        let found = self
            .db
            .query_row("SELECT id FROM caches WHERE name = ?1 AND url = ?2", [name, url], |row| row.get(0))
            .optional()
            .map_err(sqlite("look a cache up"))?;
        if let Some(id) = found {
            return Ok(CacheId(id));
        }
        // Another process may have noted it just now.
        let note = "INSERT INTO caches (name, url) VALUES (?1, ?2)
                    ON CONFLICT (name, url) DO UPDATE SET name = excluded.name RETURNING id";
        self.db.query_row(note, [name, url], |row| row.get(0)).map(CacheId).map_err(sqlite("note a cache"))
    }

    /// How far this store's database has been taken up; `None` before the first time.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn cursor(&self, store: &StoreDir) -> Result<Option<Cursor>, QueueError> {
        self.db
            .query_row(
                "SELECT row, path, time, dev, ino, rescan_to, coalesce(marked, row) FROM cursor WHERE store = ?1",
                [store.as_str()],
                |row| {
                    let path: Option<String> = row.get(1)?;
                    let time: Option<i64> = row.get(2)?;
                    let marked = row.get(6)?;
                    let mark = path.zip(time).map(|(path, time)| Mark { row: marked, path, time });
                    let file = (row.get::<_, i64>(3)? as u64, row.get::<_, i64>(4)? as u64);
                    Ok(Cursor { row: row.get(0)?, mark, file, rescan_to: row.get(5)? })
                },
            )
            .optional()
            .map_err(sqlite("read the cursor"))
    }

    /// Since when (seconds since 1970) a store is watched: what was registered before is for backfill. `None` before the
    /// first start; 0, the beginning, where the queue had to be replaced.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn watched_since(&self, store: &StoreDir) -> Result<Option<i64>, QueueError> {
        self.db
            .query_row(
                "SELECT since FROM watched WHERE store IN (?1, ?2) ORDER BY since LIMIT 1",
                [store.as_str(), EVERY_STORE],
                |row| row.get(0),
            )
            .optional()
            .map_err(sqlite("look since when the store is watched"))
    }

    /// Notes that a store is watched from now on (seconds since 1970).
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn begin_watching(&mut self, store: &StoreDir, since: i64) -> Result<(), QueueError> {
        self.watch_from(store.as_str(), since)
    }

    /// Whatever is watched with this queue is read from its beginning.
    pub(super) fn watch_everything_from_the_beginning(&mut self) -> Result<(), QueueError> {
        self.watch_from(EVERY_STORE, 0)
    }

    fn watch_from(&mut self, store: &str, since: i64) -> Result<(), QueueError> {
        let failed = sqlite("note since when the store is watched");
        // A power failure that took this away would take away all that is found from now on.
        self.db.pragma_update(None, "synchronous", "full").map_err(&failed)?;
        let noted =
            self.db.execute("INSERT OR IGNORE INTO watched (store, since) VALUES (?1, ?2)", params![store, since]);
        self.db.pragma_update(None, "synchronous", "normal").map_err(&failed)?;
        noted.map(drop).map_err(failed)
    }

    /// Admits paths and moves the cursor, both or neither. Returns how many jobs it made or opened again.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`]; then nothing has changed.
    pub fn admit(
        &mut self,
        admission: &Admission<'_>,
        cursor: Option<(&StoreDir, &Cursor)>,
    ) -> Result<u64, QueueError> {
        let tx = self.begin().map_err(sqlite("begin an admission"))?;
        let opened = write_jobs(&tx, admission)?;
        if let Some((store, cursor)) = cursor {
            write_cursor(&tx, store, cursor)?;
        }
        tx.commit().map_err(sqlite("commit an admission"))?;
        Ok(opened)
    }

    /// Admits paths that the daemon was asked about and notes their names as seen, both or neither.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`]; then nothing has changed.
    pub fn admit_seen(&mut self, admission: &Admission<'_>, names: &[StorePath]) -> Result<u64, QueueError> {
        let tx = self.begin().map_err(sqlite("begin an admission"))?;
        let opened = write_jobs(&tx, admission)?;
        for name in names {
            execute(&tx, "INSERT OR IGNORE INTO seen (name) VALUES (?1)", [name.base_name()])?;
        }
        tx.commit().map_err(sqlite("commit an admission"))?;
        Ok(opened)
    }

    /// Some names that have been seen, in their order, behind the name `after`: at most so many.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn seen_behind(&self, after: &str, limit: usize) -> Result<Vec<String>, QueueError> {
        let mut statement = self
            .db
            .prepare_cached("SELECT name FROM seen WHERE name > ?1 ORDER BY name LIMIT ?2")
            .map_err(sqlite("list what has been seen"))?;
        statement
            .query_map(params![after, limit as i64], |row| row.get(0))
            .and_then(Iterator::collect)
            .map_err(sqlite("list what has been seen"))
    }

    /// Forgets that these names have been seen: they are no longer in the store directory.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`]; then nothing has changed.
    pub fn forget_seen(&mut self, names: &[String]) -> Result<(), QueueError> {
        let tx = self.begin().map_err(sqlite("begin to forget names"))?;
        for name in names {
            execute(&tx, "DELETE FROM seen WHERE name = ?1", [name])?;
        }
        tx.commit().map_err(sqlite("forget names that have gone"))
    }
}

pub(super) fn write_jobs(tx: &Transaction<'_>, admission: &Admission<'_>) -> Result<u64, QueueError> {
    let admit = || sqlite("admit a path");
    let mut insert = tx
        .prepare_cached(
            "INSERT INTO jobs (path, cache, state, lane, needed, row, run, changed)
             VALUES (?1, ?2, 0, ?3, ?7, ?4, ?5, ?6) ON CONFLICT (path, cache) DO NOTHING",
        )
        .map_err(admit())?;
    // 2, 4 and 5 are Done, Failed and Gone: the states that `Event::Admitted` opens again.
    let mut reopen = tx
        .prepare_cached(
            // Whole seconds: what was registered in the second in which it was done has been seen already.
            "UPDATE jobs SET was_done = (state = 2 AND NOT evicted AND ?3 = 1), state = 0, lane = ?3, row = ?4, attempts = 0,
                             doubts = 0, not_before = 0, reason = NULL, changed = ?6
             WHERE path = ?1 AND cache = ?2
               AND (state = 5 OR (state IN (2, 4) AND (?7 = 2 OR (?7 = 3 AND NOT evicted)
                                                        OR (?7 = 1 AND coalesce(row <> ?4, ?8 * 1000 > changed)))))",
        )
        .map_err(admit())?;
    let mut note = tx
        .prepare_cached(
            "UPDATE jobs SET lane = min(lane, ?3), row = coalesce(?4, row),
                             run = CASE WHEN state = 2 AND evicted THEN run ELSE coalesce(?5, run) END,
                             needed = max(needed, ?6)
             WHERE path = ?1 AND cache = ?2",
        )
        .map_err(admit())?;
    let (lane, run) = (admission.lane as i64, admission.run.map(|run| run.0));
    let ended = match admission.ended {
        Ended::Stays => 0,
        Ended::StartsAnewIfRegisteredAnew => 1,
        Ended::StartsAnew => 2,
        Ended::StartsAnewUnlessEvicted => 3,
    };
    let may_be_shared = may_be_shared(tx, admission.run)?;
    let mut opened = 0;
    for Wanted { path, row, registered, caches } in admission.wanted {
        for cache in caches {
            let name = path.base_name();
            let values = params![name, cache.0, lane, row, run, admission.now, admission.needed];
            let inserted = insert.execute(values).map_err(admit())?;
            if inserted == 0 {
                let known = if may_be_shared { job_of(tx, name, cache.0)? } else { None };
                if let Some(known) = known {
                    share(tx, known, admission.run)?;
                }
                let values = params![name, cache.0, lane, row, run, admission.now, ended, registered];
                opened += reopen.execute(values).map_err(admit())? as u64;
                note.execute(params![name, cache.0, lane, row, run, admission.needed]).map_err(admit())?;
                if let Some(known) = known {
                    is_its_own(tx, known)?;
                }
                if admission.needed {
                    release(tx, name, *cache, admission.now)?;
                }
            }
            opened += inserted as u64;
        }
    }
    Ok(opened)
}

/// Somebody asks for it now: it waits neither for its time nor for what held it.
fn release(tx: &Transaction<'_>, name: &str, cache: CacheId, now: i64) -> Result<(), QueueError> {
    execute(tx, "UPDATE jobs SET not_before = 0 WHERE path = ?1 AND cache = ?2 AND state = 0", params![name, cache.0])?;
    for id in ids(tx, "SELECT id FROM jobs WHERE path = ?1 AND cache = ?2 AND state = 3", params![name, cache.0])? {
        forget_waits(tx, id)?;
        change(tx, id, JobState::Held, Event::Released, None, now)?;
    }
    Ok(())
}

fn write_cursor(tx: &Transaction<'_>, store: &StoreDir, cursor: &Cursor) -> Result<(), QueueError> {
    let mark = cursor.mark.as_ref();
    let (path, time, marked) = (mark.map(|mark| &mark.path), mark.map(|mark| mark.time), mark.map(|mark| mark.row));
    tx.prepare_cached(
        "INSERT OR REPLACE INTO cursor (store, row, path, time, dev, ino, rescan_to, marked)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )
    .and_then(|mut statement| {
        let (dev, ino) = (cursor.file.0 as i64, cursor.file.1 as i64);
        statement.execute(params![store.as_str(), cursor.row, path, time, dev, ino, cursor.rescan_to, marked])
    })
    .map_err(sqlite("move the cursor"))?;
    Ok(())
}
