//! Disks that are full or read-only: what can't be written waits, says why, and arrives once there is room.

use crate::support::disk::MIB;
use crate::support::{CacheDir, Disk, Nix, ScratchStore, Storewatch, expr};

#[test]
fn a_full_cache_waits_and_the_others_go_on() {
    let Some(store) = scratch() else { return };
    let storewatch = Storewatch::new(&store);
    let (small, roomy) = (storewatch.cache_at("small"), storewatch.cache_at("roomy"));
    let Some(disk) = Disk::mount(small.dir(), 4 * MIB) else { return };
    storewatch.policy(&policy_for(&small, &roomy));
    let mut running = storewatch.start();
    let first = store.build(&expr::many(1)).unwrap();
    running.eventually("a path in both", || small.has_all(&first) && roomy.has_all(&first));

    disk.fill();
    let paths: Vec<_> = (0..3).map(|_| store.build(&expr::sized(700_000)).unwrap().remove(0)).collect();
    running.eventually("all of them where there is room", || roomy.has_all(&paths));
    running.eventually("the reason in the status", || waits_because(&storewatch, "small", "No space left"));
    assert_eq!(storewatch.cache_status("roomy")["waiting_why"], serde_json::Value::Null);
    assert!(storewatch.cmd(&["status"]).ok().contains("takes nothing since "));
    assert_eq!((small.store_paths().len(), small.archives().len()), (1, 1), "nothing half is shown");
    assert_eq!(storewatch.cache_status("small")["failed"], 0);

    // Asked again and again, it says so once for each thing that it tried in vain, not once for each try.
    running.eventually_logs_times("given back", 4);
    let told = running.log().matches("the cache takes nothing for now").count();
    assert!(told <= 2, "told {told} times");

    disk.clear();
    running.eventually("all of them", || small.has_all(&paths));
    running.eventually("the queue's end", || storewatch.jobs_left().is_empty());
    assert_eq!(storewatch.cache_status("small")["waiting_why"], serde_json::Value::Null);
    running.stop();
    small.assert_sound(&[]);
    store.read_back(&small.url(), &storewatch.public_key("small"), &paths).unwrap();
}

#[test]
fn a_read_only_cache_waits_and_the_others_go_on() {
    let Some(store) = scratch() else { return };
    let storewatch = Storewatch::new(&store);
    let (fixed, roomy) = (storewatch.cache_at("fixed"), storewatch.cache_at("roomy"));
    let Some(disk) = Disk::mount(fixed.dir(), 4 * MIB) else { return };
    disk.remount("ro");
    storewatch.policy(&policy_for(&fixed, &roomy));
    let mut running = storewatch.start();
    let paths = store.query_closure(&store.build(&expr::chain(3)).unwrap()[0]);
    running.eventually("all of them in the other", || roomy.has_all(&paths));
    running.eventually("the reason in the status", || waits_because(&storewatch, "fixed", "Read-only file system"));
    assert_eq!(storewatch.cache_status("fixed")["pending"], 3);
    disk.remount("rw");
    running.eventually("all of them", || fixed.has_all(&paths));
    running.stop();
    fixed.assert_sound(&[]);
}

#[test]
fn the_embedded_cache_leaves_a_tenth_of_the_disk_free() {
    let Some(store) = scratch() else { return };
    let storewatch = Storewatch::new(&store);
    let Some(disk) = Disk::mount(&storewatch.state_dir(), 40 * MIB) else { return };
    // Room enough for all that follows, but less than a tenth.
    disk.leave_free(3 * MIB);
    let mut running = storewatch.start();
    let paths = store.build(&expr::many(3)).unwrap();
    running.eventually("the reason in the status", || {
        waits_because(&storewatch, "local", "the cache takes nothing below 10 %")
    });
    running.eventually("the jobs, waiting", || storewatch.jobs("pending").len() == 3);
    assert!(storewatch.cache().narinfos().is_empty() && storewatch.cache().archives().is_empty());
    disk.clear();
    running.eventually("all of them", || storewatch.cache().has_all(&paths));
    running.stop();
    storewatch.cache().assert_sound(&[]);
}

#[test]
fn a_full_disk_under_the_queue_loses_nothing() {
    let Some(store) = scratch() else { return };
    let storewatch = Storewatch::new(&store);
    let Some(disk) = Disk::mount(&storewatch.state_dir(), 8 * MIB) else { return };
    let cache = storewatch.cache_at("elsewhere");
    storewatch.policy(&format!("version = 1\n[caches.elsewhere]\nurl = \"{}\"\n", cache.url()));
    let mut running = storewatch.start();
    let mut paths = store.build(&expr::many(1)).unwrap();
    running.eventually("a path", || cache.has_all(&paths));
    disk.fill();
    // Enough that the queue needs more room than its file has.
    paths.extend(store.build(&expr::many(100)).unwrap());
    running.eventually_logs("nothing can be queued, nor noted as done, and all of it waits: ");
    running.eventually_logs("make room there; nothing is lost");
    assert!(storewatch.cmd(&["status"]).ok().contains("the disk of the state directory is full"));
    // No command waits for room for ever: it says so, or its time is over.
    let said = storewatch.cmd(&["backfill", "--timeout", "1s"]);
    assert!(said.code == Some(4) || said.stderr.contains("make room there"), "{said:?}");
    disk.clear();
    running.eventually("all of them", || cache.has_all(&paths));
    running.eventually_logs("INFO the queue waits for room no longer");
    assert!(!storewatch.cmd(&["status"]).ok().contains("is full"));
    running.eventually("the queue's end", || storewatch.jobs_left().is_empty());
    running.stop();
    cache.assert_sound(&[]);
}

#[test]
fn a_service_that_finds_its_disk_full_waits_for_room_and_can_be_ended() {
    let Some(store) = scratch() else { return };
    let storewatch = Storewatch::new(&store);
    let Some(disk) = Disk::mount(&storewatch.state_dir(), 8 * MIB) else { return };
    let cache = storewatch.cache_at("elsewhere");
    storewatch.policy(&format!("version = 1\n[caches.elsewhere]\nurl = \"{}\"\n", cache.url()));
    disk.fill();
    let mut running = storewatch.run();
    running.eventually_logs("WARN waiting: ");
    running.stop();
    let mut running = storewatch.run();
    running.eventually_logs("WARN waiting: ");
    disk.clear();
    running.eventually_logs("the Nix database is open");
    let paths = store.build(&expr::many(2)).unwrap();
    running.eventually("all of them", || cache.has_all(&paths));
    running.stop();
}

fn scratch() -> Option<ScratchStore> {
    Nix::recent().map(|nix| ScratchStore::new(&nix))
}

fn policy_for(small: &CacheDir, roomy: &CacheDir) -> String {
    let name = small.dir().file_name().unwrap().to_str().unwrap();
    let (small, roomy) = (small.url(), roomy.url());
    // What is tested here is what happens when there is nothing left all the same.
    let never = "[disk]\nlow = \"0 %\"\ncritical = \"0 %\"\n";
    format!("version = 1\n{never}[caches.{name}]\nurl = \"{small}\"\n[caches.roomy]\nurl = \"{roomy}\"\n")
}

fn waits_because(storewatch: &Storewatch<'_>, cache: &str, reason: &str) -> bool {
    storewatch.cache_status(cache)["waiting_why"].as_str().is_some_and(|why| why.contains(reason))
}
