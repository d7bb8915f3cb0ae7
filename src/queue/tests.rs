//! The queue's promises, on a real database.

mod at_once;
mod collectable;
mod distrust;
mod evict;
mod laws;
mod left;
mod opened;
mod outage;
mod paused;
mod reconfigured;
mod references;
mod registered;
mod seen;
mod tidied;
mod walk;

use super::*;
use crate::limit::Lane;
use crate::nix::{StoreDir, StorePath};

struct Bench {
    dir: tempfile::TempDir,
    queue: Queue,
    cache: CacheId,
    clock: i64,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let mut queue = Queue::open(dir.path()).expect("a new queue").queue;
        let cache = queue.cache_id("team", "file:///c").expect("a cache");
        Self { dir, queue, cache, clock: 1_000 }
    }

    fn reopen(mut self) -> Self {
        drop(self.queue);
        self.queue = Queue::open(self.dir.path()).expect("the queue again").queue;
        self
    }

    fn admit(&mut self, lane: Lane, ended: Ended, paths: &[u8]) -> u64 {
        let cache = self.cache;
        let wanted: Vec<_> = paths
            .iter()
            .map(|n| Wanted { path: path(*n), row: Some(i64::from(*n)), registered: 0, caches: vec![cache] })
            .collect();
        let admission = Admission { lane, ended, ..Admission::of_new(&wanted, self.clock) };
        self.queue.admit(&admission, None).expect("admitted")
    }

    fn fresh(&mut self, paths: &[u8]) -> u64 {
        self.admit(Lane::Fresh, Ended::StartsAnewIfRegisteredAnew, paths)
    }

    /// A backfill that asks for these paths, fresh.
    fn begin(&mut self, scope: &RunScope, paths: &[u8]) -> (RunId, Followed) {
        let (Run { id: run, .. }, followed) = self.queue.begin_run(scope, 1, self.clock).expect("begun");
        let cache = self.cache;
        let wanted: Vec<_> =
            paths.iter().map(|n| Wanted { path: path(*n), row: None, registered: 0, caches: vec![cache] }).collect();
        let new = Admission::of_new(&wanted, self.clock);
        let admission = Admission { ended: Ended::StartsAnew, needed: true, run: Some(run), ..new };
        self.queue.advance_run(run, (1, None), &admission, &[]).expect("admitted");
        (run, followed)
    }

    fn claim(&mut self, limit: usize) -> Vec<Job> {
        let mut jobs = self.queue.claim(self.cache, Lane::Fresh, limit, self.clock).expect("claimed");
        let left = limit - jobs.len();
        jobs.extend(self.queue.claim(self.cache, Lane::Backfill, left, self.clock).expect("claimed"));
        jobs
    }

    fn claim_one(&mut self, n: u8) -> Job {
        let jobs = self.claim(100);
        let (mine, others): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|job| job.path == path(n));
        for job in others {
            self.settle(job, Outcome::Returned);
        }
        mine.into_iter().next().expect("it can be claimed")
    }

    fn settle(&mut self, job: Job, outcome: Outcome) {
        self.queue.settle(&[(job, outcome)], &[], self.clock).expect("settled");
    }

    fn tidy(&mut self, now: i64) {
        let mut step = Some(Tidying::begin(now, true));
        while let Some(next) = step {
            step = self.queue.tidy(next).expect("tidied");
        }
    }

    fn state(&self, n: u8) -> Option<&'static str> {
        let filter = JobFilter { path: Some(path(n).base_name().to_owned()), ..JobFilter::default() };
        self.queue.jobs(&filter).expect("listed").first().map(|job| job.state)
    }

    fn id(&self, n: u8) -> i64 {
        let filter = JobFilter { path: Some(path(n).base_name().to_owned()), ..JobFilter::default() };
        self.queue.jobs(&filter).expect("listed").first().map(|job| job.id).expect("it is there")
    }

    /// What must hold at any time: who is blocked has that many waits, and nobody waits for what is done or not there.
    fn check(&self) {
        let bad: i64 = self
            .queue
            .db
            .query_row(
                "SELECT (SELECT count(*) FROM jobs j WHERE blockers <> (SELECT count(*) FROM waits w WHERE w.job = j.id))
                      + (SELECT count(*) FROM waits w LEFT JOIN jobs j ON j.id = w.for
                         WHERE j.id IS NULL OR j.state IN (2, 5))
                      + (SELECT count(*) FROM jobs WHERE blockers > 0 AND state NOT IN (0, 3))",
                [],
                |row| row.get(0),
            )
            .expect("counted");
        assert_eq!(bad, 0);
    }
}

