//! Tidying: what has ended long ago is forgotten, and the room that it took is given back.
//!
//! In small steps, each of which takes some ms and is a transaction of its own: who works on the queue gets in between. All
//! but one: a database that was made before pages could be given back is written anew, once, which takes seconds for hundreds
//! of MB, and everybody waits for it.
//!
//! What is forgotten is history alone. Should a path be asked for again, its cache is asked whether it has it; only a program
//! that can't say so is given it anew.
//!
//! What is long ago is reckoned by a clock that never goes ahead by more than some days from one tidying to the next: one that
//! stands wrong, as that of a host without a battery may until it has asked the network, would have everything forgotten.

use rusqlite::{OptionalExtension, Transaction, params};

use super::distrust::forget_distrusted;
use super::links::unblock;
use super::schema::INCREMENTAL;
use super::work::{delete, execute, ids};
use super::{Followed, JobState, Queue, QueueError, RunId, sqlite};
use crate::disk::Room;

/// Milliseconds.
const DAY: i64 = 24 * 60 * 60 * 1000;

/// From one tidying to the next time goes on by no more than this, whatever the clock says (ms). A host that is mostly asleep
/// tidies every few days, and one that was off for long catches up by and by.
const LONGEST_STEP: i64 = 7 * DAY;

/// How much of something that has ended is kept: what is younger than this, but no more than so many.
#[derive(Clone, Copy, Debug)]
struct Kept {
    /// Milliseconds.
    age: i64,
    /// About: what was written together goes together. `None`: however many there are.
    count: Option<i64>,
}

/// What is done is remembered so that it can be shown, and for programs that can't say what they have. 200,000 jobs are some
/// 60 MB.
const DONE: Kept = Kept { age: 90 * DAY, count: Some(200_000) };

/// What was collected is remembered for whoever wonders.
const GONE: Kept = Kept { age: 7 * DAY, count: Some(20_000) };

/// What has failed waits for a person, or for its cache to be configured otherwise, by which it is tried again: it is work
/// rather than history, and one cause may have any number of paths fail. Who hasn't come by then won't; what needs it is tried
/// again.
const FAILED: Kept = Kept { age: 90 * DAY, count: None };

/// The contents of caches, some 200 bytes each.
const CONTENTS: Kept = Kept { age: 90 * DAY, count: Some(200_000) };

/// States of jobs that have ended.
const ENDED: [(JobState, Kept); 3] = [(JobState::Gone, GONE), (JobState::Done, DONE), (JobState::Failed, FAILED)];

/// Rows for a step: some ms.
const ROWS: i64 = 500;

/// Pages of 4 KiB that are given back in a step.
const PAGES: i64 = 256;

/// So many free pages stay in the file, since they will be needed again.
const SPARE: i64 = 256;

/// A step of tidying, and what it begins with.
#[derive(Clone, Copy, Debug)]
pub struct Tidying {
    /// Milliseconds since 1970.
    now: i64,
    /// Whether there is room to write the database anew.
    has_room: bool,
    /// Jobs that had failed and are forgotten.
    failed: u64,
    part: Part,
}

#[derive(Clone, Copy, Debug)]
enum Part {
    /// Looks how far back jobs of `ENDED[_]` are kept.
    Ended(usize),
    /// Forgets those that ended before, from a place on.
    Jobs {
        ended: usize,
        before: i64,
        from: (i64, i64),
    },
    Contents,
    Runs,
    Anew,
    Pages,
    Log,
}

impl Tidying {
    /// The first step, at this time (milliseconds since 1970).
    pub(super) fn begin(now: i64, has_room: bool) -> Self {
        Self { now, has_room, failed: 0, part: Part::Ended(0) }
    }

    /// How many jobs have been forgotten so far that had failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed
    }
}

