//! The uploader: claims jobs, brings each path into its cache, and tells the queue what became of it.
//!
//! Invariants kept here:
//!
//! - **Nothing broken.** A path is pushed only when each of its references is in the cache, at an upstream, or under way
//!   to it; in the last case the push publishes it only after they have arrived. Otherwise the job waits for theirs.
//! - **Nobody waits** for another's cache: each is opened on its own and has its own jobs under way, and one that takes
//!   nothing is asked again later and later, with one job, while its queue waits.
//! - **Bounded memory.** At most `UNDER_WAY` jobs a cache are claimed; only as many as it has slots are being read.
//!
//! At a crash nothing is left but claimed jobs, which the next start takes back, and temporary files, which it sweeps.
//!
//! [`Uploader::next_event`] only chooses and may be dropped at any time; [`Uploader::apply`] only acts.

mod backoff;
mod claim;
mod collectable;
mod contents;
mod deliver;
mod flight;
mod giving_way;
mod note;
mod pause;
mod presence;
mod realisations;
mod references;
mod roots;
mod serving;
mod settle;
mod step;
mod target;
mod tidy;
mod upstream;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{self, JoinError, JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use self::collectable::Collectable;
use self::deliver::{Context, Landed};
use self::flight::Flights;
pub use self::pause::Pauses;
use self::pause::UnderWay;
use self::roots::Roots;
pub use self::serving::{Opening, Orders};
use self::target::State;
pub use self::target::{Forgive, Open, Target};
use self::tidy::tidy;
use crate::cache::{Tally, Upstreams};
use crate::disk::Levels;
use crate::limit::Shaper;
use crate::nix::StoreFacts;
use crate::policy::Policy;
use crate::queue::{CacheId, QueueError, QueueHandle, now};

/// Jobs of one cache that may be under way: enough for a group commit to pay, few enough to be given back quickly.
const UNDER_WAY: usize = 256;

/// What has landed is written down together with what lands within this time, as long as more is under way: small paths
/// land some milliseconds apart, and each transaction costs as much as some of them. A crash in between only means that
/// those paths are found in their caches again.
const SETTLED_TOGETHER: Duration = Duration::from_millis(20);

/// Without anything else to wait for, the queue is looked at after so long, should a wake-up have been lost.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Where something can't be done though its time has come, it is looked for again after so long.
const LOOK_IN_VAIN: Duration = Duration::from_millis(100);

/// What is held is looked at again after so long: what held it may be in the cache by now, by another host's doing.
const HELD_FOR: Duration = Duration::from_secs(60 * 60);

/// So often what has ended long ago is forgotten while this runs, beside at each start.
const TIDY_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// What the uploader is made of.
pub struct Parts {
    /// The queue.
    pub queue: QueueHandle,
    /// Asks Nix about paths.
    pub facts: StoreFacts,
    /// The directory in which the store's files are.
    pub real_store: PathBuf,
    /// The Nix daemon's socket; nothing says that it is there.
    pub socket: PathBuf,
    /// Rings when there may be new jobs.
    pub bell: Arc<Notify>,
    /// What bytes go through on their way into the caches.
    pub shaper: Shaper,
    /// Rung when something may have been queued, claimed or done, for whom that concerns.
    pub stirred: Arc<Notify>,
    /// What it is told.
    pub commands: mpsc::Receiver<Command>,
    /// Counts what is read.
    pub tally: Tally,
    /// How the file systems are off.
    pub disks: watch::Receiver<Levels>,
    /// Nix's state directory, which has the garbage collection roots.
    pub nix_state: PathBuf,
}

/// What the uploader can be told.
pub enum Command {
    /// From now on work like this.
    Serve(Orders),
    /// Try at once what waits for its time.
    Hurry,
    /// Give these caches nothing until told otherwise, and the others what there is.
    Pause(Pauses),
    /// Take nothing new; give back what is not through after so long; then end.
    Drain(Duration),
}

/// Claims jobs and sees them through.
pub struct Uploader {
    queue: QueueHandle,
    context: Context,
    /// Ends by a defect alone.
    keeping_roots: JoinHandle<()>,
    bell: Arc<Notify>,
    stirred: Arc<Notify>,
    commands: mpsc::Receiver<Command>,
    disks: watch::Receiver<Levels>,
    /// How they were off at the last look.
    disks_before: Levels,
    collectable: Collectable,
    /// `None` before the first time it is told one.
    policy: watch::Sender<Option<Arc<Policy>>>,
    caches: BTreeMap<CacheId, State>,
    /// Caches being opened. One that hangs stays here and is in nobody's way.
    openings: JoinSet<Opening>,
    attempts: u64,
    /// How often it was said that caches may lack what they are believed to have; `None` before the first claim.
    doubts: Option<u64>,
    tasks: JoinSet<Landed>,
    /// Which job each task has, should it not end by itself.
    claimed: HashMap<task::Id, UnderWay>,
    pauses: Pauses,
    /// What has come to an end and isn't written down yet, and when it is to be.
    landed: Vec<TaskEnd>,
    settle_at: Option<Instant>,
    next_due: Option<i64>,
    /// When there was a reason to look at the queue last.
    looked: Instant,
    /// When it is noted again how far those are that are under way.
    next_steps: Instant,
    next_release: Instant,
    next_tidying: Instant,
    drain_until: Option<Instant>,
    /// Whether what was under way at the end of a drain has been told to end.
    was_called_off: bool,
}

/// How the task of a delivery ended.
type TaskEnd = Result<(task::Id, Landed), JoinError>;

/// What the uploader waits for.
pub enum Event {
    /// There may be something to claim.
    Look,
    /// A cache has been opened, or can't be.
    Opened(Opening),
    /// Some deliveries have come to an end.
    Landed(Vec<TaskEnd>),
    /// How far the others are is to be noted.
    Moved,
    /// It was told something.
    Told(Command),
    /// The time to finish what is under way is over.
    DrainOver,
    /// Nothing is left to be done.
    Drained,
}

impl Uploader {
    /// An uploader that does nothing before it is told to [serve](Command::Serve). To be called on a tokio runtime.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts { queue, facts, real_store, socket, bell, shaper, stirred, tally, disks, nix_state, commands } =
            parts;
        let (policy, policy_in_force) = watch::channel(None);
        let collectable = Collectable::start(nix_state, queue.clone(), &facts, Arc::clone(&bell));
        let (roots, keeping_roots) = Roots::start(socket, facts.store_dir().clone());
        let context = Context {
            roots,
            facts,
            store_device: deliver::device(&real_store),
            real_store,
            tally,
            flights: Flights::default(),
            policy: policy_in_force,
            upstreams: Upstreams::none(),
            queue: queue.clone(),
            shaper,
        };
        Self {
            queue,
            context,
            keeping_roots,
            bell,
            stirred,
            commands,
            disks,
            disks_before: Levels::default(),
            collectable,
            policy,
            caches: BTreeMap::new(),
            openings: JoinSet::new(),
            attempts: 0,
            doubts: None,
            tasks: JoinSet::new(),
            claimed: HashMap::new(),
            pauses: Pauses::new(),
            landed: Vec::new(),
            settle_at: None,
            next_due: None,
            looked: Instant::now(),
            next_steps: Instant::now(),
            next_release: Instant::now() + HELD_FOR,
            next_tidying: Instant::now() + TIDY_EVERY,
            drain_until: None,
            was_called_off: false,
        }
    }

