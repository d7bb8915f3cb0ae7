//! What people have said by hand about bandwidth, kept so that it outlives the process that it was said to, and what of it
//! keeps a cache from being given paths, noted for those who look.

use rusqlite::{Row, params};

use super::{CacheId, Queue, QueueError, sqlite};
use crate::limit::{Bandwidth, ByHand, Whose};

/// How it is noted that somebody is to have what others leave, in place of bytes a second.
const BACKGROUND: i64 = -1;

/// What is over is kept for so long (milliseconds): by a clock that is put right soon it may only seem to be.
const KEPT: i64 = 7 * 24 * 60 * 60 * 1000;

/// How a pause of a cache is noted: in words for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paused {
    /// Why nothing goes there; `None`: it isn't paused.
    pub all: Option<String>,
    /// Why no backfill goes there.
    pub backfill: Option<String>,
}

impl Queue {
    /// Notes what was said by hand, in place of what was said so before; a pause and a limit stand side by side.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn say_by_hand(&mut self, said: &ByHand) -> Result<(), QueueError> {
        let (whose, cache) = columns(&said.whose);
        let rate = said.bandwidth.map(|bandwidth| match bandwidth.per_second() {
            Some(rate) => i64::try_from(rate).unwrap_or(i64::MAX),
            None => BACKGROUND,
        });
        let noted = self.db.execute(
            "INSERT OR REPLACE INTO by_hand (whose, cache, pause, rate, since, until) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![whose, cache, said.is_pause(), rate, said.since, said.until],
        );
        noted.map(drop).map_err(sqlite("note what was said by hand"))
    }

    /// Takes back what was said by hand: pauses or limits, of one or of all. Returns what that was, whether or not its time
    /// was over.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn take_back_by_hand(&mut self, whose: Option<&Whose>, pause: bool) -> Result<Vec<ByHand>, QueueError> {
        let (whose, cache) = whose.map(columns).unzip();
        let mut statement = self
            .db
            .prepare_cached(
                "DELETE FROM by_hand WHERE pause = ?1 AND (?2 IS NULL OR (whose = ?2 AND cache = ?3))
                 RETURNING whose, cache, rate, since, until",
            )
            .map_err(sqlite("take back what was said by hand"))?;
        statement
            .query_map(params![pause, whose, cache], said)
            .and_then(Iterator::collect)
            .map_err(sqlite("take back what was said by hand"))
    }

    /// What was said by hand, whether or not its time is over.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn by_hand(&self) -> Result<Vec<ByHand>, QueueError> {
        let mut statement = self
            .db
            .prepare_cached("SELECT whose, cache, rate, since, until FROM by_hand ORDER BY whose, cache, pause")
            .map_err(sqlite("read what was said by hand"))?;
        statement.query_map([], said).and_then(Iterator::collect).map_err(sqlite("read what was said by hand"))
    }

    /// Forgets what was said by hand and whose time has been over for long.
    pub(super) fn forget_by_hand(&mut self, now: i64) -> Result<(), QueueError> {
        let forgotten = self.db.execute("DELETE FROM by_hand WHERE until <= ?1", [now - KEPT]);
        forgotten.map(drop).map_err(sqlite("forget what was said by hand"))
    }

    /// Notes which caches are paused; of those that aren't named it is noted that they aren't.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn note_paused(&mut self, paused: &[(CacheId, Paused)]) -> Result<(), QueueError> {
        let tx = self.begin().map_err(sqlite("begin to note pauses"))?;
        tx.execute(
            "UPDATE caches SET paused = NULL, backfill_paused = NULL WHERE paused IS NOT NULL OR backfill_paused IS NOT NULL",
            [],
        )
        .map_err(sqlite("note that caches aren't paused"))?;
        for (cache, Paused { all, backfill }) in paused {
            tx.execute(
                "UPDATE caches SET paused = ?2, backfill_paused = ?3 WHERE id = ?1",
                params![cache.0, all, backfill],
            )
            .map_err(sqlite("note that a cache is paused"))?;
        }
        tx.commit().map_err(sqlite("commit pauses"))
    }
}

/// By which `whose` and `cache` somebody is found in the table.
fn columns(whose: &Whose) -> (i64, &str) {
    match whose {
        Whose::Line => (0, ""),
        Whose::Backfill => (1, ""),
        Whose::Cache(name) => (2, name),
    }
}

fn said(row: &Row<'_>) -> rusqlite::Result<ByHand> {
    let whose = match row.get(0)? {
        0 => Whose::Line,
        1 => Whose::Backfill,
        _ => Whose::Cache(row.get(1)?),
    };
    let rate: Option<i64> = row.get(2)?;
    let bandwidth = rate.map(|rate| u64::try_from(rate).map_or(Bandwidth::Background, Bandwidth::new));
    Ok(ByHand { whose, bandwidth, since: row.get(3)?, until: row.get(4)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Tidying;

    fn said(whose: Whose, rate: Option<u64>, until: Option<i64>) -> ByHand {
        ByHand { whose, bandwidth: rate.map(Bandwidth::new), since: 5, until }
    }

    #[test]
    fn what_is_said_by_hand_outlives_the_process_and_is_forgotten_in_time() {
        let dir = tempfile::tempdir().expect("a folder");
        let team = || Whose::Cache("team".to_owned());
        let away =
            ByHand { bandwidth: Some(Bandwidth::Background), ..said(Whose::Cache("away".to_owned()), None, None) };
        let mut queue = Queue::open(dir.path()).expect("opened").queue;
        for said in [
            said(Whose::Line, Some(7), None),
            said(Whose::Line, Some(5), Some(10)),
            said(Whose::Line, Some(0), None),
            said(Whose::Backfill, None, None),
            said(team(), Some(u64::MAX), None),
            away.clone(),
        ] {
            queue.say_by_hand(&said).expect("said");
        }
        drop(queue);
        let mut queue = Queue::open(dir.path()).expect("opened").queue;
        let all = [
            said(Whose::Line, Some(5), Some(10)),
            said(Whose::Line, Some(0), None),
            said(Whose::Backfill, None, None),
            away.clone(),
            said(team(), Some(i64::MAX as u64), None),
        ];
        assert_eq!(queue.by_hand().expect("read"), all);
        for (now, left) in [(10, &all[..]), (KEPT + 9, &all), (KEPT + 10, &all[1..])] {
            let mut step = Some(Tidying::begin(now, true));
            while let Some(next) = step {
                step = queue.tidy(next).expect("tidied");
            }
            assert_eq!(queue.by_hand().expect("read"), left, "at {now}");
        }
        assert_eq!(queue.by_hand().expect("read"), all[1..]);
        assert_eq!(queue.take_back_by_hand(Some(&team()), true).expect("nothing"), []);
        assert_eq!(queue.take_back_by_hand(None, true).expect("the pause"), all[1..2]);
        assert_eq!(queue.take_back_by_hand(Some(&team()), false).expect("the limit"), all[4..]);
        assert_eq!(queue.take_back_by_hand(None, false).expect("the rest"), all[2..4]);
        assert_eq!(queue.by_hand().expect("read"), []);
    }
}
