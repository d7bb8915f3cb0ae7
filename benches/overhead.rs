//! What builders notice of the service: `nix-build` of many trivial derivations with the watcher running over without it.
//!
//! The two take turns, and the order changes from round to round; the medians are compared. The service has its default
//! policy, at its default low priority, and uploads everything that is built.

#![allow(clippy::unwrap_used, reason = "a bench that can't go on panics, with the line that says where")]

mod common;
#[allow(dead_code, unused_imports, unused_macros, reason = "the tests use all of it")]
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use common::{median, row, seconds, size};
use support::{Nix, ScratchStore, Storewatch, expr};

fn main() {
    let (derivations, rounds) = (100, size(15, 1));
    common::headline(&format!("overhead: nix-build of {derivations} derivations, {rounds} rounds, medians"));
    for (name, nix) in [("2.8", Nix::v2_8()), ("newer", Nix::recent())] {
        let Some(nix) = nix else { continue };
        let store = ScratchStore::new(&nix);
        build(&store, derivations);
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            for watched in [round % 2 == 0, round % 2 != 0] {
                if watched {
                    with.push(build_watched(&store, derivations));
                } else {
                    rustix::fs::sync();
                    without.push(build(&store, derivations));
                }
            }
        }
        let (without, with) = (median(without), median(with));
        let ratio = with.as_secs_f64() / without.as_secs_f64();
        row(
            &format!("overhead: nix-build, Nix {name}"),
            &seconds(with),
            &format!("{} without", seconds(without)),
            Some(ratio),
            Some(("<= 1.05", ratio <= 1.05)),
        );
    }
}

fn build(store: &ScratchStore, derivations: usize) -> Duration {
    let expression = expr::many(derivations);
    let began = Instant::now();
    store.build(&expression).unwrap();
    began.elapsed()
}

fn build_watched(store: &ScratchStore, derivations: usize) -> Duration {
    let storewatch = Storewatch::new(store);
    let mut running = storewatch.run_with(|command| {
        command.env("STOREWATCH_LOG", "info");
    });
    running.eventually_logs("watching");
    rustix::fs::sync();
    let time = build(store, derivations);
    running.terminate();
    running.wait_exit();
    time
}
