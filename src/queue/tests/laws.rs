//! What holds in whatever order things happen.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Admit(u8),
    Claim(usize),
    End(usize, u8),
    Retry(u8),
    Drop(u8),
    Release,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..8u8).prop_map(Step::Admit),
        (1..4usize).prop_map(Step::Claim),
        (0..8usize, 0..8u8).prop_map(|(which, how)| Step::End(which, how)),
        (1..8u8).prop_map(Step::Retry),
        (1..8u8).prop_map(Step::Drop),
        Just(Step::Release),
        Just(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Path n refers to all below it that divide it. Whatever happens in whatever order, nothing is done before its
    /// references are, and once nothing fails any more everything gets done.
    #[test]
    fn nothing_is_lost_and_nothing_overtakes_its_references(steps in proptest::collection::vec(step(), 1..60)) {
        let mut bench = Bench::new();
        let mut cached: BTreeSet<u8> = BTreeSet::new();
        let mut admitted: BTreeSet<u8> = BTreeSet::new();
        let mut claimed: Vec<Job> = Vec::new();
        let number = |job: &Job| job.path.name()[1..].parse::<u8>().expect("a number");
        let references = |n: u8| (1..n).filter(move |m| n.is_multiple_of(*m));
        for step in steps {
            match step {
                Step::Admit(n) => { bench.admit(Lane::Fresh, Ended::StartsAnew, &[n]); admitted.insert(n); }
                Step::Claim(limit) => claimed.extend(bench.claim(limit)),
                Step::End(which, how) if !claimed.is_empty() => {
                    let job = claimed.remove(which % claimed.len());
                    let n = number(&job);
                    let missing: Vec<_> = references(n).filter(|m| !cached.contains(m)).map(path).collect();
                    let outcome = match how {
                        0 => Outcome::Failed { reason: String::new() },
                        1 => Outcome::Returned,
                        2 => Outcome::Withdrawn { reason: String::new() },
                        3 => Outcome::Held { reason: String::new() },
                        _ if missing.is_empty() => { cached.insert(n); UPLOADED }
                        _ => Outcome::WaitsFor(missing),
                    };
                    if how == 2 { admitted.remove(&n); }
                    bench.settle(job, outcome);
                }
                Step::Retry(n) => if bench.state(n).is_some() {
                    let id = bench.id(n);
                    bench.queue.retry(&[id], bench.clock).expect("retried");
                },
                Step::Drop(n) => if bench.state(n).is_some() {
                    let id = bench.id(n);
                    bench.queue.drop_jobs(&[id], bench.clock).expect("dropped");
                    admitted.remove(&n);
                },
                Step::Release => { bench.queue.release_held(bench.clock).expect("released"); }
                Step::Crash => { bench = bench.reopen(); claimed.clear(); bench.queue.recover().expect("recovered"); }
                Step::End(..) => {}
            }
            bench.check();
        }
        // Better times: what failed is tried again, and nothing fails any more.
        bench.queue.recover().expect("recovered");
        for n in 1..8 {
            if bench.state(n) == Some("failed") {
                let id = bench.id(n);
                bench.queue.retry(&[id], bench.clock).expect("retried");
            }
        }
        bench.queue.release_held(bench.clock).expect("released");
        for _ in 0..100 {
            for job in bench.claim(2) {
                let n = number(&job);
                let missing: Vec<_> = references(n).filter(|m| !cached.contains(m)).map(path).collect();
                let outcome = if missing.is_empty() { cached.insert(n); UPLOADED } else { Outcome::WaitsFor(missing) };
                bench.settle(job, outcome);
                bench.check();
            }
        }
        for n in admitted {
            prop_assert_eq!(bench.state(n), Some("done"), "path {}", n);
        }
    }
}