    /// Works until it has been drained.
    ///
    /// # Errors
    /// [`QueueError`]: without the queue there is nothing to go on with.
    pub async fn run(mut self) -> Result<(), QueueError> {
        self.queue.call(|queue| queue.recover()).await?;
        tokio::spawn(tidy(self.queue.clone(), self.disks.clone()));
        loop {
            let event = self.next_event().await;
            if let Event::Drained = event {
                return Ok(());
            }
            self.apply(event).await?;
        }
    }

    /// Waits for something to do. Cancel-safe.
    pub async fn next_event(&mut self) -> Event {
        loop {
            if self.tasks.is_empty() || self.settle_at.is_some_and(|time| time <= Instant::now()) {
                self.settle_at = None;
                if !self.landed.is_empty() {
                    return Event::Landed(std::mem::take(&mut self.landed));
                }
                if self.drain_until.is_some() && self.tasks.is_empty() {
                    return Event::Drained;
                }
            }
            let wake = self.drain_until.unwrap_or_else(|| self.next_look());
            let settle = self.settle_at.unwrap_or(wake);
            tokio::select! {
                // Asked in this order, so that what has ended makes room before more is claimed.
                biased;
                Some(command) = self.commands.recv() => return Event::Told(command),
                Some(end) = self.tasks.join_next_with_id() => {
                    self.landed.push(end);
                    self.settle_at.get_or_insert_with(|| Instant::now() + SETTLED_TOGETHER);
                }
                // What keeps the roots is a part of this: its panic isn't to pass in silence.
                Err(ended) = &mut self.keeping_roots => {
                    if let Ok(panic) = ended.try_into_panic() {
                        std::panic::resume_unwind(panic);
                    }
                }
                Some(Ok(opening)) = self.openings.join_next(), if self.drain_until.is_none() => {
                    return Event::Opened(opening);
                }
                () = self.bell.notified(), if self.drain_until.is_none() => return Event::Look,
                () = sleep_until(settle), if self.settle_at.is_some() => {}
                // Not at rest, when nothing is under way.
                () = sleep_until(self.next_steps), if !self.tasks.is_empty() => return Event::Moved,
                () = sleep_until(wake) => {
                    return if self.drain_until.is_some() { Event::DrainOver } else { Event::Look };
                }
            }
        }
    }

