//! Each fault is found, and what the host has is uploaded anew.

use super::site::{Site, narinfo};
use super::{assert_sound, cache, each_site, json};
use crate::backend_contract::eventually_done;
use crate::support::nix::base_name;
use crate::support::{Fault, FlakyProxy, Garage, Nix, On, Reader, ScratchStore, Storewatch, expr};
use serde_json::{Value, json as value};
use std::time::Duration;

/// Breaks the cache in every way; returns the kinds of faults, but for the one that only shows when archives are read.
fn break_it(site: &Site, paths: &[String]) -> Value {
    let archive = |path: &String| site.narinfo(path).url;
    let [no_archive, cut, flipped, unsigned, garbage, outside, nameless, .., bottom] = paths else {
        panic!("{paths:?}")
    };
    site.remove(&archive(no_archive));
    let file = archive(cut);
    site.set(&file, &site.get(&file).unwrap()[..50]);
    let file = archive(flipped);
    let mut content = site.get(&file).unwrap();
    *content.last_mut().unwrap() ^= 1;
    site.set(&file, content);
    let edit = |path: &String, edit: &dyn Fn(String) -> String| {
        site.set(&narinfo(path), edit(site.text(&narinfo(path))));
    };
    edit(unsigned, &|text| text.replace("Sig: ", "Sig: x"));
    edit(garbage, &|_| "nonsense".to_owned());
    edit(outside, &|text| text.replace("URL: ", "URL: ../"));
    edit(nameless, &|text| text.replace("StorePath: ", "X-StorePath: "));
    // Another path of the chain refers to it.
    site.remove(&narinfo(bottom));
    value!({
        "lacks_archive": 1, "other_size": 1, "unsigned": 1, "unreadable": 2, "outside": 1, "lacks_reference": 1
    })
}

