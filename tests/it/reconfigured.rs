//! What has failed at a cache is tried again when its lines in the policy change: they may have been why.

use crate::support::{Nix, ScratchStore, Storewatch, expr};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

#[test]
fn what_has_failed_is_tried_again_with_another_configuration() {
    let Some(nix) = Nix::recent() else { return };
    for running_meanwhile in [true, false] {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        let cache = storewatch.cache_at("team");
        let named = format!("version = 1\n[caches.team]\nurl = \"{}\"\n", cache.url());
        storewatch.policy(&named);
        let chain = store.query_closure(&store.build(&expr::chain(2)).unwrap()[0]);
        let original = fs::read(&chain[0]).unwrap();
        overwrite(&chain[0], b"altered");
        assert_eq!(storewatch.cmd(&["backfill"]).code, Some(3));
        overwrite(&chain[0], &original);
        let counts = || (storewatch.jobs("failed").len(), storewatch.jobs("held").len());
        assert_eq!(counts(), (1, 1));

        // Rules may change as they like, and so may other caches; the queue doesn't mind a restart either.
        let more = "[[rules]]\nmatch = { name = \"other\" }\naction = \"skip\"\n";
        storewatch.policy(&format!("{named}[caches.more]\nurl = \"{}\"\n{more}", storewatch.cache_at("more").url()));
        let mut running = storewatch.start();
        let fresh = store.build(&expr::many(1)).unwrap();
        running.eventually("a fresh path", || cache.has_all(&fresh));
        assert_eq!(counts(), (1, 1), "tried again for no reason");

        let key = store.generate_key("team-2");
        fs::set_permissions(&key.secret, Permissions::from_mode(0o600)).unwrap();
        let signed = format!("{named}signing_key = {{ file = \"{}\" }}\n", key.secret.display());
        if !running_meanwhile {
            running.stop();
            storewatch.policy(&signed);
            running = storewatch.start();
        } else {
            storewatch.policy(&signed);
        }
        running.eventually("what had failed, and what needs it", || cache.has_all(&chain));
        running.eventually_logs("its configuration has changed: what had failed is tried again");
        running.stop();
        cache.assert_sound(&[]);
        store.read_back(&cache.url(), &key.public, &chain).unwrap();
    }
}

/// Changes a file of the store behind Nix's back.
fn overwrite(path: &str, content: &[u8]) {
    fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
    fs::write(path, content).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o444)).unwrap();
}
