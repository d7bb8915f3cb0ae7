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
    bench.queue.note_collectable(&[verdict(0, false), verdict(1, true), verdict(2, true)]).expect("noted");
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
fn a_cache_that_takes_no_backfill_is_tried_with_none() {
    let mut bench = Bench::new();
    bench.admit(Lane::Backfill, Ended::Stays, &[1]);
    let probe = |bench: &mut Bench, last| bench.queue.claim_probe(bench.cache, last, bench.clock).expect("claimed");
    assert!(probe(&mut bench, Lane::Fresh).is_empty());
    bench.fresh(&[2]);
    assert_eq!(numbers(&probe(&mut bench, Lane::Fresh)), [path(2)]);
    assert_eq!(numbers(&probe(&mut bench, Lane::Backfill)), [path(1)]);
}
