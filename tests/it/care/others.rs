//! What others keep beside the cache, and what a key may not do.

use super::site::{Site, narinfo, with_each_fake};
use super::{assert_sound, cache, each_site, json};
use crate::support::backend::bucket_policy;
use crate::support::s3::{Op, Trouble};
use crate::support::{Fault, FlakyProxy, Garage, Nix, On, Reader, ScratchStore, Storewatch, eventually, expr};
use std::time::{Duration, SystemTime};
use storewatch::cache::care::{Condition, Shelf};

const PRUNE: [&str; 5] = ["--keep", "90d", "--grace", "0s", "--yes"];

#[test]
fn uploads_in_parts_of_others_are_neither_told_nor_aborted() {
    with_each_fake(|site, fake, store| {
        let storewatch = Storewatch::new(store);
        storewatch.policy(&site.policy(&storewatch));
        storewatch.cmd(&["push", &store.build(&expr::many(1)).unwrap()[0]]).ok();
        let names = ["backups/disk.img", "team/nar/nested.nar.zst", "disk.img"];
        names.iter().for_each(|name| drop(fake.state().begin(name)));
        site.leave_an_upload();
        let (found, _) = json(&storewatch, "verify", &[]);
        assert_eq!(found["perhaps_under_way"], u64::from(site.shows_uploads()), "{found:#}");
        let (pruned, code) = json(&storewatch, "prune", &PRUNE);
        assert_eq!((&pruned["unfinished_uploads"], code), (&u64::from(site.shows_uploads()).into(), Some(0)));
        let state = fake.state();
        let left: Vec<&str> = state.multiparts.values().map(|(name, _)| name.as_str()).collect();
        assert!(names.iter().all(|name| left.contains(name)), "{left:?}");
        assert_eq!(left.len(), 3);
    });
}

#[test]
fn where_uploads_in_parts_may_not_be_listed_all_else_is_done() {
    with_each_fake(|site, fake, store| {
        if !site.shows_uploads() {
            return;
        }
        let storewatch = Storewatch::new(store);
        storewatch.policy(&site.policy(&storewatch));
        storewatch.cmd(&["push", &store.build(&expr::many(1)).unwrap()[0]]).ok();
        for (status, code) in [(403, "AccessDenied"), (501, "NotImplemented")] {
            site.set("nar/orphan.nar.zst", "nobody names it");
            site.leave_an_upload();
            fake.fail(&[Op::Uploads], Trouble::Code(status, code));
            let said = cache(&storewatch, "verify", &[]).ok();
            assert!(said.contains("1 path, all well") && said.contains("nar/orphan.nar.zst"), "{said}");
            let told = "s3:ListBucketMultipartUploads";
            assert!(said.matches(told).count() == 1 && said.contains(code), "{said}");
            let said = cache(&storewatch, "prune", &PRUNE).ok();
            assert!(said.contains("1 × archive that no narinfo names") && said.contains(told), "{said}");
            assert!(site.get("nar/orphan.nar.zst").is_none());
            let (pruned, _) = json(&storewatch, "prune", &PRUNE);
            assert!(pruned["uploads_unseen"].as_str().unwrap().contains(code), "{pruned:#}");
            fake.pass();
        }
        // That one of them may not be taken back keeps nothing else from being done either: what nothing names is doomed.
        site.set("nar/orphan.nar.zst", "nobody names it");
        site.age("nar/orphan.nar.zst", Duration::from_secs(2 * 24 * 60 * 60));
        fake.state().modified.insert(String::new(), SystemTime::now() - Duration::from_secs(2 * 24 * 60 * 60));
        fake.fail(&[Op::Abort], Trouble::Code(403, "AccessDenied"));
        assert_eq!(cache(&storewatch, "prune", &["--keep", "90d", "--yes"]).code, Some(1));
        assert_eq!(site.names().iter().filter(|name| name.starts_with("pruned/")).count(), 1);
        fake.pass();
        assert_eq!(json(&storewatch, "prune", &PRUNE).0["unfinished_uploads"], 2);
    });
}

#[test]
fn uploads_in_parts_whose_list_does_not_end_keep_nothing_else_from_being_done() {
    with_each_fake(|site, fake, store| {
        if !site.shows_uploads() {
            return;
        }
        let storewatch = Storewatch::new(store);
        storewatch.policy(&site.policy(&storewatch));
        storewatch.cmd(&["push", &store.build(&expr::many(1)).unwrap()[0]]).ok();
        fake.state().lists_in_a_circle = true;
        let said = cache(&storewatch, "verify", &[]).ok();
        assert!(said.contains("1 path, all well") && said.contains("leads in a circle"), "{said}");
    });
}

