//! Paths that are gone, or not what they were, when their turn comes.

use crate::support::nix::base_name;
use crate::support::{Nix, ScratchStore, Storewatch, each_nix, expr};
use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

each_nix! {
    fn a_collected_path_ends_its_own_job_only(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        storewatch.cache().block();
        let mut running = storewatch.start();
        let expression = expr::many(4);
        let paths = store.build(&expression).unwrap();
        running.eventually("all jobs in the queue", || storewatch.jobs("pending").len() == 4);
        let (collected, kept) = (&paths[1..2], [&paths[..1], &paths[2..]].concat());
        store.delete(collected);
        storewatch.cache().unblock();
        running.eventually("what is still there", || storewatch.cache().has_all(&kept));
        running.eventually("the end of the collected one", || storewatch.jobs("gone").len() == 1);
        assert_eq!(storewatch.jobs("gone")[0]["path"], base_name(&collected[0]));
        assert_eq!(storewatch.cache_status("local")["gone"], 1);
        assert_eq!(storewatch.cache().store_paths(), kept.into_iter().collect::<BTreeSet<_>>());

        // Built again, it is offered again.
        assert_eq!(store.build(&expression).unwrap(), paths);
        running.eventually("all of them", || storewatch.cache().has_all(&paths));
        running.stop();
        storewatch.cache().assert_sound(&[]);
        assert!(storewatch.jobs_left().is_empty());
    }

    fn a_collected_closure_leaves_nothing_behind(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        storewatch.cache().block();
        let mut running = storewatch.start();
        let collected = store.query_closure(&store.build(&expr::chain(3)).unwrap()[0]);
        running.eventually("its jobs in the queue", || storewatch.jobs("pending").len() == 3);
        store.gc();
        assert!(!store.valid(&collected[0]));
        let sentinel = store.build(&expr::many(1)).unwrap();
        storewatch.cache().unblock();
        running.eventually("what was built later", || storewatch.cache().has_all(&sentinel));
        running.eventually("the end of the collected ones", || storewatch.jobs("gone").len() == 3);
        running.stop();
        assert_eq!(storewatch.cache().store_paths(), sentinel.into_iter().collect::<BTreeSet<_>>());
        storewatch.cache().assert_sound(&[]);
    }

    fn altered_content_is_refused_and_what_needs_it_held(nix: Nix) {
        for altered in ["another size", "same"] {
            let store = ScratchStore::new(&nix);
            let storewatch = Storewatch::new(&store);
            storewatch.cache().block();
            let mut running = storewatch.start();
            let chain = store.query_closure(&store.build(&expr::chain(4)).unwrap()[0]);
            let bystander = store.build(&expr::many(1)).unwrap().remove(0);
            running.eventually("all jobs in the queue", || storewatch.jobs("pending").len() == 5);
            let original = fs::read(&chain[1]).unwrap();
            let other = match altered {
                "same" => original.iter().map(|byte| byte ^ 1).collect(),
                longer => [&original[..], longer.as_bytes()].concat(),
            };
            overwrite(&chain[1], &other);
            storewatch.cache().unblock();
            let refused = || storewatch.jobs("failed").len() == 1 && storewatch.jobs("held").len() == 2;
            running.eventually("the altered path refused and its referrers held", refused);
            running.eventually("the others", || storewatch.cache().has(&chain[0]) && storewatch.cache().has(&bystander));

            let failed = &storewatch.jobs("failed")[0];
            assert_eq!(failed["path"], base_name(&chain[1]));
            let reason = failed["reason"].as_str().unwrap();
            assert!(reason.contains("its content has changed since Nix registered it"), "{reason}");
            let held = storewatch.cmd(&["queue", "list", "--state", "held"]).ok();
            for (referrer, needed) in [(2, 1), (3, 2)] {
                let line = held.lines().find(|line| line.contains(&format!(" {} ", base_name(&chain[referrer])))).unwrap();
                assert!(line.contains(&format!("needs {}", base_name(&chain[needed]))), "{held}");
            }
            assert!(!storewatch.cache().has(&chain[1]) && !storewatch.cache().has(&chain[2]));
            assert_eq!(storewatch.cache().archives().len(), 2, "altered content is in the cache");
            running.eventually("nothing half", || storewatch.cache().temporary_files().is_empty());
            let counts = storewatch.cache_status("local");
            assert_eq!((&counts["failed"], &counts["held"]), (&1.into(), &2.into()));

            overwrite(&chain[1], &original);
            assert_eq!(storewatch.cmd(&["queue", "retry", base_name(&chain[1])]).ok(), "1 job is tried again\n");
            running.eventually("the repaired path and its referrers", || storewatch.cache().has_all(&chain));
            running.eventually("the queue's end", || storewatch.jobs_left().is_empty());
            running.stop();
            storewatch.cache().assert_sound(&[]);
            let key = storewatch.public_key("local");
            store.read_back(&storewatch.cache().url(), &key, &chain).unwrap();
        }
    }
}

#[test]
fn a_large_path_that_was_altered_leaves_nothing_in_the_cache() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    storewatch.cache().block();
    let mut running = storewatch.start();
    let large = store.build(&expr::sized(10_000_000)).unwrap().remove(0);
    running.eventually("its job in the queue", || storewatch.jobs("pending").len() == 1);
    let mut bytes = fs::read(&large).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    overwrite(&large, &bytes);
    storewatch.cache().unblock();
    running.eventually("its refusal", || storewatch.jobs("failed").len() == 1);
    running.stop();
    assert!(storewatch.cache().narinfos().is_empty() && storewatch.cache().archives().is_empty());
    storewatch.cache().assert_sound(&[]);
}

#[test]
fn files_that_are_missing_though_nix_holds_the_path_for_valid_are_reported() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    storewatch.cache().block();
    let mut running = storewatch.start();
    let path = store.build(&expr::many(1)).unwrap().remove(0);
    running.eventually("its job in the queue", || storewatch.jobs("pending").len() == 1);
    let aside = store.root().join("aside");
    fs::rename(&path, &aside).unwrap();
    storewatch.cache().unblock();
    running.eventually("its end as failed", || storewatch.jobs("failed").len() == 1);
    let reason = storewatch.jobs("failed")[0]["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("nix-store --verify"), "{reason}");
    fs::rename(&aside, &path).unwrap();
    storewatch.cmd(&["queue", "retry"]).ok();
    running.eventually("the path", || storewatch.cache().has(&path));
}

/// Changes a file of the store behind Nix's back.
fn overwrite(path: &str, content: &[u8]) {
    fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
    fs::write(path, content).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o444)).unwrap();
}
