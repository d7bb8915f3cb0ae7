//! Pauses, as they are noted.

use super::*;

fn paused(all: Option<&str>, backfill: Option<&str>) -> Paused {
    Paused { all: all.map(str::to_owned), backfill: backfill.map(str::to_owned) }
}

#[test]
fn no_backfill_is_claimed_while_that_is_paused_and_fresh_paths_are() {
    let mut bench = Bench::new();
    bench.admit(Lane::Backfill, Ended::StartsAnew, &[1]);
    bench.fresh(&[2]);
    bench.queue.note_paused(&[(bench.cache, paused(None, Some("by night")))]).expect("noted");
    let claim = |bench: &mut Bench, lane| bench.queue.claim(bench.cache, lane, 9, bench.clock).expect("claimed").len();
    let probe =
        |bench: &mut Bench| bench.queue.claim_probe(bench.cache, Lane::Backfill, bench.clock).expect("claimed").len();
    assert_eq!(claim(&mut bench, Lane::Backfill), 0);
    assert_eq!(claim(&mut bench, Lane::Fresh), 1);
    assert_eq!(probe(&mut bench), 0);
    let views = bench.queue.jobs(&JobFilter::default()).expect("listed");
    let whys: Vec<_> = views.iter().filter_map(|job| job.paused.as_deref()).collect();
    assert_eq!(whys, ["for backfill by night"], "of the one that waits for it");
    bench.queue.note_paused(&[]).expect("noted");
    assert_eq!(probe(&mut bench), 1);
}

#[test]
fn what_is_left_says_that_it_is_paused() {
    let mut bench = Bench::new();
    let run = bench.run_for(&[1]);
    let why = |bench: &Bench| bench.queue.left(run).expect("listed")[0].paused.clone();
    assert_eq!(why(&bench), None);
    bench.queue.note_paused(&[(bench.cache, paused(None, Some("by night")))]).expect("noted");
    assert_eq!(why(&bench), None, "it is fresh");
    bench.queue.note_paused(&[(bench.cache, paused(Some("by hand"), None))]).expect("noted");
    assert_eq!(why(&bench).as_deref(), Some("by hand"));
}
