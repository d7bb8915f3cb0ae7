//! Where a backfill's queue is worked off: here, or by a service.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::spawn_blocking;

use super::END_LOOK;
use crate::config::{Config, NixStore};
use crate::daemon::{DRAIN, ServiceError, Working, caches, open_queue};
use crate::limit::Schedule;
use crate::queue::{LockError, Queue, QueueError, QueueHandle, Routes, StateLock};

/// Whoever works the queue off has made it within this time after taking the lock, unless something is wrong.
const MADE_WITHIN: Duration = Duration::from_secs(10);

/// Where the queue is worked off: here, or by a service.
pub(super) struct Site {
    pub(super) queue: QueueHandle,
    pub(super) routes: Routes,
    /// With the lock, which is kept until the process ends: threads that were called off may be at work until then.
    pub(super) working: Option<Working>,
    /// Who works it off, if that isn't this process.
    pub(super) beside: Option<String>,
}

impl Site {
    pub(super) async fn find(
        state_dir: &Path,
        nix: &NixStore,
        config: &Config,
        role: &'static str,
    ) -> Result<Self, ServiceError> {
        let dir = state_dir.to_owned();
        let acquired = spawn_blocking(move || StateLock::acquire(&dir, role)).await;
        match acquired.map_err(|_| ServiceError::Panicked { part: "what takes the lock" })? {
            Ok(lock) => {
                lock.keep_until_exit();
                let queue = open_queue(state_dir).await?;
                queue.call(Queue::forget_what_was_off).await?;
                let (working, routes) = Working::start(queue, state_dir, nix, config).await?;
                let queue = working.queue.clone();
                Ok(Self { queue, routes, working: Some(working), beside: None })
            }
            Err(LockError::Held { holder, .. }) => {
                let queue = QueueHandle::start(open_beside(state_dir).await?)?;
                let own = config.clone();
                let routes = queue.call(move |queue| caches::routes(queue, &own)).await?;
                Ok(Self { queue, routes, working: None, beside: Some(holder) })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Puts in force what may be sent, where the queue is worked off here.
    pub(super) async fn shape(&mut self, schedule: &Schedule) -> Result<(), QueueError> {
        let Some(working) = &mut self.working else { return Ok(()) };
        working.lookout.look(schedule);
        working.shape(schedule).await
    }

    pub(super) fn bell(&self) -> Option<Arc<Notify>> {
        self.working.as_ref().map(|working| working.bell.clone())
    }

    /// Works the queue off here if whoever did has ended, a service or another backfill. Says who that was, if that is news.
    /// Where the state directory went away, nothing is: a lock in the folder beneath would be nobody's.
    pub(super) async fn take_over(
        &mut self,
        state_dir: &Path,
        nix: &NixStore,
        config: &Config,
        role: &'static str,
    ) -> Result<Option<String>, ServiceError> {
        let dir = state_dir.to_owned();
        let acquired = match self.working {
            Some(_) => None,
            None => Some(spawn_blocking(move || StateLock::acquire_again(&dir, role)).await),
        };
        // Looked at behind that: it may go at any time, and then no lock can be had, or one that nobody sees.
        if !self.queue.call(|queue| Ok(queue.is_in_its_place())).await? {
            return Err(ServiceError::QueueElsewhere { dir: state_dir.to_owned() });
        }
        let Some(acquired) = acquired else { return Ok(None) };
        match acquired.map_err(|_| ServiceError::Panicked { part: "what takes the lock" })? {
            Ok(lock) => {
                lock.keep_until_exit();
                self.queue.call(Queue::forget_what_was_off).await?;
                let (working, _) = Working::start(self.queue.clone(), state_dir, nix, config).await?;
                self.working = Some(working);
                Ok(self.beside.take())
            }
            // It may be another by now.
            Err(LockError::Held { holder, .. }) => {
                self.beside = Some(holder);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Leaves when what is under way is finished, or given back after that time; by this schedule, if there is one.
    pub(super) async fn leave(self, within: Duration, schedule: Option<&Schedule>) -> Result<(), ServiceError> {
        match self.working {
            Some(working) => working.drain(within, schedule).await,
            None => Ok(()),
        }
    }

    /// Leaves for that error: what is under way is finished or given back first.
    pub(super) async fn fail<T>(self, error: ServiceError) -> Result<T, ServiceError> {
        // What becomes of that matters less than why it ends.
        let _ = self.leave(DRAIN, None).await;
        Err(error)
    }
}

/// Opens the queue beside whoever holds the lock. It may have begun a moment ago, and be just about to make the queue.
async fn open_beside(state_dir: &Path) -> Result<Queue, QueueError> {
    let until = Instant::now() + MADE_WITHIN;
    loop {
        match Queue::open_beside(state_dir) {
            Err(QueueError::NoQueue { .. } | QueueError::OlderSchema { .. }) if Instant::now() < until => {
                tokio::time::sleep(END_LOOK).await;
            }
            opened => return opened,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::CacheUrl;
    use crate::config::{Defaults, StoreOptions};

    /// Threads that were called off may still write into a cache then.
    #[tokio::test(flavor = "multi_thread")]
    async fn the_lock_is_kept_until_the_process_ends_whatever_comes_of_the_work() {
        for fails in [false, true] {
            let dir = tempfile::tempdir().expect("a folder");
            let defaults = Defaults { state_dir: dir.path().to_owned() };
            let check = |url: &str| CacheUrl::parse(url).map_err(|error| error.to_string());
            let config = Config::parse("version = 1", "policy.toml", &defaults, &check).expect("a good policy");
            let nix = NixStore::resolve(&StoreOptions::default(), |_| None).expect("a store");
            let site = Site::find(dir.path(), &nix, &config, "storewatch backfill").await.expect("nobody works here");
            assert!(site.working.is_some());
            match fails {
                true => drop(site.fail::<()>(ServiceError::Panicked { part: "the scan" }).await.expect_err("failed")),
                false => drop(site),
            }
            let holder = StateLock::holder(dir.path()).expect("looked").unwrap_or_default();
            assert!(holder.starts_with("storewatch backfill, process "), "{holder:?}");
        }
    }
}
