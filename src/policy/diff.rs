//! What another policy would decide otherwise.

use crate::nix::{PathInfo, StoreDir, StorePath};

use super::{Action, CacheName, Decision, NeedsReferences, Policy};

/// A path that two policies decide differently for at least one cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The path.
    pub path: StorePath,
    /// The decision before.
    pub old: Decision,
    /// The decision after.
    pub new: Decision,
    /// The caches for which they differ, with what happened and what would; the old policy's first. `None`: that policy
    /// doesn't have the cache.
    pub caches: Vec<(CacheName, Option<Action>, Option<Action>)>,
}

impl Change {
    /// Asks both policies; `None` where nothing would happen otherwise, be it by another rule.
    ///
    /// # Errors
    /// [`NeedsReferences`] as for [`Policy::decide`].
    pub fn between(
        old: &Policy,
        new: &Policy,
        info: &PathInfo,
        store_dir: &StoreDir,
    ) -> Result<Option<Self>, NeedsReferences> {
        let (before, after) = (old.decide(info, store_dir)?, new.decide(info, store_dir)?);
        let verdict = |policy: &Policy, decision: &Decision, cache: &CacheName| {
            policy.caches().contains(cache).then(|| decision.verdict(cache))
        };
        let added = new.caches().iter().filter(|cache| !old.caches().contains(cache));
        let caches: Vec<_> = old
            .caches()
            .iter()
            .chain(added)
            .map(|cache| (cache.clone(), verdict(old, &before, cache), verdict(new, &after, cache)))
            .filter(|(_, before, after)| before.unwrap_or(Action::Skip) != after.unwrap_or(Action::Skip))
            .collect();
        if caches.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self { path: info.path.clone(), old: before, new: after, caches }))
    }
}
