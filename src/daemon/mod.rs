//! The service: wires the actors together, feeds them the policy, and ends them in order.
//!
//! ```text
//! policy file ──► Settings ──► Watcher ──admits──► queue ──claims──► Uploader ──► caches
//!    signals ───► Service ── serve · pause · hurry · drain ─────────────▲
//! ```
//!
//! An actor that ends before it is told to is an event like any other: the service says why, lets the uploader hand back
//! what it holds, and ends with an error, so that whoever supervises it starts it anew. Nothing is lost by that.

pub mod backfill;
pub mod bandwidth;
pub mod caches;
mod clocks;
pub mod conditions;
mod disk;
mod error;
mod evict;
pub mod health;
mod opening;
mod priority;
mod settings;
pub mod signals;
mod working;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch as watching};
use tokio::time::{MissedTickBehavior, interval_at};
use tracing::{debug, error, info, warn};

use self::clocks::Clocks;
pub use self::error::ServiceError;
use self::opening::{Missing, open_queue};
pub use self::priority::{leave_a_processor, set_priority};
use self::settings::Reload;
pub use self::settings::{Settings, fingerprint};
use self::signals::{Signal, Signals};
pub(crate) use self::working::Working;
use crate::cache::CacheUrl;
use crate::config::{Config, NixStore};
use crate::pins::{self, Pins};
use crate::queue::{AtWork, Queue, QueueError, QueueHandle, Routes, StateLock};
use crate::report::one_line;
use crate::watch::wake::{Folder, Wake};
use crate::watch::{self, WatchError, Watcher};

/// Who holds the lock as a service; who reads this refuses to be a second one.
pub const SERVICE_ROLE: &str = "storewatch run";

/// What is under way when the service is told to end may take so long; then it is handed back.
const DRAIN: Duration = Duration::from_secs(20);

/// The database, the policy file and the queue are looked at this often where there are no events. A look costs some
/// microseconds; without a database, a question to the file system on a thread that may wait.
const INTERVAL: Duration = Duration::from_secs(5);

/// Where events are listened to, they are looked at this often, should one have been lost. A look wakes several threads, the
/// runtime's timer some times before it is due, and at rest the whole process is to wake no more than once a second.
const INTERVAL_BESIDE_EVENTS: Duration = Duration::from_secs(15);

/// A queue that is damaged so soon after it was opened is so by something that won't end by itself.
const CORRUPT_AGAIN: Duration = Duration::from_secs(2);

/// What the service is made of.
pub struct Parts {
    /// The state directory.
    pub state_dir: PathBuf,
    /// Where things lie that are gone with a reboot, if there is such a place.
    pub runtime_dir: Option<PathBuf>,
    /// The policy file and what it said.
    pub settings: Settings,
    /// The Nix store.
    pub nix: NixStore,
    /// Whether file system events are listened to; without them the timer finds everything.
    pub events: bool,
}

/// How a service came to its end without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// A signal said so.
    Told,
    /// The state directory isn't there any more: it was unmounted, or removed, or another is in its place.
    StateAway,
    /// The state directory is there, but its queue was removed or replaced; what was removed has been put back.
    QueueAway,
    /// The queue was damaged.
    QueueCorrupt,
}

/// Runs the service until a signal ends it.
///
/// Where the state directory goes away, everything ends, and begins anew when it is back: what was committed meanwhile
/// would be out of everybody's sight, and what is written by name would lie in the folder that it was mounted on.
///
/// # Errors
/// [`ServiceError`].
pub async fn run(mut parts: Parts) -> Result<(), ServiceError> {
    let mut signals = signals::listen().map_err(|source| ServiceError::System { action: "handle signals", source })?;
    let (mut at_work, mut missing) = (None, Missing::IsMade);
    loop {
        let began = std::time::Instant::now();
        let served = serve(&mut parts, missing, &mut signals, &mut at_work).await;
        missing = Missing::IsAway;
        match served {
            Ok(Ended::Told) => return Ok(()),
            Ok(Ended::StateAway) => {}
            // What opens it now moves it aside.
            Ok(Ended::QueueCorrupt) if began.elapsed() < CORRUPT_AGAIN => {
                return Err(QueueError::Corrupt { path: parts.state_dir.join(Queue::FILE_NAME) }.into());
            }
            Ok(Ended::QueueAway | Ended::QueueCorrupt) => continue,
            Err(error) => return Err(error),
        }
        let dir = parts.state_dir.display();
        warn!(
            "the state directory {dir} is gone: it was unmounted or removed; nothing is watched or uploaded until its queue \
             is there again: mount it, or start storewatch anew to begin with an empty one"
        );
        tokio::select! {
            () = opening::back(&parts.state_dir) => info!("the state directory {dir} is back"),
            () = signals.end() => return Ok(()),
        }
    }
}

