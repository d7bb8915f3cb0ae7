//! The service at work: what wakes it, and what it does then.
//!
//! Whatever it was that woke it, it looks at the clocks, the queue and the policy file, which costs some microseconds: nothing
//! hangs on an event's being the right one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch as watching};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tracing::{debug, info, warn};

use super::clocks::Clocks;
use super::settings::Reload;
use super::signals::{Signal, Signals};
use super::{Ended, Parts, ServiceError, Settings, Working, caches};
use crate::cache::CacheUrl;
use crate::config::{Config, NixStore};
use crate::pins::{self, Pins};
use crate::queue::{Queue, QueueError, QueueHandle, Routes};
use crate::report::one_line;
use crate::watch::wake::{Folder, Wake};
use crate::watch::{self, WatchError, Watcher};

/// The database, the policy file and the queue are looked at this often where there are no events. A look costs some
/// microseconds; without a database, a question to the file system on a thread that may wait.
pub(super) const INTERVAL: Duration = Duration::from_secs(5);

/// Where events are listened to, they are looked at this often, should one have been lost. A look wakes several threads, the
/// runtime's timer some times before it is due, and at rest the whole process is to wake no more than once a second.
const INTERVAL_BESIDE_EVENTS: Duration = Duration::from_secs(15);

/// The actors at work, and what tells them something.
pub(super) struct Serving<'p> {
    settings: &'p mut Settings,
    nix: &'p NixStore,
    state_dir: &'p Path,
    pub(super) working: Working,
    watcher: JoinHandle<Result<(), WatchError>>,
    pins: JoinHandle<()>,
    routes_in_force: watching::Sender<Routes>,
    pins_in_force: watching::Sender<pins::Orders>,
    /// Rung once the watcher has found out what it watches.
    begun: Arc<Notify>,
    has_told: bool,
    wake: Wake,
    timer: Interval,
    clocks: Clocks,
    /// When the policy file is to be looked at again, since it was just being written.
    look_again: Option<Instant>,
}

/// What has woken it.
pub(super) enum Event {
    /// The policy is to be read again, whatever it says.
    Reload,
    /// One of the folders has changed, of the queue or of the policy, or a file there that was just being written is due.
    Changed,
    /// The watcher has begun.
    Begun,
    /// Others may be in force: a window opens or closes, or this host is on another line.
    Shape,
    /// It is time to look at all of it.
    Due,
    /// It is to end, or a part of it has ended.
    End(Result<Ended, ServiceError>),
    /// The uploader has ended, and has handed back what it held.
    UploaderEnded(Result<Ended, ServiceError>),
}

impl<'p> Serving<'p> {
    /// Starts everything on an opened queue.
    pub(super) async fn start(parts: &'p mut Parts, queue: QueueHandle) -> Result<Self, QueueError> {
        let Parts { state_dir, runtime_dir, settings, nix, events } = parts;
        let (state_dir, events) = (state_dir.as_path(), *events);
        note_policy(&queue, settings).await?;
        let (working, routes) = Working::start(queue, state_dir, nix, settings.config()).await?;
        let (pins_in_force, pins) = watching::channel(pinning(settings.config(), &routes));
        let pins = Pins::new(pins::Parts {
            state_dir: state_dir.to_owned(),
            queue: working.queue.clone(),
            facts: nix.facts(),
            nix_state: nix.state.clone(),
            socket: nix.socket.clone(),
            runtime_dir: runtime_dir.clone(),
            orders: pins,
            disks: working.disks.levels.clone(),
            stirred: Arc::clone(&working.stirred),
        });
        let (routes_in_force, routes) = watching::channel(routes);
        let (began, begun) = (Instant::now(), Arc::new(Notify::new()));
        let watcher = Watcher::new(watch::Parts {
            queue: working.queue.clone(),
            routes,
            db_path: nix.db_path(),
            real_store: nix.real.clone(),
            socket: nix.socket.clone(),
            store_dir: nix.logical.clone(),
            wake: wake_for(events, [nix.db_path()]),
            began,
            interval: INTERVAL,
            interval_beside_events: INTERVAL_BESIDE_EVENTS,
            bell: Arc::clone(&working.bell),
            begun: Arc::clone(&begun),
        });
        let queue_file = state_dir.join(Queue::FILE_NAME);
        // The policy's folder is one of these too, since it may be made later, with a file in it that denies something.
        let policy = settings.file().into_iter().flat_map(|file| file.ancestors().take(2)).map(Path::to_owned);
        let wake = wake_for(events, std::iter::once(queue_file).chain(policy));
        // In step with the watcher's, so that one wake-up serves both.
        let mut timer = interval_at(began, if events { INTERVAL_BESIDE_EVENTS } else { INTERVAL });
        timer.set_missed_tick_behavior(MissedTickBehavior::Skip);
        for warning in &settings.config().warnings {
            warn!("{warning}");
        }
        Ok(Self {
            settings,
            nix,
            state_dir,
            working,
            watcher: tokio::spawn(watcher.run()),
            pins: tokio::spawn(pins.run()),
            routes_in_force,
            pins_in_force,
            begun,
            has_told: false,
            wake,
            timer,
            clocks: Clocks::now(),
            look_again: None,
        })
    }

