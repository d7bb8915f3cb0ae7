//! The uploader: claims jobs, brings each path into its cache, and tells the queue what became of it.
//!
//! Invariants kept here:
//!
//! - **Nothing broken.** A path is pushed only when each of its references is in the cache, at an upstream, or under way
//!   to it; in the last case the push publishes it only after they have arrived. Otherwise the job waits for theirs.
//! - **Nobody waits** for another's cache: each has its own jobs under way, and one that takes nothing is asked again
//!   later and later, with one job, while its queue waits.
//! - **Bounded memory.** At most `UNDER_WAY` jobs a cache are claimed; only as many as there are slots are being read.
//!
//! At a crash nothing is left but claimed jobs, which the next start takes back, and temporary files, which it sweeps.
//!
//! [`Uploader::next_event`] only chooses and may be dropped at any time; [`Uploader::apply`] only acts.

mod backoff;
mod deliver;
mod flight;
mod target;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{self, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use self::deliver::{Context, Landed, deliver};
use self::flight::Flights;
use self::target::State;
pub use self::target::{Open, Target};
use crate::cache::CallOff;
use crate::limit::{Lane, Slots};
use crate::nix::StoreFacts;
use crate::policy::Policy;
use crate::queue::{CacheId, Delivery, Job, Outcome, Queue, QueueError, QueueHandle, now};

/// Jobs of one cache that may be under way: enough for a group commit to pay, few enough to be given back quickly.
const UNDER_WAY: usize = 256;

/// So many places are never taken by backfill, which may have them for long.
const KEPT_FOR_FRESH: usize = 64;

/// Backfill claims at least so many jobs at once, so that a claim is worth its transaction.
const WORTH_A_CLAIM: usize = 64;

/// Without anything else to wait for, the queue is looked at after so long, should a wake-up have been lost.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// What the uploader is made of.
pub struct Parts {
    /// The queue.
    pub queue: QueueHandle,
    /// Asks Nix about paths.
    pub facts: StoreFacts,
    /// The directory in which the store's files are.
    pub real_store: PathBuf,
    /// How many paths are read and packed at once.
    pub slots: Slots,
    /// Rings when there may be new jobs.
    pub bell: Arc<Notify>,
    /// What it is told.
    pub commands: mpsc::Receiver<Command>,
}

/// What the uploader can be told.
pub enum Command {
    /// From now on work by this policy, with these caches.
    Serve(Arc<Policy>, Vec<Target>),
    /// Try at once what waits for its time.
    Hurry,
    /// Take nothing new; give back what is not through after so long; then end.
    Drain(Duration),
}

/// Claims jobs and sees them through.
pub struct Uploader {
    queue: QueueHandle,
    context: Context,
    bell: Arc<Notify>,
    commands: mpsc::Receiver<Command>,
    /// `None` before the first time it is told one.
    policy: watch::Sender<Option<Arc<Policy>>>,
    caches: BTreeMap<CacheId, State>,
    tasks: JoinSet<Landed>,
    /// Which job each task has, should it not end by itself.
    claimed: HashMap<task::Id, Job>,
    next_due: Option<i64>,
    drain_until: Option<Instant>,
}

/// How the task of a delivery ended.
type TaskEnd = Result<(task::Id, Landed), JoinError>;

/// What the uploader waits for.
pub enum Event {
    /// There may be something to claim.
    Look,
    /// Some deliveries have come to an end.
    Landed(Vec<TaskEnd>),
    /// It was told something.
    Told(Command),
    /// The time to finish what is under way is over.
    DrainOver,
    /// Nothing is left to be done.
    Drained,
}

impl Uploader {
    /// An uploader that does nothing before it is told to [serve](Command::Serve).
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts { queue, facts, real_store, slots, bell, commands } = parts;
        let call_off = CallOff::default();
        let (policy, policy_in_force) = watch::channel(None);
        let context =
            Context { facts, real_store, slots, call_off, flights: Flights::default(), policy: policy_in_force };
        Self {
            queue,
            context,
            bell,
            commands,
            policy,
            caches: BTreeMap::new(),
            tasks: JoinSet::new(),
            claimed: HashMap::new(),
            next_due: None,
            drain_until: None,
        }
    }

