//! Bandwidth: who may send how much, and when.
//!
//! ```text
//!              all that goes over the line ─┬─ backfill's share of it
//!                                           └─ each cache's own ── what it may have while it gives way
//! ```
//!
//! Whoever sends asks its [`Tap`] before each piece, and waits until every bucket above it has room. Fresh work is served
//! before backfill, which so takes what the other leaves (and a trickle, so that its connections stay alive); within a lane
//! pieces are served in turn, so that uploads share evenly and a small one is through after a few pieces, whatever else is
//! on its way.
//!
//! No I/O here. The one clock is tokio's, which tests hold; [`bucket::Bucket`] is pure.

mod bucket;
mod tap;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use self::bucket::Bucket;
pub use self::tap::Tap;
use self::tap::Through;
use super::{Background, Lane, Rate};

/// A piece takes so long at the rate that limits it: short enough that others' turns come soon.
const PIECE_TIME: Duration = Duration::from_millis(10);

/// The smallest piece (bytes): a packet's worth, so that slow lines aren't filled with headers.
const SMALLEST_PIECE: usize = 1024;

/// The largest (bytes): as archives come.
const LARGEST_PIECE: usize = 256 * 1024;

/// Backfill that has waited so long gets a piece all the same: a connection on which nothing moves for longer is taken for dead
/// by some servers. That costs fresh work 2 thousandths for each upload.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

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

struct State {
    line: Bucket,
    backfill: Bucket,
    /// Those that have a rate.
    caches: BTreeMap<String, Bucket>,
    /// Those that give way.
    background: BTreeMap<String, GivesWay>,
    /// Told of each piece that goes there.
    flows: watch::Sender<()>,
    waiting: [VecDeque<Waiter>; 2],
    /// Whether a task looks after those who wait.
    is_driven: bool,
}

struct GivesWay {
    from: Lane,
    bucket: Bucket,
    /// Bytes that have been sent.
    sent: u64,
}

struct Waiter {
    cache: Arc<str>,
    over_line: bool,
    bytes: usize,
    since: Instant,
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
            background: BTreeMap::new(),
            flows: watch::Sender::new(()),
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
        state.background.retain(|name, _| rates.background.contains_key(name));
        for (name, from) in &rates.background {
            let gives_way = state.background.entry(name.clone()).or_insert_with(|| {
                let mut bucket = Bucket::unlimited(now);
                bucket.set(Some(Background::FIRST), now);
                GivesWay { from: *from, bucket, sent: 0 }
            });
            gives_way.from = *from;
        }
        drop(state);
        self.shared.news.notify_one();
    }

    /// Bytes that have been sent to a cache while it gives way; none where it doesn't.
    #[must_use]
    pub fn sent_in_background(&self, cache: &str) -> Option<u64> {
        Some(self.shared.lock().background.get(cache)?.sent)
    }

    /// Waits until something is sent to a cache that gives way.
    pub async fn flows_in_background(&self, cache: &str) {
        let mut flows = self.shared.lock().flows.subscribe();
        let before = self.sent_in_background(cache);
        loop {
            let sent = self.sent_in_background(cache);
            if sent.is_some_and(|sent| sent > before.unwrap_or(0)) {
                return;
            }
            // The sender lives as long as `self`.
            let _ = flows.changed().await;
        }
    }

    /// Lets a cache that gives way have so much from now on.
    pub fn give_way(&self, cache: &str, rate: Rate) {
        let mut state = self.shared.lock();
        let Some(gives_way) = state.background.get_mut(cache) else { return };
        gives_way.bucket.set(Some(rate), Instant::now());
        drop(state);
        self.shared.news.notify_one();
    }

    /// What an upload to that cache goes through. One that goes to a disk of this host counts for the cache's own rate only.
    #[must_use]
    pub fn tap(&self, cache: &str, lane: Lane, over_line: bool) -> Tap {
        Tap::new(Through { shaper: self.clone(), cache: Arc::from(cache), lane, over_line })
    }
}

