//! What a garbage collection would take, and the probe of a cache that takes no backfill.

use super::*;

fn numbers(jobs: &[Job]) -> Vec<StorePath> {
    jobs.iter().map(|job| job.path.clone()).collect()
}

#[test]
fn what_would_be_collected_can_be_claimed_apart() {
    let mut bench = Bench::new();
    bench.fresh(&[1, 2, 3, 4]);
    bench.admit(Lane::Backfill, Ended::Stays, &[5]);
    let first = bench.queue.fresh_behind(bench.cache, 0, 3).expect("listed");
    assert_eq!(first.iter().map(|(_, path)| path.clone()).collect::<Vec<_>>(), [path(1), path(2), path(3)]);
    let rest = bench.queue.fresh_behind(bench.cache, first[2].0, 3).expect("listed");
    assert_eq!(rest.iter().map(|(_, path)| path.clone()).collect::<Vec<_>>(), [path(4)], "not the backfill");
    let verdict = |n: usize, verdict| (first[n].0, verdict);
    let verdicts = [verdict(0, false), verdict(1, true), verdict(2, true)];
    assert_eq!([(); 2].map(|()| bench.queue.note_collectable(&verdicts).expect("noted")), [2, 0], "news once");
    bench.queue.note_collectable(&[verdict(1, false), (rest[0].0, true)]).expect("a root has come");
    let claimed = bench.queue.claim_collectable(bench.cache, 9, bench.clock).expect("claimed");
    assert_eq!(numbers(&claimed), [path(3), path(4)]);
    assert!(claimed.iter().all(|job| job.collectable));
    assert_eq!(numbers(&bench.claim(9)), [path(1), path(2), path(5)]);
    for job in claimed {
        bench.settle(job, UPLOADED);
    }
    assert!(bench.queue.claim_collectable(bench.cache, 9, bench.clock).expect("claimed").is_empty());
}

#[test]
fn backfill_is_passed_over_unread_and_what_waits_is_looked_at_when_it_is_free() {
    let mut bench = Bench::new();
    let plan = format!("EXPLAIN QUERY PLAN {}", super::super::collectable::FRESH_BEHIND);
    let plan: Vec<String> = {
        let mut statement = bench.queue.db.prepare(&plan).expect("a statement");
        let rows = statement.query_map((1, 0, 9), |row| row.get(3)).expect("a plan");
        rows.collect::<Result<_, _>>().expect("a plan")
    };
    let [only] = plan.as_slice() else { panic!("{plan:?}") };
    assert!(only.contains("jobs_claimable (cache=? AND lane=? AND id>?)"), "{plan:?}");

    bench.fresh(&[1, 2]);
    let referrer = bench.claim_one(1);
    bench.settle(referrer, Outcome::WaitsFor(vec![path(2)]));
    let found = |bench: &mut Bench| {
        let behind = bench.queue.fresh_behind(bench.cache, 0, 9).expect("listed");
        behind.into_iter().map(|(_, path)| path).collect::<Vec<_>>()
    };
    assert_eq!(found(&mut bench), [path(2)]);
    let reference = bench.claim_one(2);
    bench.settle(reference, UPLOADED);
    assert_eq!(found(&mut bench), [path(1)]);
}

#[test]
fn a_cache_that_takes_no_backfill_is_tried_with_none() {
    let mut bench = Bench::new();
    bench.admit(Lane::Backfill, Ended::Stays, &[1]);
    let probe = |bench: &mut Bench, last| bench.queue.claim_probe(bench.cache, last, bench.clock).expect("claimed");
    assert!(probe(&mut bench, Lane::Fresh).is_empty());
    bench.fresh(&[2]);
    assert_eq!(numbers(&probe(&mut bench, Lane::Fresh)), [path(2)]);
    assert_eq!(numbers(&probe(&mut bench, Lane::Backfill)), [path(1)]);
}
