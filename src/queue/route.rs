//! From what the policy decides to what the queue admits.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{CacheId, PassedOver, Queue, QueueError, Wanted, Why};
use crate::nix::{PathInfo, StoreDir};
use crate::policy::{CacheName, Decision, Policy};

/// A policy together with the numbers that its caches have in the queue.
#[derive(Clone)]
pub struct Routes {
    /// The policy.
    pub policy: Arc<Policy>,
    /// Its caches' numbers.
    pub caches: Arc<BTreeMap<CacheName, CacheId>>,
    /// Those of its caches that are off on this host: nothing goes there.
    pub off: Arc<Vec<CacheName>>,
}

impl Routes {
    /// Routes by a policy to caches of these names and URLs, which get their numbers if they are new. The others that the
    /// policy has are off.
    ///
    /// # Errors
    /// [`QueueError`].
    pub fn find(
        queue: &mut Queue,
        policy: Arc<Policy>,
        caches: impl IntoIterator<Item = (CacheName, String)>,
    ) -> Result<Self, QueueError> {
        let numbered = caches.into_iter().map(|(name, url)| Ok((name.clone(), queue.cache_id(name.as_str(), &url)?)));
        Ok(Self::to(policy, numbered.collect::<Result<_, QueueError>>()?))
    }

    /// Routes by a policy to caches that have these numbers. The others that the policy has are off.
    #[must_use]
    pub fn to(policy: Arc<Policy>, caches: BTreeMap<CacheName, CacheId>) -> Self {
        let off = policy.caches().iter().filter(|name| !caches.contains_key(*name)).cloned().collect();
        Self { policy, caches: Arc::new(caches), off: Arc::new(off) }
    }

    /// Only the routes to these caches; all of them for none. A rule that denies still denies.
    #[must_use]
    pub fn narrowed_to(self, names: &[CacheName]) -> Self {
        if names.is_empty() {
            return self;
        }
        let caches = self.caches.iter().filter(|(name, _)| names.contains(name));
        let caches = caches.map(|(name, id)| (name.clone(), *id)).collect();
        let off = self.off.iter().filter(|name| names.contains(name)).cloned().collect();
        Self { policy: self.policy, caches: Arc::new(caches), off: Arc::new(off) }
    }

    /// Where a path goes on its own account; `None` for nowhere.
    #[must_use]
    pub fn wanted(&self, info: &PathInfo, decision: &Decision) -> Option<Wanted> {
        let sent = decision.uploads_to().iter().filter_map(|name| self.caches.get(name));
        to(info, sent.copied().collect())
    }

    /// Where a path goes that somebody has named: where the policy sends it; and where the policy sends it nowhere,
    /// everywhere that it isn't denied. `None` where nothing is left of that.
    #[must_use]
    pub fn wanted_by_hand(&self, info: &PathInfo, decision: &Decision) -> Option<Wanted> {
        match decision.uploads_to() {
            [] => self.wherever_not_denied(info, decision),
            _ => self.wanted(info, decision),
        }
    }

    /// Where a path may go, whatever the policy sends it to: a cache that shows what needs it is to have it. `None` for nowhere.
    #[must_use]
    pub fn wherever_not_denied(&self, info: &PathInfo, decision: &Decision) -> Option<Wanted> {
        let spared = self.caches.iter().filter(|(name, _)| !decision.denies(name));
        to(info, spared.map(|(_, id)| *id).collect())
    }

    /// Those caches, off on this host, that a path would go to beside others, if there are any; somebody has asked for it.
    #[must_use]
    pub fn off_beside(&self, decision: &Decision) -> Option<PassedOver> {
        let sent = decision.uploads_to();
        let would_go = |name: &&CacheName| if sent.is_empty() { !decision.denies(name) } else { sent.contains(*name) };
        let off: Vec<&str> = self.off.iter().filter(would_go).map(CacheName::as_str).collect();
        (!off.is_empty()).then(|| PassedOver { by: off.join(", "), why: Why::Off })
    }

    /// Why a path goes nowhere by these routes: denied where all of them are closed to it, and by which rule; or since the
    /// caches that it would go to are off.
    #[must_use]
    pub fn why_not(&self, info: &PathInfo, decision: &Decision, store_dir: &StoreDir) -> PassedOver {
        let denied = !self.caches.is_empty() && self.caches.keys().all(|name| decision.denies(name));
        let off: Vec<&str> = self.off.iter().filter(|name| !decision.denies(name)).map(CacheName::as_str).collect();
        let would_go = |name: &&str| decision.uploads_to().iter().any(|cache| cache.as_str() == *name);
        if !denied && !off.is_empty() && (off.iter().any(would_go) || self.caches.is_empty()) {
            return PassedOver { by: off.join(", "), why: Why::Off };
        }
        let closed = self.caches.keys().next().filter(|_| denied);
        // For a single cache it may be another rule than the one that decided for the rest.
        let rule = closed.and_then(|name| self.policy.rule_for(info, store_dir, name).ok());
        let why = if denied { Why::Denied } else { Why::Skipped };
        PassedOver { by: rule.as_ref().unwrap_or(decision.rule()).to_string(), why }
    }
}
/// That a path goes to these caches, if there are any.
fn to(info: &PathInfo, caches: Vec<CacheId>) -> Option<Wanted> {
    (!caches.is_empty()).then(|| Wanted {
        path: info.path.clone(),
        row: info.id,
        registered: info.registration_time,
        caches,
    })
}
