//! Reading the Nix database from the cursor on.

use std::path::{Path, PathBuf};

use tokio::task::spawn_blocking;
use tracing::{debug, info};

use super::cursor::{Seen, check, is_current};
use super::{WATCHING_FROM_NOW_ON, WatchError};
use crate::limit::Lane;
use crate::nix::{Database, DatabaseError, Identity, StoreDir};
use crate::queue::{Admission, Cursor, Ended, Mark, QueueHandle, Routes, Wanted, now};

/// The database, and how far it has been read.
pub(super) struct Scan {
    db_path: PathBuf,
    store_dir: StoreDir,
    database: Database,
    cursor: Cursor,
    /// Seconds since 1970: of rows that are read again, those registered before are for backfill.
    since: i64,
}

/// What one look at the database came to.
pub(super) enum Step {
    /// Nothing new.
    UpToDate,
    /// Some rows, decided.
    Batch(Box<Decided>),
    /// It isn't the database that was read before, and why; and where to begin with it.
    Another(&'static str, Beginning),
}

/// The cursor before anything is read of a database: everything that is there now is looked at again.
pub(super) struct Beginning(Cursor);

/// Rows that were read, and what is to be admitted of them.
pub(super) struct Decided {
    pub(super) rows: usize,
    /// Rows that are new.
    fresh: Vec<Wanted>,
    /// Old rows, seen anew.
    again: Vec<Wanted>,
    cursor: Cursor,
}

impl Decided {
    /// Nothing to be admitted: only the cursor moves.
    fn only_to(cursor: Cursor) -> Self {
        Self { rows: 0, fresh: Vec::new(), again: Vec::new(), cursor }
    }
}

impl Scan {
    /// Opens the database and finds out where to go on: at the cursor, or, the first time, at its end, since what is there
    /// already is for backfill. Where there was no database yet when watching began (seconds since 1970), what was
    /// registered since then is new.
    pub(super) async fn open(
        db_path: PathBuf,
        store_dir: StoreDir,
        queue: &QueueHandle,
        began_without: Option<i64>,
    ) -> Result<Self, WatchError> {
        let (path, dir) = (db_path.clone(), store_dir.clone());
        // Each question may wait for Nix, for seconds where there is no write-ahead log.
        let opened = spawn_blocking(move || open(&path, &dir)).await;
        // It can only fail by a panic, which is the watcher's end as any other of its own is.
        let Opened { database, last_id, mark } =
            opened.unwrap_or_else(|ended| std::panic::resume_unwind(ended.into_panic()))?;
        let Identity { dev, ino } = database.identity();
        let dir = store_dir.clone();
        let (cursor, since, is_first) = queue
            .call(move |queue| {
                let since = queue.watched_since(&dir)?;
                if let (Some(cursor), Some(since)) = (queue.cursor(&dir)?, since) {
                    return Ok((cursor, since, false));
                }
                let file = (dev, ino);
                let since = since.or(began_without);
                let cursor = match since {
                    // Watched before, but not by this database.
                    Some(_) => Cursor { row: 0, mark: None, file, rescan_to: last_id },
                    None => Cursor { row: last_id, mark: mark.clone(), file, rescan_to: 0 },
                };
                let is_first = since.is_none();
                let since = since.unwrap_or_else(|| now() / 1000);
                // In this order: cut off in between, the next start reads from the beginning what was registered since.
                queue.begin_watching(&dir, since)?;
                queue.admit(&Admission::of_new(&[], 0), Some((&dir, &cursor)))?;
                Ok((cursor, since, is_first))
            })
            .await?;
        // Where the disk is full, the above is done again and again.
        if is_first {
            info!("{WATCHING_FROM_NOW_ON}");
        }
        debug!(row = cursor.row, last_id, "the Nix database is open");
        Ok(Self { db_path, store_dir, database, cursor, since })
    }

    /// Whether there is surely nothing new. That takes some microseconds, and at rest it is all there is to be done: no
    /// other thread need be woken for it. Without a write-ahead log it might have to wait for Nix, so it isn't tried.
    pub(super) fn is_at_rest(&self) -> bool {
        let rests = |seen: &Seen| {
            check(&self.cursor, seen).is_none() && is_current(&self.cursor, seen) && seen.last_id == self.cursor.row
        };
        self.database.uses_wal() && !self.database.replaced() && self.seen().is_ok_and(|seen| rests(&seen))
    }

    fn seen(&self) -> Result<Seen, DatabaseError> {
        Ok(Seen {
            identity: self.database.identity(),
            last_id: self.database.last_id()?,
            row: self.cursor.mark.as_ref().map_or(Ok(None), |mark| self.database.row_mark(mark.row))?,
        })
    }

