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
mod serving;
mod settings;
pub mod signals;
mod working;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::{debug, error, info, warn};

pub use self::error::ServiceError;
use self::opening::{Missing, open_queue};
pub use self::priority::{leave_a_processor, set_priority};
use self::serving::{Event, Serving};
pub use self::settings::{Settings, fingerprint};
use self::signals::Signals;
pub(crate) use self::working::Working;
use crate::config::NixStore;
use crate::queue::{AtWork, Queue, QueueError, StateLock};
use crate::report::one_line;
use crate::watch::WatchError;

/// Who holds the lock as a service; who reads this refuses to be a second one.
pub const SERVICE_ROLE: &str = "storewatch run";

/// What is under way when the service is told to end may take so long; then it is handed back.
const DRAIN: Duration = Duration::from_secs(20);

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
    let state_dir = parts.state_dir.clone();
    let (lock, queue) = match opening::take(&state_dir, missing, signals).await? {
        ControlFlow::Continue(taken) => taken,
        ControlFlow::Break(ended) => return Ok(ended),
    };
    if let (Some(dir), None) = (&parts.runtime_dir, &at_work) {
        let said = AtWork::say(dir, &state_dir, SERVICE_ROLE);
        // Then who looks at a state directory that is gone can't know that it is somebody's.
        *at_work = said.inspect_err(|error| debug!("say in {} that this is at work: {error}", dir.display())).ok();
    }
    let started = tokio::select! {
        started = Serving::start(parts, queue) => started,
        () = signals.end() => return Ok(Ended::Told),
    };
    let mut serving = match started {
        Ok(serving) => serving,
        Err(error) => return unless_away(&state_dir, &lock, error.into()),
    };
    let ended = loop {
        let event = match serving.next_event(signals).await {
            Event::End(ended) => break ended,
            Event::UploaderEnded(ended) => {
                serving.end_watching();
                return ended.or_else(|error| unless_away(&state_dir, &lock, error));
            }
            event => event,
        };
        tokio::select! {
            biased;
            applied = serving.apply(event) => match applied {
                Ok(true) => {}
                Ok(false) => break opening::put_back(&lock, &serving.working.queue, &state_dir).await,
                Err(error) => break Err(error),
            },
            // Where the disk is full, who writes into the queue waits for room.
            () = signals.end() => break Ok(Ended::Told),
        }
    };
    serving.end_watching();
    let ended = ended.or_else(|error| unless_away(&state_dir, &lock, error));
    if let Ok(Ended::StateAway | Ended::QueueAway | Ended::QueueCorrupt) = ended {
        // Before the next one may begin. What it says of the queue concerns one that nobody sees.
        let _ = serving.drain(Duration::ZERO).await;
        drop(lock);
        return ended;
    }
    lock.keep_until_exit();
    info!("ending: what is under way is finished or handed back");
    let drained = serving.drain(DRAIN).await;
    ended.and_then(|ended| drained.map(|()| ended))
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
