//! From what the policy decides to what the queue admits.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{CacheId, PassedOver, Queue, QueueError, Wanted};
use crate::nix::{PathInfo, StoreDir};
use crate::policy::{CacheName, Decision, Policy};

/// A policy together with the numbers that its caches have in the queue.
#[derive(Clone)]
pub struct Routes {
    /// The policy.
    pub policy: Arc<Policy>,
    /// Its caches' numbers.
    pub caches: Arc<BTreeMap<CacheName, CacheId>>,
}

impl Routes {
    /// Routes by a policy to caches of these names and URLs, which get their numbers if they are new.
    ///
    /// # Errors
    /// [`QueueError`].
    pub fn find(
        queue: &mut Queue,
        policy: Arc<Policy>,
        caches: impl IntoIterator<Item = (CacheName, String)>,
    ) -> Result<Self, QueueError> {
        let numbered = caches.into_iter().map(|(name, url)| Ok((name.clone(), queue.cache_id(name.as_str(), &url)?)));
        Ok(Self { policy, caches: Arc::new(numbered.collect::<Result<_, QueueError>>()?) })
    }

    /// Only the routes to these caches; all of them for none. A rule that denies still denies.
    #[must_use]
    pub fn narrowed_to(self, names: &[CacheName]) -> Self {
        if names.is_empty() {
            return self;
        }
        let caches = self.caches.iter().filter(|(name, _)| names.contains(name));
        let caches = caches.map(|(name, id)| (name.clone(), *id)).collect();
        Self { policy: self.policy, caches: Arc::new(caches) }
    }

    /// Where a path goes on its own account; `None` for nowhere.
    #[must_use]
    pub fn wanted(&self, info: &PathInfo, decision: &Decision) -> Option<Wanted> {
        let caches: Vec<CacheId> =
            decision.uploads_to().iter().filter_map(|name| self.caches.get(name)).copied().collect();
        (!caches.is_empty()).then(|| Wanted { path: info.path.clone(), row: info.id, caches })
    }

    /// Where a path goes that somebody has named: where the policy sends it; and where the policy sends it nowhere,
    /// everywhere that it isn't denied. `None` where nothing is left of that.
    #[must_use]
    pub fn wanted_by_hand(&self, info: &PathInfo, decision: &Decision) -> Option<Wanted> {
        if !decision.uploads_to().is_empty() {
            return self.wanted(info, decision);
        }
        let spared = self.caches.iter().filter(|(name, _)| !decision.denies(name));
        let caches: Vec<CacheId> = spared.map(|(_, id)| *id).collect();
        (!caches.is_empty()).then(|| Wanted { path: info.path.clone(), row: info.id, caches })
    }

    /// Why a path goes nowhere by these routes: denied where all of them are closed to it, and by which rule.
    #[must_use]
    pub fn why_not(&self, info: &PathInfo, decision: &Decision, store_dir: &StoreDir) -> PassedOver {
        let denied = !self.caches.is_empty() && self.caches.keys().all(|name| decision.denies(name));
        let closed = self.caches.keys().next().filter(|_| denied);
        // For a single cache it may be another rule than the one that decided for the rest.
        let rule = closed.and_then(|name| self.policy.rule_for(info, store_dir, name).ok());
        PassedOver { rule: rule.as_ref().unwrap_or(decision.rule()).to_string(), denied }
    }
}
