//! A prune removes what is old and not needed, and nothing else, whatever happens meanwhile.

use super::site::{Site, narinfo, with_each_fake};
use super::{assert_sound, cache, each_site, json};
use crate::backend_contract::eventually_done;
use crate::support::{Nix, Reader, ScratchStore, Storewatch, expr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Makes paths and all their files so many days older.
fn age(site: &Site, paths: &[String], days: u32) {
    for path in paths {
        site.age(&site.narinfo(path).url, DAY * days);
        site.age(&narinfo(path), DAY * days);
    }
    // The cache hasn't rested since.
    site.age("nix-cache-info", DAY);
}

/// Paths of a chain, references first, pushed.
fn pushed_chain(storewatch: &Storewatch<'_>, store: &ScratchStore, length: usize) -> Vec<String> {
    let chain = store.query_closure(&store.build(&expr::chain(length)).unwrap()[0]);
    storewatch.cmd(&["push", chain.last().unwrap()]).ok();
    chain
}

/// What refers to a path that is there already.
fn needing(path: &str) -> String {
    expr::script("needing", "echo $dep > $out").replacen(
        "derivation {",
        &format!("derivation {{ dep = builtins.storePath {path};"),
        1,
    )
}

/// By this host's clock, which is a year ahead of the store's.
#[test]
fn what_is_old_is_so_by_the_stores_clock() {
    with_each_fake(|site, fake, store| {
        fake.state().behind = DAY * 365;
        let storewatch = Storewatch::new(store);
        storewatch.policy(&site.policy(&storewatch));
        let chain = pushed_chain(&storewatch, store, 2);
        let pruned = json(&storewatch, "prune", &["--keep", "90d", "--yes"]).0;
        assert_eq!((&pruned["paths_removed"], &pruned["paths_kept"]), (&0.into(), &2.into()), "{pruned:#}");
        // Nor is anything taken for too young by it.
        age(site, &chain, 365 + 100);
        let pruned = json(&storewatch, "prune", &["--keep", "90d", "--yes"]).0;
        assert_eq!(pruned["paths_removed"], 2, "{pruned:#}");
    });
}

/// As where this host's clock is a year ahead, by which its directory is kept: nobody can tell the one from the other.
#[test]
fn a_cache_in_which_nothing_was_written_for_long_is_not_pruned_by_age() {
    let (Some(nix), Some(site)) = (Nix::recent(), Site::file()) else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    storewatch.policy(&site.policy(&storewatch));
    let chain = pushed_chain(&storewatch, &store, 2);
    age(&site, &chain, 365);
    site.age("nix-cache-info", DAY * 365);
    // It has just been started, and uploads something.
    storewatch.cmd(&["push", &store.build(&expr::many(1)).unwrap()[0]]).ok();
    for more in [&[][..], &["--yes"]] {
        let refused = cache(&storewatch, "prune", &[&["--keep", "90d"], more].concat());
        assert!(refused.code == Some(1) && refused.stderr.contains("by this host's clock"), "{refused:?}");
        assert!(refused.stderr.contains("hint: set the clock if it is wrong"), "{refused:?}");
    }
    assert!(chain.iter().all(|path| site.has(path)));
    // Somebody has used it, or it is to be made smaller.
    let sized = json(&storewatch, "prune", &["--max-size", "0B", "--yes"]).0;
    assert_eq!((&sized["paths_removed"], &sized["paths_kept"]), (&2.into(), &1.into()), "{sized:#}");
}

each_site! {
    fn what_is_old_goes_from_the_top_and_its_archives_later(site: AgedSite, store: ScratchStore) {
        let storewatch = Storewatch::new(&store);
        storewatch.policy(&site.policy(&storewatch));
        let (old, new) = (pushed_chain(&storewatch, &store, 3), pushed_chain(&storewatch, &store, 3));
        age(&site, &old, 100);
        age(&site, &new[..2], 100);
        let before = site.names();
        let terms = ["--keep", "90d"];
        let (would, _) = json(&storewatch, "prune", &terms);
        let counts = ["paths_removed", "paths_kept", "paths_kept_as_needed"].map(|name| would[name].as_u64().unwrap());
        assert_eq!((counts, &would["done"]), ([3, 1, 2], &false.into()), "{would:#}");
        assert_eq!(site.names(), before, "nothing is removed without --yes");

        let said = cache(&storewatch, "prune", &[&terms[..], &["--yes"]].concat()).ok();
        assert!(said.contains("3 paths removed") && said.contains("more are freed by a prune in 24 hours"), "{said}");
        let key = storewatch.public_key("team");
        let reader = Reader::empty(&store);
        reader.copy_from(&site.substituter(), &key, &new[2..]).unwrap();
        assert!(reader.copy_from(&site.substituter(), &key, &old[..1]).is_err());
        assert!(before.iter().filter(|name| name.starts_with("nar/")).all(|name| site.names().contains(name)));
        assert_sound(&storewatch);
        let found = json(&storewatch, "verify", &[]).0;
        let counts = ["leftovers", "perhaps_under_way", "waiting_for_prune"].map(|name| found[name].as_u64().unwrap());
        assert_eq!(counts, [0, 0, 3], "{found:#}");
        let again = json(&storewatch, "prune", &[&terms[..], &["--yes"]].concat()).0;
        assert_eq!((&again["paths_removed"], &again["bytes_freed"]), (&0.into(), &0.into()), "{again:#}");

        for name in site.names().iter().filter(|name| name.starts_with("pruned/")) {
            site.age(name, DAY * 2);
        }
        let later = json(&storewatch, "prune", &[&terms[..], &["--yes"]].concat()).0;
        assert!(later["bytes_freed"].as_u64() > Some(0) && later["bytes_freed_later"] == 0, "{later:#}");
        assert_eq!(site.names().len(), 3 * 2 + 1);
        // What was pruned is uploaded again when somebody asks for it.
        storewatch.cmd(&["push", &old[2]]).ok();
        Reader::empty(&store).copy_from(&site.substituter(), &key, &old).unwrap();
        assert_sound(&storewatch);
    }

    fn what_a_narinfo_names_elsewhere_is_left_alone_and_told(site: AgedSite, store: ScratchStore) {
        let storewatch = Storewatch::new(&store);
        storewatch.policy(&site.policy(&storewatch));
        let paths = store.build(&expr::many(2)).unwrap();
        storewatch.cmd(&["push", &paths[0], &paths[1]]).ok();
        let (theirs, archive) = ("disk.img", site.narinfo(&paths[0]).url);
        site.set(theirs, "others'");
        site.set(&narinfo(&paths[0]), site.text(&narinfo(&paths[0])).replace(&archive, theirs));
        age(&site, &paths, 100);
        let terms = ["--keep", "90d", "--yes"];
        let would = cache(&storewatch, "prune", &terms[..2]).ok();
        assert!(would.contains("1 archive of removed paths lies outside `nar/`") && would.contains(theirs), "{would}");
        for round in 0..3 {
            let pruned = json(&storewatch, "prune", &terms).0;
            let told = pruned["archives_left_alone"].as_array().unwrap().len();
            assert_eq!(told, usize::from(round < 2), "{pruned:#}");
            assert!(site.get(theirs).is_some(), "it went in round {round}");
            for name in site.names().iter().filter(|name| name.starts_with("pruned/")) {
                site.age(name, DAY * 2);
            }
        }
        assert!(site.names().iter().all(|name| !name.starts_with("pruned/")), "{:?}", site.names());
    }

    fn what_is_hidden_and_needed_is_put_back(site: AgedSite, store: ScratchStore) {
        let storewatch = Storewatch::new(&store);
        storewatch.policy(&site.policy(&storewatch));
        let chain = pushed_chain(&storewatch, &store, 3);
        // One archive lies in a folder of others, as only its narinfo says.
        let (text, url) = (site.text(&narinfo(&chain[0])), site.narinfo(&chain[0]).url);
        site.set("elsewhere/a.nar.zst", site.get(&url).unwrap());
        site.set(&narinfo(&chain[0]), text.replace(&url, "elsewhere/a.nar.zst"));
        site.remove(&url);
        // As if the top were on its way: its uploader has just seen that the others are there.
        let top = site.text(&narinfo(&chain[2]));
        site.remove(&narinfo(&chain[2]));
        age(&site, &chain[..2], 100);
        let pruned = json(&storewatch, "prune", &["--keep", "1d", "--yes"]).0;
        assert_eq!(pruned["paths_removed"], 2, "{pruned:#}");
        site.set(&narinfo(&chain[2]), top);
        assert_eq!(json(&storewatch, "verify", &[]).0["faults_by_kind"]["lacks_reference"], 1);
        let again = json(&storewatch, "prune", &["--keep", "10d", "--yes"]).0;
        assert_eq!((&again["paths_put_back"], &again["paths_removed"]), (&2.into(), &0.into()), "{again:#}");
        assert_sound(&storewatch);
        Reader::empty(&store).copy_from(&site.substituter(), &storewatch.public_key("team"), &chain).unwrap();
    }

    fn an_archive_of_several_paths_stays_with_the_last(site: AgedSite, store: ScratchStore) {
        let storewatch = Storewatch::new(&store);
        storewatch.policy(&site.policy(&storewatch));
        let build = |name: &str| store.build(&expr::script(name, "echo the same > $out")).unwrap().remove(0);
        let paths = [build("one"), build("two"), build("three")];
        storewatch.cmd(&["push", &paths[0]]).ok();
        storewatch.cmd(&["push", &paths[1]]).ok();
        age(&site, &paths[..1], 100);
        let yes = |more: &[&str]| json(&storewatch, "prune", &[more, &["--keep", "90d", "--yes"]].concat()).0;
        assert_eq!(yes(&["--grace", "0s"])["paths_removed"], 1);
        assert!(site.has(&paths[1]) && !site.has(&paths[0]));
        assert_sound(&storewatch);
        // The other goes, too: the archive is condemned, and a third path of that content doesn't count on it.
        let archive = site.narinfo(&paths[1]).url;
        age(&site, &paths[1..2], 100);
        assert_eq!(yes(&[])["paths_removed"], 1);
        storewatch.cmd(&["push", &paths[2]]).ok();
        assert_ne!(site.narinfo(&paths[2]).url, archive, "it was sent again");
        assert_eq!(yes(&["--grace", "0s"])["paths_removed"], 0);
        assert_sound(&storewatch);
        assert_eq!(site.names().len(), 3);
    }

    /// Everything goes, in a real store as well.
    fn the_oldest_go_until_the_rest_fits(site: Site, store: ScratchStore) {
        let storewatch = Storewatch::new(&store);
        storewatch.policy(&site.policy(&storewatch));
        let chain = pushed_chain(&storewatch, &store, 2);
        let large = store.build(&expr::sized(300_000)).unwrap();
        storewatch.cmd(&["push", &large[0]]).ok();
        let prune = |more: &[&str]| json(&storewatch, "prune", &[more, &["--yes"]].concat()).0;
        let young = prune(&["--max-size", "1kB"]);
        assert_eq!((&young["paths_removed"], &young["fits"]), (&0.into(), &false.into()), "all are young: {young:#}");
        assert_eq!(prune(&["--max-size", "1GB", "--grace", "0s"])["paths_removed"], 0);
        let size = format!("{}B", young["bytes_left"].as_u64().unwrap() - 1);
        let some = prune(&["--max-size", &size, "--grace", "0s"]);
        assert!(some["fits"] == true && some["paths_removed"].as_u64() > Some(0), "{some:#}");
        assert_sound(&storewatch);
        let all = prune(&["--max-size", "0B", "--grace", "0s"]);
        assert!(all["fits"] == false && all["paths_kept"] == 0, "what is no path's stays: {all:#}");
        assert_eq!(site.names().into_iter().collect::<Vec<_>>(), ["nix-cache-info"]);
        // This host's queue doesn't believe any more that they are there.
        storewatch.cmd(&["push", &chain[1], &large[0]]).ok();
        let key = storewatch.public_key("team");
        Reader::empty(&store).copy_from(&site.substituter(), &key, &[chain[1].clone(), large[0].clone()]).unwrap();
    }

    fn what_waits_for_its_grace_period_takes_up_room_still(site: AgedSite, store: ScratchStore) {
        let storewatch = Storewatch::new(&store);
        storewatch.policy(&site.policy(&storewatch));
        let large = store.build(&expr::sized(300_000)).unwrap();
        storewatch.cmd(&["push", &large[0]]).ok();
        age(&site, &large, 100);
        let pruned = json(&storewatch, "prune", &["--max-size", "1kB", "--yes"]).0;
        assert_eq!(pruned["paths_removed"], 1, "{pruned:#}");
        assert!(pruned["bytes_freed_later"].as_u64() > Some(100_000), "{pruned:#}");
        assert_eq!((&pruned["fits"], &pruned["will_fit"]), (&false.into(), &true.into()), "{pruned:#}");
        let said = cache(&storewatch, "prune", &["--max-size", "1kB"]).ok();
        assert!(said.contains("but for what is freed later"), "{said}");
    }

    /// New paths need old ones, which a prune would like to remove at that very moment.
    fn beside_uploads_no_closure_is_left_broken(site: AgedSite, store: ScratchStore) {
        let storewatch = Storewatch::new(&store);
        storewatch.policy(&site.policy(&storewatch));
        let old = store.build(&expr::many(12)).unwrap();
        let mut running = storewatch.start();
        storewatch.cmd(&[&["push"], &old.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat()).ok();
        age(&site, &old, 10);
        let (over, mut prunes) = (AtomicBool::new(false), 0);
        std::thread::scope(|scope| {
            let building = scope.spawn(|| {
                let tops: Vec<String> =
                    old.iter().flat_map(|path| store.build(&needing(path)).unwrap()).collect();
                over.store(true, Ordering::SeqCst);
                tops
            });
            while !over.load(Ordering::SeqCst) || prunes < 3 {
                cache(&storewatch, "prune", &["--keep", "1d", "--grace", "1h", "--yes"]).ok();
                prunes += 1;
            }
            let tops = building.join().unwrap();
            running.eventually("all tops", || tops.iter().all(|path| site.has(path)));
            eventually_done(&mut running, &storewatch, 24);
            cache(&storewatch, "prune", &["--keep", "1d", "--grace", "1h", "--yes"]).ok();
            assert_sound(&storewatch);
            Reader::empty(&store).copy_from(&site.substituter(), &storewatch.public_key("team"), &tops).unwrap();
        });
        running.stop();
        if let Site::Fake(fake) = &site {
            // For a moment it is so, until it is put back.
            fake.state().violations.retain(|what| !what.contains("came before its reference"));
        }
    }
}
