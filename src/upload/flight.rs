//! Which paths are on their way to which cache right now, so that their referrers can be packed meanwhile.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::cache::Hindrance;
use crate::nix::StorePath;
use crate::queue::CacheId;

type Key = (CacheId, StorePath);

/// The paths under way. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Flights {
    under_way: Arc<Mutex<HashMap<Key, watch::Receiver<bool>>>>,
}

/// One path under way. Dropped without having [landed](Flight::land), it has not arrived.
pub(super) struct Flight {
    arrived: watch::Sender<bool>,
}

/// Waits for one path's arrival.
pub(super) struct Arrival {
    path: StorePath,
    arrived: watch::Receiver<bool>,
}

impl Flights {
    /// Announces a path, before its work begins.
    pub(super) fn announce(&self, cache: CacheId, path: &StorePath) -> Flight {
        let (arrived, receiver) = watch::channel(false);
        self.lock().insert((cache, path.clone()), receiver);
        Flight { arrived }
    }

    /// Forgets a path, after the queue knows what became of it.
    pub(super) fn forget(&self, cache: CacheId, path: &StorePath) {
        self.lock().remove(&(cache, path.clone()));
    }

    /// The arrival of a path that is under way.
    pub(super) fn arrival(&self, cache: CacheId, path: &StorePath) -> Option<Arrival> {
        let arrived = self.lock().get(&(cache, path.clone())).cloned()?;
        Some(Arrival { path: path.clone(), arrived })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, watch::Receiver<bool>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flight {
    /// The path is in the cache, durably.
    pub(super) fn land(&self) {
        self.arrived.send_replace(true);
    }
}

impl Arrival {
    /// Comes true when the path has arrived.
    pub(super) async fn wait(mut self) -> Result<(), Hindrance> {
        match self.arrived.wait_for(|arrived| *arrived).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Hindrance::ReferenceMissing(self.path)),
        }
    }
}
