//! Builds, uploads and garbage collections side by side, round after round, and what must hold of them then.

use super::nix::{Daemon, base_name};
use super::{Nix, ScratchStore, Storewatch, expr};
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Of each round one path takes some milliseconds to read, so that a collector comes in between.
const LARGE: u64 = 300_000;

/// What came of it.
#[derive(Debug, Default)]
pub struct Tally {
    /// Paths that were built.
    pub built: usize,
    /// Of these, paths that are in the cache.
    pub uploaded: usize,
    /// Of these, paths that were collected before their turn came.
    pub gone: usize,
    /// Of these, paths that were collected before storewatch could know of them.
    pub unseen: usize,
    /// Times that the garbage was collected.
    pub collections: usize,
    /// Paths that the cache was given after they had gone.
    pub uploaded_after_they_had_gone: Vec<String>,
    /// Paths that are still there and not in the cache, though nothing is left to be done.
    pub lost: Vec<String>,
    /// Paths that are still there after a stop and one more collection.
    pub kept_after_a_stop: Vec<String>,
}

/// Builds through the Nix daemon, uploads into a directory, and lets Nix collect the garbage all the while.
pub fn beside_each_other(nix: &Nix, rounds: usize) -> Tally {
    let store = ScratchStore::new(nix);
    let daemon = store.daemon();
    let storewatch = Storewatch::new(&store);
    let cache = storewatch.cache_at("cache");
    storewatch.policy(&format!("version = 1\n[caches.team]\nurl = \"{}\"\n", cache.url()));
    let mut running = storewatch.run_with(|command| {
        command.env("STOREWATCH_LOG", "info");
    });
    running.eventually_logs("watching");
    let (over, deleted) = (AtomicBool::new(false), Mutex::new(HashMap::new()));
    let mut built = BTreeSet::new();
    let collections = thread::scope(|scope| {
        let collector = scope.spawn(|| collect_until(&over, &store, &daemon, &deleted));
        for _ in 0..rounds {
            let all = format!("[ ({}) ({}) ] ++ {}", expr::chain(3), expr::sized(LARGE), expr::many(2));
            // What a build still needs is rooted by itself, so that none may fail.
            built.extend(daemon.build(&all).unwrap());
        }
        over.store(true, Ordering::Relaxed);
        collector.join().unwrap()
    });
    let last = daemon.build(&expr::many(1)).unwrap().remove(0);
    running.eventually("what was built last", || cache.has(&last));
    running.eventually("the queue's end", || storewatch.jobs_left().iter().all(|job| job["state"] == "gone"));
    let gone: BTreeSet<String> =
        storewatch.jobs("gone").iter().map(|job| job["path"].as_str().unwrap().to_owned()).collect();
    running.stop();
    cache.assert_sound(&[]);
    let mut tally = Tally { built: built.len(), collections, ..Tally::default() };
    let deleted = deleted.into_inner().unwrap();
    for path in &built {
        if cache.has(path) {
            tally.uploaded += 1;
            if deleted.get(path).is_some_and(|deleted| published(&cache.dir().join(narinfo(path))) > *deleted) {
                tally.uploaded_after_they_had_gone.push(path.clone());
            }
        } else if store.valid(path) {
            tally.lost.push(path.clone());
        } else if gone.contains(base_name(path)) {
            tally.gone += 1;
        } else {
            tally.unseen += 1;
        }
    }
    store.gc();
    tally.kept_after_a_stop = built.into_iter().filter(|path| store.valid(path)).collect();
    tally
}

/// Collects again and again, and notes when each path was deleted at the latest. Returns how often that was.
fn collect_until(
    over: &AtomicBool,
    store: &ScratchStore,
    daemon: &Daemon<'_>,
    deleted: &Mutex<HashMap<String, Duration>>,
) -> usize {
    let mut times = 0;
    while !over.load(Ordering::Relaxed) {
        let mut command = match times % 3 {
            0 => store.command("nix-collect-garbage"),
            _ => store.command("nix-store"),
        };
        match times % 3 {
            0 => {}
            1 => {
                command.arg("--gc");
            }
            _ => {
                command.arg("--gc").env("NIX_REMOTE", daemon.url());
            }
        }
        collect(&mut command, deleted);
        times += 1;
    }
    times
}

fn collect(command: &mut Command, deleted: &Mutex<HashMap<String, Duration>>) {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok) {
        if let Some(path) = line.strip_prefix("deleting '").and_then(|rest| rest.strip_suffix('\'')) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            deleted.lock().unwrap().insert(path.to_owned(), now);
        }
        said.push_str(&line);
        said.push('\n');
    }
    assert!(child.wait().unwrap().success(), "{command:?}\n{said}");
}

fn narinfo(path: &str) -> String {
    format!("{}.narinfo", &base_name(path)[..32])
}

/// When a file got its name, since 1970. The clock of files stands still between two ticks: it may have been later.
fn published(file: &std::path::Path) -> Duration {
    let metadata = fs::metadata(file).unwrap();
    Duration::new(metadata.ctime() as u64, metadata.ctime_nsec() as u32)
}
