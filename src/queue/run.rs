//! Backfills: what was asked for, how far its scan is, and what came of it.

use rusqlite::{Transaction, params};
use serde::{Deserialize, Serialize};

use super::admit::write_jobs;
use super::work::execute;
use super::{Admission, Followed, Mark, Queue, QueueError, sqlite};

/// The highest number of a backfill that any job remembers; in the words of the index `jobs_of_run`.
pub(super) const NEWEST_RUN: &str = "SELECT max(run) FROM jobs WHERE run IS NOT NULL";

/// Whether anything of a backfill is to be done.
pub(super) const IS_OPEN: &str = "
    SELECT 1 FROM jobs INDEXED BY jobs_open_of_run
    WHERE state IN (0, 1) AND run = ?1 AND cache NOT IN (SELECT id FROM caches WHERE off = 1)
    UNION ALL
    SELECT 1 FROM shared s JOIN jobs j ON j.id = s.job
    WHERE s.run = ?1 AND s.state IS NULL AND j.state IN (0, 1)
      AND j.cache NOT IN (SELECT id FROM caches WHERE off = 1)";

/// Number of a backfill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunId(pub i64);

/// What a backfill was asked for: the same scope again takes up an unfinished one where it stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunScope {
    /// Base names asked for; empty for the whole store.
    pub paths: Vec<String>,
    /// Only what was registered since then, in seconds before the start.
    pub since: Option<u64>,
    /// Only what garbage collection would keep.
    pub roots: bool,
    /// Only these caches; empty for those that the policy says.
    pub to: Vec<String>,
    /// Whether somebody named the paths to be uploaded, whatever skips them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_hand: bool,
    /// Fingerprint of the policy file that decides; `None` for the built-in policy.
    pub policy: Option<String>,
}

/// A backfill under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its number.
    pub id: RunId,
    /// The last `ValidPaths.id` that it has looked at.
    pub row: i64,
    /// The last one that it is to look at.
    pub to_row: i64,
    /// By what the database is recognised that these are rows of; `None` before it has looked at any.
    pub mark: Option<Mark>,
    /// Whether it takes up an unfinished one.
    pub resumed: bool,
}

/// Why a path is passed over. The numbers stand in the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Why {
    /// A rule skips it, or sends it elsewhere.
    Skipped = 0,
    /// A rule denies it.
    Denied = 1,
    /// All caches that it would go to are off on this host.
    Off = 2,
    /// What Nix says of it can't be understood.
    Unclear = 3,
    /// The Nix daemon, which was asked for it, refused to tell of it. It may pass.
    Refused = 4,
}

impl Why {
    pub(super) fn from_number(number: i64) -> Self {
        match number {
            1 => Self::Denied,
            2 => Self::Off,
            3 => Self::Unclear,
            4 => Self::Refused,
            _ => Self::Skipped,
        }
    }
}

/// What made a backfill pass a path over.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PassedOver {
    /// By which rule; for [`Why::Off`], for which caches; for [`Why::Unclear`] and [`Why::Refused`], what is wrong with
    /// it, or where that is told.
    pub by: String,
    /// In what way.
    pub why: Why,
}

impl Queue {
    /// Begins a backfill, or takes up an unfinished one of the same scope that nobody is at just now; where another process is,
    /// each has one of its own. It is this process's as long as it keeps what is returned beside it.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`]; [`QueueError::StateDir`] where it can't be noted who is at it.
    pub fn begin_run(&mut self, scope: &RunScope, to_row: i64, now: i64) -> Result<(Run, Followed), QueueError> {
        let text = serde_json::to_string(scope).unwrap_or_default();
        let dir = self.path.with_file_name("");
        let follow = |id| Followed::claim(&dir, id).map_err(|source| QueueError::StateDir { dir: dir.clone(), source });
        let tx = self.begin().map_err(sqlite("begin a backfill"))?;
        let mut begun = None;
        for id in unfinished(&tx, &text)? {
            if let Some(followed) = follow(id)? {
                // It begins to live anew, or it would be forgotten for having begun long ago.
                let taken_up = tx.query_row(
                    "UPDATE runs SET started = ?2 WHERE id = ?1 RETURNING row, to_row, mark, mark_path, mark_time",
                    params![id.0, now],
                    |row| {
                        let mark = match row.get(2)? {
                            Some(id) => Some(Mark { row: id, path: row.get(3)?, time: row.get(4)? }),
                            None => None,
                        };
                        Ok(Run { id, row: row.get(0)?, to_row: row.get(1)?, mark, resumed: true })
                    },
                );
                begun = Some((taken_up.map_err(sqlite("take up a backfill"))?, followed));
                break;
            }
        }
        let begun = match begun {
            Some(begun) => begun,
            None => {
                // Jobs remember the numbers of backfills that are forgotten: none is given twice.
                let id = tx.query_row(
                    &format!(
                        "INSERT INTO runs (id, scope, started, row, to_row, walks)
                         VALUES (1 + max(coalesce((SELECT max(id) FROM runs), 0), coalesce(({NEWEST_RUN}), 0)),
                                 ?1, ?2, 0, ?3, ?4)
                         RETURNING id",
                    ),
                    params![text, now, to_row, !scope.paths.is_empty()],
                    |row| row.get(0).map(RunId),
                );
                let id = id.map_err(sqlite("begin a backfill"))?;
                // Nobody else can know of it yet.
                let followed = follow(id)?.unwrap_or_default();
                (Run { id, row: 0, to_row, mark: None, resumed: false }, followed)
            }
        };
        tx.commit().map_err(sqlite("begin a backfill"))?;
        Ok(begun)
    }