each_site! {
    fn each_fault_is_found_and_repaired(site: Site, store: ScratchStore) {
        let storewatch = Storewatch::new(&store);
        storewatch.policy(&site.policy(&storewatch));
        let mut paths = store.build(&expr::many(7)).unwrap();
        let chain = store.query_closure(&store.build(&expr::chain(3)).unwrap()[0]);
        paths.extend([chain[2].clone(), chain[0].clone()]);
        let all: Vec<&str> = ["push"].into_iter().chain(paths.iter().map(String::as_str)).collect();
        storewatch.cmd(&all).ok();
        assert_sound(&storewatch);
        let whole = json(&storewatch, "verify", &[]).0;
        assert_eq!((&whole["narinfos"], &whole["faults"]), (&10.into(), &0.into()));
        assert_eq!(whole["leftover_files"], value!([]));

        let damaged = site.narinfo(&paths[2]).url;
        let kinds = break_it(&site, &paths);
        site.set("nar/orphan.nar.zst", "nobody names it");
        site.set("0123456789abcdfghijklmnpqrsvwxyz.ls", "{}");
        site.leave_an_upload();
        let (found, code) = json(&storewatch, "verify", &[]);
        assert_eq!((&found["faults_by_kind"], code), (&kinds, Some(1)), "{found:#}");
        let left = |found: &Value, what: &str| {
            let files = found["leftover_files"].as_array().unwrap();
            files.iter().filter(|file| file["what"] == what).count()
        };
        let uploads = usize::from(site.shows_uploads());
        // Those of `garbage`, of `outside` and of the narinfo that was removed are nobody's any more, either.
        let counts = ["archive", "list of files", "upload"].map(|what| left(&found, what));
        assert_eq!(counts, [4, 1, uploads], "{found:#}");
        let text = cache(&storewatch, "verify", &[]).stdout;
        assert!(text.contains("7 faults found"), "{text}");
        // Whatever is as young as that may be an upload's.
        assert!(text.contains("perhaps under way: archive nar/orphan.nar.zst, 15 B"), "{text}");
        assert_eq!(
            (&found["leftovers"], &found["perhaps_under_way"], &found["waiting_for_prune"]),
            (&0.into(), &(5 + uploads).into(), &0.into()),
            "{found:#}"
        );
        if !matches!(site, Site::Garage(_)) {
            site.age("nar/orphan.nar.zst", Duration::from_secs(25 * 60 * 60));
            let text = cache(&storewatch, "verify", &[]).stdout;
            assert!(text.contains("left over: archive nar/orphan.nar.zst, 15 B, 25 hours old"), "{text}");
            assert!(text.contains("1 file (15 B) that nobody needs: `storewatch cache prune team` removes them"), "{text}");
        }
        let deep = json(&storewatch, "verify", &["--deep"]).0;
        assert_eq!((&deep["faults_by_kind"]["damaged"], &deep["faults"]), (&1.into(), &8.into()), "{deep:#}");

        let (repaired, code) = json(&storewatch, "verify", &["--deep", "--repair"]);
        assert_eq!((code, &repaired["repair"]["uploaded"]), (Some(0), &8.into()), "{repaired:#}");
        assert_sound(&storewatch);
        let (after, _) = json(&storewatch, "verify", &[]);
        let waiting = after["leftover_files"].as_array().unwrap().iter().find(|file| file["file"] == damaged.as_str());
        assert_eq!(waiting.unwrap()["state"], "waiting_for_prune", "{after:#}");
        let key = storewatch.public_key("team");
        Reader::empty(&store).copy_from(&site.substituter(), &key, &paths).unwrap();

        // What is left over goes with a prune, once it is old enough for anybody.
        let (pruned, _) = json(&storewatch, "prune", &["--keep", "90d", "--grace", "0s", "--yes"]);
        assert_eq!((&pruned["paths_removed"], &pruned["orphaned_listings"]), (&0.into(), &1.into()), "{pruned:#}");
        assert_eq!(pruned["unfinished_uploads"], uploads);
        let whole = json(&storewatch, "verify", &["--deep"]).0;
        assert_eq!((&whole["faults"], &whole["leftover_files"]), (&0.into(), &value!([])), "{whole:#}");
        assert_eq!(site.names().len(), 2 * 10 + 1);
    }

    /// An archive is shown under several names. Where a narinfo is at fault, the others name it still.
    fn an_archive_that_others_name_stays(site: Site, store: ScratchStore) {
        let storewatch = Storewatch::new(&store);
        storewatch.policy(&site.policy(&storewatch));
        let build = |name: &str| store.build(&expr::script(name, "echo the same > $out")).unwrap().remove(0);
        let [sound, faulty] = ["sound", "faulty"].map(build);
        storewatch.cmd(&["push", &sound]).ok();
        let archive = site.narinfo(&sound).url;
        storewatch.cmd(&["push", &faulty]).ok();
        let own = site.narinfo(&faulty).url;
        let text = site.text(&narinfo(&faulty)).replace(&own, &archive).replace("FileSize: ", "FileSize: 1");
        site.set(&narinfo(&faulty), text);
        let (repaired, code) = json(&storewatch, "verify", &["--repair"]);
        assert_eq!((code, &repaired["faults_by_kind"]), (Some(0), &value!({ "other_size": 1 })), "{repaired:#}");
        assert_eq!(repaired["repair"]["uploaded"], 1);
        assert!(site.names().contains(&archive), "a sound path has lost its archive");
        assert_sound(&storewatch);
    }

    /// The service has seen a moment ago that the paths are there, and believes that for a while.
    fn a_running_service_repairs(site: Site, store: ScratchStore) {
        let storewatch = Storewatch::new(&store);
        storewatch.policy(&site.policy(&storewatch));
        let mut running = storewatch.start();
        let chain = store.query_closure(&store.build(&expr::chain(3)).unwrap()[0]);
        eventually_done(&mut running, &storewatch, 3);
        site.remove(&site.narinfo(&chain[1]).url);
        site.remove(&narinfo(&chain[0]));
        assert_eq!(cache(&storewatch, "verify", &["--repair"]).code, Some(0));
        assert_sound(&storewatch);
        running.stop();
        let key = storewatch.public_key("team");
        Reader::empty(&store).copy_from(&site.substituter(), &key, &chain).unwrap();
    }

    fn a_narinfo_under_anothers_name_is_named_by_that_and_told_once(site: Site, store: ScratchStore) {
        let storewatch = Storewatch::new(&store);
        storewatch.policy(&site.policy(&storewatch));
        let chain = store.query_closure(&store.build(&expr::chain(3)).unwrap()[0]);
        storewatch.cmd(&["push", &chain[0], &chain[1], &chain[2]]).ok();
        let (good, bad) = (narinfo(&chain[0]), narinfo(&chain[1]));
        site.set(&bad, site.text(&good));
        let said = cache(&storewatch, "verify", &[]);
        let line = format!("{bad}: its narinfo is that of {}", base_name(&chain[0]));
        assert!(said.code == Some(1) && said.stdout.contains(&line), "{said:?}");
        assert!(said.stdout.contains("3 paths, 1 fault found"), "{said:?}");
        assert_eq!(cache(&storewatch, "verify", &["--repair"]).code, Some(0));
        assert_sound(&storewatch);
    }

    fn what_no_host_has_is_said_and_left(site: Site, store: ScratchStore) {
        let storewatch = Storewatch::new(&store);
        storewatch.policy(&site.policy(&storewatch));
        let paths = store.build(&expr::many(2)).unwrap();
        storewatch.cmd(&["push", &paths[0], &paths[1]]).ok();
        paths.iter().for_each(|path| site.remove(&site.narinfo(path).url));
        store.delete(&paths[..1]);
        let said = cache(&storewatch, "verify", &["--repair"]);
        assert_eq!(said.code, Some(1));
        assert!(said.stdout.contains("this host doesn't have it: repair it from a host that does"), "{said:?}");
        assert!(site.has(&paths[0]), "another host may repair it");
        let (left, _) = json(&storewatch, "verify", &[]);
        assert_eq!(left["faults"], 1, "{left:#}");
        // No host can have a path of that name.
        let nobodys = format!("{}.narinfo", "0".repeat(32));
        site.set(&nobodys, site.text(&narinfo(&paths[1])));
        let said = cache(&storewatch, "verify", &["--repair"]);
        assert!(said.stdout.contains(&format!("{nobodys}: this host has no path of that name: ")), "{said:?}");
        assert!(said.stdout.contains("or remove the narinfo"), "{said:?}");
    }
}

