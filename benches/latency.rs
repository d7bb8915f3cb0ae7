//! From the commit in the Nix database to a readable narinfo: paths of 4 KiB, one after the other, on a machine that does
//! nothing else.
//!
//! The commit is when a reader of the database that looks every [`LOOK`] sees the row; the narinfo is there when `stat`,
//! asked as often, finds it. Both are late by one look at most, so the difference is right within one look.
//!
//! Where a Nix daemon runs, each path gets a temporary root before it is read.

#![allow(clippy::unwrap_used, reason = "a bench that can't go on panics, with the line that says where")]

mod common;
#[allow(dead_code, unused_imports, unused_macros, reason = "the tests use all of it")]
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Random, millis, row, size};
use rusqlite::{Connection, OpenFlags};
use support::{Nix, ScratchStore, Storewatch};

const LOOK: Duration = Duration::from_micros(200);

/// Between two paths, so that each meets a service at rest: longer than anything that follows an upload.
const PAUSE: Duration = Duration::from_millis(100);

/// One that takes longer is lost, and the bench with it.
const LOST: Duration = Duration::from_secs(30);

fn main() {
    let count = size(500, 40);
    common::headline(&format!("latency: commit to readable narinfo, {count} paths of 4 KiB each"));
    let kinds = [("2.8", Nix::v2_8(), false), ("newer", Nix::recent(), false), ("newer, rooted", Nix::recent(), true)];
    for (name, nix, by_daemon) in kinds {
        let Some(nix) = nix else { continue };
        let mut times = latencies(&nix, by_daemon, count);
        times.sort_unstable();
        let [median, high] = [times[count / 2], times[count * 99 / 100]];
        let ms = |limit: u64| Duration::from_millis(limit);
        let ratio = |time: Duration, limit: u64| Some(time.as_secs_f64() / ms(limit).as_secs_f64());
        row(
            &format!("latency, Nix {name}: median"),
            &millis(median),
            "30 ms",
            ratio(median, 30),
            Some(("<= 30 ms", median <= ms(30))),
        );
        row(
            &format!("latency, Nix {name}: 99th percentile"),
            &millis(high),
            "150 ms",
            ratio(high, 150),
            Some(("<= 150 ms", high <= ms(150))),
        );
        println!("{:>62} fastest {}, slowest {}", "", millis(times[0]), millis(times[count - 1]));
    }
}

fn latencies(nix: &Nix, by_daemon: bool, count: usize) -> Vec<Duration> {
    let store = ScratchStore::new(nix);
    let _daemon = by_daemon.then(|| store.daemon());
    let storewatch = Storewatch::new(&store);
    let cache = tempfile::tempdir().unwrap();
    storewatch.policy(&format!("version = 1\n[caches.bench]\nurl = \"file://{}\"\n", cache.path().display()));
    let mut running = storewatch.run_with(|command| {
        command.env("STOREWATCH_LOG", "info");
    });
    running.eventually_logs("watching");

    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(store.db_path(), flags).unwrap();
    let mut newest = database.prepare("SELECT path FROM ValidPaths WHERE id > ?1").unwrap();
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let source = store.root().join("source");
    let mut times = Vec::with_capacity(count);
    for number in 0..count {
        let content: Vec<u8> = (0..512).flat_map(|_| random.next().to_le_bytes()).collect();
        fs::write(&source, content).unwrap();
        let last: i64 = database.query_row("SELECT ifnull(max(id), 0) FROM ValidPaths", [], |row| row.get(0)).unwrap();
        let mut add = store.command("nix-store");
        let mut add = add.arg("--add").arg(&source).stdout(Stdio::null()).spawn().unwrap();
        let path: String = wait("the row", || newest.query_row([last], |row| row.get(0)).ok());
        let committed = Instant::now();
        let narinfo = cache.path().join(format!("{}.narinfo", &support::nix::base_name(&path)[..32]));
        wait(&format!("narinfo {number}"), || fs::metadata(&narinfo).ok());
        times.push(committed.elapsed());
        assert!(add.wait().unwrap().success());
        // A little different each time, so that nothing falls into step.
        std::thread::sleep(PAUSE + Duration::from_micros(random.below(20_000)));
    }
    running.terminate();
    running.wait_exit();
    times
}

fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(began.elapsed() < LOST, "{what} didn't come");
        std::thread::sleep(LOOK);
    }
}