    /// Looks for rows behind the cursor and decides them. Blocks.
    pub(super) fn step(&mut self, routes: &Routes) -> Result<Step, DatabaseError> {
        if self.database.replaced() {
            self.database = Database::open(&self.db_path, &self.store_dir)?;
        }
        let seen = self.seen()?;
        if let Some(why) = check(&self.cursor, &seen) {
            let file = (seen.identity.dev, seen.identity.ino);
            let beginning = Cursor { row: 0, mark: None, file, rescan_to: seen.last_id };
            return Ok(Step::Another(why, Beginning(beginning)));
        }
        let file = (seen.identity.dev, seen.identity.ino);
        if seen.last_id == self.cursor.row {
            if is_current(&self.cursor, &seen) {
                return Ok(Step::UpToDate);
            }
            let cursor = Cursor { mark: mark(&self.database, self.cursor.row)?, file, ..self.cursor.clone() };
            if cursor == self.cursor {
                return Ok(Step::UpToDate);
            }
            return Ok(Step::Batch(Box::new(Decided::only_to(cursor))));
        }
        let batch = self.database.batch(self.cursor.row, &self.database.limits())?;
        batch.tell_malformed();
        // Ids whose rows were collected before they could be read leave nothing to mark.
        let reached = if batch.complete { batch.reached.max(seen.last_id) } else { batch.reached };
        let cursor = Cursor { row: reached, mark: mark(&self.database, reached)?, file, ..self.cursor.clone() };
        let rows = batch.paths.len();
        let (mut fresh, mut again) = (Vec::new(), Vec::new());
        for mut info in batch.paths {
            let old = info.id.is_some_and(|id| id <= self.cursor.rescan_to);
            if old && info.registration_time < self.since {
                continue;
            }
            let decision =
                routes.policy.decide_loading(&mut info, &self.store_dir, |info| self.database.references_of(info))?;
            debug!(path = %info.path, action = %decision.action(), rule = %decision.rule(), "decided");
            if let Some(wanted) = routes.wanted(&info, &decision) {
                if old { again.push(wanted) } else { fresh.push(wanted) }
            }
        }
        Ok(Step::Batch(Box::new(Decided { rows, fresh, again, cursor })))
    }

    /// Admits what was decided; the cursor moves with it.
    pub(super) async fn admit(&mut self, queue: &QueueHandle, decided: Decided) -> Result<u64, WatchError> {
        let Decided { fresh, again, cursor, .. } = decided;
        let (dir, moved) = (self.store_dir.clone(), cursor.clone());
        let opened = queue
            .call(move |queue| {
                let at = now();
                let mut opened = 0;
                if !again.is_empty() {
                    let new = Admission::of_new(&again, at);
                    let old = Admission { lane: Lane::Backfill, ended: Ended::Stays, ..new };
                    opened += queue.admit(&old, None)?;
                }
                Ok(opened + queue.admit(&Admission::of_new(&fresh, at), Some((&dir, &moved)))?)
            })
            .await?;
        self.cursor = cursor;
        Ok(opened)
    }

    /// Puts the cursor back to the beginning.
    pub(super) async fn start_over(&mut self, queue: &QueueHandle, beginning: Beginning) -> Result<(), WatchError> {
        let Beginning(cursor) = beginning;
        let (dir, moved) = (self.store_dir.clone(), cursor.clone());
        // Of nothing: only the cursor moves.
        queue.call(move |queue| queue.admit(&Admission::of_new(&[], 0), Some((&dir, &moved)))).await?;
        self.cursor = cursor;
        Ok(())
    }
}

/// A database that has just been opened.
struct Opened {
    database: Database,
    last_id: i64,
    /// What it is recognised by at its end.
    mark: Option<Mark>,
}

/// Opens the database and looks at its end. Blocks.
fn open(db_path: &Path, store_dir: &StoreDir) -> Result<Opened, DatabaseError> {
    let database = Database::open(db_path, store_dir)?;
    if !database.uses_wal() {
        info!("the Nix database has no write-ahead log; it is read in short batches");
    }
    let last_id = database.last_id()?;
    let mark = mark(&database, last_id)?;
    Ok(Opened { database, last_id, mark })
}

/// What the database is recognised by once it was read up to that row.
fn mark(database: &Database, reached: i64) -> Result<Option<Mark>, DatabaseError> {
    Ok(database.last_row_mark(reached)?.map(Mark::from))
}
