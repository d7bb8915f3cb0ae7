//! What is forgotten, what isn't, and that the file becomes smaller.

use rusqlite::params;

use super::*;

const DAY: i64 = 24 * 60 * 60 * 1_000;

fn size(file: &Path) -> u64 {
    std::fs::metadata(file).map_or(0, |metadata| metadata.len())
}

#[test]
fn what_has_ended_long_ago_is_forgotten() {
    let mut bench = Bench::new();
    bench.fresh(&[1, 2, 3, 4, 5]);
    let [done, gone, failed, referrer] = [1, 2, 3, 4].map(|n| bench.claim_one(n));
    bench.settle(done, UPLOADED);
    bench.settle(gone, Outcome::Gone);
    bench.settle(failed, Outcome::Failed { reason: "refused".to_owned() });
    bench.settle(referrer, Outcome::WaitsFor(vec![path(3)]));
    let states = |bench: &Bench| [1, 2, 3, 4, 5].map(|n| bench.state(n));
    let all = [Some("done"), Some("gone"), Some("failed"), Some("held"), Some("pending")];
    bench.tidy(bench.clock + DAY);
    assert_eq!(states(&bench), all);
    bench.tidy(bench.clock + 8 * DAY);
    assert_eq!(states(&bench), [Some("done"), None, Some("failed"), Some("held"), Some("pending")]);
    bench.tidy(bench.clock + 89 * DAY);
    assert_eq!(states(&bench)[0], Some("done"));
    bench.tidy(bench.clock + 91 * DAY);
    assert_eq!(states(&bench), [None, None, None, Some("pending"), Some("pending")], "what needs it is tried again");
    bench.check();
}

#[test]
fn more_than_is_kept_is_forgotten_however_young() {
    let mut bench = Bench::new();
    let clock = bench.clock;
    let insert = "WITH RECURSIVE n (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < 201500)
                  INSERT INTO jobs (path, cache, state, lane, needed, changed)
                  SELECT printf('%032d-x', n), ?1, 2, 0, 0, ?2 + n FROM n";
    bench.queue.db.execute(insert, params![bench.cache.0, clock]).expect("done jobs");
    let insert = "WITH RECURSIVE n (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < 200700)
                  INSERT INTO contents (cache, nar_hash, url, compression, file_hash, file_size, nar_size, noted)
                  SELECT ?1, CAST(printf('%032d', n) AS BLOB), 'nar/x', 'zstd', zeroblob(32), 1, 1, ?2 + n FROM n";
    bench.queue.db.execute(insert, params![bench.cache.0, clock]).expect("contents");
    bench.tidy(clock + DAY);
    let oldest = |sql: &str| {
        bench.queue.db.query_row(sql, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))).expect("counted")
    };
    assert_eq!(oldest("SELECT count(*), min(changed) FROM jobs"), (200_000, clock + 1_501));
    assert_eq!(oldest("SELECT count(*), min(noted) FROM contents"), (200_000, clock + 701));
    for query in ["state = 2 AND state IN (2, 4, 5) AND changed < 7", "state = 5 AND state IN (2, 4, 5)"] {
        let plan = format!("EXPLAIN QUERY PLAN SELECT id FROM jobs WHERE {query} ORDER BY changed, id LIMIT 5");
        let plan: String = bench.queue.db.query_row(&plan, [], |row| row.get(3)).expect("a plan");
        assert!(plan.contains("jobs_ended"), "{plan}");
    }
}

