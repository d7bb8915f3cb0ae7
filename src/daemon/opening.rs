//! Taking the state directory: its lock, and the queue in it.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{error, info, warn};

use super::serving::INTERVAL;
use super::signals::Signals;
use super::{Ended, SERVICE_ROLE, ServiceError};
use crate::queue::{LockError, Opened, PutBack, Queue, QueueError, QueueHandle, StateLock};
use crate::report::one_line;

/// How often the lock is asked for while another holds it for a while.
const LOCK_INTERVAL: Duration = Duration::from_millis(500);

/// How often it is tried again to make the queue where the disk is full.
const ROOM_INTERVAL: Duration = Duration::from_secs(5);

/// What of a state directory is made that isn't there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// All of it: it is served for the first time.
    IsMade,
    /// Nothing: it was there, so that it is away, and what would be made would lie in the folder that it was mounted on.
    IsAway,
}

/// Takes the lock and opens the queue. Waits while a backfill holds the lock, and where the disk is full; breaks with how that
/// ended where a signal ended the wait, or where the state directory is away.
///
/// # Errors
/// [`ServiceError::Lock`], [`ServiceError::Queue`].
pub(super) async fn take(
    state_dir: &Path,
    missing: Missing,
    signals: &mut Signals,
) -> Result<ControlFlow<Ended, (StateLock, QueueHandle)>, ServiceError> {
    let (mut lock, mut told) = (None, None);
    loop {
        let (dir, had) = (state_dir.to_owned(), lock.take());
        // To read a large queue may take seconds, in which a signal is to be heard. What comes of it then goes with the process.
        let trying = spawn_blocking(move || try_to_take(&dir, missing, had));
        let (held, tried) = tokio::select! {
            tried = trying => tried.map_err(|_| ServiceError::Panicked { part: "what opens the queue" })?,
            () = signals.end() => return Ok(ControlFlow::Break(Ended::Told)),
        };
        lock = held;
        let (why, pause) = match tried {
            Ok(queue) => {
                let Some(lock) = lock else { return Err(QueueError::Closed.into()) };
                return Ok(ControlFlow::Continue((lock, queue)));
            }
            Err(ServiceError::Lock(LockError::Held { holder, dir })) if !holder.starts_with(SERVICE_ROLE) => {
                (format!("{holder} is working with the state directory {}", dir.display()), LOCK_INTERVAL)
            }
            Err(ServiceError::Lock(error)) if error.is_about_room() => {
                (format!("{}; make room there", one_line(&error)), ROOM_INTERVAL)
            }
            Err(ServiceError::Queue(error)) if error.is_about_room() => {
                (format!("{}; {}", one_line(&error), error.hint().unwrap_or_default()), ROOM_INTERVAL)
            }
            Err(_) if missing == Missing::IsAway && !Queue::is_at(state_dir) => {
                return Ok(ControlFlow::Break(Ended::StateAway));
            }
            Err(error) => return Err(error),
        };
        if told.as_ref() != Some(&why) {
            // Who works with it comes to an end by itself; a full disk is somebody's to clear.
            if pause == LOCK_INTERVAL {
                info!("waiting: {why}")
            } else {
                warn!("waiting: {why}")
            }
            told = Some(why);
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = signals.end() => return Ok(ControlFlow::Break(Ended::Told)),
        }
    }
}

/// What was had before need not be had again: returns what there is of the lock in any case. Blocks.
fn try_to_take(
    state_dir: &Path,
    missing: Missing,
    had: Option<StateLock>,
) -> (Option<StateLock>, Result<QueueHandle, ServiceError>) {
    let acquire = match missing {
        Missing::IsMade => StateLock::acquire,
        Missing::IsAway => StateLock::acquire_again,
    };
    let lock = match had.map_or_else(|| acquire(state_dir, SERVICE_ROLE), Ok) {
        Ok(lock) => lock,
        Err(error) => return (None, Err(error.into())),
    };
    let opened = match missing {
        Missing::IsMade => Queue::open(state_dir),
        Missing::IsAway => Queue::open_again(state_dir),
    };
    (Some(lock), opened.and_then(started).map_err(ServiceError::from))
}

/// Puts back a queue that was removed from a state directory which is there, and says so; else that has gone, too.
pub(super) async fn put_back(lock: &StateLock, queue: &QueueHandle, state_dir: &Path) -> Result<Ended, ServiceError> {
    if !lock.is_in_its_place(state_dir) {
        return Ok(Ended::StateAway);
    }
    let path = state_dir.join(Queue::FILE_NAME);
    let became = match queue.call(|queue| queue.put_back()).await? {
        PutBack::AsItWas => {
            "was removed while it was open; all of it was still known and is written there again (to begin with an empty \
             one, end storewatch first)"
        }
        PutBack::Anew => {
            "was removed while it was open and can't be read any more; a new one is filled by reading the whole Nix database"
        }
        PutBack::Replaced => {
            "was replaced while it was open; what is there now counts, and what it lacks is found again"
        }
    };
    error!("the queue {} {became}", path.display());
    Ok(Ended::QueueAway)
}

/// Waits until a state directory that has gone is back, by its queue.
pub(super) async fn back(state_dir: &Path) {
    let look = || {
        let dir = state_dir.to_owned();
        spawn_blocking(move || Queue::is_at(&dir))
    };
    while !look().await.unwrap_or(false) {
        sleep(INTERVAL).await;
    }
}

/// Opens the queue and says so if it had to be replaced.
pub(crate) async fn open_queue(state_dir: &Path) -> Result<QueueHandle, ServiceError> {
    let dir = state_dir.to_owned();
    let opening = spawn_blocking(move || Queue::open(&dir).and_then(started)).await;
    Ok(opening.map_err(|_| ServiceError::Panicked { part: "what opens the queue" })??)
}

/// Gives an opened queue its thread, and says so if it had to be replaced.
fn started(opened: Opened) -> Result<QueueHandle, QueueError> {
    if let Some(aside) = opened.moved_aside {
        error!(
            "the queue was corrupt; it is kept as {}, and a new one is filled by reading the whole Nix database: what the \
             caches have is not uploaded again, but what was in the store before watching began is now taken up too",
            aside.display()
        );
    }
    QueueHandle::start(opened.queue)
}
