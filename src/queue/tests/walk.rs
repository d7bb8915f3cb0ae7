//! Closures that are looked through, path by path.

use super::*;

impl Bench {
    fn run_over(&mut self, named: &[u8]) -> RunId {
        self.begin_over(named).0
    }

    fn begin_over(&mut self, named: &[u8]) -> (RunId, Followed) {
        let paths = named.iter().map(|n| path(*n).base_name().to_owned()).collect();
        let scope = RunScope { paths, since: None, roots: false, to: Vec::new(), by_hand: true, policy: None };
        self.begin(&scope, named)
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
                let there = Outcome::Delivered(Delivery::AlreadyThere);
                self.queue.settle(&[(job.clone(), there)], &[(job, behind)], self.clock).expect("settled");
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
    assert!(!under_way.walk);
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

#[test]
fn two_that_walk_one_closure_at_the_same_time_each_tell_all_of_it() {
    // 1 refers to 2 and 3, both to 4; 5 refers to 3.
    let behind = |of: &StorePath| match (1..=5).find(|n| path(*n) == *of) {
        Some(1) => vec![path(2), path(3)],
        Some(2 | 3) => vec![path(4)],
        Some(5) => vec![path(3)],
        _ => Vec::new(),
    };
    for (second, its) in [(vec![1], 4), (vec![5], 3)] {
        for steps in 0..=3 {
            let mut bench = Bench::new();
            let (first, _at_it) = bench.begin_over(&[1]);
            // So far the first has come, and what it has done is uploaded.
            for _ in 0..steps {
                let job = bench.claim(1).remove(0);
                let behind = behind(&job.path);
                bench.queue.settle(&[(job.clone(), UPLOADED)], &[(job, behind)], bench.clock).expect("settled");
            }
            // One is under way just then, for the first alone.
            let under_way = bench.claim(1).remove(0);
            let (second, _at_it) = bench.begin_over(&second);
            assert_ne!(first, second, "each has one of its own");
            let behind_it = behind(&under_way.path);
            bench
                .queue
                .settle(&[(under_way.clone(), UPLOADED)], &[(under_way, behind_it)], bench.clock)
                .expect("settled");
            bench.walk_through(behind);
            for (run, all) in [(first, 4), (second, its)] {
                let summary = bench.queue.run_summary(run).expect("summed up");
                let RunSummary { uploaded, already_there, .. } = summary;
                assert_eq!(uploaded + already_there, all, "{run:?} after {steps}: {summary:?}");
                assert!(!bench.queue.run_is_open(run).expect("looked") && summary.open == 0);
                assert_eq!(bench.queue.left(run).expect("listed"), []);
            }
            let uploaded = bench.queue.run_summary(first).expect("summed up").uploaded;
            assert_eq!(uploaded, steps + 1, "what it has uploaded stays that, whoever looks for it again");
            bench.queue.finish_run(first, bench.clock).expect("finished");
            let summary = bench.queue.run_summary(second).expect("summed up");
            assert_eq!(summary.uploaded + summary.already_there, its, "it needs nothing of the first");
        }
    }
}

#[test]
fn what_a_path_waits_for_is_asked_for_by_those_who_asked_for_the_path_whoever_did_last() {
    let mut bench = Bench::new();
    let of_both = bench.run_for(&[1]);
    let of_the_reference = bench.run_for(&[2]);
    let job = bench.claim_one(1);
    bench.settle(job, Outcome::WaitsFor(vec![path(2)]));
    let open = |bench: &Bench, run| bench.queue.run_summary(run).expect("summed up").open;
    assert_eq!((open(&bench, of_both), open(&bench, of_the_reference)), (2, 1));
    let job = bench.claim_one(2);
    bench.settle(job, UPLOADED);
    let uploaded = |run| bench.queue.run_summary(run).expect("summed up").uploaded;
    assert_eq!((uploaded(of_both), uploaded(of_the_reference)), (1, 1));
}

#[test]
fn a_backfill_is_taken_up_only_where_nobody_is_at_it() {
    let mut bench = Bench::new();
    let scope = RunScope { paths: Vec::new(), since: None, roots: false, to: Vec::new(), by_hand: false, policy: None };
    let mut begin = || bench.queue.begin_run(&scope, 1, 1_000).expect("begun");
    let (first, at_it) = begin();
    let (second, _at_it_too) = begin();
    assert!(first.id != second.id && !second.resumed);
    drop(at_it);
    let (third, _at_it) = begin();
    assert_eq!((third.id, third.resumed), (first.id, true));
    bench.queue.finish_run(first.id, 1_000).expect("finished");
    let locks = || std::fs::read_dir(bench.dir.path()).expect("a folder").flatten();
    assert_eq!(locks().filter(|file| file.file_name().to_string_lossy().starts_with("backfill-")).count(), 1);
}
