//! Builds, uploads and garbage collections side by side: `nix-build` through the daemon, and `nix-store --gc` and
//! `nix-collect-garbage` in a loop. No time is measured: what counts is that nothing is uploaded that had gone, that nothing
//! is lost that is still there, and that after a stop nothing keeps a path.

#![allow(clippy::unwrap_used, reason = "a bench that can't go on panics, with the line that says where")]

mod common;
#[allow(dead_code, unused_imports, unused_macros, reason = "the tests use all of it")]
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::time::Instant;

use common::{row, seconds, size};
use support::Nix;
use support::collecting::{Tally, beside_each_other};

fn main() {
    let Some(nix) = Nix::recent() else { return };
    let rounds = size(500, 25);
    common::headline(&format!("collected: {rounds} rounds of build, upload and garbage collection side by side"));
    let began = Instant::now();
    let tally = beside_each_other(&nix, rounds);
    let Tally { built, uploaded, gone, unseen, collections, .. } = tally;
    for (what, paths) in [
        ("uploaded after they had gone", &tally.uploaded_after_they_had_gone),
        ("lost although they are still there", &tally.lost),
        ("kept by a root after a stop", &tally.kept_after_a_stop),
    ] {
        let none = paths.is_empty();
        row(
            &format!("collected: {what}"),
            &paths.len().to_string(),
            &format!("{built} paths"),
            None,
            Some(("0", none)),
        );
    }
    println!(
        "{:>62} {uploaded} uploaded, {gone} collected before their turn, {unseen} before they were seen; {collections} \
         collections in {}",
        "",
        seconds(began.elapsed())
    );
}
