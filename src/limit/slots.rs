//! A number of slots for work that costs: reading, hashing and packing a path.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use super::{Lane, Urgency};

/// Where no slot was given back for so long, those who have them are slow, and fresh work needn't stand behind them. Well
/// below the second within which a fresh path is to be through, and well above what a few megabytes take on a fast line.
const PATIENCE: Duration = Duration::from_millis(250);

/// Hands out slots, first come first served within a lane. Cheap to clone.
///
/// A semaphore of its own since tokio's knows one line only: a fresh path must not stand behind a long backfill, nor a small
/// one behind large ones, which on a slow line may have their slots for hours. So there are two more than are told, for then:
/// one for fresh work while backfill has all the others, and one for small fresh work.
#[derive(Clone)]
pub struct Slots {
    state: Arc<Mutex<State>>,
}

struct State {
    limit: usize,
    /// By lane.
    taken: [usize; 2],
    /// Those beyond the limit: for small work, and for any.
    extra: [bool; 2],
    /// When a slot within the limit was given back last, or could be had.
    moved: Instant,
    /// In the order in which they came.
    waiting: VecDeque<Waiter>,
    /// Whether a task looks after those whose patience ends.
    is_driven: bool,
}

struct Waiter {
    urgency: Urgency,
    is_small: bool,
    turn: oneshot::Sender<Slot>,
}

/// One slot; given back when its last clone is dropped.
#[derive(Clone)]
pub struct Slot {
    _taken: Option<Arc<Taken>>,
}

struct Taken {
    slots: Slots,
    which: Which,
}

#[derive(Clone, Copy)]
enum Which {
    WithinLimit(Lane),
    /// Beyond the limit.
    Extra {
        is_small: bool,
    },
}

impl Slots {
    /// So many slots, at least one.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        let state = State {
            limit: limit.max(1),
            taken: [0; 2],
            extra: [false; 2],
            moved: Instant::now(),
            waiting: VecDeque::new(),
            is_driven: false,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Changes the number of slots: more are handed out at once, fewer as they come back.
    pub fn resize(&self, limit: usize) {
        self.lock().limit = limit.max(1);
        self.hand_out();
    }

    /// Waits for a slot. `is_small`: it will be given back soon, however slow the line is.
    pub async fn acquire(&self, urgency: impl Into<Urgency>, is_small: bool) -> Slot {
        let (turn, receiver) = oneshot::channel();
        self.lock().waiting.push_back(Waiter { urgency: urgency.into(), is_small, turn });
        self.look_again();
        // The sender lies in the queue until it is used, and the queue lives as long as `self`.
        receiver.await.unwrap_or(Slot { _taken: None })
    }

    /// Hands out what can be: who waits may have become more urgent.
    pub fn look_again(&self) {
        {
            let mut state = self.lock();
            if !state.is_driven && state.patience().is_some() {
                state.is_driven = true;
                tokio::spawn(drive(Arc::downgrade(&self.state)));
            }
        }
        // Behind that look: patience that ends in between is then found to have ended.
        self.hand_out();
    }

