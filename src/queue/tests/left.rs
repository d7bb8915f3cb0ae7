//! What of a backfill is left, what it waits for, and what it doesn't wait for.

use super::*;

impl Bench {
    /// A backfill that asks for these paths, fresh.
    pub(super) fn run_for(&mut self, paths: &[u8]) -> RunId {
        let scope = RunScope {
            paths: Vec::new(),
            since: None,
            roots: false,
            to: Vec::new(),
            by_hand: true,
            policy: Some(format!("{paths:?}")),
        };
        let run = self.queue.begin_run(&scope, 1, self.clock).expect("begun").id;
        let cache = self.cache;
        let wanted: Vec<_> = paths.iter().map(|n| Wanted { path: path(*n), row: None, caches: vec![cache] }).collect();
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

    fn note(&mut self, standing: Standing<'_>) {
        self.queue.note_cache(self.cache, standing, self.clock).expect("noted");
    }
}

#[test]
fn what_is_left_says_what_it_waits_for() {
    let mut bench = Bench::new();
    let (run, other) = (bench.run_for(&[1, 2]), bench.run_for(&[3]));
    let left = |bench: &Bench, run| bench.queue.left(run).expect("listed").into_iter().next();
    let expected = Left {
        cache: "team".to_owned(),
        paths: 2,
        takes_nothing: None,
        is_off: false,
        paused: None,
        last_failure: None,
    };
    assert_eq!(left(&bench, run), Some(expected.clone()));
    let job = bench.claim_one(2);
    bench.settle(job, Outcome::Retry { not_before: 0, reason: "500".to_owned() });
    let failed = Left { last_failure: Some("500".to_owned()), ..expected };
    assert_eq!(left(&bench, run), Some(failed.clone()));
    bench.note(Standing::Waits("no token"));
    assert_eq!(left(&bench, run), Some(Left { takes_nothing: Some("no token".to_owned()), ..failed }));
    let job = bench.claim_one(3);
    bench.settle(job, UPLOADED);
    assert_eq!(left(&bench, other), None);
}

#[test]
fn nobody_waits_for_a_cache_that_is_off() {
    let mut bench = Bench::new();
    let run = bench.run_for(&[1]);
    let open = |bench: &Bench| {
        let is_open = bench.queue.run_is_open(run).expect("looked");
        assert_eq!(bench.queue.run_summary(run).expect("summed up").open, u64::from(is_open));
        is_open
    };
    bench.note(Standing::Waits("no token"));
    assert!(open(&bench));
    bench.note(Standing::Off("it is this host itself"));
    assert!(!open(&bench) && bench.queue.left(run).expect("listed")[0].is_off);
    assert_eq!(bench.state(1), Some("pending"), "it stays queued");
    bench.note(Standing::Takes);
    assert!(open(&bench));
}
