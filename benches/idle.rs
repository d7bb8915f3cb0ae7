//! The service at rest, after it has uploaded something: how often it wakes up, and how much memory it keeps.
//!
//! A wake-up is a voluntary context switch of any of its threads (`/proc/PID/task/*/status`), counted over some time in
//! which nothing happens in the store.

#![allow(clippy::unwrap_used, reason = "a bench that can't go on panics, with the line that says where")]

mod common;
#[allow(dead_code, unused_imports, unused_macros, reason = "the tests use all of it")]
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use common::{memory, mib, row, size};
use support::{Nix, ScratchStore, Storewatch, expr};

/// Long enough for every timer of the service to have been due several times.
const AT_REST: Duration = Duration::from_secs(20);

fn main() {
    let Some(nix) = Nix::v2_8() else { return };
    let at_rest = if common::quick() { Duration::from_secs(5) } else { AT_REST };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let cache = tempfile::tempdir().unwrap();
    storewatch.policy(&format!("version = 1\n[caches.bench]\nurl = \"file://{}\"\n", cache.path().display()));
    let mut running = storewatch.run_with(|command| {
        command.env("STOREWATCH_LOG", "info");
    });
    running.eventually_logs("watching");
    let before = memory(running.pid(), "VmRSS");

    // Some small paths and some that are packed by several threads.
    let mut built = store.build(&expr::many(size(100, 10))).unwrap();
    for _ in 0..size(8, 2) {
        built.extend(store.build(&expr::sized(32 * 1024 * 1024)).unwrap());
    }
    let narinfos: Vec<_> = built
        .iter()
        .map(|path| cache.path().join(format!("{}.narinfo", &support::nix::base_name(path)[..32])))
        .collect();
    running.eventually("all to be uploaded", || narinfos.iter().all(|narinfo| narinfo.exists()));

    common::headline(&format!("idle: at rest for {} s after {} uploads", at_rest.as_secs(), built.len()));
    // What ends by itself a while after the last upload (echoes, threads without work) is not what idle means.
    std::thread::sleep(at_rest);
    let first = switches(running.pid());
    std::thread::sleep(at_rest);
    let last = switches(running.pid());
    let woken: u64 = last.iter().map(|(thread, count)| count - first.get(thread).copied().unwrap_or(0)).sum();
    let rate = woken as f64 / at_rest.as_secs_f64();
    let rss = memory(running.pid(), "VmRSS");
    row("idle: wake-ups a second, all threads", &format!("{rate:.2}"), "1", None, Some(("<= 1.00", rate <= 1.0)));
    row(
        "idle: resident",
        &mib(rss),
        &format!("{} before the uploads", mib(before)),
        None,
        Some(("<= 24 MiB", rss <= 24 << 20)),
    );
    let (own, files, peak) =
        (memory(running.pid(), "RssAnon"), memory(running.pid(), "RssFile"), memory(running.pid(), "VmHWM"));
    println!("{:>62} {} its own, {} of its program; {} at its peak", "", mib(own), mib(files), mib(peak));
    running.terminate();
    running.wait_exit();
}

/// Voluntary context switches of each thread so far.
fn switches(pid: u32) -> HashMap<String, u64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let counted = threads.filter_map(|thread| {
        let status = fs::read_to_string(thread.path().join("status")).ok()?;
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        Some((thread.file_name().to_string_lossy().into_owned(), count.trim().parse().ok()?))
    });
    counted.collect()
}