    /// Acts on an event.
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn apply(&mut self, event: Event) -> Result<(), QueueError> {
        if let Event::Moved = event {
            // There is nothing more to be claimed for that.
            self.note_steps().await;
            return Ok(());
        }
        self.looked = Instant::now();
        match event {
            Event::Look => self.look_after_the_queue().await?,
            Event::Opened(opening) => self.take_opened(opening).await?,
            Event::Landed(landed) => self.settle(landed).await?,
            Event::Told(Command::Serve(orders)) => self.serve(orders).await?,
            Event::Told(Command::Pause(pauses)) => self.pause(pauses).await?,
            Event::Told(Command::Hurry) => {
                self.queue.call(|queue| queue.hurry()).await?;
                self.caches.values_mut().for_each(State::hurry);
                self.caches.values().for_each(State::forget_line);
            }
            Event::Told(Command::Drain(deadline)) => {
                debug!(under_way = self.tasks.len(), "finishing what is under way");
                self.drain_until = Some(Instant::now() + deadline);
            }
            Event::DrainOver => {
                // Each ends at its next chunk and gives its job back; one that hangs is aborted by the next round.
                if std::mem::replace(&mut self.was_called_off, true) {
                    self.tasks.abort_all();
                }
                self.claimed.values().for_each(UnderWay::call_off);
                self.drain_until = Some(Instant::now() + Duration::from_secs(1));
            }
            Event::Moved | Event::Drained => {}
        }
        if self.drain_until.is_none() { self.claim().await } else { Ok(()) }
    }

    /// Does what is to be done from time to time.
    async fn look_after_the_queue(&mut self) -> Result<(), QueueError> {
        let before = std::mem::replace(&mut self.disks_before, self.disks.borrow().clone());
        // What is full need not be asked in vain before its pause is over.
        let has_more_room = |state: &&mut State| {
            let name = state.name().as_str();
            self.disks_before.cache(name) < before.cache(name)
        };
        self.caches.values_mut().filter(has_more_room).for_each(State::hurry);
        if self.next_release <= Instant::now() {
            self.next_release = Instant::now() + HELD_FOR;
            self.queue.call(|queue| queue.release_held(now())).await?;
        }
        if self.next_tidying <= Instant::now() {
            self.next_tidying = Instant::now() + TIDY_EVERY;
            tokio::spawn(tidy(self.queue.clone(), self.disks.clone()));
        }
        Ok(())
    }

    fn next_look(&self) -> Instant {
        let at = now();
        let due = self.next_due.map(|due| Duration::from_millis(u64::try_from(due - at).unwrap_or(0)));
        let (now, retry) = (Instant::now(), self.caches.values().filter_map(State::retry_at).min());
        let again = self.looked + LOOK_AGAIN;
        let look = due.map_or(again, |due| again.min(now + due));
        // One that can't be tried at this moment, though its time has come, is no reason to look without a pause.
        retry.map_or(look, |retry| retry.max(now + LOOK_IN_VAIN).min(look))
    }
}
