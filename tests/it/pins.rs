//! Queued paths are kept from the garbage collector within a budget, over a restart, and never for longer than their jobs.

use crate::support::{CacheDir, Nix, Running, Said, ScratchStore, Storewatch, each_nix, eventually, expr};
use std::fs;
use std::sync::Arc;
use storewatch::disk::{Level, Levels, What};
use storewatch::limit::Lane;
use storewatch::nix::{StoreDir, StoreFacts};
use storewatch::pins::{Orders, Parts, Pins};
use storewatch::queue::{Admission, Ended, Queue, QueueHandle, Wanted};
use tokio::sync::watch;

/// A policy with this `pin`, whose cache takes nothing until it is unblocked.
fn policy(storewatch: &Storewatch<'_>, pin: &str) {
    let cache = storewatch.cache_at("cache");
    let text = format!("version = 1\n[store]\npin = \"{pin}\"\n[caches.team]\nurl = \"{}\"\n", cache.url());
    storewatch.policy(&text);
}

/// What there are links to.
fn pinned(storewatch: &Storewatch<'_>) -> Vec<String> {
    let folders = fs::read_dir(storewatch.runtime_dir().join("pins")).into_iter().flatten().flatten();
    let links = folders.flat_map(|folder| fs::read_dir(folder.path()).into_iter().flatten().flatten());
    let mut paths: Vec<_> = links.map(|link| fs::read_link(link.path()).unwrap().display().to_string()).collect();
    paths.sort();
    paths
}

/// Waits until just these paths are pinned, and Nix knows of it.
#[track_caller]
fn eventually_pinned(running: &mut Running, store: &ScratchStore, storewatch: &Storewatch<'_>, paths: &[String]) {
    let mut expected = paths.to_vec();
    expected.sort();
    running.eventually("the pins", || pinned(storewatch) == expected);
    running.eventually("Nix to know of the pins", || {
        let roots = Said::by(store.command("nix-store").args(["--gc", "--print-roots"])).ok();
        paths.iter().all(|path| roots.contains(path))
    });
}

fn eventually_collected(running: &mut Running, store: &ScratchStore, path: &str) {
    running.eventually("the end of what kept it", || {
        store.gc();
        !store.valid(path)
    });
}

each_nix! {
    fn what_is_queued_is_kept_until_it_is_uploaded(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        policy(&storewatch, "1 GiB");
        let cache = storewatch.cache_at("cache");
        cache.block();
        let mut running = storewatch.start();
        let paths = store.build(&expr::many(3)).unwrap();
        eventually_pinned(&mut running, &store, &storewatch, &paths);
        store.gc();
        assert!(paths.iter().all(|path| store.valid(path)), "{}", running.log());
        cache.unblock();
        running.eventually("the paths", || cache.has_all(&paths));
        eventually_pinned(&mut running, &store, &storewatch, &[]);
        store.gc();
        assert!(!paths.iter().any(|path| store.valid(path)));
        // Nix has forgotten the links, and is told of the same ones again.
        cache_takes_nothing(&cache);
        let more = store.build(&expr::many(1)).unwrap();
        eventually_pinned(&mut running, &store, &storewatch, &more);
        store.gc();
        assert!(store.valid(&more[0]));
        running.stop();
    }

    fn pins_are_kept_over_a_restart_and_released_when_it_leaves(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        policy(&storewatch, "1 GiB");
        storewatch.cache_at("cache").block();
        let mut running = storewatch.start();
        let paths = store.build(&expr::many(2)).unwrap();
        eventually_pinned(&mut running, &store, &storewatch, &paths);
        running.stop();
        store.gc();
        assert!(paths.iter().all(|path| store.valid(path)));
        assert_eq!(pinned(&storewatch).len(), 2);
        assert_eq!(storewatch.status()["pinned"]["paths"], 2);

        assert_eq!(storewatch.cmd(&["unpin", "--all"]).ok(), "2 pins released\n");
        assert!(pinned(&storewatch).is_empty());
        assert_eq!(storewatch.status()["pinned"]["paths"], 0);
        store.gc();
        assert!(!paths.iter().any(|path| store.valid(path)));
        assert_eq!(storewatch.cmd(&["unpin", "--all"]).ok(), "0 pins released\n");
    }

    fn no_pin_stays_behind_which_no_job_stands(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        policy(&storewatch, "1 GiB");
        storewatch.cache_at("cache").block();
        let mut running = storewatch.start();
        let paths = store.build(&expr::many(2)).unwrap();
        eventually_pinned(&mut running, &store, &storewatch, &paths);
        running.kill9();
        storewatch.cmd(&["queue", "drop", &paths[0]]).ok();
        let mut running = storewatch.start();
        eventually_pinned(&mut running, &store, &storewatch, &paths[1..]);
        // Whoever wants no pins has none, at once.
        policy(&storewatch, "none");
        eventually_pinned(&mut running, &store, &storewatch, &[]);
        eventually_collected(&mut running, &store, &paths[1]);
        storewatch.cache_at("cache").unblock();
        running.eventually("its end", || storewatch.jobs("gone").len() == 1);
        running.stop();
    }
}

