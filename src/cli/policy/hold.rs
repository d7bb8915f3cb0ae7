//! What would hold a path back: a reference that the policy denies, near or far.

use std::collections::{HashSet, VecDeque};

use crate::nix::{PathInfo, StoreDir, StorePath};
use crate::policy::{CacheName, NeedsReferences, Policy, RuleLabel};

/// So many paths of a closure are looked at: a whole system has a few thousand, and each takes some 0.1 ms.
pub(super) const MOST_PATHS: usize = 10_000;

/// What a cache must not get and a path needs there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    pub(super) cache: CacheName,
    /// What is denied.
    pub(super) denied: StorePath,
    /// By which rule.
    pub(super) rule: RuleLabel,
    /// The reference of the path's own that leads there; `None` where it is the denied one itself.
    pub(super) through: Option<StorePath>,
}

/// What a search has found.
#[derive(Debug, Default)]
pub(super) struct Holds {
    /// The nearest one at each cache that has any.
    pub(super) found: Vec<Hold>,
    /// Whether the closure is larger than what was looked at.
    pub(super) cut_short: bool,
}

/// Looks through a path's closure for what holds it back at the caches that it goes to on its own account. What an upstream
/// delivers is no hindrance, whatever it needs. Whether a cache has a reference already isn't asked.
pub(super) async fn find_holds<E: From<NeedsReferences>>(
    policy: &Policy,
    store_dir: &StoreDir,
    info: &PathInfo,
    mut look_up: impl AsyncFnMut(&StorePath) -> Result<Option<PathInfo>, E>,
) -> Result<Holds, E> {
    let decision = policy.decide(info, store_dir)?;
    let mut open = decision.uploads_to().to_vec();
    let mut holds = Holds::default();
    let mut seen = HashSet::from([info.path.clone()]);
    let mut next = VecDeque::new();
    // What is looked at comes with the path's own reference that led there.
    for reference in info.other_references().filter(|reference| seen.insert((*reference).clone())) {
        next.push_back((reference.clone(), None));
    }
    while let Some((path, through)) = next.pop_front().filter(|_| !open.is_empty()) {
        if let Some(info) = look_up(&path).await?
            && policy.delivered_by_upstream(&info, store_dir).is_none()
        {
            let decision = policy.decide(&info, store_dir)?;
            for cache in open.extract_if(.., |cache| decision.denies(cache)) {
                let rule = policy.rule_for(&info, store_dir, &cache)?;
                holds.found.push(Hold { cache, denied: path.clone(), rule, through: through.clone() });
            }
            let through = through.unwrap_or(path);
            for reference in info.other_references() {
                if seen.len() > MOST_PATHS {
                    holds.cut_short = true;
                } else if seen.insert(reference.clone()) {
                    next.push_back((reference.clone(), Some(through.clone())));
                }
            }
        }
    }
    holds.cut_short &= !open.is_empty();
    Ok(holds)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{config, path_info};
    use super::*;

    const POLICY: &str = r#"
        version = 1
        [caches.team]
        url = "file:///team"
        [caches.public]
        url = "file:///public"
        [[rules]]
        match = { name = "cuda" }
        action = "deny"
        from = ["public"]
        [[rules]]
        name = "licensed"
        match = { name = "matlab" }
        action = "deny"
        [[rules]]
        match = { name = "nowhere" }
        action = "skip"
    "#;

    fn named(name: &str) -> StorePath {
        StorePath::from_base_name(&format!("{:0>32}-{name}", name.len())).expect("a path")
    }

    fn referring(name: &str, references: &[&str]) -> PathInfo {
        let references = references.iter().map(|name| named(name)).collect();
        PathInfo { path: named(name), references: Some(references), ..path_info(name) }
    }

    async fn search(policy: &str, infos: &[PathInfo]) -> Holds {
        let look_up = async |path: &StorePath| Ok(infos.iter().find(|info| info.path == *path).cloned());
        let (policy, store_dir) = (config(policy).policy, StoreDir::default());
        find_holds::<NeedsReferences>(&policy, &store_dir, &infos[0], look_up).await.expect("found")
    }

    /// What is found, in words.
    async fn found(policy: &str, infos: &[PathInfo]) -> Vec<String> {
        let holds = search(policy, infos).await;
        assert!(!holds.cut_short);
        let told = |hold: &Hold| {
            let through = hold.through.as_ref().map_or("itself", StorePath::name);
            format!("{}: {} by {}, {through}", hold.cache, hold.denied.name(), hold.rule)
        };
        holds.found.iter().map(told).collect()
    }

    #[tokio::test]
    async fn the_nearest_denied_reference_at_each_cache() {
        let infos = [
            referring("app", &["app", "cuda", "lib"]),
            referring("cuda", &[]),
            referring("lib", &["lib", "base"]),
            referring("base", &["matlab"]),
            referring("matlab", &["base"]),
        ];
        let expected = ["public: cuda by rule 1, itself", "team: matlab by rule 2 \"licensed\", lib"];
        assert_eq!(found(POLICY, &infos).await, expected);
        assert_eq!(found("version = 1", &infos).await, [""; 0]);
        // What goes nowhere on its own account is held nowhere.
        let skipped = [referring("nowhere", &["cuda"]), referring("cuda", &[])];
        assert_eq!(found(POLICY, &skipped).await, [""; 0]);
    }

    #[tokio::test]
    async fn a_closure_without_an_end_is_not_searched_to_its_end() {
        let names: Vec<String> = (0..MOST_PATHS + 1).map(|n| format!("p{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let path = |name: &str| StorePath::from_base_name(&format!("{:0>32}-x", &name[1..])).expect("a path");
        let infos = |count: usize| {
            let references = names[..count].iter().map(|name| path(name)).collect();
            [PathInfo { references: Some(references), ..path_info("app") }, referring("lib", &[])]
        };
        assert!(!search(POLICY, &infos(100)).await.cut_short);
        let first = infos(10)[0].clone();
        let wide = PathInfo { path: path(names[0]), ..infos(MOST_PATHS + 1)[0].clone() };
        assert!(search(POLICY, &[first, wide]).await.cut_short);
    }
}
