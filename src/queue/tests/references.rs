//! Jobs that wait for those of their references, and are held where these can't be delivered.

use super::*;

#[test]
fn a_failed_reference_holds_all_that_needs_it_until_it_is_mended() {
    let mut bench = Bench::new();
    bench.fresh(&[3, 2]);
    let (third, second) = (bench.claim_one(3), bench.claim_one(2));
    bench.settle(third, Outcome::WaitsFor(vec![path(2)]));
    bench.settle(second, Outcome::WaitsFor(vec![path(1)]));
    bench.check();
    let first = bench.claim(10);
    assert_eq!(first.len(), 1, "only the reference can be claimed");
    assert!(first[0].needed);
    bench.settle(first[0].clone(), Outcome::Failed { reason: "altered".to_owned() });
    assert_eq!([1, 2, 3].map(|n| bench.state(n)), [Some("failed"), Some("held"), Some("held")]);
    bench.check();
    let failed = bench.id(1);
    assert_eq!(bench.queue.retry(&[failed], bench.clock).expect("retried"), 1);
    assert_eq!([1, 2, 3].map(|n| bench.state(n)), [Some("pending"); 3]);
    for n in [1, 2, 3] {
        let job = bench.claim_one(n);
        bench.settle(job, UPLOADED);
        bench.check();
    }
    assert_eq!([1, 2, 3].map(|n| bench.state(n)), [Some("done"); 3]);
}

#[test]
fn a_reference_that_the_policy_keeps_back_holds_what_needs_it() {
    let mut bench = Bench::new();
    bench.fresh(&[2]);
    let job = bench.claim_one(2);
    bench.settle(job, Outcome::WaitsFor(vec![path(1)]));
    let reference = bench.claim_one(1);
    bench.settle(reference, Outcome::Withdrawn { reason: "deny by rule 1".to_owned() });
    bench.check();
    assert_eq!((bench.state(1), bench.state(2)), (None, Some("held")));
    bench.clock += 1_000;
    let now = bench.clock;
    assert_eq!(bench.queue.release_held(now).expect("released"), 1);
    let changed =
        bench.queue.db.query_row("SELECT max(changed) FROM jobs WHERE state = 0", [], |row| row.get::<_, i64>(0));
    assert_eq!(changed.expect("read"), now);
    bench.claim_one(2);
}

#[test]
fn what_is_needed_by_now_is_not_withdrawn_for_what_was_said_of_it_alone() {
    let mut bench = Bench::new();
    bench.fresh(&[1, 2]);
    let (reference, referrer) = (bench.claim_one(1), bench.claim_one(2));
    bench.settle(referrer, Outcome::WaitsFor(vec![path(1)]));
    let skipped = || Outcome::Withdrawn { reason: "skip by rule 1".to_owned() };
    bench.settle(reference, skipped());
    assert_eq!((bench.state(1), bench.state(2)), (Some("pending"), Some("pending")));
    let reference = bench.claim_one(1);
    assert!(reference.needed);
    // What is denied is so whoever needs it.
    bench.settle(reference, skipped());
    assert_eq!((bench.state(1), bench.state(2)), (None, Some("held")));
    bench.check();
}

#[test]
fn what_a_fresh_path_needs_moves_up_with_it() {
    let mut bench = Bench::new();
    bench.admit(Lane::Backfill, Ended::StartsAnew, &[1, 2, 3]);
    let second = bench.claim_one(2);
    bench.settle(second, Outcome::WaitsFor(vec![path(3)]));
    bench.fresh(&[4]);
    let fourth = bench.claim_one(4);
    bench.settle(fourth, Outcome::WaitsFor(vec![path(2)]));
    let order: Vec<_> = bench.claim(10).into_iter().map(|job| job.path).collect();
    assert_eq!(order, [path(3), path(1)]);
}

#[test]
fn why_a_job_is_held_is_known_when_it_is_looked_at_again_by_itself() {
    let mut bench = Bench::new();
    bench.fresh(&[1]);
    let held = || Outcome::Held { reason: "needs x, which is denied by rule 1".to_owned() };
    let job = bench.claim_one(1);
    assert_eq!(job.reason, None);
    bench.settle(job, held());
    // As at each start.
    bench.queue.release_held(bench.clock).expect("released");
    let job = bench.claim_one(1);
    assert_eq!(job.reason.as_deref(), Some("needs x, which is denied by rule 1"));
    bench.settle(job, held());
    // Who asks for it by hand wants to be told.
    let id = bench.id(1);
    bench.queue.retry(&[id], bench.clock).expect("retried");
    assert_eq!(bench.claim_one(1).reason, None);
}
