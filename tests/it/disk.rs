//! Disks that run low, become critical, and have room again; and one that is pulled out.

use crate::support::disk::MIB;
use crate::support::nix::base_name;
use crate::support::{Disk, Nix, ScratchStore, Storewatch, expr};
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

#[test]
fn a_cache_takes_no_backfill_when_it_is_low_and_nothing_when_it_is_critical() {
    let Some(store) = scratch() else { return };
    let storewatch = Storewatch::new(&store);
    let (small, roomy) = (storewatch.cache_at("small"), storewatch.cache_at("roomy"));
    let Some(disk) = Disk::mount(small.dir(), 40 * MIB) else { return };
    let caches = format!("[caches.small]\nurl = \"{}\"\n[caches.roomy]\nurl = \"{}\"\n", small.url(), roomy.url());
    // Sizes that are next to nothing on the disk that holds the rest.
    storewatch.policy(&format!("version = 1\n[disk]\nlow = \"8 MiB\"\ncritical = \"3 MiB\"\n{caches}"));
    let old = store.build(&expr::many(3)).unwrap();
    disk.leave_percent(15);
    let mut running = storewatch.start();
    running.eventually("the level", || level(&storewatch, "cache small") == "low");
    running.eventually_logs("WARN the disk of cache small is low: ");
    assert_eq!(level(&storewatch, "store"), "ok");
    assert!(storewatch.cmd(&["status"]).ok().contains("disk:    that of cache small is low since "));

    // Beside the service, whose time it is not worth.
    let said = storewatch.cmd(&["backfill", "--timeout", "1s"]);
    assert!(said.stdout.contains("3 for small"), "{said:?}");
    assert!(
        said.stdout.contains("small, which takes no backfill for now: the disk of cache small is low\n"),
        "{said:?}"
    );
    let why = "the disk of cache small is low\n";
    assert!(storewatch.cmd(&["status"]).ok().contains(&format!("backfill waits: {why}")));
    let listed = storewatch.cmd(&["queue", "list", "--cache", "small"]).ok();
    assert!(
        listed.contains("  backfill waits\n") && listed.contains(&format!("small takes no backfill for now: {why}")),
        "{listed}"
    );
    running.eventually("backfill elsewhere", || roomy.has_all(&old));
    for _ in 0..2 {
        // What is fresh goes on, and each time backfill could have been claimed as well.
        let fresh = store.build(&expr::many(1)).unwrap();
        running.eventually("a fresh path", || small.has_all(&fresh));
        assert_eq!(storewatch.jobs("pending").len(), 3);
    }

    disk.leave_percent(5);
    running.eventually("the level", || level(&storewatch, "cache small") == "critical");
    running.eventually_logs("WARN the disk of cache small is critical: ");
    let shown = small.store_paths();
    let fresh = store.build(&expr::many(2)).unwrap();
    running.eventually("all of them elsewhere", || roomy.has_all(&fresh));
    running.eventually("the reason", || waits_because(&storewatch, "small", "takes nothing where that is critical"));
    assert_eq!(small.store_paths(), shown);

    disk.clear();
    running.eventually("all of them", || small.has_all(&fresh) && small.has_all(&old));
    running.eventually("the level", || level(&storewatch, "cache small") == "ok");
    running.eventually_logs("INFO the disk of cache small has room again: ");
    running.eventually("the queue's end", || storewatch.jobs_left().is_empty());
    running.stop();
    small.assert_sound(&[]);
    assert_eq!(storewatch.status()["disks"], Value::Array(Vec::new()), "nobody watches any more");
}

#[test]
fn what_is_begun_together_leaves_room_together() {
    let Some(store) = scratch() else { return };
    let storewatch = Storewatch::new(&store);
    let cache = storewatch.cache_at("small");
    let Some(disk) = Disk::mount(cache.dir(), 64 * MIB) else { return };
    storewatch.policy(&critical_below_6_mib(&cache.url(), "uploads = 6\ncompression = \"none\"\n"));
    let mut running = storewatch.start();
    storewatch.cmd(&["pause"]).ok();
    // Each of them fits, and three do.
    let paths: Vec<_> = (0..6).map(|_| store.build(&expr::sized(16 * MIB)).unwrap().remove(0)).collect();
    running.eventually("all of them queued", || storewatch.jobs("pending").len() == 6);
    storewatch.cmd(&["resume"]).ok();
    running.eventually("as many as fit, and the reason", || {
        let free = disk.free();
        assert!(free >= 6 * MIB, "{free} bytes are left");
        let waiting = storewatch.jobs("pending");
        let why = |job: &Value| job["reason"].as_str().is_some_and(|why| why.contains("; smaller ones go on"));
        cache.store_paths().len() == 3 && waiting.len() == 3 && waiting.iter().all(why)
    });
    // What is too large for what is left holds up nothing that isn't, and is told of once, however often it is tried.
    let small = store.build(&expr::many(3)).unwrap();
    running.eventually("small ones", || cache.has_all(&small));
    running
        .eventually("some tries", || storewatch.jobs("pending").iter().all(|job| job["attempts"].as_u64() >= Some(3)));
    let log = running.log();
    assert_eq!(log.matches("smaller ones go on").count(), 3, "{log}");
    assert_eq!(storewatch.cache_status("small")["waiting_why"], Value::Null);
    disk.make_larger(128 * MIB);
    running.eventually("all of them", || cache.has_all(&paths));
    running.stop();
    cache.assert_sound(&[]);
}