fn path(n: u8) -> StorePath {
    StorePath::nth(n.into())
}

const UPLOADED: Outcome = uploaded(Volume { read: 20, sent: 7, saved: 13 });

const fn uploaded(volume: Volume) -> Outcome {
    Outcome::Delivered(Delivery::Uploaded { row: None, volume, deduplicated: false })
}

#[test]
fn what_is_asked_after_each_upload_looks_only_at_what_it_returns() {
    let bench = Bench::new();
    let plan = |sql: &str| {
        let mut statement = bench.queue.db.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).expect("good SQL");
        let steps = statement.query_map([], |row| row.get::<_, String>(3)).expect("a plan");
        steps.collect::<Result<Vec<_>, _>>().expect("a plan").join("; ")
    };
    let next_due = plan(
        "SELECT min(not_before) FROM jobs
         WHERE state = 0 AND blockers = 0 AND not_before > 0 AND not_before > 5",
    );
    assert!(next_due.contains("jobs_delayed (not_before>?)"), "{next_due}");
    // What a backfill that waits looks at again and again.
    let open = plan(&run::IS_OPEN.replace("?1", "1"));
    assert!(open.contains("jobs USING INDEX jobs_open_of_run (run=?)"), "{open}");
    assert!(open.contains("s USING PRIMARY KEY (run=?)"), "{open}");
    let newest = plan(run::NEWEST_RUN);
    assert!(newest.contains("jobs_of_run"), "{newest}");
    // What is done is most of what there is.
    for sql in [work::RECOVER, work::HURRY, work::HELD] {
        let plan = plan(sql);
        assert!(plan.contains("jobs_open (state=?)"), "{sql}: {plan}");
    }
    for sql in [work::BEGIN_ANEW, reconfigure::FAILED, reconfigure::OUTDATE] {
        let plan = plan(&sql.replace("?1", "1"));
        assert!(plan.contains("jobs_open (state=? AND cache=?)"), "{sql}: {plan}");
    }
}

#[test]
fn cursor_and_jobs_survive_together() {
    let mut bench = Bench::new();
    let store = StoreDir::default();
    let cursor =
        Cursor { row: 9, mark: Some(Mark { row: 8, path: "p".to_owned(), time: 3 }), file: (1, 2), rescan_to: 0 };
    let wanted = [Wanted { path: path(1), row: Some(9), registered: 0, caches: vec![bench.cache] }];
    let admission = Admission { lane: Lane::Fresh, ended: Ended::Stays, ..Admission::of_new(&wanted, 1) };
    assert_eq!(bench.queue.admit(&admission, Some((&store, &cursor))).expect("admitted"), 1);
    // A transaction that fails midway takes back both: a cache that isn't there breaks the second path's job.
    let broken = [
        Wanted { path: path(2), row: Some(10), registered: 0, caches: vec![bench.cache] },
        Wanted { path: path(3), row: Some(11), registered: 0, caches: vec![CacheId(999)] },
    ];
    bench.queue.db.pragma_update(None, "foreign_keys", true).expect("switched on");
    let admission = Admission { wanted: &broken, ..admission };
    let moved = Cursor { row: 11, ..cursor.clone() };
    bench.queue.admit(&admission, Some((&store, &moved))).expect_err("no such cache");
    let bench = bench.reopen();
    assert_eq!(bench.queue.cursor(&store).expect("read"), Some(cursor));
    assert_eq!((bench.state(1), bench.state(2)), (Some("pending"), None));
}

#[test]
fn a_claim_that_was_cut_off_is_taken_back() {
    let mut bench = Bench::new();
    bench.fresh(&[1, 2]);
    assert_eq!(bench.claim(10).len(), 2);
    assert_eq!(bench.claim(10).len(), 0, "nothing is claimed twice");
    let mut bench = bench.reopen();
    assert_eq!(bench.queue.recover().expect("recovered"), 2);
    assert_eq!(bench.claim(10).len(), 2);
}

