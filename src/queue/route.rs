//! From what the policy decides to what the queue admits.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{CacheId, Wanted};
use crate::nix::PathInfo;
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
    /// Where a path goes on its own account; `None` for nowhere.
    #[must_use]
    pub fn wanted(&self, info: &PathInfo, decision: &Decision) -> Option<Wanted> {
        let caches: Vec<CacheId> =
            decision.uploads_to().iter().filter_map(|name| self.caches.get(name)).copied().collect();
        (!caches.is_empty()).then(|| Wanted { path: info.path.clone(), row: info.id, caches })
    }
}