/// What was left out when its referrer was uploaded, since an upstream's key has signed it, is no fault; it is told.
#[test]
fn what_an_upstream_is_trusted_to_deliver_is_told_and_is_no_fault() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let (upstream, key) = (storewatch.cache_at("upstream"), store.generate_key("upstream-1"));
    let base = store.build(&expr::many(1)).unwrap();
    store.copy_to(&upstream.url(), &key, &base);
    store.delete(&base);
    store.substitute(&upstream.url(), &key.public, &base).unwrap();
    let dir = storewatch.cache_at("cache");
    let policy =
        |keys: &str| format!("version = 1\n[upstreams]\nkeys = [{keys}]\n[caches.team]\nurl = \"{}\"\n", dir.url());
    storewatch.policy(&policy(&format!("\"{}\"", key.public)));
    let mut running = storewatch.start();
    let tops: Vec<String> = (0..2).flat_map(|_| store.build(&expr::user_of(&base[0])).unwrap()).collect();
    running.eventually("what refers to it", || dir.has_all(&tops));
    running.stop();
    assert!(!dir.has(&base[0]), "it was left to the upstream");
    let said = cache(&storewatch, "verify", &[]);
    let line = format!("on trust: {} is not in the cache, and upstream-1 has signed it", base_name(&base[0]));
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(said.stdout.matches(&line).count(), 1, "{said:?}");
    assert!(said.stdout.contains("1 reference taken on trust"), "{said:?}");
    let (found, _) = json(&storewatch, "verify", &[]);
    assert_eq!(
        (&found["on_trust"], &found["on_trust_paths"][0]),
        (&1.into(), &base_name(&base[0]).into()),
        "{found:#}"
    );
    // Whom nobody trusts vouches for nothing.
    storewatch.policy(&policy(""));
    let (found, code) = json(&storewatch, "verify", &[]);
    assert_eq!((code, &found["faults_by_kind"]["lacks_reference"]), (Some(1), &2.into()), "{found:#}");
}

