//! What builders notice of the service: `nix-build` of many trivial derivations with the watcher running over without it.
//!
//! The two take turns, and the order changes from round to round. What counts is the ratio of each pair, of which the
//! median is shown: both halves of a pair meet the same machine, whatever else that does. The service has its default
//! policy, at its default low priority, and uploads everything that is built; how much CPU it takes for that while the
//! build runs is shown beside it.

#![allow(clippy::unwrap_used, reason = "a bench that can't go on panics, with the line that says where")]

mod common;
#[allow(dead_code, unused_imports, unused_macros, reason = "the tests use all of it")]
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use common::{cpu, median, row, seconds, size};
use support::{Nix, ScratchStore, Storewatch, expr};

fn main() {
    let (derivations, rounds) = (100, size(21, 1));
    common::headline(&format!("overhead: nix-build of {derivations} derivations, {rounds} rounds, medians"));
    for (name, nix) in [("2.8", Nix::v2_8()), ("newer", Nix::recent())] {
        let Some(nix) = nix else { continue };
        let store = ScratchStore::new(&nix);
        build(&store, derivations);
        let (mut without, mut with) = (Vec::new(), Vec::new());
        // Kept to the end: after many files have been deleted, ext4 without a journal takes ten times as long to make new ones.
        let mut storewatches = Vec::new();
        for round in 0..rounds {
            for watched in [round % 2 == 0, round % 2 != 0] {
                if watched {
                    let storewatch = Storewatch::new(&store);
                    with.push(build_watched(&storewatch, &store, derivations));
                    storewatches.push(storewatch);
                } else {
                    rustix::fs::sync();
                    without.push(build(&store, derivations));
                }
            }
        }
        let thousandths = with
            .iter()
            .zip(&without)
            .map(|((with, _), without)| (with.as_secs_f64() / without.as_secs_f64() * 1e3) as u64);
        let ratio = median(thousandths.collect()) as f64 / 1e3;
        let (with, taken): (Vec<_>, Vec<_>) = with.into_iter().unzip();
        row(
            &format!("overhead: nix-build, Nix {name}"),
            &seconds(median(with)),
            &format!("{} without", seconds(median(without))),
            Some(ratio),
            Some(("<= 1.05", ratio <= 1.05)),
        );
        println!("{:>62} {} of CPU for the service meanwhile", "", seconds(median(taken)));
    }
}

fn build(store: &ScratchStore, derivations: usize) -> Duration {
    let expression = expr::many(derivations);
    let began = Instant::now();
    store.build(&expression).unwrap();
    began.elapsed()
}

/// How long it took, and how much CPU the service took meanwhile.
fn build_watched(storewatch: &Storewatch<'_>, store: &ScratchStore, derivations: usize) -> (Duration, Duration) {
    let mut running = storewatch.run_with(|command| {
        command.env("STOREWATCH_LOG", "info");
    });
    running.eventually_logs("watching");
    rustix::fs::sync();
    let before = cpu(running.pid());
    let time = build(store, derivations);
    let taken = cpu(running.pid()) - before;
    running.terminate();
    running.wait_exit();
    (time, taken)
}