    /// Works until it has been drained.
    ///
    /// # Errors
    /// [`QueueError`]: without the queue there is nothing to go on with.
    pub async fn run(mut self) -> Result<(), QueueError> {
        self.queue.call(|queue| queue.recover()).await?;
        self.queue.call(|queue| queue.prune(now())).await?;
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
        if self.drain_until.is_some() && self.tasks.is_empty() {
            return Event::Drained;
        }
        let wake = self.drain_until.unwrap_or_else(|| self.next_look());
        tokio::select! {
            // Asked in this order, so that what has ended makes room before more is claimed.
            biased;
            Some(command) = self.commands.recv() => Event::Told(command),
            Some(first) = self.tasks.join_next_with_id() => {
                let mut landed = vec![first];
                while let Some(next) = self.tasks.try_join_next_with_id() {
                    landed.push(next);
                }
                Event::Landed(landed)
            }
            () = self.bell.notified(), if self.drain_until.is_none() => Event::Look,
            () = sleep_until(wake) => if self.drain_until.is_some() { Event::DrainOver } else { Event::Look },
        }
    }

    /// Acts on an event.
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn apply(&mut self, event: Event) -> Result<(), QueueError> {
        match event {
            Event::Look => {}
            Event::Landed(landed) => self.settle(landed).await?,
            Event::Told(Command::Serve(policy, targets)) => self.serve(policy, targets).await?,
            Event::Told(Command::Hurry) => {
                self.queue.call(|queue| queue.hurry()).await?;
                self.caches.values_mut().for_each(State::hurry);
            }
            Event::Told(Command::Drain(deadline)) => {
                debug!(under_way = self.tasks.len(), "finishing what is under way");
                self.drain_until = Some(Instant::now() + deadline);
            }
            Event::DrainOver => {
                // Each ends at its next chunk and gives its job back; one that hangs is aborted by the next round.
                if self.context.call_off.is_off() {
                    self.tasks.abort_all();
                }
                self.context.call_off.call_off();
                self.drain_until = Some(Instant::now() + Duration::from_secs(1));
            }
            Event::Drained => {}
        }
        if self.drain_until.is_none() { self.claim().await } else { Ok(()) }
    }

    fn next_look(&self) -> Instant {
        let now_ms = now();
        let due = self.next_due.map(|due| Duration::from_millis(u64::try_from(due - now_ms).unwrap_or(0)));
        let retry = self.caches.values().filter_map(State::retry_at).min();
        let look = Instant::now() + due.unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN);
        retry.map_or(look, |retry| retry.min(look))
    }

    async fn serve(&mut self, policy: Arc<Policy>, targets: Vec<Target>) -> Result<(), QueueError> {
        let mut before = std::mem::take(&mut self.caches);
        for target in targets {
            let (id, known) = (target.id, before.remove(&target.id));
            if known.is_none() {
                // What an earlier process noted may be mended; if not, it is noted again.
                self.queue.call(move |queue| queue.note_cache_waits(id, None, now())).await?;
            }
            self.caches.insert(id, State::serve(target, known));
        }
        // A cache may have been gone from the policy for a while and be back, with jobs still under way.
        for job in self.claimed.values() {
            if let Some(state) = self.caches.get_mut(&job.cache) {
                state.under_way += 1;
            }
        }
        self.policy.send_replace(Some(policy));
        // A rule that held something back may be another now, or was changed while nobody watched.
        self.queue.call(|queue| queue.release_held()).await?;
        Ok(())
    }

    /// Claims what there is room for.
    async fn claim(&mut self) -> Result<(), QueueError> {
        for (id, state) in &mut self.caches {
            let room = state.room(UNDER_WAY);
            if room == 0 {
                continue;
            }
            let id = *id;
            let cache = match state.open().await {
                Ok(cache) => cache,
                Err(why) => {
                    note_waiting(&self.queue, id, state, Some(why)).await?;
                    continue;
                }
            };
            let jobs = if state.is_waiting() {
                let probe = self.queue.call(move |queue| queue.claim_probe(id, now())).await?;
                if probe.is_empty() {
                    state.put_off();
                }
                probe
            } else {
                let idle = state.under_way == 0;
                self.queue.call(move |queue| claim_both(queue, id, room, idle)).await?
            };
            state.under_way += jobs.len();
            // All are announced before the first begins, so that each sees the others.
            let flights: Vec<_> = jobs.iter().map(|job| self.context.flights.announce(id, &job.path)).collect();
            for (job, flight) in jobs.into_iter().zip(flights) {
                let context = self.context.clone();
                let (name, cache) = (state.name().clone(), Arc::clone(&cache));
                let own = job.clone();
                let task = self.tasks.spawn(async move {
                    let landed = deliver(context, name, cache, &own).await;
                    if let Outcome::Delivered(_) = landed.outcome {
                        flight.land();
                    }
                    landed
                });
                self.claimed.insert(task.id(), job);
            }
        }
        self.next_due = self.queue.call(|queue| queue.next_due(now())).await?;
        Ok(())
    }

    /// Writes down what became of deliveries.
    async fn settle(&mut self, ended: Vec<TaskEnd>) -> Result<(), QueueError> {
        let mut outcomes = Vec::with_capacity(ended.len());
        for end in ended {
            let (task, landed) = match end {
                Ok(landed) => landed,
                Err(error) => (error.id(), Landed::from(outcome_of(&error))),
            };
            let Some(job) = self.claimed.remove(&task) else { continue };
            let Landed { outcome, cache_waits } = landed;
            if let Some(state) = self.caches.get_mut(&job.cache) {
                state.under_way -= 1;
                // That something is there already says nothing of whether more would be taken.
                let took = matches!(outcome, Outcome::Delivered(Delivery::Uploaded { .. }));
                let refused = cache_waits.is_some();
                if refused || took {
                    note_waiting(&self.queue, job.cache, state, cache_waits).await?;
                }
                // What is wrong with the cache is told once, not for each path.
                let outcome = if refused { &Outcome::Returned } else { &outcome };
                tell(&job, outcome, state.name().as_str());
            }
            outcomes.push((job, outcome));
        }
        let places: Vec<_> = outcomes.iter().map(|(job, _)| (job.cache, job.path.clone())).collect();
        self.queue.call(move |queue| queue.settle(&outcomes, now())).await?;
        for (cache, path) in places {
            self.context.flights.forget(cache, &path);
        }
        Ok(())
    }
}