    /// Waits for something to do. Cancel-safe, but for a part's end, which is said once.
    pub(super) async fn next_event(&mut self, signals: &mut Signals) -> Event {
        let (look_again, next_shape) = (self.look_again, self.working.next_shape());
        let panicked = |part| Event::End(Err(ServiceError::Panicked { part }));
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Reload => Event::Reload,
                Signal::End => Event::End(Ok(Ended::Told)),
            },
            _ = self.wake.changed() => Event::Changed,
            () = at(look_again), if look_again.is_some() => Event::Changed,
            // Not before: a database that isn't Nix's ends the service.
            () = self.begun.notified(), if !self.has_told => Event::Begun,
            () = at(next_shape), if next_shape.is_some() => Event::Shape,
            () = self.working.lookout.changed() => Event::Shape,
            _ = self.timer.tick() => Event::Due,
            watched = &mut self.watcher => match watched {
                Ok(Ok(())) => Event::End(Ok(Ended::Told)),
                Ok(Err(error)) => Event::End(Err(error.into())),
                Err(_) => panicked("the watcher"),
            },
            _ = &mut self.pins => panicked("what pins queued paths"),
            _ = &mut self.working.disks.monitor => panicked("the disks' monitor"),
            _ = &mut self.working.evictions => panicked("what keeps caches within their sizes"),
            worked = &mut self.working.uploader => Event::UploaderEnded(match worked {
                Ok(Ok(())) => Ok(Ended::Told),
                Ok(Err(error)) => Err(error.into()),
                Err(_) => Err(ServiceError::Panicked { part: "the uploader" }),
            }),
        }
    }

    /// Acts on an event; says whether the queue is still in its place.
    ///
    /// # Errors
    /// [`ServiceError`].
    pub(super) async fn apply(&mut self, event: Event) -> Result<bool, ServiceError> {
        let is_due = matches!(event, Event::Due);
        // The queue is written many times a second, which says nothing of what is in force.
        let mut may_be_others = false;
        match event {
            Event::Reload => {
                info!("told to read the policy again");
                self.settings.forget();
            }
            Event::Changed => watch_what_is_there(&mut self.wake),
            Event::Begun => {
                self.has_told = true;
                tell_that_it_has_started(self.nix, self.state_dir, self.settings.config());
            }
            Event::Shape => may_be_others = true,
            Event::Due => {
                watch_what_is_there(&mut self.wake);
                self.working.lookout.look(&self.settings.config().schedule);
                // A clock may have been put right by less than what counts as a jump.
                may_be_others = self.working.next_shape().is_some();
            }
            Event::End(_) | Event::UploaderEnded(_) => {}
        }
        if self.clocks.have_parted() {
            self.working.wake_up(&self.settings.config().schedule).await?;
        }
        let look = move |queue: &mut Queue| {
            if is_due {
                queue.look_for_damage()?;
            }
            Ok((queue.is_in_its_place(), queue.changed_by_others()?))
        };
        let (is_in_its_place, has_changed) = self.working.queue.call(look).await?;
        if has_changed {
            // It may be an upload that goes on.
            self.working.bell.notify_one();
        }
        if !self.reload().await? && (may_be_others || has_changed) {
            self.working.shape(&self.settings.config().schedule).await?;
        }
        Ok(is_in_its_place)
    }

    /// Reads the policy, if its file says that it may be another; whether it is in force now.
    async fn reload(&mut self) -> Result<bool, ServiceError> {
        let reloaded = self.settings.reload();
        self.look_again = None;
        let changed = match reloaded {
            Reload::InForce => "has changed",
            Reload::Again => "is as it was",
            Reload::Later(left) => {
                self.look_again = Some(Instant::now() + left);
                return Ok(false);
            }
            Reload::Nothing => return Ok(false),
        };
        let routes = self.working.serve(self.settings.config()).await?;
        self.pins_in_force.send_replace(pinning(self.settings.config(), &routes));
        self.routes_in_force.send_replace(routes);
        note_policy(&self.working.queue, self.settings).await?;
        if let Some(file) = self.settings.file() {
            info!(file = %file.display(), "the policy {changed} and is in force");
        }
        Ok(true)
    }

    /// Nothing new is admitted or pinned from now on.
    pub(super) fn end_watching(&self) {
        self.watcher.abort();
        self.pins.abort();
    }

    /// Ends what is under way, within that time.
    pub(super) async fn drain(self, within: Duration) -> Result<(), ServiceError> {
        // With no time at all, nothing is sent any more that could be shaped.
        let schedule = (!within.is_zero()).then(|| &self.settings.config().schedule);
        self.working.drain(within, schedule).await
    }
}

