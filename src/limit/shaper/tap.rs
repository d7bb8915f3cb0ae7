//! Where the bytes of one upload go through.
//!
//! A tap belongs to the task that delivers a path, and is asked where bytes leave this process: so whatever a cache sends for
//! a path, its archive as well as its narinfo, counts, and no cache needs to know of lanes and limits.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::Mutex;

use super::state::Way;
use super::{LARGEST_PIECE, PIECE_TIME, SMALLEST_PIECE, Shaper};
use crate::limit::Lane;

tokio::task_local! {
    static OF_THE_TASK: Tap;
}

/// What one upload's bytes go through. Cheap to clone.
#[derive(Clone)]
pub struct Tap(Option<Through>);

#[derive(Clone)]
pub(super) struct Through {
    pub(super) shaper: Shaper,
    pub(super) way: Way,
    /// Held by who waits for a turn: what is sent of one path at the same time, such as two parts of its archive, has one
    /// place in the line together, and takes no more from its siblings than another path.
    pub(super) own_turn: Arc<Mutex<()>>,
}

impl Tap {
    pub(super) fn new(through: Through) -> Self {
        Self(Some(through))
    }

    /// Does something, and lets all that is sent meanwhile by the same task go through this tap.
    pub async fn scope<F: Future>(self, future: F) -> F::Output {
        OF_THE_TASK.scope(self, future).await
    }

    /// The one that this task was given; one that lets everything through where it was given none. Whoever begins another task
    /// to send from hands it on, by [`Tap::scope`].
    #[must_use]
    pub fn of_this_task() -> Self {
        OF_THE_TASK.try_with(Self::clone).unwrap_or(Self(None))
    }

    /// The same for what others wait for: fresh, whoever asks.
    #[must_use]
    pub fn for_all(&self) -> Self {
        Self(self.0.clone().map(|Through { shaper, way, .. }| {
            let way = Way { urgency: Lane::Fresh.into(), ..way };
            Through { shaper, way, own_turn: Arc::default() }
        }))
    }

    /// How many bytes to ask for at once, at most.
    #[must_use]
    pub fn piece(&self) -> usize {
        let slowest = self.0.as_ref().and_then(|Through { shaper, way, .. }| shaper.shared.lock().slowest(way));
        slowest.map_or(usize::MAX, |rate| (rate.within(PIECE_TIME) as usize).clamp(SMALLEST_PIECE, LARGEST_PIECE))
    }

    /// Waits until so many bytes may be sent, which then count as sent. May be dropped at any time; then they don't.
    pub async fn take(&self, bytes: usize) {
        let Some(Through { shaper, way, own_turn }) = &self.0 else { return };
        let _one_at_a_time = own_turn.lock().await;
        if let Some(turn) = shaper.ask(way, bytes) {
            // The sender lies in the queue until it is used, and the queue lives as long as `self`.
            let _ = turn.await;
        }
    }

    /// As [`Tap::take`], for the one thread of the runtime's that writes a path and may wait, but for no longer than until
    /// something else has come true. Returns whether the bytes may be sent.
    pub fn take_blocking(&self, bytes: usize, until: impl Future) -> bool {
        let Some(Through { shaper, way, own_turn }) = &self.0 else { return true };
        let one_at_a_time = own_turn.try_lock();
        debug_assert!(one_at_a_time.is_ok(), "a second one is at it, whose turn would count as this one's");
        let Some(turn) = shaper.ask(way, bytes) else { return true };
        Handle::current().block_on(async {
            tokio::select! {
                _ = until => false,
                _ = turn => true,
            }
        })
    }
}
