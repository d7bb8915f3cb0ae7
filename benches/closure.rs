//! A closure of many small and some large paths into `file://`: `storewatch backfill` against `nix copy`, and against the
//! limit, which is reading, SHA-256 of the NAR and of the archive, and zstd -3, on all cores and without writing anything.
//!
//! All take the same store, one after the other, round after round; the medians count. storewatch makes everything
//! durable before it ends, `nix copy` syncs nothing; what either has left unwritten is synced before the next begins.
//! storewatch runs at normal priority here, as `nix copy` does; its default is low.
//!
//! There are two kinds of content. The goal is about this machine's own files, which are what a store holds
//! (`common::machine` says how they are chosen). Made-up pieces stand beside them: zstd has so much work with those that
//! they say how near the limit storewatch comes where packing is nearly all there is to do.

#![allow(clippy::unwrap_used, reason = "a bench that can't go on panics, with the line that says where")]

mod common;
#[path = "common/filled.rs"]
mod filled;
#[path = "common/limit.rs"]
mod limit;
#[allow(dead_code, unused_imports, unused_macros, reason = "the tests use all of it")]
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Usage, measured, median, mib, row, seconds, size, total};
use filled::{Content, fill};
use support::{Nix, ScratchStore, Storewatch};
use tempfile::TempDir;

fn main() {
    // Without arguments both kinds of content, otherwise that which is named.
    for content in [Content::Machine, Content::Pieces] {
        let named: Vec<_> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
        if named.is_empty() || named.contains(&format!("{content:?}").to_lowercase()) {
            compare(content);
        }
    }
}

fn compare(content: Content) {
    let is_real = matches!(content, Content::Machine);
    let (small, large, rounds) = (size(2_000, 200), size(20, 2), size(3, 1));
    let Some(nix) = Nix::v2_8() else { return };
    let store = ScratchStore::new(&nix);
    let paths = fill(&store, content, small, large);
    let (bytes, files) = total(&store.store_dir());

    let mut peers = Vec::new();
    if let Some(newer) = Nix::recent() {
        peers.push(("nix copy, newer", newer.clone(), ""));
        if is_real {
            peers.push(("nix copy, newer, parallel-compression", newer, "&parallel-compression=true"));
        }
    }
    if is_real {
        peers.push(("nix copy, 2.8", nix, ""));
    }
    common::headline(&format!(
        "closure of {content:?}: {small} small and {large} large paths, {files} files of {} into file://, {rounds} rounds, \
         medians",
        mib(bytes)
    ));

    let mut ours = Vec::new();
    let mut theirs = vec![Vec::new(); peers.len()];
    let mut limits = Vec::new();
    let mut packed = 0;
    // Kept to the end: after thousands of files have been deleted, ext4 without a journal takes ten times as long to make new
    // ones, whoever comes next.
    let mut caches = Vec::new();
    for _ in 0..rounds {
        let (usage, cache) = backfill(&store, small + large);
        packed = total(&cache.path().join("nar")).0;
        ours.push(usage);
        caches.push(cache);
        for ((_, nix, query), usages) in peers.iter().zip(&mut theirs) {
            let (usage, cache) = nix_copy(&store, nix, query, small + large);
            usages.push(usage);
            caches.push(cache);
        }
        limits.push(limit(&paths));
        let last =
            theirs.iter().filter_map(|usages| usages.last()).map(|usage| seconds(usage.wall)).collect::<Vec<_>>();
        eprintln!(
            "round {}: {} ({} of CPU, {}); peers {}; limit {}",
            limits.len(),
            seconds(usage.wall),
            seconds(usage.cpu),
            mib(usage.peak),
            last.join(", "),
            seconds(limits[limits.len() - 1].wall)
        );
    }

    let (time, cpu, peak) = summary(&ours);
    println!("{} packed; storewatch takes {} of CPU and is durable", mib(packed), seconds(cpu));
    for ((name, _, query), usages) in peers.iter().zip(&theirs) {
        let (their_time, their_cpu, their_peak) = summary(usages);
        let ratio = their_time.as_secs_f64() / time.as_secs_f64();
        // The goal is about `nix copy` as people call it; with more threads a path it is told beside it.
        let goal = (is_real && query.is_empty()).then_some((">= 1.50", ratio >= 1.5));
        row(&format!("backfill: {name}"), &seconds(time), &seconds(their_time), Some(ratio), goal);
        println!("{:>62} {} of CPU, {} resident", "", seconds(their_cpu), mib(their_peak));
    }
    let (limit, limit_cpu, _) = summary(&limits);
    row(
        "backfill: the limit (read, hash, zstd, no writing)",
        &seconds(time),
        &seconds(limit),
        Some(limit.as_secs_f64() / time.as_secs_f64()),
        None,
    );
    println!("{:>62} {} of CPU", "", seconds(limit_cpu));
    let worst = ours.iter().map(|usage| usage.peak).max().unwrap_or(peak);
    row("backfill: peak resident, worst round", &mib(worst), "96 MiB", None, Some(("<= 96 MiB", worst <= 96 << 20)));
}

fn summary(usages: &[Usage]) -> (Duration, Duration, u64) {
    let of = |field: fn(&Usage) -> Duration| median(usages.iter().map(field).collect());
    (of(|usage| usage.wall), of(|usage| usage.cpu), median(usages.iter().map(|usage| usage.peak).collect()))
}

/// A backfill of everything by a storewatch that has never run before.
fn backfill(store: &ScratchStore, expected: usize) -> (Usage, TempDir) {
    let storewatch = Storewatch::new(store);
    let cache = tempfile::tempdir().unwrap();
    storewatch.policy(&format!(
        "version = 1\n[caches.bench]\nurl = \"file://{}?compression=zstd\"\n[limits]\npriority = \"normal\"\n",
        cache.path().display()
    ));
    rustix::fs::sync();
    let usage = measured(storewatch.command().env_remove("STOREWATCH_LOG").arg("backfill"));
    assert_eq!(narinfos(cache.path()), expected, "backfill left something out");
    (usage, cache)
}

fn nix_copy(store: &ScratchStore, nix: &Nix, query: &str, expected: usize) -> (Usage, TempDir) {
    let cache = tempfile::tempdir().unwrap();
    let url = format!("file://{}?compression=zstd{query}", cache.path().display());
    rustix::fs::sync();
    let usage = measured(store.command_of(nix, "nix").args(["copy", "--all", "--to", &url]));
    assert_eq!(narinfos(cache.path()), expected, "nix copy left something out");
    (usage, cache)
}

fn narinfos(cache: &Path) -> usize {
    let entries = fs::read_dir(cache).unwrap().flatten();
    entries.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "narinfo")).count()
}

/// What can't be left out, on as many threads as there are cores.
fn limit(paths: &[PathBuf]) -> Usage {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    limit::at_once(paths, threads, |path| {
        limit::pack(path, std::io::sink());
    })
}