#[test]
fn fresh_goes_before_backfill_and_moves_up() {
    let mut bench = Bench::new();
    bench.admit(Lane::Backfill, Ended::StartsAnew, &[1, 2, 3]);
    bench.fresh(&[4, 2]);
    let order: Vec<_> = bench.claim(10).into_iter().map(|job| job.path).collect();
    assert_eq!(order, [path(2), path(4), path(1), path(3)]);
}

#[test]
fn what_has_ended_starts_anew_only_where_it_should() {
    let mut bench = Bench::new();
    bench.fresh(&[1]);
    let job = bench.claim_one(1);
    bench.settle(job, UPLOADED);
    assert_eq!(bench.fresh(&[1]), 0, "the same registration is no news");
    assert_eq!(bench.admit(Lane::Backfill, Ended::Stays, &[1]), 0);
    assert_eq!(bench.state(1), Some("done"));
    assert_eq!(bench.admit(Lane::Backfill, Ended::StartsAnew, &[1]), 1, "a backfill asks the cache again");
    let job = bench.claim_one(1);
    bench.settle(job, Outcome::Gone);
    assert_eq!(bench.admit(Lane::Backfill, Ended::Stays, &[1]), 1, "what had gone and is there again is new");
    let again = [Wanted { path: path(1), row: Some(77), registered: 0, caches: vec![bench.cache] }];
    let job = bench.claim_one(1);
    bench.settle(job, UPLOADED);
    let admission = Admission::of_new(&again, bench.clock);
    assert_eq!(bench.queue.admit(&admission, None).expect("admitted"), 1, "registered anew");
}

#[test]
fn what_was_sent_is_not_forgotten_when_a_referrer_needs_it_once_more() {
    let mut bench = Bench::new();
    bench.fresh(&[1, 2]);
    let (reference, referrer) = (bench.claim_one(1), bench.claim_one(2));
    bench.settle(reference, UPLOADED);
    let volume = |bench: &Bench| bench.queue.counts().expect("counted").remove(0).volume();
    let sent = volume(&bench);
    // The cache has lost it, and has it again from elsewhere when it is its turn.
    bench.settle(referrer, Outcome::WaitsFor(vec![path(1)]));
    let reference = bench.claim_one(1);
    bench.settle(reference, Outcome::Delivered(Delivery::AlreadyThere));
    assert_eq!((volume(&bench), sent.sent), (sent, 7));
}

/// A program may have said so. SQLite's `sum` fails then.
#[test]
fn a_sum_that_no_number_holds_hides_nothing() {
    let mut bench = Bench::new();
    bench.fresh(&[1, 2]);
    for job in bench.claim(2) {
        let most = i64::MAX.cast_unsigned();
        bench.settle(job, uploaded(Volume { read: most, sent: most, saved: most }));
    }
    let counts = bench.queue.counts().expect("counted").remove(0);
    assert_eq!((counts.done, counts.bytes_sent), (2, i64::MAX.cast_unsigned()));
    bench.queue.db.execute("UPDATE jobs SET run = 1", []).expect("as a backfill's");
    assert_eq!(bench.queue.run_summary(RunId(1)).expect("summed up").uploaded, 2);
}

#[test]
fn what_was_sent_is_not_forgotten_when_it_is_asked_for_again() {
    let mut bench = Bench::new();
    let backfill = |bench: &mut Bench, outcome: Outcome| {
        let scope =
            RunScope { paths: Vec::new(), since: None, roots: false, to: Vec::new(), by_hand: false, policy: None };
        let run = bench.queue.begin_run(&scope, 1, bench.clock).expect("begun").0;
        let wanted = [Wanted { path: path(1), row: Some(1), registered: 0, caches: vec![bench.cache] }];
        let admission = Admission {
            lane: Lane::Backfill,
            ended: Ended::StartsAnew,
            needed: false,
            run: Some(run.id),
            wanted: &wanted,
            now: bench.clock,
        };
        bench.queue.advance_run(run.id, (1, None), &admission, &[]).expect("admitted");
        let job = bench.claim_one(1);
        bench.settle(job, outcome);
        bench.queue.finish_run(run.id, bench.clock).expect("finished");
        let summary = bench.queue.run_summary(run.id).expect("summed up");
        let counts = bench.queue.counts().expect("counted").remove(0);
        ((summary.uploaded, summary.volume, summary.already_there), (counts.done, counts.volume()))
    };
    let there = || Outcome::Delivered(Delivery::AlreadyThere);
    let (none, first) = (Volume::default(), Volume { read: 20, sent: 7, saved: 13 });
    assert_eq!(backfill(&mut bench, there()), ((0, none, 1), (1, none)));
    assert_eq!(backfill(&mut bench, UPLOADED), ((1, first, 0), (1, first)));
    assert_eq!(backfill(&mut bench, there()), ((0, none, 1), (1, first)), "sent by the one before");
    let again = Volume { read: 20, sent: 9, saved: 11 };
    assert_eq!(backfill(&mut bench, uploaded(again)), ((1, again, 0), (1, again)), "the cache had lost it");
}

