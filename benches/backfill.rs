//! A backfill of 10,000 paths, with fresh builds by Nix arriving meanwhile: how long a fresh path waits, and that nothing is
//! lost and nothing done twice.
//!
//! A fresh path's time is from the end of its build until its narinfo is there, asked for every [`LOOK`].

#![allow(clippy::unwrap_used, reason = "a bench that can't go on panics, with the line that says where")]

mod common;
#[allow(dead_code, unused_imports, unused_macros, reason = "the tests use all of it")]
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Random, median, millis, row, seconds, size};
use storewatch::nix::nar::{NarOptions, encode_hashed};
use support::{Nix, ScratchStore, Storewatch, expr};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(1);

/// One that takes longer is lost, and the bench with it.
const LOST: Duration = Duration::from_secs(60);

/// The largest of the old paths (bytes): there are many, and disks are small.
const LARGEST: u64 = 16 * 1024;

/// Registered by one process.
const AT_ONCE: usize = 500;

fn main() {
    let Some(nix) = Nix::recent() else { return };
    let count = size(10_000, 500);
    common::headline(&format!("backfill: {count} paths of up to 16 KiB, with fresh builds arriving"));
    let store = ScratchStore::new(&nix);
    fill(&store, count);
    let storewatch = Storewatch::new(&store);
    let cache = storewatch.cache();
    let mut running = storewatch.start_with(|run| {
        run.env("STOREWATCH_LOG", "info,storewatch::watch=debug");
    });
    let began = Instant::now();
    let mut backfill = storewatch.spawn(&["backfill"]);
    running.eventually("the backfill at work", || !cache.narinfos().is_empty());
    let (mut fresh, mut times, mut behind) = (Vec::new(), Vec::new(), 0);
    while backfill.is_running() {
        let path = store.build(&expr::many(1)).unwrap().remove(0);
        let built = Instant::now();
        while !cache.has(&path) {
            assert!(built.elapsed() < LOST, "{path} has not arrived");
            std::thread::sleep(LOOK);
        }
        times.push(built.elapsed());
        behind += usize::from(backfill.is_running());
        fresh.push(path);
    }
    assert_eq!(backfill.wait_exit().code(), Some(0));
    let took = began.elapsed();
    running.eventually("the end of the queue", || storewatch.jobs_left().is_empty());
    let log = running.log();
    running.stop();
    let mut uploads: BTreeMap<&str, usize> = BTreeMap::new();
    for line in log.lines().filter(|line| line.contains(" uploaded ")) {
        let path = line.split(" path=").nth(1).unwrap_or_default().split(' ').next().unwrap_or_default();
        *uploads.entry(path).or_default() += 1;
    }
    let all = count + fresh.len();
    let [shown, once] = [cache.store_paths().len(), uploads.values().filter(|times| **times == 1).count()];
    row("backfill: all paths", &seconds(took), &format!("{:.0} paths/s", all as f64 / took.as_secs_f64()), None, None);
    row("  shown in the cache", &shown.to_string(), &format!("{all} paths"), None, Some(("all", shown == all)));
    row("  uploaded exactly once", &once.to_string(), &format!("{all} paths"), None, Some(("all", once == all)));
    let slowest = *times.iter().max().unwrap();
    let goal = ("<= 1 s", slowest <= Duration::from_secs(1));
    row("  a fresh path waits: median", &millis(median(times.clone())), &format!("{behind} beside it"), None, None);
    row("  a fresh path waits: longest", &millis(slowest), &format!("{} paths", times.len()), None, Some(goal));
    assert!(shown == all && once == all && uploads.len() == all, "{} paths were uploaded", uploads.len());
    assert!(fresh.iter().all(|path| cache.has(path)));
}

/// Writes paths straight into the store, of one file each that refers to nothing, and registers them.
fn fill(store: &ScratchStore, count: usize) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut registrations = Vec::new();
    for number in 0..count {
        let path = store.store_dir().join(format!("{}-old-{number}", random.hash_part()));
        let content: Vec<u8> = (0..random.sized(64, LARGEST) / 8).flat_map(|_| random.next().to_le_bytes()).collect();
        fs::write(&path, content).unwrap();
        let Ok((hash, nar_size)) = encode_hashed(&path, &NarOptions::default(), |_| Ok::<_, ()>(())) else {
            panic!("no NAR of {path:?}")
        };
        let hex: String = hash.0.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut registration = String::new();
        // path, hash, size, deriver, number of references.
        write!(registration, "{}\n{hex}\n{nar_size}\n\n0\n", path.display()).unwrap();
        registrations.push(registration);
    }
    for some in registrations.chunks(AT_ONCE) {
        let mut load = store.command("nix-store").arg("--load-db").stdin(Stdio::piped()).spawn().unwrap();
        load.stdin.take().unwrap().write_all(some.concat().as_bytes()).unwrap();
        assert!(load.wait().unwrap().success(), "nix-store --load-db failed");
    }
}