impl Queue {
    /// The first step, now (milliseconds since 1970), as far as the clock can be believed. Only where its disk `has_room` is
    /// the database written anew, which is done once where an older storewatch made it.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn begin_tidying(&mut self, now: i64, has_room: bool) -> Result<Tidying, QueueError> {
        let tx = self.begin().map_err(sqlite("begin to tidy"))?;
        let last = tx
            .query_row("SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'tidied'", [], |row| row.get(0))
            .optional()
            .map_err(sqlite("look when it was tidied"))?;
        let now = believed(now, last);
        execute(&tx, "INSERT OR REPLACE INTO meta (key, value) VALUES ('tidied', CAST(?1 AS TEXT))", [now])?;
        tx.commit().map_err(sqlite("note when it was tidied"))?;
        Ok(Tidying::begin(now, has_room))
    }

    /// Takes a step. Returns the next one; `None` when all is tidy.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn tidy(&mut self, step: Tidying) -> Result<Option<Tidying>, QueueError> {
        let Tidying { now, has_room, mut failed, part } = step;
        let next = match part {
            Part::Ended(ended) => match ENDED.get(ended) {
                Some((state, kept)) => {
                    let before = self.oldest_kept(*state, *kept, now)?;
                    Some(Part::Jobs { ended, before, from: (i64::MIN, i64::MIN) })
                }
                None => Some(Part::Contents),
            },
            Part::Jobs { ended, before, from } => {
                let state = ENDED[ended].0;
                let (forgotten, next) = self.forget_jobs(state, before, from, now)?;
                if state == JobState::Failed {
                    failed += forgotten;
                }
                Some(next.map_or(Part::Ended(ended + 1), |from| Part::Jobs { ended, before, from }))
            }
            Part::Contents => Some(if self.forget_contents_before(now)? { Part::Contents } else { Part::Runs }),
            Part::Runs => {
                self.forget_runs(now)?;
                self.forget_by_hand(now)?;
                Some(Part::Anew)
            }
            Part::Anew => {
                if has_room {
                    self.let_pages_be_given_back();
                }
                Some(Part::Pages)
            }
            Part::Pages => Some(if self.give_pages_back()? { Part::Pages } else { Part::Log }),
            Part::Log => {
                self.shorten_log()?;
                None
            }
        };
        Ok(next.map(|part| Tidying { part, failed, ..step }))
    }

    /// What has ended before then (milliseconds since 1970) isn't kept.
    fn oldest_kept(&self, state: JobState, Kept { age, count }: Kept, now: i64) -> Result<i64, QueueError> {
        let Some(count) = count else { return Ok(now - age) };
        let sql = "SELECT coalesce(max(?3, (SELECT changed FROM jobs WHERE state = ?1 AND state IN (2, 4, 5)
                                            ORDER BY changed DESC LIMIT 1 OFFSET ?2)), ?3)";
        self.db
            .query_row(sql, params![state as i64, count - 1, now - age], |row| row.get(0))
            .map_err(sqlite("look how much is kept"))
    }

    /// Forgets some jobs. Returns how many, and where the next ones begin.
    fn forget_jobs(
        &mut self,
        state: JobState,
        before: i64,
        (changed, id): (i64, i64),
        now: i64,
    ) -> Result<(u64, Option<(i64, i64)>), QueueError> {
        let tx = self.begin().map_err(sqlite("begin to forget jobs"))?;
        let looked_at = old_jobs(&tx, state, before, (changed, id)).map_err(sqlite("look for what has ended"))?;
        let mut forgotten = 0;
        for (_, id, needed) in &looked_at {
            if !needed {
                unblock(&tx, *id, now)?;
                forgotten += delete(&tx, *id)?;
            }
        }
        tx.commit().map_err(sqlite("forget jobs"))?;
        Ok((forgotten, looked_at.last().map(|(changed, id, _)| (*changed, *id))))
    }

    /// Forgets some contents. Returns whether there may be more.
    fn forget_contents_before(&mut self, now: i64) -> Result<bool, QueueError> {
        let Kept { age, count } = CONTENTS;
        let forgotten = self
            .db
            .prepare_cached(
                "DELETE FROM contents WHERE (cache, nar_hash) IN (
                     SELECT cache, nar_hash FROM contents
                     WHERE noted < coalesce(max(?1, (SELECT noted FROM contents ORDER BY noted DESC LIMIT 1 OFFSET ?2)), ?1)
                     ORDER BY noted LIMIT ?3)",
            )
            .and_then(|mut statement| statement.execute(params![now - age, count.unwrap_or(i64::MAX) - 1, ROWS]));
        Ok(forgotten.map_err(sqlite("forget contents"))? > 0)
    }

    /// Forgets backfills that were through long ago, or that nobody has taken up again. One that is still at work after so long
    /// has jobs that something was done with.
    fn forget_runs(&mut self, now: i64) -> Result<(), QueueError> {
        let tx = self.begin().map_err(sqlite("begin to forget backfills"))?;
        let forgotten = ids(
            &tx,
            "DELETE FROM runs WHERE coalesce(finished, started) < ?1
               AND (finished IS NOT NULL
                    OR NOT EXISTS (SELECT 1 FROM jobs WHERE run = runs.id AND changed >= ?1 ORDER BY jobs.id DESC))
             RETURNING id",
            [now - DONE.age],
        )?;
        execute(&tx, "DELETE FROM run_skips WHERE run NOT IN (SELECT id FROM runs)", [])?;
        execute(&tx, "DELETE FROM shared WHERE run NOT IN (SELECT id FROM runs)", [])?;
        forget_distrusted(&tx, now - DONE.age)?;
        tx.commit().map_err(sqlite("forget backfills"))?;
        for run in forgotten {
            Followed::forget(&self.path.with_file_name(""), RunId(run));
        }
        Ok(())
    }

    /// A database that an older storewatch made is written anew once, so that it can give free pages back. That takes twice its
    /// size for a while, as a copy and as the log by which the copy takes its place: as much again has to stay free. Where it
    /// can't be done now, because there isn't so much or another reads there, the next tidying tries again.
    fn let_pages_be_given_back(&self) {
        let number = |pragma: &str| self.db.query_row(pragma, [], |row| row.get::<_, i64>(0));
        if number("PRAGMA auto_vacuum").is_ok_and(|mode| mode == INCREMENTAL) {
            return;
        }
        let size = number("PRAGMA page_count").and_then(|pages| Ok(pages.saturating_mul(number("PRAGMA page_size")?)));
        let fits = |size: i64| {
            let room = self.path.parent().and_then(|dir| Room::of(dir).ok());
            room.is_some_and(|room| room.space.free / 4 >= size.unsigned_abs())
        };
        if size.is_ok_and(fits) {
            let _ = self.db.execute_batch("VACUUM");
        }
    }

    /// Cuts some free pages off the file. Returns whether there may be more.
    fn give_pages_back(&mut self) -> Result<bool, QueueError> {
        let free = |queue: &Self| -> rusqlite::Result<i64> {
            queue.db.query_row("PRAGMA freelist_count", [], |row| row.get(0))
        };
        let give_back = || -> rusqlite::Result<bool> {
            let before = free(self)?;
            if before <= SPARE {
                return Ok(false);
            }
            self.db.pragma(None, "incremental_vacuum", PAGES.min(before - SPARE), |_| Ok(()))?;
            // A file that can't give pages back, since it was made without that, has as many as before.
            Ok(free(self)? < before)
        };
        give_back().map_err(sqlite("give free pages back"))
    }

    /// Takes the log into the database and cuts it to nothing, unless somebody reads there: then it is left to the next time.
    fn shorten_log(&mut self) -> Result<(), QueueError> {
        let shorten = || -> rusqlite::Result<()> {
            self.db.busy_timeout(std::time::Duration::ZERO)?;
            let shortened = self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
            self.db.busy_timeout(super::schema::BUSY_TIMEOUT)?;
            shortened
        };
        shorten().map_err(sqlite("shorten its log"))
    }
}

/// What the time is taken to be, if it was that when it was tidied last. A clock that was ahead then is believed when it goes
/// back.
fn believed(now: i64, last: Option<i64>) -> i64 {
    last.map_or(now, |last| now.min(last.saturating_add(LONGEST_STEP)))
}

/// Jobs that ended before then: when, which, and whether a backfill that isn't through still counts them.
fn old_jobs(
    tx: &Transaction<'_>,
    state: JobState,
    before: i64,
    (changed, id): (i64, i64),
) -> rusqlite::Result<Vec<(i64, i64, bool)>> {
    let mut statement = tx.prepare_cached(
        "SELECT changed, id, (run IS NOT NULL AND run IN (SELECT id FROM runs WHERE finished IS NULL))
                             OR EXISTS (SELECT 1 FROM shared WHERE job = jobs.id
                                          AND shared.run IN (SELECT id FROM runs WHERE finished IS NULL))
         FROM jobs WHERE state = ?1 AND state IN (2, 4, 5) AND changed < ?2 AND (changed, id) > (?3, ?4)
         ORDER BY changed, id LIMIT ?5",
    )?;
    let rows = statement.query_map(params![state as i64, before, changed, id, ROWS], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?))
    })?;
    rows.collect()
}