#[test]
fn a_running_service_pins_again_what_was_unpinned() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    policy(&storewatch, "1 GiB");
    storewatch.cache_at("cache").block();
    let mut running = storewatch.start();
    let mut paths = store.build(&expr::many(2)).unwrap();
    eventually_pinned(&mut running, &store, &storewatch, &paths);
    storewatch.cmd(&["unpin", "--all"]).ok();
    // As soon as there is anything new.
    paths.extend(store.build(&expr::many(1)).unwrap());
    eventually_pinned(&mut running, &store, &storewatch, &paths);
    running.stop();
}

/// The budget counts the archives of the pinned paths. The oldest are released first, and what is larger than all of it
/// doesn't cost the others theirs.
#[test]
fn the_oldest_are_released_first() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    policy(&storewatch, "250 kB");
    storewatch.cache_at("cache").block();
    let mut running = storewatch.start();
    let mut paths = Vec::new();
    for kept in [0, 0, 1, 2] {
        paths.extend(store.build(&expr::sized(100_000)).unwrap());
        eventually_pinned(&mut running, &store, &storewatch, &paths[kept..]);
    }
    let large = store.build(&expr::sized(300_000)).unwrap().remove(0);
    running.eventually("all in the queue", || storewatch.jobs_left().len() == 5);
    let small = store.build(&expr::sized(40_000)).unwrap().remove(0);
    eventually_pinned(&mut running, &store, &storewatch, &[&paths[2..], &[small]].concat());
    store.gc();
    let valid: Vec<_> = paths.iter().map(|path| store.valid(path)).collect();
    assert_eq!((valid, store.valid(&large)), (vec![false, false, true, true], false));
    running.stop();
}

#[test]
fn who_may_not_write_to_nixs_state_pins_by_its_daemon() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let daemon = store.daemon();
    let storewatch = Storewatch::new(&store);
    policy(&storewatch, "1 GiB");
    storewatch.cache_at("cache").block();
    let Some(mut running) = storewatch.run_as_nobody() else { return };
    running.eventually_logs("watching");
    let paths = daemon.build(&expr::many(2)).unwrap();
    eventually_pinned(&mut running, &store, &storewatch, &paths);
    store.gc();
    assert!(paths.iter().all(|path| store.valid(path)), "{}", running.log());
    running.stop();
}

/// While space is needed, Nix can free all that nothing else keeps.
#[test]
fn pins_are_given_up_while_space_is_needed() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let paths = store.build(&expr::many(2)).unwrap();
    let store_dir = StoreDir::new(store.store_dir().to_str().unwrap());
    let mut queue = Queue::open(&storewatch.state_dir()).unwrap().queue;
    let cache = queue.cache_id("team", "file:///c").unwrap();
    let wanted: Vec<_> = paths
        .iter()
        .map(|path| Wanted { path: store_dir.parse(path).unwrap(), row: None, registered: 0, caches: vec![cache] })
        .collect();
    let (lane, ended) = (Lane::Fresh, Ended::StartsAnew);
    queue.admit(&Admission { lane, ended, needed: false, run: None, wanted: &wanted, now: 1 }, None).unwrap();

    let (disks, told) = watch::channel(Levels::default());
    let (_orders, orders) = watch::channel(Orders { budget: Some(1 << 30), caches: vec![cache] });
    let queue = QueueHandle::start(queue).unwrap();
    let parts = Parts {
        state_dir: storewatch.state_dir(),
        queue,
        socket: store.state_dir().join("daemon-socket/socket"),
        facts: StoreFacts::new(store.db_path(), store.root().join("no-socket"), store_dir),
        nix_state: store.state_dir(),
        runtime_dir: Some(storewatch.runtime_dir()),
        orders,
        disks: told,
        stirred: Arc::default(),
    };
    let noted = || Queue::open_to_look(&storewatch.state_dir()).unwrap().pinned().unwrap().map(|pinned| pinned.paths);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.spawn(async move { Pins::new(parts).run().await });
    let pinned_are = |count| {
        eventually("the pins, and that they are noted", || {
            pinned(&storewatch).len() == count && noted() == Some(count as u64)
        });
    };
    pinned_are(2);
    disks.send_replace(Levels::from_iter([(&What::Store, Level::Critical)]));
    pinned_are(0);
    disks.send_replace(Levels::default());
    pinned_are(2);
}

#[test]
fn without_a_place_for_pins_it_goes_on_and_says_so_once() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    policy(&storewatch, "1 GiB");
    let cache = storewatch.cache_at("cache");
    cache.block();
    fs::remove_dir(storewatch.runtime_dir()).unwrap();
    fs::write(storewatch.runtime_dir(), "").unwrap();
    let mut running = storewatch.start();
    let mut paths = store.build(&expr::many(1)).unwrap();
    running.eventually_logs("queued paths aren't pinned, so garbage collection may take them");
    let log = running.log();
    let place = storewatch.runtime_dir();
    assert!(log.contains(&format!("keep links below the runtime directory {}", place.display())), "{log}");
    paths.extend(store.build(&expr::many(1)).unwrap());
    cache.unblock();
    running.eventually("the paths", || cache.has_all(&paths));
    assert_eq!(running.log().matches("aren't pinned, so").count(), 1, "{}", running.log());
    running.stop();
}

/// Makes a cache that is there take nothing, as if its disk had gone.
fn cache_takes_nothing(cache: &CacheDir) {
    fs::rename(cache.dir(), cache.dir().with_extension("aside")).unwrap();
    cache.block();
}
