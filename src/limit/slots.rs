//! A fixed number of slots for work that costs: reading, hashing and packing a path.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::Lane;

/// Hands out slots, first come first served within a lane. Cheap to clone.
///
/// A semaphore of its own since tokio's knows one line only: a fresh path must not stand behind a long backfill.
#[derive(Clone)]
pub struct Slots {
    state: Arc<Mutex<State>>,
}

struct State {
    limit: usize,
    taken: usize,
    waiting: [VecDeque<oneshot::Sender<Slot>>; 2],
}

/// One slot; given back when its last clone is dropped.
#[derive(Clone)]
pub struct Slot {
    _taken: Option<Arc<Taken>>,
}

struct Taken(Slots);

impl Slots {
    /// So many slots, at least one.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        let state = State { limit: limit.max(1), taken: 0, waiting: [VecDeque::new(), VecDeque::new()] };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Changes the number of slots: more are handed out at once, fewer as they come back.
    pub fn resize(&self, limit: usize) {
        self.lock().limit = limit.max(1);
        self.hand_out();
    }

    /// Waits for a slot.
    pub async fn acquire(&self, lane: Lane) -> Slot {
        let (sender, receiver) = oneshot::channel();
        self.lock().waiting[lane as usize].push_back(sender);
        self.hand_out();
        // The sender lies in the queue until it is used, and the queue lives as long as `self`.
        receiver.await.unwrap_or(Slot { _taken: None })
    }

    fn hand_out(&self) {
        loop {
            let mut state = self.lock();
            if state.taken >= state.limit {
                return;
            }
            let Some(next) = state.waiting.iter_mut().find_map(VecDeque::pop_front) else { return };
            state.taken += 1;
            drop(state);
            // Who no longer waits gives the slot back by dropping it, here and now.
            let _ = next.send(Slot { _taken: Some(Arc::new(Taken(self.clone()))) });
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.lock().taken -= 1;
        self.0.hand_out();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn fresh_work_goes_before_backfill_and_nothing_is_lost() {
        let slots = Slots::new(1);
        let first = slots.acquire(Lane::Backfill).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = tokio::task::JoinSet::new();
        for lane in [Lane::Backfill, Lane::Backfill, Lane::Fresh, Lane::Fresh] {
            let (slots, order) = (slots.clone(), Arc::clone(&order));
            tasks.spawn(async move {
                let _slot = slots.acquire(lane).await;
                order.lock().expect("no panic").push(lane);
            });
            tokio::task::yield_now().await;
        }
        // One that gave up waiting must not swallow a slot.
        {
            let given_up = slots.acquire(Lane::Fresh);
            tokio::pin!(given_up);
            assert!(futures_poll_once(given_up.as_mut()).await.is_none());
        }
        drop(first);
        while let Some(done) = tasks.join_next().await {
            done.expect("no panic");
        }
        assert_eq!(*order.lock().expect("no panic"), [Lane::Fresh, Lane::Fresh, Lane::Backfill, Lane::Backfill]);
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