/// Neither hides the other.
#[test]
fn that_a_prune_fails_and_that_the_queue_was_not_told_is_both_said() {
    let (Some(nix), Some(site)) = (Nix::recent(), Site::fake()) else { return };
    let Site::Fake(fake) = &site else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    storewatch.policy(&site.policy(&storewatch));
    storewatch.cmd(&["push", &store.build(&expr::many(1)).unwrap()[0]]).ok();
    fake.fail_at(&[Op::Put], "pruned/", Trouble::Stall);
    let prune = ["--max-size", "0B", "--grace", "0s", "--yes"];
    let queue = storewatch.state_dir().join("queue.sqlite");
    let said = std::thread::scope(|scope| {
        scope.spawn(|| {
            eventually("a prune that hides something", || fake.troubled() > 0);
            std::fs::rename(&queue, queue.with_extension("away")).unwrap();
            std::fs::create_dir(&queue).unwrap();
            // Of the archive, when its path is hidden.
            fake.fail_at(&[Op::Delete], "nar/", Trouble::Code(403, "AccessDenied"));
        });
        cache(&storewatch, "prune", &prune)
    });
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("AccessDenied") && said.stderr.contains("queue.sqlite"), "{said:?}");
}

#[test]
fn an_object_of_others_with_an_odd_name_stands_in_nobodys_way() {
    with_each_fake(|site, _, store| {
        let storewatch = Storewatch::new(store);
        storewatch.policy(&site.policy(&storewatch));
        let paths = store.build(&expr::many(2)).unwrap();
        storewatch.cmd(&["push", &paths[0], &paths[1]]).ok();
        ["other//thing", "log//thing"].iter().for_each(|name| site.set(name, "theirs"));
        site.remove(&narinfo(&paths[0]));
        let said = cache(&storewatch, "verify", &["--deep"]).ok();
        assert!(said.contains("1 path, all well") && said.matches("perhaps under way: archive").count() == 1, "{said}");
        assert_eq!(json(&storewatch, "prune", &PRUNE).0["orphaned_archives"], 1);
        assert_sound(&storewatch);
        assert!(site.get("other//thing").is_some());
        // Where it is in the way, it is said which it is.
        site.set("nar//thing", "theirs, too");
        let said = cache(&storewatch, "verify", &[]);
        assert!(said.code == Some(1) && said.stderr.contains("nar//thing"), "{said:?}");
        assert!(said.stderr.contains("rename or delete it"), "{said:?}");
    });
}

#[test]
fn folders_of_others_are_neither_listed_nor_counted_however_many_there_are() {
    with_each_fake(|site, fake, store| {
        let storewatch = Storewatch::new(store);
        storewatch.policy(&site.policy(&storewatch));
        storewatch.cmd(&["push", &store.build(&expr::many(1)).unwrap()[0]]).ok();
        let before = json(&storewatch, "prune", &PRUNE).0;
        let theirs: Vec<String> = (0..1_000).map(|folder| format!("{folder:03}/thing")).collect();
        theirs.iter().for_each(|name| site.set(name, "theirs"));
        fake.state().page = None;
        fake.state().asked.clear();
        let after = json(&storewatch, "prune", &PRUNE).0;
        assert_eq!(after["bytes_left"], before["bytes_left"], "{after:#}");
        let asked = fake.state().asked[&Op::List];
        assert!(asked < 20, "some pages and the cache's own folders, now and then: {asked} requests");
        assert_sound(&storewatch);
        assert!(theirs.iter().all(|name| fake.state().objects.contains_key(name)));
    });
}