#[test]
fn a_retry_waits_for_its_time_but_not_for_a_clock_that_stood_wrong() {
    let mut bench = Bench::new();
    bench.fresh(&[1]);
    let job = bench.claim_one(1);
    let not_before = bench.clock + 5_000;
    bench.settle(job, Outcome::Retry { not_before, reason: "down".to_owned() });
    assert!(bench.claim(1).is_empty());
    assert_eq!(bench.queue.next_due(bench.clock).expect("read"), Some(not_before));
    bench.clock -= 365 * 24 * 60 * 60 * 1_000;
    let jobs = bench.claim(1);
    assert_eq!(jobs[0].attempts, 1);
}

#[test]
fn a_number_is_never_given_twice() {
    let mut bench = Bench::new();
    bench.fresh(&[1]);
    let dropped = bench.claim_one(1);
    bench.queue.drop_jobs(&[dropped.id], bench.clock).expect("dropped");
    bench.fresh(&[2]);
    let other = bench.claim_one(2);
    assert_ne!(dropped.id, other.id);
    bench.settle(dropped, UPLOADED);
    assert_eq!(bench.state(2), Some("uploading"), "another path's upload says nothing of this one");
}

#[test]
fn a_cache_that_takes_nothing_is_tried_with_another_path_each_time() {
    let mut bench = Bench::new();
    bench.fresh(&[1, 2]);
    let mut tried = Vec::new();
    for _ in 0..4 {
        let probe = bench.queue.claim_probe(bench.cache, Lane::Backfill, bench.clock).expect("claimed").remove(0);
        tried.push(probe.path.clone());
        bench.settle(probe, Outcome::Retry { not_before: bench.clock, reason: "full".to_owned() });
    }
    assert_eq!(tried, [path(1), path(2), path(1), path(2)]);
}

#[test]
fn a_job_dropped_while_it_is_under_way_is_no_trouble() {
    let mut bench = Bench::new();
    bench.fresh(&[1, 2]);
    let (first, second) = (bench.claim_one(1), bench.claim_one(2));
    bench.settle(second, Outcome::WaitsFor(vec![path(1)]));
    let id = first.id;
    assert_eq!(bench.queue.drop_jobs(&[id], bench.clock).expect("dropped"), 1);
    bench.settle(first, UPLOADED);
    bench.check();
    assert_eq!((bench.state(1), bench.state(2)), (None, Some("pending")));
    bench.claim_one(2);
}

#[test]
fn two_connections_never_lock_each_other_out() {
    let bench = Bench::new();
    let dir = bench.dir.path().to_owned();
    drop(bench.queue);
    let work = |own: u8| {
        let mut queue = Queue::open_beside(&dir).expect("opened");
        let cache = queue.cache_id("team", "file:///c").expect("a cache");
        for n in 0..50 {
            let wanted = [Wanted { path: path(own + n), row: None, registered: 0, caches: vec![cache] }];
            let admission = Admission { lane: Lane::Fresh, ended: Ended::StartsAnew, ..Admission::of_new(&wanted, 1) };
            queue.admit(&admission, None).expect("admitted");
            for job in queue.claim(cache, Lane::Fresh, 3, 1).expect("claimed") {
                queue.settle(&[(job, UPLOADED)], &[], 1).expect("settled");
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| work(0));
        scope.spawn(|| work(100));
    });
    let done: u64 = Queue::open_beside(&dir).expect("opened").counts().expect("counted").iter().map(|c| c.done).sum();
    assert_eq!(done, 100);
}
