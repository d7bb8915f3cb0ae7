//! A cache that may have no more than a size drops what was longest unread, and nothing that is needed.

use crate::support::nix::base_name;
use crate::support::{CacheDir, Nix, Reader, ScratchStore, Storewatch, eventually, expr};
use rustix::process::Signal;
use std::fs::{self, File, FileTimes};
use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[test]
fn what_was_longest_unread_is_dropped_and_stays_away() {
    let Some(store) = scratch() else { return };
    let storewatch = Storewatch::new(&store);
    let cache = storewatch.cache_at("team");
    let policy =
        |more: &str| storewatch.policy(&format!("version = 1\n[caches.team]\nurl = \"{}\"\n{more}", cache.url()));
    policy("");
    let [old, read, older, new] = [(); 4].map(|()| store.build(&expr::sized(300_000)).unwrap().remove(0));
    let chain = store.query_closure(&store.build(&expr::chain(2)).unwrap()[0]);
    // It is left to backfill.
    let late = store.build(&expr::many(1)).unwrap().remove(0);
    let all = [&old, &read, &older, &new, &chain[1]].map(String::as_str);
    storewatch.cmd(&[&["push"], &all[..]].concat()).ok();
    for (path, days) in [(&old, 8), (&read, 2), (&older, 9), (&chain[0], 20), (&chain[1], 1)] {
        age(&cache, path, days);
    }
    policy("max_size = \"1 MB\"\n");
    let mut running = storewatch.start();
    running.eventually_logs("what was longest unread was dropped: the cache had 1.1 MiB and may have 976.6 KiB");
    let shown = || [&old, &read, &older, &new, &chain[0], &chain[1]].map(|path| cache.has(path));
    assert_eq!(shown(), [false, true, false, true, true, true], "what the chain's top needs stays, however old");
    running.eventually("that in the status", || storewatch.cache_status("team")["dropped"] == 2);
    assert!(storewatch.cmd(&["status"]).ok().contains("2 of those done were dropped again, by `max_size`"));
    storewatch.cmd(&["cache", "verify", "team", "--deep"]).ok();
    let key = storewatch.public_key("team");
    Reader::empty(&store).copy_from(&cache.url(), &key, &[read.clone(), chain[1].clone()]).unwrap();

    // It doesn't come back with all the others, but when it is named.
    running.eventually_logs("the cache is larger than its `max_size`: backfill waits there");
    storewatch.cmd(&["backfill", "--timeout", "1s"]);
    assert_eq!(shown(), [false, true, false, true, true, true]);
    assert!(!cache.has(&late) && !storewatch.jobs_left().is_empty(), "the archives take up room still");
    let status = storewatch.cmd(&["status"]).ok();
    assert!(status.contains("backfill waits: the cache is larger than its `max_size`"), "{status}");
    assert!(status.contains(" MiB of at most 976.56 KiB, looked at "), "{status}");
    let doctor = storewatch.cmd(&["doctor"]).stdout;
    assert!(
        doctor.contains("size of team: ") && doctor.contains("and it may have 976.6 KiB: backfill waits"),
        "{doctor}"
    );
    storewatch.cmd(&["push", &old]).ok();
    assert_eq!((cache.has(&old), &storewatch.cache_status("team")["dropped"]), (true, &1.into()));
    running.stop();

    // Archives go a while after their paths.
    assert_eq!(cache.archives().len(), 7);
    for entry in fs::read_dir(cache.dir().join("pruned")).unwrap().flatten() {
        set_times(&entry.path(), 1);
    }
    let mut running = storewatch.start();
    // That of the path that is there again by another is one of them.
    running
        .eventually("the archives gone, and what waited for that", || cache.archives().len() == 6 && cache.has(&late));
    assert_eq!(shown(), [true, true, false, true, true, true], "without them it fits");
    running.stop();
    cache.assert_sound(&[]);
    Reader::empty(&store).copy_from(&cache.url(), &key, &[old, read, new, chain[1].clone()]).unwrap();
}

#[test]
fn a_path_that_is_larger_than_the_cache_may_be_fails_and_says_what_to_do() {
    let Some(store) = scratch() else { return };
    let storewatch = Storewatch::new(&store);
    let cache = storewatch.cache_at("team");
    let policy = |most| {
        let url = cache.url();
        storewatch.policy(&format!("version = 1\n[caches.team]\nurl = \"{url}\"\nmax_size = \"{most}\"\n"))
    };
    policy("1 MB");
    let mut running = storewatch.start();
    let large = store.build(&expr::sized(1_500_000)).unwrap().remove(0);
    let small = store.build(&expr::many(1)).unwrap().remove(0);
    running.eventually("the small one", || cache.has(&small));
    running.eventually("the end of the large one", || storewatch.jobs("failed").len() == 1);
    let reason = storewatch.jobs("failed")[0]["reason"].as_str().unwrap().to_owned();
    assert!(
        reason.contains(
            "is larger than 878.9 KiB, and would be dropped as soon as the cache had more than its `max_size`; let"
        ),
        "{reason}"
    );
    assert_eq!((cache.archives().len(), cache.largest_temporary_file()), (1, 0));
    policy("10 MB");
    running.eventually("the large one", || cache.has(&large));
    running.stop();
    cache.assert_sound(&[]);
}

