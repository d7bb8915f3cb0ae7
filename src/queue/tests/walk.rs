//! Closures that are looked through, path by path.

use super::*;

impl Bench {
    fn run_over(&mut self, named: &[u8]) -> RunId {
        let paths = named.iter().map(|n| path(*n).base_name().to_owned()).collect();
        let scope = RunScope { paths, since: None, roots: false, to: Vec::new(), by_hand: true, policy: None };
        let run = self.queue.begin_run(&scope, 1, self.clock).expect("begun").id;
        let cache = self.cache;
        let wanted: Vec<_> =
            named.iter().map(|n| Wanted { path: path(*n), row: None, registered: 0, caches: vec![cache] }).collect();
        let admission = Admission {
            lane: Lane::Fresh,
            ended: Ended::StartsAnew,
            needed: true,
            run: Some(run),
            wanted: &wanted,
            now: self.clock,
        };
        self.queue.advance_run(run, 1, &admission, &[]).expect("admitted");
        run
    }

    /// Takes every job that can be claimed to its end; what each refers to is found by `references`.
    fn walk_through(&mut self, references: impl Fn(&StorePath) -> Vec<StorePath>) -> Vec<StorePath> {
        let mut seen = Vec::new();
        loop {
            let jobs = self.claim(100);
            if jobs.is_empty() {
                return seen;
            }
            for job in jobs {
                seen.push(job.path.clone());
                let behind = references(&job.path);
                self.queue.walk(&[(job.clone(), behind)], self.clock).expect("walked");
                self.settle(job, Outcome::Delivered(Delivery::AlreadyThere));
            }
        }
    }
}

#[test]
fn each_path_of_a_closure_is_looked_for_once_in_each_run_and_only_where_it_was_asked_for() {
    let mut bench = Bench::new();
    // 1 refers to 2 and 3, both to 4, and that to 1 again.
    let references = |of: &StorePath| match (1..=4).find(|n| path(*n) == *of) {
        Some(1) => vec![path(2), path(3)],
        Some(2 | 3) => vec![path(4)],
        _ => vec![path(1)],
    };
    for _ in 0..2 {
        let run = bench.run_over(&[1]);
        let mut seen = bench.walk_through(references);
        seen.sort_unstable();
        assert_eq!(seen, [1, 2, 3, 4].map(path));
        assert_eq!(bench.queue.run_summary(run).expect("summed up").already_there, 4);
        bench.queue.finish_run(run, bench.clock).expect("finished");
    }
    // What comes by itself is alone.
    let mut bench = Bench::new();
    bench.fresh(&[1]);
    assert_eq!(bench.walk_through(references), [path(1)]);
}

#[test]
fn what_has_failed_behind_a_named_path_is_the_runs_to_report() {
    let mut bench = Bench::new();
    bench.fresh(&[2]);
    let failed = bench.claim_one(2);
    bench.settle(failed, Outcome::Failed { reason: "413".to_owned() });
    let run = bench.run_over(&[1]);
    bench.walk_through(|_| vec![path(2)]);
    let undelivered = bench.queue.undelivered(run).expect("listed");
    assert_eq!((undelivered.len(), undelivered[0].reason.as_str()), (1, "413"));
}

#[test]
fn what_is_under_way_when_its_closure_is_asked_for_is_walked_on_from_as_well() {
    let mut bench = Bench::new();
    bench.fresh(&[2, 5, 6]);
    let [under_way, named, alone] = [2, 5, 6].map(|n| bench.claim_one(n));
    assert_eq!(under_way.walk, None);
    let run = bench.run_over(&[1, 5]);
    // 1 refers to 2, and that to 3; 5 to 4, and 6 to 7.
    let behind = |of: &StorePath| match (1..=6).find(|n| path(*n) == *of) {
        Some(1) => vec![path(2)],
        Some(2) => vec![path(3)],
        Some(5) => vec![path(4)],
        Some(6) => vec![path(7)],
        _ => Vec::new(),
    };
    assert_eq!(bench.walk_through(behind), [path(1)]);
    for job in [under_way, named, alone] {
        bench.settle(job, UPLOADED);
    }
    assert!(bench.queue.run_is_open(run).expect("asked"));
    assert_eq!([2, 5, 6].map(|n| bench.state(n)), [Some("pending"), Some("pending"), Some("done")]);
    let mut seen = bench.walk_through(behind);
    seen.sort_unstable();
    assert_eq!(seen, [2, 3, 4, 5].map(path));
    assert!(!bench.queue.run_is_open(run).expect("asked"));
    bench.check();
}