#[test]
fn what_a_backfill_still_counts_is_kept_until_it_is_through() {
    let mut bench = Bench::new();
    let scope = RunScope { paths: Vec::new(), since: None, roots: false, to: Vec::new(), by_hand: false, policy: None };
    let (clock, cache) = (bench.clock, bench.cache);
    // It began today, and asks for what was done long ago.
    let today = clock + 100 * DAY;
    let run = bench.queue.begin_run(&scope, 9, today).expect("begun").0.id;
    let wanted = [Wanted { path: path(1), row: None, registered: 0, caches: vec![cache] }];
    let (lane, ended) = (Lane::Backfill, Ended::Stays);
    let admission = Admission { lane, ended, needed: false, run: Some(run), wanted: &wanted, now: clock };
    bench.queue.admit(&admission, None).expect("admitted");
    let job = bench.claim_one(1);
    bench.settle(job, UPLOADED);
    bench.tidy(today);
    assert_eq!(bench.queue.run_summary(run).expect("summed up").uploaded, 1);
    bench.queue.finish_run(run, today).expect("finished");
    bench.tidy(today);
    assert_eq!(bench.state(1), None);
}

#[test]
fn a_backfill_that_nobody_has_taken_up_again_is_forgotten_and_one_that_lives_is_not() {
    let mut bench = Bench::new();
    let scope = RunScope { paths: Vec::new(), since: None, roots: false, to: Vec::new(), by_hand: false, policy: None };
    let (clock, cache) = (bench.clock, bench.cache);
    let day = |n: i64| clock + n * DAY;
    let left = bench.queue.begin_run(&scope, 9, clock).expect("begun").0;
    bench.tidy(day(89));
    let run = bench.queue.begin_run(&scope, 9, day(91)).expect("begun").0;
    assert!(!left.resumed && run.resumed, "nobody was there to forget it");
    bench.tidy(day(91));
    let wanted = [Wanted { path: path(1), row: None, registered: 0, caches: vec![cache] }];
    let (lane, ended) = (Lane::Backfill, Ended::Stays);
    let admission = Admission { lane, ended, needed: false, run: Some(run.id), wanted: &wanted, now: day(170) };
    bench.queue.advance_run(run.id, (3, None), &admission, &[]).expect("it lives since it was asked for again");
    bench.tidy(day(250));
    assert_eq!(bench.queue.run_row(run.id).expect("its scan has got on"), 3);
    bench.clock = day(255);
    let job = bench.claim_one(1);
    bench.settle(job, Outcome::Returned);
    bench.tidy(day(340));
    assert_eq!(bench.queue.run_row(run.id).expect("something was done with its job"), 3);
    bench.tidy(day(400));
    assert!(!bench.queue.begin_run(&scope, 9, day(400)).expect("begun").0.resumed);
    let batch = bench.queue.advance_run(run.id, (4, None), &admission, &[]);
    assert!(batch.is_err(), "it is forgotten, and its scan would begin anew each time");
}

#[test]
fn however_many_have_failed_they_are_kept_for_another_configuration() {
    let mut bench = Bench::new();
    let insert = "WITH RECURSIVE n (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < 30000)
                  INSERT INTO jobs (path, cache, state, lane, needed, changed)
                  SELECT printf('%032d-x', n), ?1, 4, 0, 0, ?2 + n FROM n";
    bench.queue.db.execute(insert, params![bench.cache.0, bench.clock]).expect("failed jobs");
    bench.tidy(bench.clock + DAY);
    let failed = bench.queue.db.query_row("SELECT count(*) FROM jobs WHERE state = 4", [], |row| row.get::<_, i64>(0));
    assert_eq!(failed.expect("counted"), 30_000);
}

#[test]
fn what_failed_and_is_forgotten_is_counted() {
    let mut bench = Bench::new();
    bench.fresh(&[1, 2]);
    let [failed, done] = [1, 2].map(|n| bench.claim_one(n));
    bench.settle(failed, Outcome::Failed { reason: "refused".to_owned() });
    bench.settle(done, UPLOADED);
    let (mut step, mut counted) = (Some(Tidying::begin(bench.clock + 91 * DAY, true)), 0);
    while let Some(next) = step {
        counted = next.failed();
        step = bench.queue.tidy(next).expect("tidied");
    }
    assert_eq!(counted, 1);
}