    fn hand_out(&self) {
        loop {
            let Some((which, waiter)) = self.lock().next(Instant::now()) else { return };
            // Who no longer waits gives the slot back by dropping it, here and now.
            let _ = waiter.turn.send(Slot { _taken: Some(Arc::new(Taken { slots: self.clone(), which })) });
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks again whenever somebody's patience may have come to its end, as long as fresh work waits for that.
async fn drive(state: Weak<Mutex<State>>) {
    loop {
        let Some(slots) = state.upgrade().map(|state| Slots { state }) else { return };
        let end = {
            let mut state = slots.lock();
            let end = state.patience();
            state.is_driven = end.is_some();
            end
        };
        let Some(end) = end else { return slots.hand_out() };
        drop(slots);
        sleep_until(end).await;
        if let Some(state) = state.upgrade() {
            Slots { state }.hand_out();
        }
    }
}

impl State {
    /// When the patience of fresh work that waits will have come to its end. Beyond that, only a slot that is given back
    /// changes anything, or who becomes more urgent.
    fn patience(&self) -> Option<Instant> {
        let end = self.moved + PATIENCE;
        let waits = || self.waiting.iter().any(|waiter| waiter.urgency.lane() == Lane::Fresh);
        (end > Instant::now() && waits()).then_some(end)
    }

    /// Who is served next, and with which slot, which is then taken.
    fn next(&mut self, now: Instant) -> Option<(Which, Waiter)> {
        let is_fresh = |waiter: &Waiter| waiter.urgency.lane() == Lane::Fresh;
        let [fresh, backfill] = self.taken;
        if fresh + backfill < self.limit {
            self.moved = now;
            let place = self.waiting.iter().position(is_fresh).unwrap_or(0);
            let waiter = self.waiting.remove(place)?;
            let lane = waiter.urgency.lane();
            self.taken[lane as usize] += 1;
            return Some((Which::WithinLimit(lane), waiter));
        }
        if now < self.moved + PATIENCE {
            return None;
        }
        let [for_small, for_any] = self.extra;
        let has_one = |waiter: &Waiter| if waiter.is_small { !for_small } else { fresh == 0 && !for_any };
        let place = self.waiting.iter().position(|waiter| is_fresh(waiter) && has_one(waiter))?;
        let waiter = self.waiting.remove(place)?;
        self.extra[usize::from(!waiter.is_small)] = true;
        Some((Which::Extra { is_small: waiter.is_small }, waiter))
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut state = self.slots.lock();
        match self.which {
            Which::WithinLimit(lane) => {
                state.taken[lane as usize] -= 1;
                state.moved = Instant::now();
            }
            Which::Extra { is_small } => state.extra[usize::from(!is_small)] = false,
        }
        drop(state);
        match Handle::try_current() {
            Ok(_) => self.slots.look_again(),
            // The runtime has ended, and whoever waits with it.
            Err(_) => self.slots.hand_out(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn fresh_work_goes_before_backfill_and_nothing_is_lost() {
        let slots = Slots::new(1);
        let first = slots.acquire(Lane::Backfill, false).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = tokio::task::JoinSet::new();
        for lane in [Lane::Backfill, Lane::Backfill, Lane::Fresh, Lane::Fresh] {
            let (slots, order) = (slots.clone(), Arc::clone(&order));
            tasks.spawn(async move {
                let _slot = slots.acquire(lane, false).await;
                order.lock().expect("no panic").push(lane);
            });
            tokio::task::yield_now().await;
        }
        // One that gave up waiting must not swallow a slot.
        {
            let given_up = slots.acquire(Lane::Fresh, false);
            tokio::pin!(given_up);
            assert!(futures_poll_once(given_up.as_mut()).await.is_none());
        }
        drop(first);
        while let Some(done) = tasks.join_next().await {
            done.expect("no panic");
        }
        assert_eq!(*order.lock().expect("no panic"), [Lane::Fresh, Lane::Fresh, Lane::Backfill, Lane::Backfill]);
    }

    #[tokio::test(start_paused = true)]
    async fn behind_slow_work_small_fresh_work_is_not_stuck_and_fresh_work_goes_on() {
        let slots = Slots::new(2);
        let within = async |lane, is_small, time| tokio::time::timeout(time, slots.acquire(lane, is_small)).await;
        let soon = PATIENCE * 2;
        let _backfill = [slots.acquire(Lane::Backfill, true).await, slots.acquire(Lane::Backfill, false).await];
        assert!(within(Lane::Backfill, true, soon * 10).await.is_err(), "backfill has what it is given");
        let large = within(Lane::Fresh, false, soon).await.expect("one for fresh work");
        assert!(within(Lane::Fresh, false, soon).await.is_err(), "a second one for large work");
        assert!(!slots.lock().is_driven, "somebody looks again and again at what can't change");
        for _ in 0..3 {
            let _small = within(Lane::Fresh, true, soon).await.expect("one for small work");
            assert!(within(Lane::Fresh, true, soon).await.is_err(), "a second one for small work");
        }
        drop(large);
        within(Lane::Fresh, false, soon).await.expect("the one that was given back");
    }

    #[tokio::test(start_paused = true)]
    async fn what_fresh_work_waits_for_need_not_wait_behind_backfill() {
        let slots = Slots::new(1);
        let _slow = slots.acquire(Lane::Backfill, false).await;
        let needed = Urgency::from(Lane::Backfill);
        let mut waiting = wait_for_one(&slots, needed.clone());
        assert!(tokio::time::timeout(PATIENCE * 10, &mut waiting).await.is_err(), "backfill has what it is given");
        Urgency::from(Lane::Fresh).waits_for(&needed);
        slots.look_again();
        tokio::time::timeout(PATIENCE * 2, waiting).await.expect("a slot").expect("no panic");
    }

    fn wait_for_one(slots: &Slots, urgency: Urgency) -> tokio::task::JoinHandle<Slot> {
        let slots = slots.clone();
        tokio::spawn(async move { slots.acquire(urgency, false).await })
    }

    #[tokio::test(start_paused = true)]
    async fn behind_quick_work_everybody_waits_for_a_slot_within_the_limit() {
        let slots = Slots::new(1);
        let mut held = slots.acquire(Lane::Fresh, false).await;
        for _ in 0..100 {
            let next = slots.acquire(Lane::Fresh, true);
            tokio::pin!(next);
            assert!(tokio::time::timeout(PATIENCE / 2, next.as_mut()).await.is_err(), "beyond the limit");
            drop(held);
            held = next.await;
        }
    }

    async fn futures_poll_once<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(match std::pin::Pin::new(&mut future).poll(context) {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }
}
