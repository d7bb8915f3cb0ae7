//! What is served: the caches that the policy names, each opened by itself.

use std::sync::Arc;

use tracing::info;

use super::note::{note_taking, note_waiting};
use super::pause::UnderWay;
use super::target::{State, Target, Waits};
use super::{UNDER_WAY, Uploader};
use crate::cache::{Cache, CacheError, Upstreams};
use crate::policy::Policy;
use crate::queue::{CacheId, Queue, QueueError, Standing, now};

/// What to work by.
pub struct Orders {
    /// The policy.
    pub policy: Arc<Policy>,
    /// The caches that it names.
    pub targets: Vec<Target>,
    /// Caches of others, which deliver what they have.
    pub upstreams: Upstreams,
}

/// An attempt to open a cache, and what came of it.
pub struct Opening {
    cache: CacheId,
    attempt: u64,
    result: Result<Arc<dyn Cache>, CacheError>,
}

impl Uploader {
    /// Works by these orders from now on.
    pub(super) async fn serve(&mut self, orders: Orders) -> Result<(), QueueError> {
        let Orders { policy, targets, upstreams } = orders;
        self.context.upstreams = upstreams;
        // Each is opened anew, and what was asked of those that are gone is no longer waited for.
        self.queue.call(Queue::forget_asked).await?;
        let mut before = std::mem::take(&mut self.caches);
        for target in targets {
            let (id, known) = (target.id, before.remove(&target.id));
            // Only now that what is claimed goes by the new configuration, with another key perhaps.
            let fingerprint = target.fingerprint.clone();
            let again = self.queue.call(move |queue| queue.serve_cache(id, &fingerprint, now())).await?;
            if again > 0 {
                info!(cache = %target.name, jobs = again, "its configuration has changed: what had failed is tried again");
            }
            if known.is_none() {
                // What an earlier process noted may be mended; if not, it is noted again.
                self.queue.call(move |queue| queue.note_cache(id, Standing::Takes, now())).await?;
            }
            self.caches.insert(id, State::serve(target, known));
        }
        // A cache may have been gone from the policy for a while and be back, with jobs still under way.
        for UnderWay { job, .. } in self.claimed.values() {
            if let Some(state) = self.caches.get_mut(&job.cache) {
                state.under_way += 1;
            }
        }
        self.note_pauses().await?;
        self.policy.send_replace(Some(policy));
        // A rule that held something back may be another now, or was changed while nobody watched.
        self.queue.call(|queue| queue.release_held(now())).await?;
        Ok(())
    }

    /// Begins to open every cache that is to be tried and isn't open.
    pub(super) async fn open_caches(&mut self) -> Result<(), QueueError> {
        let mut asked = Vec::new();
        for (id, state) in &mut self.caches {
            if state.room(UNDER_WAY) == 0 {
                continue;
            }
            self.attempts += 1;
            let (cache, attempt) = (*id, self.attempts);
            if let Some(open) = state.begin_to_open(attempt) {
                // On a task of its own, so that a panic in there is an error like any other.
                let opened = tokio::spawn(async move { open().await });
                self.openings.spawn(async move {
                    let result = opened.await.unwrap_or(Err(CacheError::LostThread { action: "open the cache" }));
                    Opening { cache, attempt, result }
                });
                asked.push(cache);
            }
        }
        // One that is dead may leave us without an answer for long: whoever looks meanwhile is to know.
        if asked.is_empty() {
            return Ok(());
        }
        self.queue.call(move |queue| queue.note_asked(&asked, Some(now()))).await
    }

    /// Takes up a cache that was opened, or notes why it could not be.
    pub(super) async fn take_opened(&mut self, opening: Opening) -> Result<(), QueueError> {
        let Opening { cache, attempt, result } = opening;
        // Of one that took too long nobody wants to know any more: another may be under way by now, which is told.
        let Some(state) = self.caches.get_mut(&cache).filter(|state| state.awaits(attempt)) else { return Ok(()) };
        self.queue.call(move |queue| queue.note_asked(&[cache], None)).await?;
        match result {
            Ok(opened) => {
                if state.opened(opened, &self.queue, &self.context.shaper) {
                    note_taking(&self.queue, cache, state).await?;
                }
                Ok(())
            }
            Err(error) => note_waiting(&self.queue, cache, state, &Waits::unopened(&error)).await,
        }
    }
}