    /// Notes from where to where a backfill goes from now on, if that is elsewhere than it was noted. One that begins anew has
    /// passed nothing over yet.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn place_run(&mut self, run: RunId, row: i64, to_row: i64) -> Result<(), QueueError> {
        let tx = self.begin().map_err(sqlite("place a backfill"))?;
        execute(&tx, "UPDATE runs SET row = ?2, to_row = ?3 WHERE id = ?1", [run.0, row, to_row])?;
        if row == 0 {
            execute(&tx, "UPDATE runs SET mark = NULL, mark_path = NULL, mark_time = NULL WHERE id = ?1", [run.0])?;
            execute(&tx, "DELETE FROM run_skips WHERE run = ?1", [run.0])?;
        }
        tx.commit().map_err(sqlite("place a backfill"))
    }

    /// Admits a batch of a backfill, notes what it passed over and how far it is, by row and mark, all or nothing.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`], also where there is no such backfill; then nothing has changed.
    pub fn advance_run(
        &mut self,
        run: RunId,
        (row, mark): (i64, Option<&Mark>),
        admission: &Admission<'_>,
        passed_over: &[(PassedOver, u64)],
    ) -> Result<(), QueueError> {
        let tx = self.begin().map_err(sqlite("begin a batch"))?;
        write_jobs(&tx, admission)?;
        for (PassedOver { by, why }, count) in passed_over {
            tx.execute(
                "INSERT INTO run_skips (run, rule, denied, count) VALUES (?1, ?2, ?4, ?3)
                 ON CONFLICT (run, rule, denied) DO UPDATE SET count = count + excluded.count",
                params![run.0, by, *count as i64, *why as i64],
            )
            .map_err(sqlite("note skipped paths"))?;
        }
        tx.query_row(
            "UPDATE runs SET row = ?2, started = ?3, mark = ?4, mark_path = ?5, mark_time = ?6 WHERE id = ?1 RETURNING id",
            params![
                run.0,
                row,
                admission.now,
                mark.map(|mark| mark.row),
                mark.map(|mark| &mark.path),
                mark.map(|mark| mark.time)
            ],
            |_| Ok(()),
        )
        .map_err(sqlite("note a backfill's progress"))?;
        tx.commit().map_err(sqlite("commit a batch"))
    }

    /// Notes that a backfill is over: the next one of its scope starts from the beginning. What it has to tell is to be read
    /// before: what it shares with others is theirs from now on.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn finish_run(&mut self, run: RunId, now: i64) -> Result<(), QueueError> {
        let tx = self.begin().map_err(sqlite("end a backfill"))?;
        execute(&tx, "UPDATE runs SET finished = ?2 WHERE id = ?1", params![run.0, now])?;
        execute(&tx, "DELETE FROM shared WHERE run = ?1", [run.0])?;
        tx.commit().map_err(sqlite("end a backfill"))?;
        Followed::forget(&self.path.with_file_name(""), run);
        Ok(())
    }

    /// The last row that a backfill has looked at.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn run_row(&self, run: RunId) -> Result<i64, QueueError> {
        self.db
            .query_row("SELECT row FROM runs WHERE id = ?1", [run.0], |row| row.get(0))
            .map_err(sqlite("read a backfill's progress"))
    }

    /// Whether any job of a backfill is still to be done, at a cache that isn't off. Unlike the summary this doesn't look at
    /// those that are done.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn run_is_open(&self, run: RunId) -> Result<bool, QueueError> {
        self.db
            .prepare_cached(IS_OPEN)
            .and_then(|mut statement| statement.exists([run.0]))
            .map_err(sqlite("look whether a backfill is through"))
    }
}

/// The backfills of a scope that aren't through, the newest first.
fn unfinished(tx: &Transaction<'_>, scope: &str) -> Result<Vec<RunId>, QueueError> {
    let explain = sqlite("look for an unfinished backfill");
    let mut statement = tx
        .prepare_cached("SELECT id FROM runs WHERE scope = ?1 AND finished IS NULL ORDER BY id DESC")
        .map_err(&explain)?;
    let rows = statement.query_map([scope], |row| row.get(0).map(RunId)).map_err(&explain)?;
    rows.collect::<Result<_, _>>().map_err(&explain)
}
