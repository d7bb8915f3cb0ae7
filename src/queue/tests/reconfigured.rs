//! A cache whose configuration changes.

use std::path::Path;

use rusqlite::Connection;

use super::super::migrations::MIGRATIONS;
use super::*;

impl Bench {
    fn serve(&mut self, fingerprint: &str) -> u64 {
        self.queue.serve_cache(self.cache, fingerprint, self.clock).expect("served")
    }

    /// As if the first version had made it, and today's had opened it.
    fn taken_over_from_the_first_version(mut self) -> Self {
        let queue = self.queue.path().to_owned();
        drop(self.queue);
        as_the_first_version_made_it(&queue);
        self.queue = Queue::open(self.dir.path()).expect("taken over").queue;
        self
    }

    /// Path 1 has failed, path 2 needs it.
    fn with_a_failure() -> Self {
        let mut bench = Self::new();
        assert_eq!(bench.serve("one"), 0);
        bench.fresh(&[2]);
        let second = bench.claim_one(2);
        bench.settle(second, Outcome::WaitsFor(vec![path(1)]));
        let first = bench.claim_one(1);
        bench.settle(first, Outcome::Retry { not_before: 0, reason: "slow".to_owned() });
        let first = bench.claim_one(1);
        bench.settle(first, Outcome::Failed { reason: "too large".to_owned() });
        assert_eq!([1, 2].map(|n| bench.state(n)), [Some("failed"), Some("held")]);
        bench
    }
}

#[test]
fn what_has_failed_is_tried_again_with_another_configuration_and_only_then() {
    let mut bench = Bench::with_a_failure().reopen();
    assert_eq!(bench.serve("one"), 0);
    assert_eq!(bench.state(1), Some("failed"), "served as before");
    let other = bench.queue.cache_id("other", "file:///o").expect("a cache");
    bench.queue.serve_cache(other, "one", bench.clock).expect("served");
    assert_eq!(bench.queue.serve_cache(other, "two", bench.clock).expect("served"), 0);
    assert_eq!(bench.state(1), Some("failed"), "it was another cache that changed");

    assert_eq!(bench.serve("two"), 1);
    assert_eq!([1, 2].map(|n| bench.state(n)), [Some("pending"); 2]);
    bench.check();
    let first = bench.claim_one(1);
    assert_eq!(first.attempts, 0);
    bench.settle(first, UPLOADED);
    let second = bench.claim_one(2);
    bench.settle(second, UPLOADED);
    assert_eq!(bench.serve("two"), 0);
}

#[test]
fn a_failure_with_the_old_configuration_says_nothing_of_the_new_one() {
    let mut bench = Bench::new();
    bench.serve("one");
    bench.fresh(&[1]);
    let job = bench.claim_one(1);
    bench.serve("two");
    let failed = Outcome::Failed { reason: "too large".to_owned() };
    bench.settle(job, failed.clone());
    assert_eq!(bench.state(1), Some("pending"));
    let job = bench.claim_one(1);
    bench.settle(job, failed);
    assert_eq!(bench.state(1), Some("failed"), "claimed with the new one");
}

#[test]
fn a_queue_of_the_first_version_is_taken_over() {
    let mut bench = Bench::with_a_failure();
    bench.fresh(&[3, 4]);
    let (third, fourth) = (bench.claim_one(3), bench.claim_one(4));
    bench.settle(third, UPLOADED);
    bench.settle(fourth, Outcome::Delivered(Delivery::AlreadyThere));
    bench.queue.db.execute_batch("UPDATE jobs SET run = 1").expect("as if a backfill had asked for all");
    let mut bench = bench.taken_over_from_the_first_version();
    let summary = bench.queue.run_summary(RunId(1)).expect("summed up");
    // What was read and saved for it isn't known.
    let volume = Volume { sent: 7, ..Volume::default() };
    assert_eq!((summary.uploaded, summary.volume, summary.already_there, summary.failed), (1, volume, 1, 1));
    // With what it had failed isn't known.
    assert_eq!((bench.serve("two"), bench.state(1)), (0, Some("failed")));
    assert_eq!((bench.serve("three"), bench.state(1)), (1, Some("pending")));
}

/// Replaces a queue by what the first version would have made of it: its tables, with the columns that it knew.
fn as_the_first_version_made_it(queue: &Path) {
    let first = queue.with_extension("first");
    let db = Connection::open(&first).expect("opened");
    db.execute_batch(MIGRATIONS[0]).expect("made");
    db.execute("ATTACH ?1 AS later", [queue.to_str()]).expect("attached");
    let tables = "SELECT name, (SELECT group_concat(name) FROM pragma_table_info(tables.name, 'main'))
                  FROM main.sqlite_schema AS tables WHERE type = 'table' AND name NOT LIKE 'sqlite%'";
    let mut tables = db.prepare(tables).expect("good SQL");
    let rows = tables.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("listed");
    for row in rows {
        let (table, columns): (String, String) = row.expect("a table");
        let copy = format!("INSERT INTO main.{table} ({columns}) SELECT {columns} FROM later.{table}");
        db.execute_batch(&copy).expect("copied");
    }
    db.execute_batch("PRAGMA user_version = 1; DETACH later").expect("noted");
    std::fs::rename(first, queue).expect("replaced");
}
