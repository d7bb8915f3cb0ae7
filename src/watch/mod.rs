//! The watcher: finds every path that becomes valid, lets the policy decide, and admits it to the queue.
//!
//! Invariants kept here:
//!
//! - **Nothing lost.** What is new is found by reading the Nix database from the cursor on; events and the timer only say
//!   when to look. Cursor and jobs are written in one transaction, so a crash at any point means reading some rows again.
//!   A database that is another than before (`cursor::check`) is read from its beginning.
//! - **Nobody waits.** Each batch is one short read transaction, and nothing is kept open between two.
//! - **Bounded memory.** One batch at a time.
//!
//! Where the database can't be read, the listing of the store directory and the Nix daemon take its place.
//!
//! [`Watcher::next_event`] only chooses and may be dropped at any time; [`Watcher::apply`] only acts.

mod cursor;
mod listing;
mod scan;
pub mod wake;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, error, info, warn};

use self::listing::Listing;
pub use self::listing::ListingError;
use self::scan::{Scan, Step};
use self::wake::Wake;
use crate::nix::{DatabaseError, StoreDir};
use crate::queue::{Queue, QueueError, QueueHandle, Routes};
use crate::report::one_line;

/// What is said where watching begins with a store in which there is something.
const WATCHING_FROM_NOW_ON: &str = "watching from now on; `storewatch backfill` takes what is there already";

/// What the watcher is made of.
pub struct Parts {
    /// The queue.
    pub queue: QueueHandle,
    /// The policy in force, with the numbers of its caches.
    pub routes: watch::Receiver<Routes>,
    /// The Nix database.
    pub db_path: PathBuf,
    /// Where the store's files are.
    pub real_store: PathBuf,
    /// The Nix daemon's socket.
    pub socket: PathBuf,
    /// The logical store directory.
    pub store_dir: StoreDir,
    /// Tells of changes to the database.
    pub wake: Wake,
    /// The database is looked at every so long without an event, too, counted from [`Parts::began`].
    pub interval: Duration,
    /// The same while events are listened to, the last look went well, and what it found was told of by one.
    pub interval_beside_events: Duration,
    /// Whose timers count from the same moment wakes up once for all of them.
    pub began: Instant,
    /// Rung when jobs have been admitted.
    pub bell: Arc<Notify>,
    /// Rung once it is known where new paths are learnt of, or that this is to be waited for.
    pub begun: Arc<Notify>,
}

/// Why the watcher can't go on.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// It would be read wrongly, or there is nothing to read.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The daemon doesn't answer any more, or the store can't be listed.
    #[error(transparent)]
    Listing(#[from] ListingError),
    /// Nothing could be admitted.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// Neither of the two ways to learn of paths is open.
    #[error(
        "the Nix database can't be read ({database}) and the Nix daemon doesn't answer ({daemon}); run storewatch as \
         root, or as a user who may read the database, or start the Nix daemon"
    )]
    Blind {
        /// Why the database can't be read.
        database: String,
        /// Why the daemon is of no help.
        daemon: String,
    },
}

/// Reads what is new.
pub struct Watcher {
    parts: Parts,
    source: Source,
    next_look: Instant,
    /// Whether it has tried to look at least once: then trouble is taken to be passing.
    has_tried: bool,
    /// Whether it was an event that told of what was found last. On a network share none may come.
    events_tell: bool,
    /// Since when (seconds since 1970) it waits for a database that wasn't there at the first look, or was being written.
    began_without: Option<i64>,
    /// The last trouble that was told, so that it is told once.
    told: Option<String>,
    /// Whether the queue may say that nothing new can be found: also of a service before this one.
    is_noted: bool,
}

/// Where new paths are learnt of.
enum Source {
    Database(Box<Scan>),
    Listing(Box<Listing>),
    /// Not known yet, or lost.
    None,
}

/// What the watcher waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Something has changed in the folder of that place, beside the database.
    Woken(usize),
    /// It is time to look.
    Due,
}

