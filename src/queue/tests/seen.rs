//! What is noted for those who look.

use super::*;

#[test]
fn a_backfill_says_that_its_cache_is_too_large_and_what_was_done_counts_as_done_until_it_is_looked_for() {
    let mut bench = Bench::new();
    bench.fresh(&[1]);
    let job = bench.claim_one(1);
    bench.settle(job, UPLOADED);
    let scope = RunScope { paths: Vec::new(), since: None, roots: false, to: Vec::new(), by_hand: false, policy: None };
    let run = bench.queue.begin_run(&scope, 9, 5).expect("begun").0.id;
    let wanted = [1, 2].map(|n| Wanted { path: path(n), row: None, registered: 0, caches: vec![bench.cache] });
    let again = Admission {
        lane: Lane::Backfill,
        ended: Ended::StartsAnewUnlessEvicted,
        needed: false,
        run: Some(run),
        wanted: &wanted,
        now: 6,
    };
    bench.queue.advance_run(run, (9, None), &again, &[]).expect("admitted");
    bench.queue.note_size(bench.cache, 70, true, 7).expect("noted");
    let counts = |bench: &Bench| bench.queue.counts().expect("counted").remove(0);
    let seen = counts(&bench);
    assert_eq!((seen.done, seen.again, seen.pending), (1, 1, 1), "{seen:?}");
    assert_eq!((seen.size, seen.sized), (Some(70), Some(7)));
    let why = "the cache is larger than its `max_size`";
    assert_eq!(seen.backfill_waits.as_deref(), Some(why));
    let left = bench.queue.left(run).expect("listed").remove(0);
    assert_eq!((left.paths, left.backfill_waits.as_deref()), (2, Some(why)));
    let jobs = bench.queue.jobs(&JobFilter::default()).expect("listed");
    assert!(jobs.iter().all(|job| job.backfill_waits.as_deref() == Some(why)), "{jobs:?}");
    bench.queue.note_size(bench.cache, 30, false, 8).expect("noted");
    assert_eq!(counts(&bench).backfill_waits, None);
    for job in bench.claim(9) {
        bench.settle(job, Outcome::Retry { not_before: 0, reason: "500".to_owned() });
    }
    assert_eq!((counts(&bench).done, counts(&bench).pending), (0, 2), "one was found missing, and isn't there yet");
}

#[test]
fn what_is_pinned_is_noted_until_it_is_not_known() {
    let mut bench = Bench::new();
    assert_eq!(bench.queue.pinned().expect("read"), None);
    let pinned = Some(Pinned { paths: 3, bytes: 1 << 40 });
    bench.queue.note_pinned(pinned).expect("noted");
    assert_eq!(bench.queue.pinned().expect("read"), pinned);
    bench.queue.note_pinned(None).expect("noted");
    assert_eq!(bench.queue.pinned().expect("read"), None);
}

#[test]
fn a_cache_stays_too_large_for_those_who_look_until_that_is_forgotten() {
    let mut bench = Bench::new();
    bench.queue.serve_cache(bench.cache, "one", 1).expect("served");
    bench.queue.note_size(bench.cache, 70, true, 7).expect("noted");
    bench.admit(Lane::Backfill, Ended::Stays, &[1]);
    let counts = |bench: &Bench| bench.queue.counts().expect("counted").remove(0);
    bench.queue.serve_cache(bench.cache, "two", 8).expect("served");
    let seen = counts(&bench);
    assert_eq!((seen.size, seen.backfill_waits.is_some()), (Some(70), true), "a header says nothing of its size");
    bench.queue.forget_too_large(&[bench.cache]).expect("forgotten");
    let seen = counts(&bench);
    assert_eq!((seen.size, seen.backfill_waits), (Some(70), None));
}

#[test]
fn how_far_an_upload_is_is_known_while_it_is_under_way() {
    let mut bench = Bench::new();
    bench.fresh(&[1, 2]);
    let step = |bench: &Bench, n: u8| {
        let filter = JobFilter { path: Some(path(n).base_name().to_owned()), ..JobFilter::default() };
        bench.queue.jobs(&filter).expect("listed")[0].step
    };
    let jobs = bench.claim(2);
    assert_eq!(step(&bench, 1), None);
    bench.queue.note_steps(&[(jobs[0].id, Step::Sent), (jobs[1].id, Step::Waits)]).expect("noted");
    assert_eq!([1, 2].map(|n| step(&bench, n)), [Some("being sent"), Some("waits for its turn")]);
    for job in jobs {
        bench.settle(job, Outcome::Returned);
    }
    assert_eq!([1, 2].map(|n| step(&bench, n)), [None; 2]);
    bench.claim(2);
    assert_eq!([1, 2].map(|n| step(&bench, n)), [None; 2], "it begins anew");
}

#[test]
fn which_caches_are_asked_is_forgotten_at_once() {
    let mut bench = Bench::new();
    bench.queue.note_asked(&[bench.cache], Some(5)).expect("noted");
    let asked = |bench: &Bench| bench.queue.counts().expect("counted")[0].asked_since;
    assert_eq!(asked(&bench), Some(5));
    bench.queue.forget_asked().expect("forgotten");
    assert_eq!(asked(&bench), None);
}