#[test]
fn backfill_goes_no_further_than_the_size_from_its_first_path_on() {
    let Some(store) = scratch() else { return };
    let storewatch = Storewatch::new(&store);
    let cache = storewatch.cache_at("team");
    let policy = |most: &str| {
        // One path at once, so that what is under way is one.
        storewatch.policy(&format!(
            "version = 1\n[caches.team]\nurl = \"{}\"\nuploads = 1\nmax_size = \"{most}\"\n",
            cache.url()
        ))
    };
    policy("1 MB");
    let paths = [(); 12].map(|()| store.build(&expr::sized(200_000)).unwrap().remove(0));
    let there = || paths.iter().filter(|path| cache.has(path)).count();

    // Whoever asks for it is told what it waits for, as soon as that was found out.
    let waits = "team, which takes no backfill for now: the cache is larger than its `max_size`";
    let ends_for_want_of_room = || {
        let said = storewatch.cmd(&["backfill", "--timeout", "2s"]);
        assert_eq!(said.code, Some(4), "{said:?}");
        said.stdout.contains(waits)
    };

    // Nothing was there: what is brought counts before the cache is looked at again, and what is on its way does.
    eventually("the cache to be full", ends_for_want_of_room);
    let before = there();
    assert!((5..=6).contains(&before), "{before} of 200 kB each");

    // Too large from the start.
    policy("500 kB");
    eventually("what it waits for", ends_for_want_of_room);
    assert_eq!(there(), before);
    // Fresh paths go before and are let in.
    let late = paths.iter().find(|path| !cache.has(path)).unwrap();
    storewatch.cmd(&["push", late]).ok();
    assert_eq!(there(), before + 1);

    policy("10 MB");
    storewatch.cmd(&["backfill"]).ok();
    assert_eq!(there(), paths.len());
    cache.assert_sound(&[]);
}

#[test]
fn a_path_is_not_shown_when_a_reference_was_dropped_meanwhile() {
    let Some(store) = scratch() else { return };
    let storewatch = Storewatch::new(&store);
    let cache = storewatch.cache_at("team");
    // At this level a core packs some MB a second.
    let url = format!("{}?compression-level=19", cache.url());
    storewatch.policy(&format!("version = 1\n[caches.team]\nurl = \"{url}\"\n"));
    let reference = store.build(&expr::many(1)).unwrap().remove(0);
    let mut running = storewatch.start();
    storewatch.cmd(&["push", &reference]).ok();
    let needing = expr::script("needing", "echo $dep > $out; head -c 4000000 /dev/urandom >> $out");
    let needing = needing.replacen("derivation {", &format!("derivation {{ dep = builtins.storePath {reference};"), 1);
    let path = store.build(&needing).unwrap().remove(0);
    running.eventually("its upload", || cache.largest_temporary_file() > 100_000);
    running.signal(Signal::STOP);
    assert!(!cache.has(&path), "it was shown already: make it larger");
    // As an eviction hides it.
    fs::remove_file(narinfo(&cache, &reference)).unwrap();
    running.signal(Signal::CONT);
    running.eventually("both of them", || {
        let there = cache.has(&path);
        assert!(!there || cache.has(&reference), "it is shown without what it needs");
        there
    });
    // Once in vain, and once behind its reference.
    running.eventually_logs(&format!("given back path={}", base_name(&path)));
    running.eventually("the queue's end", || storewatch.jobs_left().is_empty());
    running.stop();
    store.read_back(&cache.url(), &storewatch.public_key("team"), &[path]).unwrap();
}

#[test]
fn what_a_push_found_there_counts_as_used() {
    let Some(store) = scratch() else { return };
    let storewatch = Storewatch::new(&store);
    let cache = storewatch.cache_at("team");
    let policy = |most| {
        storewatch.policy(&format!("version = 1\n[caches.team]\nurl = \"{}\"\nmax_size = \"{most}\"\n", cache.url()))
    };
    policy("10 MB");
    let [oldest, old, new] = [(); 3].map(|()| store.build(&expr::sized(300_000)).unwrap().remove(0));
    storewatch.cmd(&["push", &oldest, &old, &new]).ok();
    for (path, days) in [(&oldest, 9), (&old, 8), (&new, 7)] {
        age(&cache, path, days);
    }
    let said = storewatch.cmd(&["push", &oldest]);
    assert!(said.stdout.contains("already there") || said.stderr.contains("already there"), "{said:?}");
    policy("800 kB");
    let mut running = storewatch.start();
    running.eventually_logs("what was longest unread was dropped");
    assert_eq!([&oldest, &old, &new].map(|path| cache.has(path)), [true, false, true]);
    running.stop();
}

fn scratch() -> Option<ScratchStore> {
    Nix::recent().map(|nix| ScratchStore::new(&nix))
}

fn narinfo(cache: &CacheDir, path: &str) -> std::path::PathBuf {
    cache.dir().join(format!("{}.narinfo", &base_name(path)[..32]))
}

/// As if it had been uploaded a month ago, and read last so many days ago.
fn age(cache: &CacheDir, path: &str, days: u32) {
    set_times(&narinfo(cache, path), 30);
    let archive = cache.dir().join(cache.narinfo(path).unwrap().url);
    set_times(&archive, 30);
    let read = FileTimes::new().set_accessed(SystemTime::now() - DAY * days);
    File::options().write(true).open(archive).unwrap().set_times(read).unwrap();
}

fn set_times(file: &std::path::Path, days: u32) {
    let time = SystemTime::now() - DAY * days;
    let times = FileTimes::new().set_modified(time).set_accessed(time);
    File::options().write(true).open(file).unwrap().set_times(times).unwrap();
}
