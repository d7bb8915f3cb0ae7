//! A cache that is away as a whole: what is tried with it meanwhile is no worse for it.

use super::*;

#[test]
fn an_outage_is_tried_with_each_path_in_turn_and_counts_for_none() {
    let mut bench = Bench::new();
    bench.fresh(&[1, 2, 3]);
    let mut tried = Vec::new();
    for _ in 0..6 {
        bench.clock += 1_000;
        let probe = bench.queue.claim_probe(bench.cache, Lane::Backfill, bench.clock).expect("claimed").remove(0);
        assert_eq!(probe.attempts, 0);
        tried.push(probe.path.clone());
        // Its time has not come at the next look, which is all the same to who tries the cache.
        let (not_before, reason) = (bench.clock + 60_000, "502".to_owned());
        bench.settle(probe, Outcome::Postponed { not_before, reason });
    }
    assert_eq!(tried, [1, 2, 3, 1, 2, 3].map(path));
    assert!(bench.claim(100).is_empty());
    // The first success ends it for all.
    bench.queue.begin_anew(bench.cache).expect("begun");
    assert_eq!(bench.claim(100).len(), 3);
}

#[test]
fn only_what_may_be_the_paths_own_fault_counts_as_doubtful() {
    let mut bench = Bench::new();
    bench.fresh(&[1]);
    let reason = || String::from("400");
    let counted = |bench: &mut Bench, outcome| {
        let job = bench.claim_one(1);
        bench.settle(job, outcome);
        let job = bench.claim_one(1);
        let counted = (job.attempts, job.doubts);
        bench.settle(job, Outcome::Returned);
        counted
    };
    assert_eq!(counted(&mut bench, Outcome::Retry { not_before: 0, reason: reason() }), (1, 0));
    assert_eq!(counted(&mut bench, Outcome::Doubted { not_before: 0, reason: reason() }), (2, 1));
    assert_eq!(counted(&mut bench, Outcome::Postponed { not_before: 0, reason: reason() }), (2, 1));
    // After an outage it begins anew, and so it does when somebody asks for it again.
    bench.queue.begin_anew(bench.cache).expect("begun");
    assert_eq!(counted(&mut bench, Outcome::Doubted { not_before: 0, reason: reason() }), (1, 1));
    let job = bench.claim_one(1);
    bench.settle(job, Outcome::Failed { reason: reason() });
    bench.admit(Lane::Fresh, Ended::StartsAnew, &[1]);
    let job = bench.claim_one(1);
    assert_eq!((job.attempts, job.doubts), (0, 0));
}

#[test]
fn who_has_failed_by_himself_is_not_what_a_cache_is_tried_with() {
    let mut bench = Bench::new();
    bench.fresh(&[1, 2]);
    let job = bench.claim_one(1);
    bench.settle(job, Outcome::Retry { not_before: 0, reason: "400".to_owned() });
    for _ in 0..2 {
        let probe = bench.queue.claim_probe(bench.cache, Lane::Backfill, bench.clock).expect("claimed").remove(0);
        assert_eq!(probe.path, path(2));
        bench.settle(probe, Outcome::Postponed { not_before: bench.clock, reason: "502".to_owned() });
    }
}
