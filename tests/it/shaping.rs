//! What is sent is limited, waits for its turn without being lost, and lets others pass.

use super::backend_contract::eventually_done;
use super::support::backend::write_random;
use super::support::{CacheDir, Nix, Receiver, ScratchStore, Storewatch, expr};
use std::time::{Duration, Instant};

const KB: u64 = 1000;

fn site<'s>(store: &'s ScratchStore, limits: &str, cache: &str) -> (Receiver, Storewatch<'s>) {
    let receiver = Receiver::start();
    let storewatch = Storewatch::new(store);
    let url = receiver.url();
    storewatch.policy(&format!("version = 1\n[limits]\n{limits}[caches.team]\nurl = \"{url}\"\n{cache}"));
    (receiver, storewatch)
}

fn add(store: &ScratchStore, seed: u64, len: u64) -> String {
    let source = store.root().join(format!("random-{seed}"));
    write_random(&source, seed, len);
    store.add(&source)
}

#[test]
fn a_small_fresh_path_passes_a_slow_backfill() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    // More large ones than are uploaded at once: they would take minutes.
    let large: Vec<_> = (0..6).map(|seed| add(&store, seed, 5000 * KB)).collect();
    let (receiver, storewatch) = site(&store, "bandwidth = \"200 kB/s\"\n", "");
    let mut running = storewatch.start();
    let mut arguments = vec!["backfill"];
    arguments.extend(large.iter().map(String::as_str));
    let _beside = storewatch.spawn(&arguments);
    running.eventually("a backfill under way", || receiver.total() > 100_000);
    let small = add(&store, 99, 4 * KB);
    running.eventually("the small path", || receiver.shows(&small).is_some());
    assert!(large.iter().all(|path| receiver.shows(path).is_none()), "it had to wait for a large one");
}

#[test]
fn a_limit_of_a_directory_is_its_own() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let slow = storewatch.cache_at("slow");
    let free = storewatch.cache_at("free");
    storewatch.policy(&format!(
        "version = 1\n[limits]\nbandwidth = \"1 kB/s\"\n[caches.slow]\nurl = \"{}\"\nbandwidth = \"100 kB/s\"\n\
         [caches.free]\nurl = \"{}\"\n",
        slow.url(),
        free.url()
    ));
    let path = add(&store, 1, 200 * KB);
    let began = Instant::now();
    storewatch.cmd(&["backfill", &path]).ok();
    let took = began.elapsed();
    assert!(took > Duration::from_millis(1500), "200 kB at 100 kB/s in {took:?}");
    assert!(took < Duration::from_secs(100), "the line's limit is for the line");
    let has = |cache: &CacheDir| cache.narinfos().len();
    assert_eq!((has(&slow), has(&free)), (1, 1));
}

#[test]
fn an_upload_in_the_background_arrives_and_measures_only_while_it_is_under_way() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let (receiver, storewatch) = site(&store, "", "bandwidth = \"background\"\n");
    let mut running = storewatch.start();
    let path = add(&store, 1, 300 * KB);
    eventually_done(&mut running, &storewatch, 1);
    assert!(receiver.shows(&path).is_some());
    let touched = receiver.touched();
    assert!(touched > 0, "nobody has measured the line");
    // It goes on for a few seconds, and ends before it has asked a hundred times more.
    let mut before = (touched, Instant::now());
    running.eventually("the end of measuring", || {
        let now = receiver.touched();
        if now != before.0 {
            before = (now, Instant::now());
        }
        assert!(now < touched + 100, "it measures for ever");
        before.1.elapsed() > Duration::from_secs(1)
    });
}

#[test]
fn a_fresh_path_does_not_wait_for_a_reference_at_the_speed_of_backfill() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let (receiver, storewatch) = site(&store, "backfill_bandwidth = \"1 kB/s\"\n", "");
    // At that speed it would take ten minutes.
    let library = store.build(&expr::sized(600_000)).unwrap().remove(0);
    let mut running = storewatch.start();
    let _beside = storewatch.spawn(&["backfill", &library]);
    running.eventually("a backfill under way", || receiver.total() > 2000);
    let user = store.build(&expr::user_of(&library)).unwrap().remove(0);
    running.eventually("the path that needs it", || receiver.shows(&user).is_some());
    assert!(receiver.shows(&library).is_some());
}
