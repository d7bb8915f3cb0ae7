//! What a cache has dropped doesn't come back by itself, and does when somebody asks for it.

use super::*;
use crate::nix::HashPart;

/// With three that are done, of which the first was dropped.
fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.fresh(&[1, 2, 3]);
    for job in bench.claim(9) {
        bench.settle(job, UPLOADED);
    }
    bench.queue.note_evicted(bench.cache, &[HashPart::from(&path(1))], &[]).expect("noted");
    bench
}

fn counts(bench: &Bench) -> (u64, u64, u64) {
    let counts = bench.queue.counts().expect("counted").remove(0);
    // What backfill asks for once more is pending here.
    (counts.done - counts.again, counts.dropped, counts.pending + counts.again)
}

#[test]
fn what_was_dropped_is_forgotten_together() {
    let mut bench = Bench::new();
    bench.fresh(&[1]);
    let job = bench.claim_one(1);
    bench.settle(job, UPLOADED);
    let content = |url: &str| Content {
        url: url.to_owned(),
        compression: "zstd".to_owned(),
        file_hash: crate::nix::NarHash([8; 32]),
        file_size: 60,
        nar_size: 120,
    };
    let hash = crate::nix::NarHash([7; 32]);
    bench.queue.note_content(bench.cache, &hash, &content("nar/a"), 1).expect("noted");
    let doubts = bench.queue.doubts().expect("asked");
    let gone = [HashPart::from(&path(1)), HashPart::from(&path(9))];
    bench.queue.note_evicted(bench.cache, &gone, &["nar/a".to_owned()]).expect("noted");
    assert_eq!(counts(&bench), (1, 1, 0));
    assert_eq!(bench.queue.content(bench.cache, &hash).expect("asked"), None);
    assert_eq!(bench.queue.doubts().expect("asked"), doubts + 1);
    assert!(bench.queue.delivered(bench.cache, &[path(1)]).expect("asked").is_empty());
}

#[test]
fn it_comes_back_only_when_it_is_asked_for() {
    for (ended, pending) in [
        (Ended::Stays, 0),
        (Ended::StartsAnewIfRegisteredAnew, 0),
        (Ended::StartsAnewUnlessEvicted, 2),
        (Ended::StartsAnew, 3),
    ] {
        let mut bench = bench();
        bench.admit(Lane::Backfill, ended, &[1, 2, 3]);
        assert_eq!(counts(&bench).2, pending, "{ended:?}");
        for job in bench.claim(9) {
            bench.settle(job, UPLOADED);
        }
        let dropped = u64::from(ended != Ended::StartsAnew);
        assert_eq!(counts(&bench), (3, dropped, 0), "{ended:?}");
    }
}

#[test]
fn it_comes_back_for_what_needs_it_and_when_the_cache_has_no_size() {
    let mut bench = bench();
    bench.fresh(&[4]);
    let job = bench.claim_one(4);
    assert_eq!(bench.queue.under_way(bench.cache).expect("listed"), [path(4)]);
    bench.settle(job, Outcome::WaitsFor(vec![path(1)]));
    let job = bench.claim_one(1);
    bench.settle(job, UPLOADED);
    assert_eq!(counts(&bench), (3, 0, 1));

    bench.queue.note_evicted(bench.cache, &[HashPart::from(&path(1))], &[]).expect("noted");
    bench.queue.forget_evicted(bench.cache).expect("forgotten");
    bench.admit(Lane::Backfill, Ended::StartsAnewUnlessEvicted, &[1]);
    assert_eq!(counts(&bench), (2, 0, 2));
}

/// A backfill of the whole store, or of paths by their names, that asks for these.
fn backfill(bench: &mut Bench, named: bool, paths: &[u8]) -> RunId {
    let named = if named { paths.iter().map(|n| path(*n).base_name().to_owned()).collect() } else { Vec::new() };
    let ended = if named.is_empty() { Ended::StartsAnewUnlessEvicted } else { Ended::StartsAnew };
    let scope = RunScope { paths: named, since: None, roots: false, to: Vec::new(), by_hand: false, policy: None };
    let (run, followed) = bench.queue.begin_run(&scope, 9, bench.clock).expect("begun");
    // It goes on after the test's end.
    std::mem::forget(followed);
    let wanted: Vec<_> =
        paths.iter().map(|n| Wanted { path: path(*n), row: None, registered: 0, caches: vec![bench.cache] }).collect();
    let (lane, now) = (Lane::Backfill, bench.clock);
    let admission = Admission { lane, ended, needed: false, run: Some(run.id), wanted: &wanted, now };
    bench.queue.advance_run(run.id, (9, None), &admission, &[]).expect("admitted");
    run.id
}

#[test]
fn a_backfill_that_waits_does_not_bring_back_what_is_dropped_meanwhile() {
    let mut bench = Bench::new();
    bench.fresh(&[1, 2, 3, 4]);
    for job in bench.claim(9) {
        bench.settle(job, UPLOADED);
    }
    let run = backfill(&mut bench, false, &[1, 2, 3, 5]);
    assert_eq!(counts(&bench), (1, 0, 4), "it is to look for them again");
    let by_name = backfill(&mut bench, true, &[2]);
    let gone = [1, 2, 4].map(|n| HashPart::from(&path(n)));
    bench.queue.note_evicted(bench.cache, &gone, &[]).expect("noted");
    assert_eq!(counts(&bench), (2, 2, 3), "2 was named, 3 is still there, 5 is new");
    bench.check();
    let claimed: Vec<_> = bench.claim(9).into_iter().map(|job| job.path).collect();
    assert_eq!(claimed, [2, 3, 5].map(path));
    let summary = |run| bench.queue.run_summary(run).expect("summed up");
    assert_eq!((summary(run).dropped, summary(run).open), (1, 3));
    assert_eq!((summary(by_name).dropped, summary(by_name).open), (0, 1));
}

#[test]
fn what_is_needed_or_fresh_is_brought_back_whatever_is_dropped() {
    let mut bench = bench();
    // 1 is needed by 4, and 2 has become valid anew.
    bench.fresh(&[4]);
    let job = bench.claim_one(4);
    bench.settle(job, Outcome::WaitsFor(vec![path(1)]));
    bench.admit(Lane::Fresh, Ended::StartsAnew, &[2]);
    backfill(&mut bench, false, &[1, 2, 3]);
    let gone = [1, 2, 3].map(|n| HashPart::from(&path(n)));
    bench.queue.note_evicted(bench.cache, &gone, &[]).expect("noted");
    bench.check();
    assert_eq!(bench.claim(9).into_iter().map(|job| job.path).collect::<Vec<_>>(), [1, 2].map(path));
}
