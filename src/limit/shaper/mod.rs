//! Bandwidth: who may send how much, and when.
//!
//! ```text
//!              all that goes over the line ─┬─ backfill's share of it
//!                                           └─ each cache's own ── what it may have while it gives way
//! ```
//!
//! Whoever sends asks its [`Tap`] before each piece, and waits until every bucket above it has room. Fresh work is served
//! before backfill, which so takes what the other leaves (and a trickle, so that its connections stay alive); within a lane
//! pieces are served in turn, one path's one after the other, so that uploads share evenly and a small one is through after a
//! few pieces, whatever else is on its way.
//!
//! No I/O here, and no clock but tokio's, which tests hold: [`state`] decides, with `now` as an argument, and here is waited.

mod bucket;
mod state;
mod tap;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

use self::state::{State, Way};
pub use self::tap::Tap;
use self::tap::Through;
use super::{Lane, Rate, Urgency};

/// A piece takes so long at the rate that limits it: short enough that others' turns come soon.
const PIECE_TIME: Duration = Duration::from_millis(10);

/// The smallest piece (bytes): a packet's worth, so that slow lines aren't filled with headers.
const SMALLEST_PIECE: usize = 1024;

/// The largest (bytes): some of what is held in memory for an upload anyway.
const LARGEST_PIECE: usize = 1024 * 1024;

/// What may be sent, in bytes a second; where nothing is said, as much as goes through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Over the line in all.
    pub line: Option<Rate>,
    /// Of that, by backfill.
    pub backfill: Option<Rate>,
    /// To each cache, by its name.
    pub caches: BTreeMap<String, Rate>,
    /// Caches that give way to all others on the line, by their names, and from which lane on.
    pub background: BTreeMap<String, Lane>,
}

/// Hands out bandwidth. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Shaper {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Rings when somebody waits, or the rates are others.
    news: Notify,
}

impl Default for Shaper {
    /// Limits nothing, until it is told to.
    fn default() -> Self {
        Self { shared: Arc::new(Shared { state: Mutex::new(State::new(Instant::now())), news: Notify::new() }) }
    }
}

impl Shaper {
    /// Limits by these rates from now on, also what is under way.
    pub fn set(&self, rates: &Rates) {
        self.shared.lock().set(rates, Instant::now());
        self.shared.news.notify_one();
    }

    /// Bytes that have been sent to a cache while it gave way, if it does so now. They only grow.
    #[must_use]
    pub fn sent_in_background(&self, cache: &str) -> Option<u64> {
        self.shared.lock().sent_in_background(cache)
    }

    /// Waits until something is sent to a cache that gives way.
    pub async fn flows_in_background(&self, cache: &str) {
        let mut flows = self.shared.lock().flows(cache, Instant::now());
        // The sender lives as long as `self`.
        let _ = flows.changed().await;
    }

    /// Lets a cache that gives way have so much from now on.
    pub fn give_way(&self, cache: &str, rate: Rate) {
        self.shared.lock().give_way(cache, rate, Instant::now());
        self.shared.news.notify_one();
    }

    /// What an upload to that cache goes through. One that goes to a disk of this host counts for the cache's own rate only.
    #[must_use]
    pub fn tap(&self, cache: &str, urgency: impl Into<Urgency>, over_line: bool) -> Tap {
        let way = Way { cache: Arc::from(cache), urgency: urgency.into(), over_line };
        Tap::new(Through { shaper: self.clone(), way, own_turn: Arc::default() })
    }

    /// `None` where it may be sent at once.
    fn ask(&self, way: &Way, bytes: usize) -> Option<oneshot::Receiver<()>> {
        let Self { shared } = self;
        let mut state = shared.lock();
        let (turn, look) = state.ask(way, bytes, Instant::now())?;
        match state.looked_after {
            Some(next) if next <= look => {}
            Some(_) => shared.news.notify_one(),
            None => {
                state.looked_after = Some(look);
                tokio::spawn(drive(Arc::downgrade(shared)));
            }
        }
        Some(turn)
    }
}

/// Gives those who wait their turns, until nobody does.
async fn drive(shared: Weak<Shared>) {
    loop {
        let Some(shared) = shared.upgrade() else { return };
        let next = {
            let mut state = shared.lock();
            state.looked_after = state.serve(Instant::now());
            state.looked_after
        };
        let Some(next) = next else { return };
        tokio::select! {
            () = sleep_until(next) => {}
            () = shared.news.notified() => {}
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