/// What becomes of a job whose task did not end by itself.
fn outcome_of(error: &JoinError) -> Outcome {
    if error.is_cancelled() {
        return Outcome::Returned;
    }
    Outcome::Failed { reason: "its upload ended by a defect of storewatch; the log has more".to_owned() }
}

/// Claims fresh jobs as far as there is room, and backfill's as far as that leaves some for fresh ones that may come.
fn claim_both(queue: &mut Queue, cache: CacheId, room: usize, idle: bool) -> Result<Vec<Job>, QueueError> {
    let mut jobs = queue.claim(cache, Lane::Fresh, room, now())?;
    let left = (room - jobs.len()).saturating_sub(KEPT_FOR_FRESH);
    if left >= WORTH_A_CLAIM || (idle && left > 0) {
        jobs.extend(queue.claim(cache, Lane::Backfill, left, now())?);
    }
    Ok(jobs)
}

/// Notes that a cache takes nothing, or that it does again.
async fn note_waiting(
    queue: &QueueHandle,
    id: CacheId,
    state: &mut State,
    why: Option<String>,
) -> Result<(), QueueError> {
    let changed = match &why {
        Some(why) => state.wait(why),
        None => state.go_on(),
    };
    if !changed {
        return Ok(());
    }
    match &why {
        Some(why) => warn!(cache = %state.name(), "the cache takes nothing for now, its queue waits: {why}"),
        None => info!(cache = %state.name(), "the cache takes paths again"),
    }
    queue.call(move |queue| queue.note_cache_waits(id, why.as_deref(), now())).await
}

/// One line in the log for each path.
fn tell(job: &Job, outcome: &Outcome, cache: &str) {
    let path = &job.path;
    match outcome {
        Outcome::Delivered(Delivery::Uploaded { sent }) => info!(%path, cache, sent, "uploaded"),
        Outcome::Delivered(Delivery::AlreadyThere) => info!(%path, cache, "already there"),
        Outcome::Retry { reason, .. } => warn!(%path, cache, attempt = job.attempts + 1, "will try again: {reason}"),
        Outcome::Held { reason } => warn!(%path, cache, "held: {reason}"),
        Outcome::Failed { reason } => warn!(%path, cache, "failed: {reason}"),
        Outcome::Gone => info!(%path, cache, "garbage-collected before it was uploaded"),
        Outcome::Withdrawn { reason } => info!(%path, cache, "no longer wanted: {reason}"),
        Outcome::WaitsFor(references) => debug!(%path, cache, references = references.len(), "references come first"),
        Outcome::Returned => debug!(%path, cache, "given back"),
    }
}