/// Serves until a signal ends it or the state directory has gone.
async fn serve(
    parts: &mut Parts,
    missing: Missing,
    signals: &mut Signals,
    at_work: &mut Option<AtWork>,
) -> Result<Ended, ServiceError> {
    let Parts { state_dir, runtime_dir, settings, nix, events } = parts;
    let (state_dir, events) = (state_dir.as_path(), *events);
    let (lock, queue) = match opening::take(state_dir, missing, signals).await? {
        ControlFlow::Continue(taken) => taken,
        ControlFlow::Break(ended) => return Ok(ended),
    };
    if let (Some(dir), None) = (&runtime_dir, &at_work) {
        let said = AtWork::say(dir, state_dir, SERVICE_ROLE);
        // Then who looks at a state directory that is gone can't know that it is somebody's.
        *at_work = said.inspect_err(|error| debug!("say in {} that this is at work: {error}", dir.display())).ok();
    }
    let starting = async {
        note_policy(&queue, settings).await?;
        Working::start(queue, state_dir, nix, settings.config()).await
    };
    let started = tokio::select! {
        started = starting => started,
        () = signals.end() => return Ok(Ended::Told),
    };
    let (mut working, routes) = match started {
        Ok(started) => started,
        Err(error) => return unless_away(state_dir, &lock, error.into()),
    };
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
    let mut pins = tokio::spawn(pins.run());
    let (routes_in_force, routes) = watching::channel(routes);
    let (began, begun) = (tokio::time::Instant::now(), Arc::new(Notify::new()));
    let mut has_told = false;
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
    let mut watcher = tokio::spawn(watcher.run());
    let queue_file = state_dir.join(Queue::FILE_NAME);
    // The policy's folder is one of these too, since it may be made later, with a file in it that denies something.
    let policy = settings.file().into_iter().flat_map(|file| file.ancestors().take(2)).map(Path::to_owned);
    let mut wake = wake_for(events, std::iter::once(queue_file).chain(policy));
    // In step with the watcher's, so that one wake-up serves both.
    let mut timer = interval_at(began, if events { INTERVAL_BESIDE_EVENTS } else { INTERVAL });
    timer.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut clocks = Clocks::now();
    for warning in &settings.config().warnings {
        warn!("{warning}");
    }
    // When the policy file is to be looked at again, since it was just being written.
    let mut look_again = None;
    let ended = loop {
        let next_shape = working.next_shape();
        // The queue is written many times a second, which says nothing of what is in force.
        let mut may_be_others = false;
        let mut is_due = false;
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Reload => {
                    info!("told to read the policy again");
                    settings.forget();
                }
                Signal::End => break Ok(Ended::Told),
            },
            // One folder or the other: both are looked at, which costs nothing.
            _ = wake.changed() => watch_what_is_there(&mut wake),
            // Not before: a database that isn't Nix's ends the service.
            () = begun.notified(), if !has_told => {
                has_told = true;
                tell_that_it_has_started(nix, state_dir, settings.config());
            }
            () = look_at(look_again), if look_again.is_some() => {}
            () = look_at(next_shape), if next_shape.is_some() => may_be_others = true,
            () = working.lookout.changed() => may_be_others = true,
            _ = timer.tick() => {
                watch_what_is_there(&mut wake);
                working.lookout.look(&settings.config().schedule);
                // A clock may have been put right by less than what counts as a jump.
                may_be_others = next_shape.is_some();
                is_due = true;
            }
            watched = &mut watcher => break match watched {
                Ok(Ok(())) => Ok(Ended::Told),
                Ok(Err(error)) => Err(error.into()),
                Err(_) => Err(ServiceError::Panicked { part: "the watcher" }),
            },
            _ = &mut pins => break Err(ServiceError::Panicked { part: "what pins queued paths" }),
            _ = &mut working.disks.monitor => break Err(ServiceError::Panicked { part: "the disks' monitor" }),
            _ = &mut working.evictions => break Err(ServiceError::Panicked { part: "what keeps caches within their sizes" }),
            worked = &mut working.uploader => {
                watcher.abort();
                pins.abort();
                return match worked {
                    Ok(Ok(())) => Ok(Ended::Told),
                    Ok(Err(error)) => unless_away(state_dir, &lock, error.into()),
                    Err(_) => Err(ServiceError::Panicked { part: "the uploader" }),
                };
            }
        }
        let looking = async {
            // Whatever it was that woke this up: it may be an upload that goes on.
            if clocks.have_parted() {
                working.wake_up(&settings.config().schedule).await?;
            }
            let look = move |queue: &mut Queue| {
                if is_due {
                    queue.look_for_damage()?;
                }
                Ok((queue.is_in_its_place(), queue.changed_by_others()?))
            };
            let (is_in_its_place, has_changed) = working.queue.call(look).await?;
            if has_changed {
                working.bell.notify_one();
            }
            let reloaded = settings.reload();
            look_again = match reloaded {
                Reload::Later(left) => Some(tokio::time::Instant::now() + left),
                Reload::InForce | Reload::Again | Reload::Nothing => None,
            };
            if let Reload::InForce | Reload::Again = reloaded {
                let routes = working.serve(settings.config()).await?;
                pins_in_force.send_replace(pinning(settings.config(), &routes));
                routes_in_force.send_replace(routes);
                note_policy(&working.queue, settings).await?;
                if let Some(file) = settings.file() {
                    let changed = if reloaded == Reload::Again { "is as it was" } else { "has changed" };
                    info!(file = %file.display(), "the policy {changed} and is in force");
                }
            } else if may_be_others || has_changed {
                working.shape(&settings.config().schedule).await?;
            }
            Ok::<_, ServiceError>(is_in_its_place)
        };
        tokio::select! {
            biased;
            looked = looking => match looked {
                Ok(true) => {}
                Ok(false) => break opening::put_back(&lock, &working.queue, state_dir).await,
                Err(error) => break Err(error),
            },
            // Where the disk is full, who writes into the queue waits for room.
            () = signals.end() => break Ok(Ended::Told),
        }
    };
    watcher.abort();
    pins.abort();
    let ended = ended.or_else(|error| unless_away(state_dir, &lock, error));
    if let Ok(Ended::StateAway | Ended::QueueAway | Ended::QueueCorrupt) = ended {
        // Before the next one may begin. What it says of the queue concerns one that nobody sees.
        let _ = working.drain(Duration::ZERO, None).await;
        drop(lock);
        return ended;
    }
    lock.keep_until_exit();
    info!("ending: what is under way is finished or handed back");
    let drained = working.drain(DRAIN, Some(&settings.config().schedule)).await;
    ended.and_then(|ended| drained.map(|()| ended))
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

/// What it means that the queue can't be used: where its file is gone, or damaged, that is why.
fn unless_away(state_dir: &Path, lock: &StateLock, error: ServiceError) -> Result<Ended, ServiceError> {
    let (ServiceError::Queue(about_queue) | ServiceError::Watch(WatchError::Queue(about_queue))) = &error else {
        return Err(error);
    };
    if !state_dir.join(Queue::FILE_NAME).exists() && !lock.is_in_its_place(state_dir) {
        return Ok(Ended::StateAway);
    }
    if about_queue.is_corruption() {
        error!("the queue was damaged while it was open: {}; it is closed, and opened anew", one_line(about_queue));
        return Ok(Ended::QueueCorrupt);
    }
    Err(error)
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
async fn look_at(time: Option<tokio::time::Instant>) {
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

/// Listens to what has come to be there meanwhile, too.
fn watch_what_is_there(wake: &mut Wake) {
    for unwatched in wake.rearm() {
        debug!("{}", one_line(&unwatched.why));
    }
}