/// Says what is watched, and how the caches are read.
fn tell_that_it_has_started(nix: &NixStore, state_dir: &Path, config: &Config) {
    info!(store = %nix.logical.as_str(), state = %state_dir.display(), "started");
    // What is off here has been told as that.
    for cache in config.caches.iter().filter(|cache| caches::why_off(cache, None).is_none()) {
        let Some(substituter) = cache.place.substituter() else { continue };
        let once = if let CacheUrl::Attic { .. } = cache.place { " once its server has told it" } else { "" };
        info!(
            cache = %cache.name,
            "can be read with `extra-substituters = {substituter}`; `storewatch status` shows its key{once}"
        );
    }
}

/// Lets those who look know which policy is in force.
async fn note_policy(queue: &QueueHandle, settings: &Settings) -> Result<(), QueueError> {
    let fingerprint = settings.fingerprint();
    queue.call(move |queue| queue.note_policy(fingerprint.as_deref())).await
}

/// What is pinned by this configuration.
fn pinning(config: &Config, routes: &Routes) -> pins::Orders {
    pins::Orders { budget: config.pin.map(|pin| pin.0), caches: routes.caches.values().copied().collect() }
}

/// Waits until then; for ever where there is no such time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Wakes when one of these files changes, or when what belongs to it does.
fn wake_for(events: bool, files: impl IntoIterator<Item = PathBuf>) -> Wake {
    if !events {
        return Wake::silent();
    }
    let folders = files.into_iter().filter_map(|file| {
        let name = file.file_name()?.to_owned();
        let mut log = name.clone();
        log.push("-wal");
        Some(Folder { path: file.parent()?.to_owned(), names: vec![name, log] })
    });
    Wake::start(folders.collect())
}

/// Listens to what has come to be there meanwhile, too. Both folders are looked at, which costs nothing.
fn watch_what_is_there(wake: &mut Wake) {
    for unwatched in wake.rearm() {
        debug!("{}", one_line(&unwatched.why));
    }
}
