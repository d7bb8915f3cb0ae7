//! The uploader at work, with what it takes to tell it something: for the service, and for a backfill without one.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use tokio::sync::{Notify, mpsc, watch as watching};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::caches::{Allowances, CacheSurroundings, orders};
use super::conditions::Lookout;
use super::{ServiceError, caches, disk, evict};
use crate::cache::Tally;
use crate::config::{Config, NixStore};
use crate::limit::{InForce, Schedule, Shaper};
use crate::queue::{QueueError, QueueHandle, Routes};
use crate::upload::{self, Command, Uploader};

/// Beyond what it is given, so long is waited for uploads to notice that they are called off.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked what may be sent while what is under way is finished.
const SHAPED_EVERY: Duration = Duration::from_millis(500);

/// The uploader at work, with what it takes to tell it something.
pub(crate) struct Working {
    pub(crate) queue: QueueHandle,
    pub(crate) bell: Arc<Notify>,
    pub(crate) shaper: Shaper,
    pub(crate) tally: Tally,
    pub(super) in_force: Option<InForce>,
    /// By which windows open and close, as it was noted last.
    pub(super) zone: Option<TimeZone>,
    pub(super) lookout: Lookout,
    /// Rung when something may have been queued, claimed or done.
    pub(super) stirred: Arc<Notify>,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) uploader: JoinHandle<Result<(), QueueError>>,
    pub(super) disks: disk::Watching,
    /// The caches that may have no more than a size, and who keeps them so.
    pub(super) bounded: watching::Sender<Vec<evict::Bounded>>,
    pub(super) evictions: JoinHandle<()>,
    pub(super) surroundings: CacheSurroundings,
}

impl Working {
    /// Starts an uploader on an opened queue.
    pub(crate) async fn start(
        queue: QueueHandle,
        state_dir: &Path,
        nix: &NixStore,
        config: &Config,
    ) -> Result<(Self, Routes), QueueError> {
        let instance = queue.call(|queue| queue.instance()).await?;
        let facts = nix.facts().patient();
        let (bell, stirred, tally) = (Arc::new(Notify::new()), Arc::new(Notify::new()), Tally::default());
        // Before anything is claimed: what may be depends on it.
        let disks = disk::Watching::start(queue.clone(), config, state_dir, nix, Arc::clone(&bell)).await;
        let (commands, inbox) = mpsc::channel(8);
        let shaper = Shaper::default();
        let uploader = Uploader::new(upload::Parts {
            queue: queue.clone(),
            facts: facts.clone(),
            real_store: nix.real.clone(),
            socket: nix.socket.clone(),
            bell: Arc::clone(&bell),
            shaper: shaper.clone(),
            stirred: Arc::clone(&stirred),
            commands: inbox,
            tally: tally.clone(),
            disks: disks.levels.clone(),
            nix_state: nix.state.clone(),
        });
        let uploader = tokio::spawn(uploader.run());
        let (bounded, to_bound) = watching::channel(Vec::new());
        let around = evict::Surroundings { queue: queue.clone(), facts, nix: nix.clone(), bell: Arc::clone(&bell) };
        let evictions = tokio::spawn(evict::keep_all(to_bound, around));
        let places = disks.places.clone();
        let (state_dir, nix, allowances) = (state_dir.to_owned(), nix.clone(), Allowances::new());
        let surroundings = CacheSurroundings { state_dir, nix, instance, places, allowances };
        let (in_force, lookout) = (None, Lookout::default());
        let mut working = Self {
            queue,
            bell,
            shaper,
            tally,
            in_force,
            zone: None,
            lookout,
            stirred,
            commands,
            uploader,
            disks,
            bounded,
            evictions,
            surroundings,
        };
        match working.serve(config).await {
            Ok(routes) => Ok((working, routes)),
            Err(error) => {
                // Whoever goes on after that has another.
                working.uploader.abort();
                Err(error)
            }
        }
    }

    /// Works by this configuration from now on.
    pub(super) async fn serve(&mut self, config: &Config) -> Result<Routes, QueueError> {
        caches::tell_what_is_off(config);
        caches::tell_what_is_left(config, &self.surroundings.state_dir).await;
        Self::tell_of_zone(&config.schedule);
        // First, so that nothing is begun that is paused.
        self.lookout.look_now(&config.schedule).await;
        self.shape(&config.schedule).await?;
        self.disks.serve(config, &self.surroundings.state_dir, &self.surroundings.nix);
        // Of one with another size nothing may be left before it has been looked at.
        self.surroundings.allowances = evict::allowances(&config.caches, &self.bounded.borrow());
        let (own, surroundings) = (config.clone(), self.surroundings.clone());
        let (orders, routes) = self.queue.call(move |queue| orders(queue, &own, &surroundings)).await?;
        let bounded = evict::bounded(&config.caches, &routes, &self.surroundings.allowances);
        let unbounded = evict::no_longer_bounded(&self.bounded.borrow(), &bounded);
        self.bounded.send_if_modified(|before| std::mem::replace(before, bounded.clone()) != bounded);
        if !unbounded.is_empty() {
            self.queue.call(move |queue| queue.forget_too_large(&unbounded)).await?;
        }
        self.tell(Command::Serve(orders)).await;
        Ok(routes)
    }

    /// Goes on after the host has slept. It may be in another network by now, so that is asked before anything is tried.
    pub(super) async fn wake_up(&mut self, schedule: &Schedule) -> Result<(), QueueError> {
        info!("the clock has jumped, by a pause or by hand: what waits for its time is tried at once");
        self.lookout.look_now(schedule).await;
        self.shape(schedule).await?;
        self.tell(Command::Hurry).await;
        Ok(())
    }

    pub(super) async fn tell(&self, command: Command) {
        // An uploader that has ended is noticed by who waits for it.
        let _ = self.commands.send(command).await;
    }

    /// Hands back what is not through within this time, and ends the uploader. What may be sent is still looked at by this
    /// schedule, if there is one: who says `pause` means what is under way, too.
    pub(crate) async fn drain(mut self, within: Duration, schedule: Option<&Schedule>) -> Result<(), ServiceError> {
        let (queue, given_up) = (self.queue.clone(), self.uploader.abort_handle());
        let drained = async move {
            // An uploader that has ended is noticed at once.
            self.tell(Command::Drain(within)).await;
            loop {
                if let Some(schedule) = schedule {
                    // Where the queue gives no answer, what was in force stays so.
                    let _ = tokio::time::timeout(SHAPED_EVERY, self.shape(schedule)).await;
                }
                tokio::select! {
                    ended = &mut self.uploader => return ended,
                    () = tokio::time::sleep(SHAPED_EVERY) => {}
                }
            }
        };
        match tokio::time::timeout(within + PATIENCE, drained).await {
            Ok(Ok(ended)) => Ok(ended?),
            Ok(Err(_)) => Err(ServiceError::Panicked { part: "the uploader" }),
            Err(_) => {
                let why = if queue.is_short_of_room() { "the queue's disk is full" } else { "a cache doesn't answer" };
                warn!("{why}; what was under way is taken up again at the next start");
                given_up.abort();
                Ok(())
            }
        }
    }
}