#[test]
fn an_archive_that_grows_is_given_up_where_it_becomes_critical() {
    let Some(store) = scratch() else { return };
    let storewatch = Storewatch::new(&store);
    let cache = storewatch.cache_at("small");
    let Some(disk) = Disk::mount(cache.dir(), 64 * MIB) else { return };
    // So that there is time to see it grow.
    storewatch.policy(&critical_below_6_mib(&cache.url(), "bandwidth = \"4 MiB/s\"\n"));
    let mut running = storewatch.start();
    let path = store.build(&expr::sized(11 * MIB)).unwrap().remove(0);
    running.eventually("its upload", || cache.largest_temporary_file() > 6 * MIB + MIB / 2);
    running.signal(Signal::STOP);
    assert!(cache.largest_temporary_file() < 8 * MIB, "it is looked after by then already: make both larger");
    // Enough for the rest of it.
    disk.leave_free(5 * MIB);
    running.signal(Signal::CONT);
    running.eventually("the reason", || waits_because(&storewatch, "small", "takes nothing where that is critical"));
    assert!(!cache.has(&path));
    assert_eq!(cache.largest_temporary_file(), 0);
    disk.clear();
    running.eventually("it", || cache.has(&path));
    running.stop();
    cache.assert_sound(&[]);
}

#[test]
fn nothing_but_the_queue_is_written_where_the_state_directory_is_critical() {
    let Some(store) = scratch() else { return };
    let storewatch = Storewatch::new(&store);
    let Some(disk) = Disk::mount(&storewatch.state_dir(), 40 * MIB) else { return };
    storewatch.policy("version = 1\n[disk]\nlow = \"40 %\"\ncritical = \"30 %\"\n");
    let mut running = storewatch.start();
    let first = store.build(&expr::many(1)).unwrap();
    running.eventually("a path", || storewatch.cache().has_all(&first));
    // More than the tenth that the default cache leaves free anyway.
    disk.leave_percent(25);
    running.eventually("the level", || level(&storewatch, "state directory") == "critical");
    assert_eq!(level(&storewatch, "cache local"), "critical");
    let before = below(&storewatch.state_dir());
    let paths = store.build(&expr::many(3)).unwrap();
    running.eventually("the jobs, waiting", || storewatch.jobs("pending").len() == 3);
    running.eventually("the reason", || waits_because(&storewatch, "local", "takes nothing where that is critical"));
    assert_eq!(below(&storewatch.state_dir()), before);
    disk.clear();
    running.eventually("all of them", || storewatch.cache().has_all(&paths));
    running.stop();
    storewatch.cache().assert_sound(&[]);
}

#[test]
fn what_nix_would_collect_goes_first_when_the_store_is_low() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let Some(disk) = Disk::mount(&store.store_dir(), 40 * MIB) else { return };
    let storewatch = Storewatch::new(&store);
    let cache = storewatch.cache_at("team");
    cache.block();
    let team = format!("[caches.team]\nurl = \"{}\"\nuploads = 1\n", cache.url());
    storewatch.policy(&format!("version = 1\n[disk]\nlow = \"8 MiB\"\ncritical = \"1 MiB\"\n{team}"));
    let mut running = storewatch.start();
    // The first ones are kept, one of them by what refers to it.
    let chain = store.query_closure(&store.build(&expr::chain(2)).unwrap()[0]);
    let kept = [chain.clone(), store.build(&expr::many(4)).unwrap()].concat();
    store.keep(&kept[1..]);
    let loose = store.build(&expr::many(4)).unwrap();
    running.eventually("all of them queued", || storewatch.jobs("pending").len() == kept.len() + loose.len());
    disk.leave_percent(10);
    running.eventually("the level", || level(&storewatch, "store") == "low");
    running.eventually_logs("what Nix would collect goes first");
    cache.unblock();
    running.eventually("all of them", || cache.has_all(&kept) && cache.has_all(&loose));
    running.eventually("the queue's end", || storewatch.jobs_left().is_empty());
    let order: Vec<String> =
        running.log().lines().filter(|line| line.contains(" uploaded ")).map(str::to_owned).collect();
    let is_loose = |line: &String| loose.iter().any(|path| line.contains(base_name(path)));
    assert!(order[..4].iter().all(is_loose), "{order:#?}");
    assert_eq!(order.len(), 10, "{order:#?}");
    disk.clear();
    running.eventually_logs("INFO the disk of store has room again: ");
    running.stop();
    cache.assert_sound(&[]);
}

