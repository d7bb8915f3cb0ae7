//! A cache that lies in a folder which another has for itself: the policy of one host doesn't let them, but the other may be
//! another host's.

use super::site::Site;
use super::{assert_sound, each_site, json};
use crate::support::s3::BUCKET;
use crate::support::{Nix, ScratchStore, Storewatch, expr};
use std::collections::BTreeSet;

const PRUNE: [&str; 5] = ["--max-size", "0B", "--grace", "0s", "--yes"];

/// The policy of a cache in the folder of archives of the site's.
fn nested_policy(site: &Site, storewatch: &Storewatch<'_>) -> String {
    let policy = site.policy(storewatch);
    match site {
        Site::File { cache, .. } => policy.replace(&cache.url(), &format!("{}/nar", cache.url())),
        _ => policy.replacen(&format!("://{BUCKET}"), &format!("://{BUCKET}/nar"), 1),
    }
}

each_site! {
    fn a_cache_among_the_archives_of_another_stays_whole(site: Site, store: ScratchStore) {
        let [outer, inner] = [(); 2].map(|()| Storewatch::new(&store));
        outer.policy(&site.policy(&outer));
        inner.policy(&nested_policy(&site, &inner));
        outer.cmd(&["push", store.build(&expr::chain(2)).unwrap().last().unwrap()]).ok();
        inner.cmd(&["push", store.build(&expr::chain(3)).unwrap().last().unwrap()]).ok();
        site.set("nar/orphan.nar.zst", "nobody names it");
        let inners = || -> BTreeSet<String> {
            let is_inners = |name: &String| name.strip_prefix("nar/").is_some_and(|name| name.contains('/') || !name.contains(".nar."));
            site.names().into_iter().filter(is_inners).collect()
        };
        let before = inners();
        assert!(before.contains("nar/nix-cache-info") && before.iter().any(|name| name.starts_with("nar/nar/")), "{before:?}");
        let found = json(&outer, "verify", &[]).0;
        let counts = ["leftovers", "perhaps_under_way", "faults"].map(|what| found[what].as_u64().unwrap());
        assert_eq!(counts, [0, 1, 0], "{found:#}");
        let (pruned, code) = json(&outer, "prune", &PRUNE);
        assert_eq!((&pruned["orphaned_archives"], code), (&1.into(), Some(0)), "{pruned:#}");
        assert_eq!(inners(), before);
        assert_eq!(site.names().len(), before.len() + 1, "of the outer cache nothing is left: {:?}", site.names());
        assert_sound(&inner);
    }
}
