//! Who waits for what, and who is next. Time is an argument.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::Rates;
use super::bucket::Bucket;
use crate::limit::{Background, Lane, Rate, Urgency};

/// Backfill that has waited so long gets a piece all the same, which is 1 KiB or more: a connection on which less moves is
/// ended by some servers. Apache's `RequestReadTimeout` asks for 500 bytes a second.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// One piece of such backfill for so many of what the line carries in that time, however many uploads wait.
const TRICKLE: u32 = 20;

/// Which buckets an upload draws on.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) cache: Arc<str>,
    pub(super) urgency: Urgency,
    /// Whether it goes over the line, or only to a disk.
    pub(super) over_line: bool,
}

pub(super) struct State {
    line: Bucket,
    backfill: Bucket,
    /// Those that have a rate.
    caches: BTreeMap<String, Bucket>,
    /// Those that give way, or did: what is known of the line to them is kept.
    background: BTreeMap<String, GivesWay>,
    /// In the order in which they came.
    waiting: VecDeque<Waiter>,
    /// When backfill that has waited long may have a piece again.
    next_trickle: Instant,
    /// Until when the task that looks after those who wait is asleep; none where there is no such task.
    pub(super) looked_after: Option<Instant>,
}

struct GivesWay {
    /// From which lane on; `None`: not now.
    from: Option<Lane>,
    bucket: Bucket,
    /// Bytes that have been sent.
    sent: u64,
    /// Told of each piece.
    flows: watch::Sender<()>,
}

struct Waiter {
    way: Way,
    bytes: usize,
    since: Instant,
    go: oneshot::Sender<()>,
}

impl GivesWay {
    fn new(now: Instant) -> Self {
        let mut bucket = Bucket::unlimited(now);
        bucket.set(Some(Background::FIRST), now);
        Self { from: None, bucket, sent: 0, flows: watch::Sender::new(()) }
    }

    fn counts_for(&self, way: &Way) -> bool {
        way.over_line && self.from.is_some_and(|from| way.urgency.lane() >= from)
    }
}

impl State {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            line: Bucket::unlimited(now),
            backfill: Bucket::unlimited(now),
            caches: BTreeMap::new(),
            background: BTreeMap::new(),
            waiting: VecDeque::new(),
            next_trickle: now,
            looked_after: None,
        }
    }

    pub(super) fn set(&mut self, rates: &Rates, now: Instant) {
        self.line.set(rates.line, now);
        self.backfill.set(rates.backfill, now);
        self.caches.retain(|name, _| rates.caches.contains_key(name));
        for (name, rate) in &rates.caches {
            let bucket = self.caches.entry(name.clone()).or_insert_with(|| Bucket::unlimited(now));
            bucket.set(Some(*rate), now);
        }
        for name in rates.background.keys() {
            self.background.entry(name.clone()).or_insert_with(|| GivesWay::new(now));
        }
        for (name, gives_way) in &mut self.background {
            gives_way.from = rates.background.get(name).copied();
        }
    }

    pub(super) fn sent_in_background(&self, cache: &str) -> Option<u64> {
        self.background.get(cache).filter(|gives_way| gives_way.from.is_some()).map(|gives_way| gives_way.sent)
    }

    /// Changes with each piece that is sent to a cache that gives way.
    pub(super) fn flows(&mut self, cache: &str, now: Instant) -> watch::Receiver<()> {
        self.background.entry(cache.to_owned()).or_insert_with(|| GivesWay::new(now)).flows.subscribe()
    }

    pub(super) fn give_way(&mut self, cache: &str, rate: Rate, now: Instant) {
        if let Some(gives_way) = self.background.get_mut(cache) {
            gives_way.bucket.set(Some(rate), now);
        }
    }

    /// Takes a piece, or stands in line for it; then it is said when that can be looked at first.
    pub(super) fn ask(&mut self, way: &Way, bytes: usize, now: Instant) -> Option<(oneshot::Receiver<()>, Instant)> {
        let opens = self.opens(way, now);
        if self.waiting.is_empty() && opens.is_none() {
            self.sends(way, bytes);
            return None;
        }
        let (go, turn) = oneshot::channel();
        self.waiting.push_back(Waiter { way: way.clone(), bytes, since: now, go });
        Some((turn, opens.unwrap_or(now)))
    }

    /// Gives everybody who can have it a turn, and says when to look again; never, when nobody waits.
    pub(super) fn serve(&mut self, now: Instant) -> Option<Instant> {
        // Who doesn't wait any longer sends nothing.
        self.waiting.retain(|waiter| !waiter.go.is_closed());
        let is_fresh = |waiter: &Waiter| waiter.way.urgency.lane() == Lane::Fresh;
        let (mut fresh, mut backfill): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(is_fresh);
        let is_overdue = |waiter: &Waiter| waiter.since + LONGEST_WAIT <= now;
        if self.next_trickle <= now && !fresh.is_empty() && backfill.front().is_some_and(is_overdue) {
            fresh.extend(backfill.pop_front());
            fresh.rotate_right(1);
        }
        let mut next: Option<Instant> = None;
        for waiter in fresh.into_iter().chain(backfill) {
            let Waiter { way, bytes, .. } = &waiter;
            if let Some(opens) = self.opens(way, now) {
                next = Some(next.map_or(opens, |next| next.min(opens)));
                self.waiting.push_back(waiter);
                continue;
            }
            if let (Lane::Backfill, Some(rate)) = (way.urgency.lane(), self.slowest(way)) {
                let takes = *bytes as f64 / rate.per_second() as f64;
                self.next_trickle = now + Duration::from_secs_f64(takes) * TRICKLE;
            }
            self.sends(way, *bytes);
            // One that has gone in this very moment leaves its turn unused, which is one piece.
            let _ = waiter.go.send(());
        }
        next
    }

    /// When such an upload may send something; `None`: now.
    fn opens(&mut self, way: &Way, now: Instant) -> Option<Instant> {
        self.above(way).filter_map(|bucket| bucket.opens(now)).max()
    }

    /// Notes that so many bytes are sent.
    fn sends(&mut self, way: &Way, bytes: usize) {
        self.above(way).for_each(|bucket| bucket.take(bytes));
        if let Some(gives_way) = self.background.get_mut(&*way.cache).filter(|gives_way| gives_way.counts_for(way)) {
            gives_way.sent += bytes as u64;
            gives_way.flows.send_replace(());
        }
    }

    /// The lowest rate that is in its way.
    pub(super) fn slowest(&mut self, way: &Way) -> Option<Rate> {
        self.above(way).filter_map(|bucket| bucket.rate()).min()
    }

    /// The buckets that an upload draws on.
    fn above(&mut self, way: &Way) -> impl Iterator<Item = &mut Bucket> {
        let line = way.over_line.then_some(&mut self.line);
        let backfill = (way.over_line && way.urgency.lane() == Lane::Backfill).then_some(&mut self.backfill);
        let gives_way = self.background.get_mut(&*way.cache).filter(|gives_way| gives_way.counts_for(way));
        let gives_way = gives_way.map(|gives_way| &mut gives_way.bucket);
        line.into_iter().chain(backfill).chain(self.caches.get_mut(&*way.cache)).chain(gives_way)
    }
}