/// What a kill leaves of an upload in parts is found in a real store, and removed.
#[test]
fn an_unfinished_upload_is_found_in_garage() {
    let (Some(nix), Some(garage)) = (Nix::recent(), Garage::start()) else { return };
    let (store, proxy) = (ScratchStore::new(&nix), FlakyProxy::before(garage.port()));
    let dead = Storewatch::new(&store);
    dead.policy(&crate::support::backend::bucket_policy(&dead, proxy.port(), garage.key()));
    proxy.fail(On::Every, Fault::StallAfter(1_000_000));
    let mut running = dead.start();
    store.build(&expr::sized(12_000_000)).unwrap();
    running.eventually("an upload in parts", || garage.contents().unfinished == 1);
    running.kill9();
    let storewatch = Storewatch::new(&store);
    storewatch.policy(&crate::support::backend::bucket_policy(&storewatch, garage.port(), garage.key()));
    let (found, code) = json(&storewatch, "verify", &["--trust", &store.generate_key("team-1").public]);
    assert_eq!((code, &found["leftover_files"][0]["what"]), (Some(0), &"upload".into()), "{found:#}");
    assert_eq!(json(&storewatch, "prune", &["--keep", "1d"]).0["unfinished_uploads"], 0, "it is young");
    assert_eq!(json(&storewatch, "prune", &["--keep", "1d", "--grace", "0s"]).0["unfinished_uploads"], 1);
    assert_eq!(garage.contents().unfinished, 1, "nothing is removed without --yes");
    cache(&storewatch, "prune", &["--keep", "1d", "--grace", "0s", "--yes"]).ok();
    assert_eq!(garage.contents().unfinished, 0);
}

/// Nix names archives by the hash of the file, and packs them by xz.
#[test]
fn a_cache_that_nix_has_filled_is_understood() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let (dir, key) = (storewatch.cache_at("theirs"), store.generate_key("theirs-1"));
    let paths = store.build(&expr::lattice(4, 20_000)).unwrap();
    store.copy_to(&dir.url(), &key, &paths);
    storewatch.policy(&format!(
        "version = 1\n[caches.team]\nurl = \"{}\"\nsigning_key = {{ file = \"{}\" }}\n",
        dir.url(),
        key.secret.display()
    ));
    let (found, code) = json(&storewatch, "verify", &["--deep"]);
    assert_eq!((code, &found["narinfos"], &found["not_unpacked"]), (Some(0), &4.into(), &0.into()), "{found:#}");
    assert!(dir.archives().iter().all(|name| name.ends_with(".nar.xz")));
    let (pruned, _) = json(&storewatch, "prune", &["--keep", "0s", "--grace", "0s", "--yes"]);
    assert_eq!(pruned["paths_removed"], 4);
    assert!(dir.archives().is_empty() && dir.narinfos().is_empty());
}

#[test]
fn caches_of_others_are_refused_with_a_cure() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    for (url, cure) in [("attic+http://127.0.0.1:9/team", "--retention-period"), ("command:///bin/true", "its program")]
    {
        storewatch.policy(&format!("version = 1\n[caches.team]\nurl = \"{url}\"\n"));
        for (verb, more) in [
            ("verify", &[][..]),
            ("prune", &["--keep", "1d"]),
            ("sign", &["--trust", &store.generate_key("t-1").public]),
        ] {
            let said = cache(&storewatch, verb, more);
            assert!(said.code == Some(1) && said.stderr.contains(cure), "{verb}: {said:?}");
        }
    }
    storewatch.policy("version = 1\n[caches.team]\nurl = \"file:///nowhere/cache\"\n");
    let said = cache(&storewatch, "verify", &[]);
    assert!(said.code == Some(1) && said.stderr.contains("no binary cache"), "{said:?}");
    assert_eq!(cache(&storewatch, "prune", &[]).code, Some(2), "a prune of what?");
}
