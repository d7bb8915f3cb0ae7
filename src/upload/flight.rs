//! Which paths are on their way to which cache right now, so that their referrers can be packed meanwhile.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::cache::Hindrance;
use crate::limit::Urgency;
use crate::nix::StorePath;
use crate::queue::{CacheId, Job};

type Key = (CacheId, StorePath);

/// The paths under way. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Flights {
    under_way: Arc<Mutex<HashMap<Key, UnderWay>>>,
}

type UnderWay = (watch::Receiver<bool>, Urgency);

/// One path under way. Dropped without having [landed](Flight::land), it has not arrived.
pub(super) struct Flight {
    arrived: watch::Sender<bool>,
    urgency: Urgency,
}

/// Waits for one path's arrival.
pub(super) struct Arrival {
    path: StorePath,
    arrived: watch::Receiver<bool>,
    urgency: Urgency,
}

impl Flights {
    /// Announces a path, before its work begins.
    pub(super) fn announce(&self, job: &Job) -> Flight {
        let (arrived, receiver) = watch::channel(false);
        let urgency = Urgency::from(job.lane);
        self.lock().insert((job.cache, job.path.clone()), (receiver, urgency.clone()));
        Flight { arrived, urgency }
    }

    /// Forgets a path, after the queue knows what became of it.
    pub(super) fn forget(&self, cache: CacheId, path: &StorePath) {
        self.lock().remove(&(cache, path.clone()));
    }

    /// The arrival of a path that is under way.
    pub(super) fn arrival(&self, cache: CacheId, path: &StorePath) -> Option<Arrival> {
        let (arrived, urgency) = self.lock().get(&(cache, path.clone())).cloned()?;
        Some(Arrival { path: path.clone(), arrived, urgency })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, UnderWay>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flight {
    /// In which lane it stands.
    pub(super) fn urgency(&self) -> &Urgency {
        &self.urgency
    }

    /// The path is in the cache, durably.
    pub(super) fn land(&self) {
        self.arrived.send_replace(true);
    }
}

impl Arrival {
    /// In which lane it stands.
    pub(super) fn urgency(&self) -> &Urgency {
        &self.urgency
    }

    /// Comes true when the path has arrived.
    pub(super) async fn wait(mut self) -> Result<(), Hindrance> {
        match self.arrived.wait_for(|arrived| *arrived).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Hindrance::ReferenceMissing(self.path)),
        }
    }
}