#[test]
fn a_clock_that_jumps_ahead_has_nothing_forgotten() {
    let mut bench = Bench::new();
    bench.fresh(&[1]);
    let failed = bench.claim_one(1);
    bench.settle(failed, Outcome::Failed { reason: "refused".to_owned() });
    let tidy = |bench: &mut Bench, now| {
        let mut step = Some(bench.queue.begin_tidying(now, true).expect("begun"));
        while let Some(next) = step {
            step = bench.queue.tidy(next).expect("tidied");
        }
    };
    let (clock, year) = (bench.clock, 365 * DAY);
    tidy(&mut bench, clock);
    // A start with a clock that is wrong, and another before it is put right.
    for ahead in [year, year + DAY] {
        tidy(&mut bench, clock + ahead);
        assert_eq!(bench.state(1), Some("failed"));
    }
    // The days go by, and one at which nobody was there.
    for day in (1..=89).filter(|day| day % 5 > 0) {
        tidy(&mut bench, clock + day * DAY);
    }
    assert_eq!(bench.state(1), Some("failed"));
    tidy(&mut bench, clock + 91 * DAY);
    assert_eq!(bench.state(1), None);
}

#[test]
fn the_file_and_its_log_become_smaller_step_by_step() {
    let mut bench = Bench::new();
    let log = bench.queue.path().with_file_name("queue.sqlite-wal");
    fill(&bench.queue, bench.cache, 30_000);
    let (filled, filled_log) = (size(bench.queue.path()), size(&log));
    assert!(filled_log > 0);
    let jobs = |bench: &Bench| -> i64 {
        bench.queue.db.query_row("SELECT count(*) FROM jobs", [], |row| row.get(0)).expect("counted")
    };
    let mut step = Some(Tidying::begin(bench.clock + 91 * DAY, true));
    while let Some(next) = step {
        let before = jobs(&bench);
        step = bench.queue.tidy(next).expect("tidied");
        assert!(before - jobs(&bench) <= 500, "who works on the queue waits for all of it");
    }
    assert_eq!(jobs(&bench), 0);
    let (tidied, spare) = (size(bench.queue.path()), 3 << 20);
    assert!(tidied < spare && tidied < filled, "{tidied} bytes of {filled}");
    assert!(size(&log) <= 1 << 20, "a log of {} bytes", size(&log));
}

#[test]
fn a_queue_of_an_older_storewatch_gives_pages_back_too() {
    let bench = Bench::new();
    // As it was made before, without any provision for that.
    bench.queue.db.execute_batch("PRAGMA auto_vacuum = none; VACUUM").expect("made anew");
    fill(&bench.queue, bench.cache, 30_000);
    let mut bench = bench.reopen();
    let filled = size(bench.queue.path());
    let mode = |bench: &Bench| -> i64 {
        bench.queue.db.query_row("PRAGMA auto_vacuum", [], |row| row.get(0)).expect("a mode")
    };
    let mut step = Some(Tidying::begin(bench.clock, false));
    while let Some(next) = step {
        step = bench.queue.tidy(next).expect("tidied");
    }
    assert_eq!(mode(&bench), 0, "there is no room for a copy");
    bench.tidy(bench.clock + 91 * DAY);
    assert_eq!(mode(&bench), 2);
    assert!(size(bench.queue.path()) < filled / 2, "{} bytes of {filled}", size(bench.queue.path()));
    let verdict: String = bench.queue.db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("checked");
    assert_eq!(verdict, "ok");
}

/// So many jobs that are done.
fn fill(queue: &Queue, cache: CacheId, jobs: i64) {
    let insert = "WITH RECURSIVE n (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < ?2)
                  INSERT INTO jobs (path, cache, state, lane, needed, changed)
                  SELECT printf('%032d-%0100d', n, n), ?1, 2, 0, 0, 1000 + n FROM n";
    queue.db.execute(insert, params![cache.0, jobs]).expect("done jobs");
}