impl Watcher {
    /// A watcher that looks for the first time at once.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self {
            parts,
            source: Source::None,
            next_look: Instant::now(),
            has_tried: false,
            events_tell: true,
            began_without: None,
            told: None,
            is_noted: true,
        }
    }

    /// Watches until it is dropped.
    ///
    /// # Errors
    /// [`WatchError`]: what can't heal by itself.
    pub async fn run(mut self) -> Result<(), WatchError> {
        // Of what stood in the way of an earlier one, nothing is known any more.
        self.note(None).await;
        loop {
            let event = self.next_event().await;
            self.apply(event).await?;
        }
    }

    /// Waits until there is a reason to look. Cancel-safe.
    pub async fn next_event(&mut self) -> Event {
        tokio::select! {
            folder = self.parts.wake.changed() => Event::Woken(folder),
            () = sleep_until(self.next_look) => Event::Due,
        }
    }

    /// Looks, until nothing new is there.
    ///
    /// # Errors
    /// [`WatchError`].
    pub async fn apply(&mut self, event: Event) -> Result<(), WatchError> {
        if event == Event::Due {
            for unwatched in self.parts.wake.rearm() {
                if unwatched.why.is_missing() {
                    debug!("{}", one_line(&unwatched.why));
                } else {
                    warn!("new paths are found by the timer alone: {}", one_line(&unwatched.why));
                }
            }
        }
        let looked = self.look().await;
        let is_first = !std::mem::replace(&mut self.has_tried, true);
        let Parts { wake, interval, interval_beside_events, .. } = &self.parts;
        if let Ok(found) = looked {
            self.events_tell = events_tell(self.events_tell, event, is_first, found);
        }
        let tells = looked.is_ok() && wake.watches_all() && self.events_tell;
        let interval = if tells { *interval_beside_events } else { *interval };
        self.next_look = next_beat(self.parts.began, interval, Instant::now());
        match looked {
            Ok(found) => {
                if let Event::Woken(folder) = event {
                    self.parts.wake.found(folder, found);
                }
                if self.is_noted {
                    self.note(None).await;
                }
                if self.told.take().is_some() {
                    info!("the Nix store can be read again");
                }
                Ok(())
            }
            // While Nix makes, moves or locks its database, later is soon enough: the cursor hasn't moved.
            Err(WatchError::Database(error)) if !is_first || !is_final(&error) => {
                if is_first {
                    self.began_without = Some(crate::queue::now() / 1000);
                }
                self.source = Source::None;
                let hint = error.hint().map_or_else(String::new, |hint| format!("; {hint}"));
                self.tell_once(&format!("{}{hint}", one_line(&error))).await;
                self.parts.begun.notify_one();
                Ok(())
            }
            Err(WatchError::Listing(error)) if !matches!(error, ListingError::Queue(_)) => {
                self.source = Source::None;
                self.tell_once(&one_line(&error)).await;
                self.parts.begun.notify_one();
                Ok(())
            }
            Err(error @ WatchError::Blind { .. }) if !is_first => {
                self.tell_once(&one_line(&error)).await;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Returns how many paths were found.
    async fn look(&mut self) -> Result<usize, WatchError> {
        if let Source::None = self.source {
            self.source = find_source(&self.parts, self.began_without).await?;
            self.parts.begun.notify_one();
        }
        match std::mem::replace(&mut self.source, Source::None) {
            Source::Database(scan) => {
                let (scan, found) = self.read_on(*scan).await?;
                self.source = Source::Database(Box::new(scan));
                Ok(found)
            }
            Source::Listing(mut listing) => {
                let routes = self.parts.routes.borrow().clone();
                let opened = listing.look(&self.parts.queue, &routes).await?;
                if opened > 0 {
                    self.parts.bell.notify_one();
                }
                self.source = Source::Listing(listing);
                Ok(usize::try_from(opened).unwrap_or(usize::MAX))
            }
            Source::None => Ok(0),
        }
    }

    /// Reads and admits batches until the database has nothing new; returns how many rows it had.
    async fn read_on(&mut self, mut scan: Scan) -> Result<(Scan, usize), WatchError> {
        let mut found = 0;
        if scan.is_at_rest() {
            return Ok((scan, found));
        }
        loop {
            let routes = self.parts.routes.borrow().clone();
            let read = spawn_blocking(move || {
                let step = scan.step(&routes);
                (scan, step)
            });
            // It can only fail by a panic; then the next look begins anew from the cursor.
            let Ok((read, step)) = read.await else {
                error!("reading the Nix database ended by a defect of storewatch");
                let Parts { db_path, store_dir, queue, .. } = &self.parts;
                let scan = Scan::open(db_path.clone(), store_dir.clone(), queue, None).await?;
                return Ok((scan, found));
            };
            scan = read;
            match step? {
                Step::UpToDate => return Ok((scan, found)),
                Step::Another(why, beginning) => {
                    warn!(
                        "{why}; it is read from its beginning: what was uploaded before is not uploaded again, and what was \
                         registered before watching began stays for `storewatch backfill`"
                    );
                    scan.start_over(&self.parts.queue, beginning).await?;
                }
                Step::Batch(batch) => {
                    let rows = batch.rows;
                    found += rows;
                    let opened = scan.admit(&self.parts.queue, *batch).await?;
                    debug!(rows, opened, "read new rows");
                    if opened > 0 {
                        self.parts.bell.notify_one();
                    }
                }
            }
        }
    }

    async fn tell_once(&mut self, trouble: &str) {
        if self.told.as_deref() != Some(trouble) {
            // In this order, so that whoever has read the log finds it in the queue.
            self.note(Some(trouble.to_owned())).await;
            warn!("nothing new can be found for now: {trouble}");
            self.told = Some(trouble.to_owned());
        }
    }

    /// Notes in the queue why nothing new can be found. A queue that doesn't take that is no reason not to watch.
    async fn note(&mut self, why: Option<String>) {
        let stands = why.is_some();
        let note = move |queue: &mut Queue| queue.note_finds_nothing(why.as_deref(), crate::queue::now());
        match self.parts.queue.call_once(note).await {
            Ok(()) => self.is_noted = stands,
            Err(error) => debug!("{}", one_line(&error)),
        }
    }
}

/// The database where it can be read, otherwise the daemon.
async fn find_source(parts: &Parts, began_without: Option<i64>) -> Result<Source, WatchError> {
    let Parts { queue, db_path, real_store, socket, store_dir, .. } = parts;
    match Scan::open(db_path.clone(), store_dir.clone(), queue, began_without).await {
        Err(WatchError::Database(error)) if error.is_denied() => {
            let reason = one_line(&error);
            let listing = Listing::open(real_store.clone(), socket.clone(), store_dir.clone(), queue).await;
            match listing {
                Ok(listing) => {
                    warn!("the Nix daemon is asked instead, and the store directory listed: {reason}");
                    Ok(Source::Listing(Box::new(listing)))
                }
                Err(ListingError::Queue(error)) => Err(error.into()),
                Err(error) => Err(WatchError::Blind { database: reason, daemon: one_line(&error) }),
            }
        }
        Err(error) => Err(error),
        Ok(scan) => Ok(Source::Database(Box::new(scan))),
    }
}

/// Whether events tell of what is new, as far as a look shows that found so many paths: at the first one there was nobody yet
/// to be told.
fn events_tell(so_far: bool, event: Event, is_first: bool, found: usize) -> bool {
    match (event, found) {
        (_, 0) => so_far,
        (Event::Due, _) => is_first,
        _ => true,
    }
}

/// The first moment after `now` that is a whole number of intervals after `began`.
fn next_beat(began: Instant, interval: Duration, now: Instant) -> Instant {
    let since = now.saturating_duration_since(began);
    let into = since.as_nanos() % interval.as_nanos().max(1);
    now + interval.saturating_sub(Duration::from_nanos(u64::try_from(into).unwrap_or(0)))
}

/// Whether waiting won't help, if it was so from the start. Later it may be a database that is being replaced.
fn is_final(error: &DatabaseError) -> bool {
    matches!(error, DatabaseError::NotNix { .. } | DatabaseError::NewerSchema { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_timer_found_shows_that_events_do_not_tell() {
        let woken = Event::Woken(0);
        for (so_far, event, is_first, found, then) in [
            (true, woken, false, 3, true),
            (true, Event::Due, false, 0, true),
            (true, Event::Due, false, 1, false),
            // Nobody told of what was there before anybody listened.
            (true, Event::Due, true, 1, true),
            (false, woken, false, 0, false),
            (false, Event::Due, false, 0, false),
            (false, woken, false, 1, true),
        ] {
            assert_eq!(events_tell(so_far, event, is_first, found), then, "{so_far} {event:?} {is_first} {found}");
        }
    }
}
