//! Without a write-ahead log: commits in mid-read, locks that are held, and what a killed Nix leaves.

use super::*;

/// Without a write-ahead log, Nix's locks and ours don't know of each other.
#[test]
fn without_a_log_a_commit_in_mid_read_tears_nothing() {
    let scratch = Scratch::without_wal();
    scratch.nix.pragma_update(None, "synchronous", "off").expect("a test that isn't about the disk");
    let database = scratch.open();
    let (total, per_commit) = (6_000_u32, 40);
    let writer = std::thread::spawn(move || {
        for n in 0..total {
            if n % per_commit == 0 {
                scratch.nix.execute_batch("begin immediate").expect("a lock");
            }
            // Scattered, so that all of the index of paths is rewritten.
            scratch.add(&base(n.wrapping_mul(2_654_435_761), &format!("{n}")));
            if (n + 1) % per_commit == 0 {
                scratch.nix.execute_batch("commit").expect("a commit");
            }
        }
        scratch
    });
    let (mut after, mut read, mut busy) = (0, 0, 0);
    while after < i64::from(total) {
        match database.batch(after, &BatchLimits { rows: 500, time: Duration::from_millis(10) }) {
            Ok(batch) => {
                assert!(batch.malformed.is_empty(), "{:?}", batch.malformed);
                for info in &batch.paths {
                    read += 1;
                    assert_eq!(info.id, Some(read), "a row was passed over");
                    assert!(info.path.name() == (read - 1).to_string(), "another row's content");
                }
                assert!(batch.reached == after || batch.reached % i64::from(per_commit) == 0 || !batch.complete);
                after = batch.reached;
            }
            Err(error) if error.is_busy() => busy += 1,
            Err(error) => panic!("{error:?}"),
        }
        assert!(!writer.is_finished() || after > 0 || busy < 1000, "nothing was ever read");
    }
    println!("{busy} times busy");
    drop(writer.join().expect("a writer"));
}

#[test]
fn without_a_log_nix_is_waited_for_but_not_for_long() {
    let scratch = Scratch::without_wal();
    let database = Database { patience: Duration::from_millis(20), ..scratch.open() };
    // Whatever Nix does, it holds this.
    scratch.nix.execute_batch("begin immediate").expect("a lock");
    assert!(scratch.dir.path().join("db.sqlite.lock").exists());
    let error = database.last_id().expect_err("locked");
    assert!(error.is_busy(), "{error:?}");
    scratch.nix.execute_batch("rollback").expect("unlocked");
    assert_eq!(database.last_id().expect("an id"), 0);

    let (database, reads) = (scratch.open(), std::cell::Cell::new(0));
    let id = database.reading("count", |c| {
        let id: i64 = c.query_row("select count(*) from ValidPaths", [], |row| row.get(0))?;
        reads.set(reads.get() + 1);
        if reads.get() == 1 {
            scratch.add(&base(1, "x"));
        }
        Ok(id)
    });
    assert_eq!((id.expect("an id"), reads.get()), (1, 2), "read again, because Nix committed meanwhile");
}

#[test]
fn what_a_killed_nix_left_half_written_is_not_believed() {
    let scratch = Scratch::without_wal();
    for n in 0..100 {
        scratch.add(&base(n, "x"));
    }
    let database = Database { patience: Duration::from_millis(20), ..scratch.open() };
    scratch.nix.execute_batch("pragma cache_size = 1; begin; delete from ValidPaths where id > 50").expect("spilled");
    // Its lock is gone with the folder that held it; the journal says that the file is to be rolled back.
    fs::remove_dir(scratch.dir.path().join("db.sqlite.lock")).expect("unlocked");
    let error = database.batch(0, &PLENTY).expect_err("not to be read");
    assert!(error.is_busy(), "{error:?}");
}

/// Who opens it meets the journal before anything else.
#[test]
fn without_a_log_a_commit_is_waited_for_when_it_is_opened_too() {
    let scratch = Scratch::without_wal();
    for n in 0..100 {
        scratch.add(&base(n, "x"));
    }
    scratch.nix.execute_batch("pragma cache_size = 1; begin; delete from ValidPaths where id > 50").expect("spilled");
    let path = scratch.path();
    let error = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .and_then(|database| open::is_empty(&database))
        .expect_err("in mid-commit");
    assert!(error::is_to_be_rolled_back(&error), "{error:?}");
    let opened = std::thread::spawn(move || Database::open(&path, &StoreDir::default()).map(|open| open.last_id()));
    scratch.nix.execute_batch("rollback").expect("unlocked");
    assert_eq!(opened.join().expect("opened").expect("a Nix database").expect("an id"), 100);
}
