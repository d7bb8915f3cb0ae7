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
        self.begin(&scope, paths).0
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
        backfill_waits: None,
        is_off: false,
        paused: None,
        asked_since: None,
        being_sent: 0,
        last_failure: None,
    };
    assert_eq!(left(&bench, run), Some(expected.clone()));
    bench.queue.note_asked(&[bench.cache], Some(5)).expect("noted");
    assert_eq!(left(&bench, run), Some(Left { asked_since: Some(5), ..expected.clone() }));
    bench.queue.note_asked(&[bench.cache], None).expect("noted");
    let job = bench.claim_one(2);
    bench.queue.note_steps(&[(job.id, Step::Sent)]).expect("noted");
    assert_eq!(left(&bench, run), Some(Left { being_sent: 1, ..expected.clone() }));
    bench.settle(job, Outcome::Retry { not_before: 0, reason: "500".to_owned() });
    let failed = Left { last_failure: Some("500".to_owned()), ..expected };
    assert_eq!(left(&bench, run), Some(failed.clone()));
    bench.note(Standing::Waits { why: "no token", until: None, lacks_credentials: false });
    assert_eq!(left(&bench, run), Some(Left { takes_nothing: Some("no token".to_owned()), ..failed }));
    let job = bench.claim_one(3);
    bench.settle(job, UPLOADED);
    assert_eq!(left(&bench, other), None);
}

#[test]
fn a_cache_is_tried_at_once_when_a_job_of_it_is_retried_by_hand() {
    let mut bench = Bench::new();
    bench.fresh(&[1]);
    let retry = |bench: &mut Bench| {
        let jobs = bench.queue.jobs(&JobFilter::default()).expect("listed");
        bench.queue.retry(&[jobs[0].id], bench.clock).expect("retried");
        bench.queue.take_retried().expect("asked")
    };
    assert_eq!(retry(&mut bench), [], "it takes paths as it is");
    bench.note(Standing::Waits { why: "slow down", until: Some(5_000), lacks_credentials: false });
    assert_eq!(bench.queue.counts().expect("counted")[0].waiting_until, Some(5_000));
    assert_eq!(bench.queue.take_retried().expect("asked"), [], "nobody has asked");
    assert_eq!(retry(&mut bench), [bench.cache]);
    assert_eq!(bench.queue.take_retried().expect("asked"), [], "told once");
    bench.note(Standing::Takes);
    assert_eq!(bench.queue.counts().expect("counted")[0].waiting_until, None);
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
    bench.note(Standing::Waits { why: "no token", until: None, lacks_credentials: false });
    assert!(open(&bench));
    bench.note(Standing::Off("it is this host itself"));
    assert!(!open(&bench) && bench.queue.left(run).expect("listed")[0].is_off);
    assert_eq!(bench.state(1), Some("pending"), "it stays queued");
    bench.note(Standing::Takes);
    assert!(open(&bench));
}

#[test]
fn what_an_earlier_process_found_to_be_off_is_waited_for_until_it_is_found_anew() {
    let mut bench = Bench::new();
    bench.note(Standing::Off("it is this host"));
    let run = bench.run_for(&[1]);
    assert!(!bench.queue.run_is_open(run).expect("asked"));
    bench.queue.forget_what_was_off().expect("forgotten");
    assert!(bench.queue.run_is_open(run).expect("asked"));
    bench.note(Standing::Off("it is this host"));
    assert!(!bench.queue.run_is_open(run).expect("asked"));
}