impl Through {
    /// `None` where it may be sent at once.
    fn ask(&self, bytes: usize) -> Option<oneshot::Receiver<()>> {
        let Self { shaper: Shaper { shared }, cache, lane, over_line } = self;
        let mut state = shared.lock();
        let now = Instant::now();
        let nobody_waits = state.waiting.iter().all(VecDeque::is_empty);
        if nobody_waits && state.opens(cache, *lane, *over_line, now).is_none() {
            state.sends(cache, *lane, *over_line, bytes);
            return None;
        }
        let (go, turn) = oneshot::channel();
        state.waiting[*lane as usize].push_back(Waiter {
            cache: Arc::clone(cache),
            over_line: *over_line,
            bytes,
            since: now,
            go,
        });
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
        let overdue = |waiter: &&Waiter| waiter.since + LONGEST_WAIT <= now;
        let overdue = self.waiting[Lane::Backfill as usize].iter().take_while(overdue).count();
        let order = [(Lane::Backfill, overdue), (Lane::Fresh, usize::MAX), (Lane::Backfill, usize::MAX)];
        order.into_iter().filter_map(|(lane, most)| self.serve_first(lane, most, now)).min()
    }

    /// The same for so many who have waited longest in a lane.
    fn serve_first(&mut self, lane: Lane, most: usize, now: Instant) -> Option<Instant> {
        let mut waiting = std::mem::take(&mut self.waiting[lane as usize]);
        let rest = waiting.split_off(most.min(waiting.len()));
        let mut next: Option<Instant> = None;
        // Who doesn't wait any longer sends nothing.
        waiting.retain(|waiter| !waiter.go.is_closed());
        for waiter in waiting {
            let Waiter { cache, over_line, bytes, .. } = &waiter;
            if let Some(opens) = self.opens(cache, lane, *over_line, now) {
                next = Some(next.map_or(opens, |next| next.min(opens)));
                self.waiting[lane as usize].push_back(waiter);
            } else {
                self.sends(cache, lane, *over_line, *bytes);
                // One that has gone in this very moment leaves its turn unused, which is one piece.
                let _ = waiter.go.send(());
            }
        }
        self.waiting[lane as usize].extend(rest);
        next
    }

    /// When such an upload may send something; `None`: now.
    fn opens(&mut self, cache: &str, lane: Lane, over_line: bool, now: Instant) -> Option<Instant> {
        self.above(cache, lane, over_line).filter_map(|bucket| bucket.opens(now)).max()
    }

    /// Notes that so many bytes are sent.
    fn sends(&mut self, cache: &str, lane: Lane, over_line: bool, bytes: usize) {
        self.above(cache, lane, over_line).for_each(|bucket| bucket.take(bytes));
        if let Some(gives_way) = self.background.get_mut(cache).filter(|gives_way| over_line && lane >= gives_way.from)
        {
            gives_way.sent += bytes as u64;
            self.flows.send_replace(());
        }
    }

    fn slowest(&mut self, through: &Through) -> Option<Rate> {
        let Through { cache, lane, over_line, .. } = through;
        self.above(cache, *lane, *over_line).filter_map(|bucket| bucket.rate()).min()
    }

    /// The buckets that an upload draws on.
    fn above(&mut self, cache: &str, lane: Lane, over_line: bool) -> impl Iterator<Item = &mut Bucket> {
        let line = over_line.then_some(&mut self.line);
        let backfill = (over_line && lane == Lane::Backfill).then_some(&mut self.backfill);
        let gives_way = self.background.get_mut(cache).filter(|gives_way| over_line && lane >= gives_way.from);
        let gives_way = gives_way.map(|gives_way| &mut gives_way.bucket);
        line.into_iter().chain(backfill).chain(self.caches.get_mut(cache)).chain(gives_way)
    }
}

#[cfg(test)]
mod tests;
