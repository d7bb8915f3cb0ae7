//! Bandwidth: who may send how much, and when.
//!
//! ```text
//!              all that goes over the line ─┬─ backfill's share of it
//!                                           └─ each cache's own
//! ```
//!
//! Whoever sends asks its [`Tap`] before each piece, and waits until every bucket above it has room. Fresh work is served
//! before backfill, which so takes what the other leaves; within a lane pieces are served in turn, so that uploads share
//! evenly and a small one is through after a few pieces, whatever else is on its way.
//!
//! No I/O here. The one clock is tokio's, which tests hold; [`bucket::Bucket`] is pure.

mod bucket;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

use self::bucket::Bucket;
use super::{Lane, Rate};

/// A piece takes so long at the rate that limits it: short enough that others' turns come soon.
const PIECE_TIME: Duration = Duration::from_millis(10);

/// The smallest piece (bytes): a packet's worth, so that slow lines aren't filled with headers.
const SMALLEST_PIECE: usize = 1024;

/// The largest (bytes): as archives come.
const LARGEST_PIECE: usize = 256 * 1024;

/// What may be sent, in bytes a second; where nothing is said, as much as goes through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Over the line in all.
    pub line: Option<Rate>,
    /// Of that, by backfill.
    pub backfill: Option<Rate>,
    /// To each cache, by its name.
    pub caches: BTreeMap<String, Rate>,
}

/// Hands out bandwidth. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Shaper {
    shared: Arc<Shared>,
}

/// Where the bytes of one upload go through. Cheap to clone.
#[derive(Clone)]
pub struct Tap(Option<Through>);

#[derive(Clone)]
struct Through {
    shaper: Shaper,
    cache: Arc<str>,
    lane: Lane,
    /// Whether it goes over the line, or only to a disk.
    over_line: bool,
}

struct Shared {
    state: Mutex<State>,
    /// Rings when somebody waits, or the rates are others.
    news: Notify,
}

struct State {
    line: Bucket,
    backfill: Bucket,
    /// Those that have a rate.
    caches: BTreeMap<String, Bucket>,
    waiting: [VecDeque<Waiter>; 2],
    /// Whether a task looks after those who wait.
    is_driven: bool,
}

struct Waiter {
    cache: Arc<str>,
    over_line: bool,
    bytes: usize,
    go: oneshot::Sender<()>,
}

impl Default for Shaper {
    /// Limits nothing, until it is told to.
    fn default() -> Self {
        let now = Instant::now();
        let state = State {
            line: Bucket::unlimited(now),
            backfill: Bucket::unlimited(now),
            caches: BTreeMap::new(),
            waiting: [VecDeque::new(), VecDeque::new()],
            is_driven: false,
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), news: Notify::new() }) }
    }
}

impl Shaper {
    /// Limits by these rates from now on, also what is under way.
    pub fn set(&self, rates: &Rates) {
        let now = Instant::now();
        let mut state = self.shared.lock();
        state.line.set(rates.line, now);
        state.backfill.set(rates.backfill, now);
        state.caches.retain(|name, _| rates.caches.contains_key(name));
        for (name, rate) in &rates.caches {
            let bucket = state.caches.entry(name.clone()).or_insert_with(|| Bucket::unlimited(now));
            bucket.set(Some(*rate), now);
        }
        drop(state);
        self.shared.news.notify_one();
    }

    /// What an upload to that cache goes through. One that goes to a disk of this host counts for the cache's own rate only.
    #[must_use]
    pub fn tap(&self, cache: &str, lane: Lane, over_line: bool) -> Tap {
        Tap(Some(Through { shaper: self.clone(), cache: Arc::from(cache), lane, over_line }))
    }
}

impl Tap {
    /// One that lets everything through.
    #[must_use]
    pub fn open() -> Self {
        Self(None)
    }