each_site! {
    fn what_others_have_written_plays_no_tricks_on_a_terminal(site: Site, store: ScratchStore) {
        let storewatch = Storewatch::new(&store);
        storewatch.policy(&site.policy(&storewatch));
        let path = store.build(&expr::many(1)).unwrap().remove(0);
        storewatch.cmd(&["push", &path]).ok();
        let text = site.text(&narinfo(&path)).replace("Sig: ", "Sig: \u{1b}[2J");
        site.set(&narinfo(&path), text);
        if let Site::File { .. } = site {
            site.set("nar/\u{1b}[2J.nar", "nobody names it");
        }
        let verified = cache(&storewatch, "verify", &[]);
        assert!(verified.stdout.contains("no good signature"), "{verified:?}");
        let signed = cache(&storewatch, "sign", &[]);
        assert!(signed.stderr.contains("not signed"), "{signed:?}");
        site.remove("nix-cache-info");
        site.set("nix-cache-info", "StoreDir: /nix/\u{1b}[2Jstore\n");
        let info = cache(&storewatch, "info", &[]);
        assert!(info.stdout.contains("[2Jstore"), "{info:?}");
        for said in [verified, signed, info] {
            assert!(!said.stdout.contains('\u{1b}') && !said.stderr.contains('\u{1b}'), "{said:?}");
        }
    }

    /// Its name vouches for it, so readers take it without.
    fn what_is_content_addressed_needs_no_signature(site: Site, store: ScratchStore) {
        let storewatch = Storewatch::new(&store);
        storewatch.policy(&site.policy(&storewatch));
        let file = storewatch.state_dir().with_file_name("added");
        std::fs::write(&file, "by its content").unwrap();
        let path = store.add(&file);
        storewatch.cmd(&["push", &path]).ok();
        let text = site.text(&narinfo(&path));
        let unsigned: Vec<&str> = text.lines().filter(|line| !line.starts_with("Sig: ")).collect();
        let unsigned = format!("{}\n", unsigned.join("\n"));
        assert!(unsigned.contains("CA: fixed:r:sha256:") && unsigned != text, "{text}");
        site.set(&narinfo(&path), unsigned.clone());
        assert_sound(&storewatch);
        let key = storewatch.public_key("team");
        Reader::empty(&store).copy_from(&site.substituter(), &key, std::slice::from_ref(&path)).unwrap();
        let (signed, code) = json(&storewatch, "sign", &[]);
        assert_eq!((&signed["needless"], &signed["refused"], code), (&1.into(), &0.into(), Some(0)), "{signed:#}");
        assert_eq!(site.text(&narinfo(&path)), unsigned, "nobody has vouched for the hash of its archive");
        site.set(&narinfo(&path), unsigned.replace("CA: fixed:r:", "CA: fixed:"));
        assert_eq!(json(&storewatch, "verify", &[]).0["faults_by_kind"]["unsigned"], 1, "an address that isn't its own");
    }
}

/// A cache in a folder of the bucket is another one: what it is uploading is its own matter.
#[test]
fn uploads_of_a_nested_cache_stay_in_garage() {
    let (Some(nix), Some(garage)) = (Nix::recent(), Garage::start()) else { return };
    let (store, proxy) = (ScratchStore::new(&nix), FlakyProxy::before(garage.port()));
    let nested = Storewatch::new(&store);
    nested.policy(&bucket_policy(&nested, proxy.port(), garage.key()).replacen('?', "/team?", 1));
    proxy.fail(On::Every, Fault::StallAfter(1_000_000));
    let mut running = nested.start();
    store.build(&expr::sized(12_000_000)).unwrap();
    running.eventually("an upload in parts", || garage.contents().unfinished == 1);
    running.kill9();
    let outer = Storewatch::new(&store);
    outer.policy(&bucket_policy(&outer, garage.port(), garage.key()));
    outer.cmd(&["push", &store.build(&expr::many(1)).unwrap()[0]]).ok();
    assert_eq!(json(&outer, "verify", &[]).0["leftover_files"].as_array().unwrap().len(), 0);
    assert_eq!(json(&outer, "prune", &PRUNE).0["unfinished_uploads"], 0);
    assert_eq!(garage.contents().unfinished, 1);
    nested.policy(&bucket_policy(&nested, garage.port(), garage.key()).replacen('?', "/team?", 1));
    assert_eq!(json(&nested, "prune", &PRUNE).0["unfinished_uploads"], 1);
}

/// Garage takes what it is given on a condition, and says nothing.
#[test]
fn a_store_that_does_not_look_at_conditions_is_found_out() {
    let Some(garage) = Garage::start() else { return };
    let name = "0123456789abcdfghijklmnpqrsvwxyz.narinfo";
    super::site::with_shelf(&garage, async |shelf: &dyn Shelf| {
        let put =
            async |content: &str, condition| shelf.put(name, content.as_bytes().to_vec(), condition).await.unwrap();
        assert!(put("first", Condition::Absent).await);
        assert!(!put("second", Condition::Absent).await, "one is there");
        let first = shelf.read(name).await.unwrap().unwrap();
        assert_eq!(first.content, b"first");
        assert!(put("another's", Condition::Always).await);
        assert!(!put("second", Condition::Unchanged(&first)).await, "it isn't the same any more");
        assert_eq!(shelf.read(name).await.unwrap().unwrap().content, b"another's");
    });
    // Nor is the very first one put over what is there.
    super::site::with_shelf(&garage, async |shelf: &dyn Shelf| {
        assert!(!shelf.put(name, b"second".to_vec(), Condition::Absent).await.unwrap());
        assert_eq!(shelf.read(name).await.unwrap().unwrap().content, b"another's");
    });
}