#[test]
fn nothing_is_written_where_a_disk_was_pulled_out() {
    let Some(store) = scratch() else { return };
    let storewatch = Storewatch::new(&store);
    let (pulled, roomy) = (storewatch.cache_at("pulled"), storewatch.cache_at("roomy"));
    let Some(disk) = Disk::mount(pulled.dir(), 40 * MIB) else { return };
    let caches = format!("[caches.pulled]\nurl = \"{}\"\n[caches.roomy]\nurl = \"{}\"\n", pulled.url(), roomy.url());
    storewatch.policy(&format!("version = 1\n{caches}"));
    let mut running = storewatch.start();
    let first = store.build(&expr::many(1)).unwrap();
    running.eventually("a path in both", || pulled.has_all(&first) && roomy.has_all(&first));
    disk.unmount();
    let paths = store.build(&expr::many(2)).unwrap();
    running.eventually("all of them elsewhere", || roomy.has_all(&paths));
    running.eventually("the reason", || waits_because(&storewatch, "pulled", "is gone: it was unmounted; mount it"));
    let unseen = || of(&storewatch, "cache pulled")["unseen"].as_str().is_some_and(|why| why.contains("unmounted"));
    running.eventually("that in the status", unseen);
    running.eventually_logs("WARN the disk of cache pulled can't be seen: ");
    let away = format!("the file system at {} is gone: it was unmounted", pulled.dir().display());
    for look in [&["cache", "ping", "pulled"][..], &["cache", "verify", "pulled"], &["cache", "info", "pulled"]] {
        let said = storewatch.cmd(look);
        assert_ne!(said.code, Some(0), "{look:?}: {said:?}");
        assert!([&said.stdout, &said.stderr].iter().any(|text| text.contains(&away)), "{look:?}: {said:?}");
    }
    let findings = storewatch.cmd(&["doctor"]).stdout;
    assert!(findings.contains(&format!("trouble  cache pulled: {}: {away}", pulled.url())), "{findings}");
    let disks = findings.lines().find(|line| line.contains("disk of ")).unwrap();
    assert!(disks.contains("cache roomy") && !disks.contains("cache pulled"), "{findings}");
    assert_eq!(std::fs::read_dir(pulled.dir()).unwrap().count(), 0, "nothing is written beneath");
    assert_eq!(running.log().matches("can't be seen").count(), 1);
    // Another one is as good.
    let Some(_disk) = Disk::mount(pulled.dir(), 40 * MIB) else { return };
    running.eventually("all of them", || pulled.has_all(&paths));
    running.eventually_logs("INFO the disk of cache pulled can be seen again");
    running.stop();
    pulled.assert_sound(&[]);
}

#[test]
fn paths_of_a_store_that_is_not_there_wait_until_it_is() {
    let Some(store) = scratch() else { return };
    let storewatch = Storewatch::new(&store);
    let mut running = storewatch.start();
    storewatch.cmd(&["pause"]).ok();
    running.eventually_logs("bandwidth of the line: paused by hand");
    let paths = store.build(&expr::many(2)).unwrap();
    running.eventually("all of them queued", || storewatch.jobs("pending").len() == 2);
    // As when its file system was unmounted, and only the folder is there.
    let Some(empty) = Disk::mount(&store.store_dir(), MIB) else { return };
    storewatch.cmd(&["resume"]).ok();
    running.eventually_logs_times("the store's file system is not there", 2);
    assert_eq!(storewatch.jobs("failed").len(), 0);
    drop(empty);
    running.eventually("all of them", || storewatch.cache().has_all(&paths));
    running.stop();
}

fn scratch() -> Option<ScratchStore> {
    Nix::recent().map(|nix| ScratchStore::new(&nix))
}

fn of(storewatch: &Storewatch<'_>, place: &str) -> Value {
    let status = storewatch.status();
    let disks = status["disks"].as_array().unwrap();
    disks.iter().find(|disk| disk["place"] == place).cloned().unwrap_or_default()
}

fn level(storewatch: &Storewatch<'_>, place: &str) -> String {
    of(storewatch, place)["level"].as_str().unwrap_or_default().to_owned()
}

fn critical_below_6_mib(url: &str, more: &str) -> String {
    format!("version = 1\n[disk]\nlow = \"0 %\"\ncritical = \"6 MiB\"\n[caches.small]\nurl = \"{url}\"\n{more}")
}

fn waits_because(storewatch: &Storewatch<'_>, cache: &str, reason: &str) -> bool {
    storewatch.cache_status(cache)["waiting_why"].as_str().is_some_and(|why| why.contains(reason))
}

/// All files below a folder.
fn below(folder: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            names.extend(below(&path));
        } else {
            names.insert(path.display().to_string());
        }
    }
    names
}