    /// How many bytes to ask for at once, at most.
    #[must_use]
    pub fn piece(&self) -> usize {
        let slowest = self.0.as_ref().and_then(|through| through.shaper.shared.lock().slowest(through));
        slowest.map_or(usize::MAX, |rate| (rate.within(PIECE_TIME) as usize).clamp(SMALLEST_PIECE, LARGEST_PIECE))
    }

    /// Waits until so many bytes may be sent, which then count as sent. May be dropped at any time; then they don't.
    pub async fn take(&self, bytes: usize) {
        let Some(through) = &self.0 else { return };
        if let Some(turn) = through.ask(bytes) {
            // The sender lies in the queue until it is used, and the queue lives as long as `self`.
            let _ = turn.await;
        }
    }
}

impl Through {
    /// `None` where it may be sent at once.
    fn ask(&self, bytes: usize) -> Option<oneshot::Receiver<()>> {
        let Self { shaper: Shaper { shared }, cache, lane, over_line } = self;
        let mut state = shared.lock();
        let nobody_waits = state.waiting.iter().all(VecDeque::is_empty);
        if nobody_waits && state.opens(cache, *lane, *over_line, Instant::now()).is_none() {
            state.sends(cache, *lane, *over_line, bytes);
            return None;
        }
        let (go, turn) = oneshot::channel();
        state.waiting[*lane as usize].push_back(Waiter { cache: Arc::clone(cache), over_line: *over_line, bytes, go });
        let is_driven = std::mem::replace(&mut state.is_driven, true);
        drop(state);
        if is_driven {
            shared.news.notify_one();
        } else {
            tokio::spawn(drive(Arc::downgrade(shared)));
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
            let next = state.serve(Instant::now());
            if next.is_none() {
                state.is_driven = false;
                return;
            }
            next
        };
        tokio::select! {
            () = sleep_until(next.unwrap_or_else(Instant::now)) => {}
            () = shared.news.notified() => {}
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Gives everybody who can have it a turn, and says when to look again; never, when nobody waits.
    fn serve(&mut self, now: Instant) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        for lane in [Lane::Fresh, Lane::Backfill] {
            let mut still_waiting = VecDeque::new();
            while let Some(waiter) = self.waiting[lane as usize].pop_front() {
                let Waiter { cache, over_line, bytes, .. } = &waiter;
                // Who doesn't wait any longer sends nothing.
                if waiter.go.is_closed() {
                    continue;
                }
                match self.opens(cache, lane, *over_line, now) {
                    Some(time) => {
                        next = Some(next.map_or(time, |next| next.min(time)));
                        still_waiting.push_back(waiter);
                    }
                    None => {
                        self.sends(&waiter.cache, lane, *over_line, *bytes);
                        if waiter.go.send(()).is_err() {
                            // It has gone in this very moment; its turn is lost, which is one piece.
                        }
                    }
                }
            }
            self.waiting[lane as usize] = still_waiting;
        }
        next
    }

    /// When such an upload may send something; `None`: now.
    fn opens(&mut self, cache: &str, lane: Lane, over_line: bool, now: Instant) -> Option<Instant> {
        self.above(cache, lane, over_line).filter_map(|bucket| bucket.opens(now)).max()
    }

    fn sends(&mut self, cache: &str, lane: Lane, over_line: bool, bytes: usize) {
        self.above(cache, lane, over_line).for_each(|bucket| bucket.take(bytes));
    }

    fn slowest(&mut self, through: &Through) -> Option<Rate> {
        let Through { cache, lane, over_line, .. } = through;
        self.above(cache, *lane, *over_line).filter_map(|bucket| bucket.rate()).min()
    }

    /// The buckets that an upload draws on.
    fn above(&mut self, cache: &str, lane: Lane, over_line: bool) -> impl Iterator<Item = &mut Bucket> {
        let line = over_line.then_some(&mut self.line);
        let backfill = (over_line && lane == Lane::Backfill).then_some(&mut self.backfill);
        line.into_iter().chain(backfill).chain(self.caches.get_mut(cache))
    }
}

#[cfg(test)]
mod tests;
