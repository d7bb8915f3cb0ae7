//! Every new path is found: without events, after a pause, in a restored database, and by users of little power.

use crate::support::{NOBODY, Nix, Said, ScratchStore, Storewatch, each_nix, expr};
use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

each_nix! {
    fn without_events_the_timer_finds_everything(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        let mut running = storewatch.start_with(|command| {
            command.arg("--no-events");
        });
        for _ in 0..2 {
            let paths = store.query_closure(&store.build(&expr::lattice(6, 100)).unwrap()[0]);
            running.eventually("the closure in the cache", || storewatch.cache().has_all(&paths));
        }
    }

    fn it_begins_with_now_and_then_misses_nothing(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        let before = store.build(&expr::many(2)).unwrap();
        let mut running = storewatch.start();
        running.eventually_logs("watching from now on");
        let mut expected = store.build(&expr::many(2)).unwrap();
        running.eventually("what is built while it runs", || storewatch.cache().has_all(&expected));
        running.stop();
        expected.extend(store.build(&expr::many(3)).unwrap());
        let mut running = storewatch.start();
        running.eventually("what was built meanwhile", || storewatch.cache().has_all(&expected));
        running.stop();
        assert_eq!(storewatch.cache().store_paths(), expected.into_iter().collect::<BTreeSet<_>>(), "not {before:?}");
    }

    fn what_the_first_build_of_a_new_nix_makes_is_found(nix: Nix) {
        let store = ScratchStore::new(&nix);
        // As on a host where Nix has not been run yet: its first command makes the database.
        fs::remove_dir_all(store.state_dir()).unwrap();
        fs::create_dir_all(store.db_path().parent().unwrap()).unwrap();
        let storewatch = Storewatch::new(&store);
        let mut running = storewatch.run();
        running.eventually_logs("there is no Nix database");
        let stands = storewatch.status()["finds_nothing"].clone();
        assert!(stands["since"].as_i64() > Some(0), "{stands}");
        assert!(stands["why"].as_str().unwrap().contains("there is no Nix database"), "{stands}");
        let told = storewatch.cmd(&["status"]).ok();
        assert!(told.contains("watch:   nothing new can be found since "), "{told}");
        running.stop();
        assert!(storewatch.status()["finds_nothing"].is_null(), "nobody looks");
        let mut running = storewatch.run();
        running.eventually_logs("there is no Nix database");
        assert!(storewatch.status()["finds_nothing"]["since"].as_i64() > stands["since"].as_i64(), "of this service");
        let mut paths = store.build(&expr::many(3)).unwrap();
        paths.extend(store.build(&expr::many(3)).unwrap());
        running.eventually("all of them in the cache", || storewatch.cache().has_all(&paths));
        assert!(storewatch.status()["finds_nothing"].is_null(), "{}", running.log());
        running.stop();
    }

    fn a_database_restored_while_it_runs_is_read_again(nix: Nix) {
        a_restored_database_is_read_again(&nix, true);
    }

    fn a_database_restored_while_it_is_away_is_read_again(nix: Nix) {
        a_restored_database_is_read_again(&nix, false);
    }

    fn a_database_restored_file_by_file_keeps_nobody_out(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        let mut running = storewatch.start();
        let kept = store.build(&expr::many(2)).unwrap();
        running.eventually("what the backup has", || storewatch.cache().has_all(&kept));
        let file = |suffix: &str| PathBuf::from(format!("{}{suffix}", store.db_path().display()));
        // In the order of a tool that goes by name. While the service has it open, all three are there.
        let files = ["", "-shm", "-wal"].map(|suffix| (fs::read(file(suffix)).unwrap(), file(suffix)));
        for opened_in_between in [false, true] {
            let lost = store.build(&expr::many(3)).unwrap();
            running.eventually("what the backup lacks", || storewatch.cache().has_all(&lost));
            for (content, file) in &files {
                let opened = running.log().matches("the Nix database is open").count();
                let beside = file.with_extension("new");
                fs::write(&beside, content).unwrap();
                fs::rename(beside, file).unwrap();
                if opened_in_between {
                    running.eventually_logs_times("the Nix database is open", opened + 1);
                }
            }
            let mut built = Vec::new();
            running.eventually("Nix gets in", || {
                store.build(&expr::many(2)).map(|paths| built = paths).is_ok()
            });
            running.eventually("what is built afterwards", || storewatch.cache().has_all(&built));
        }
        running.stop();
        storewatch.cache().assert_sound(&[]);
    }

    fn a_database_without_a_write_ahead_log(nix: Nix) {
        let store = ScratchStore::with_settings(&nix, "use-sqlite-wal = false");
        let storewatch = Storewatch::new(&store);
        let mut running = storewatch.start();
        running.eventually_logs("the Nix database has no write-ahead log");
        let paths = store.query_closure(&store.build(&expr::lattice(12, 1000)).unwrap()[0]);
        running.eventually("the closure in the cache", || storewatch.cache().has_all(&paths));
        assert_eq!(running.log().matches("no write-ahead log").count(), 1, "said once");
        assert!(!store.db_path().with_file_name("db.sqlite-wal").exists());
    }

    fn a_user_without_rights_reads_the_database(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        // As long as anybody has the database open, its log is there, with every Nix.
        let keeper = rusqlite::Connection::open(store.db_path()).unwrap();
        keeper.query_row("select count(*) from ValidPaths", [], |_| Ok(())).unwrap();
        let Some(mut running) = storewatch.run_as_nobody() else { return };
        running.eventually_logs("the Nix database is open");
        let paths = store.build(&expr::many(3)).unwrap();
        running.eventually("the paths in the cache", || storewatch.cache().has_all(&paths));
        assert_eq!(fs::metadata(storewatch.cache().dir()).unwrap().uid(), NOBODY);
    }
}

#[test]
fn who_may_not_read_the_database_asks_the_daemon() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let before = store.build(&expr::many(1)).unwrap().remove(0);
    // Without ids there are only times, whole seconds: what is as old as the start counts as new.
    let database = rusqlite::Connection::open(store.db_path()).unwrap();
    database.execute("update ValidPaths set registrationTime = registrationTime - 60", []).unwrap();
    drop(database);
    let daemon = store.daemon();
    close_database(&store);
    let Some(mut running) = storewatch.run_as_nobody() else { return };
    running.eventually_logs("the Nix daemon is asked instead");
    running.eventually_logs("watching from now on");
    let top = daemon.build(&expr::chain(4)).unwrap();
    running.eventually("the last path in the cache", || storewatch.cache().has(&top[0]));
    let closure = store.query_closure(&top[0]);
    assert!(storewatch.cache().has_all(&closure) && !storewatch.cache().has(&before));
    running.stop();
    let meanwhile = daemon.build(&expr::many(2)).unwrap();
    let mut running = storewatch.run_as_nobody().unwrap();
    running.eventually("what was built meanwhile", || storewatch.cache().has_all(&meanwhile));
    running.stop();
    storewatch.cache().assert_sound(&[]);
    store.read_back(&storewatch.cache().url(), &storewatch.public_key("local"), &top).unwrap();
}

#[test]
fn where_neither_database_nor_daemon_can_be_asked_it_refuses() {
    let Some(nix) = Nix::v2_8() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    close_database(&store);
    // None that answers, and one that is too old.
    for daemon in [false, true] {
        let _daemon = daemon.then(|| store.daemon());
        let Some(mut running) = storewatch.run_as_nobody() else { return };
        running.eventually_logs("storewatch: ");
        let log = running.log();
        assert_eq!(running.wait_exit().code(), Some(1), "{log}");
        let told = log.lines().find(|line| line.starts_with("storewatch: ")).unwrap();
        assert!(told.contains("the Nix database can't be read") && told.contains("run storewatch as root"), "{told}");
        let path = store.build(&expr::many(1)).unwrap().remove(0);
        let policy = storewatch.state_dir().join("other.toml");
        fs::write(&policy, "version = 1\n").unwrap();
        let either = ["nor does the Nix daemon answer instead", "hint: run it as root", "or start the Nix daemon"];
        let database = ["no permission to", "hint: this takes the database itself: run it as root", "may read it"];
        for (command, expected) in [
            (&["policy", "explain", &path][..], either),
            (&["backfill", &path], either),
            (&["backfill"], either),
            (&["backfill", "--roots"], database),
            (&["policy", "diff", policy.to_str().unwrap()], database),
        ] {
            let said = Said::by(storewatch.command_as_nobody().unwrap().args(command));
            assert_eq!(said.code, Some(1), "{command:?} {said:?}");
            for words in expected {
                assert!(said.stderr.contains(words), "{command:?} lacks `{words}`: {}", said.stderr);
            }
        }
    }
}

/// What was read stays done, what is built afterwards arrives, and nothing is uploaded a second time.
fn a_restored_database_is_read_again(nix: &Nix, while_it_runs: bool) {
    let store = ScratchStore::new(nix);
    let storewatch = Storewatch::new(&store);
    let mut running = storewatch.start();
    let mut expected = store.build(&expr::many(3)).unwrap();
    running.eventually("what the backup has", || storewatch.cache().has_all(&expected));
    let backup = back_up(&store);
    let lost = expr::many(4);
    expected.extend(store.build(&lost).unwrap());
    running.eventually("what the backup lacks", || storewatch.cache().has_all(&expected));
    running.eventually("the queue's end", || storewatch.jobs_left().is_empty());
    let archives = storewatch.cache().archives();

    let mut stopped = None;
    if !while_it_runs {
        running.stop();
    } else {
        stopped = Some(running);
    }
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{suffix}", store.db_path().display()));
    }
    fs::rename(backup, store.db_path()).unwrap();
    let mut running = stopped.unwrap_or_else(|| storewatch.start());
    running.eventually_logs("it is read from its beginning");

    // Lost to Nix, so built once more; it gets numbers that others had before.
    store.build(&lost).unwrap();
    let new = store.build(&expr::many(2)).unwrap();
    running.eventually("what is built afterwards", || storewatch.cache().has_all(&new));
    running.eventually("the queue's end", || storewatch.jobs_left().is_empty());
    running.stop();
    storewatch.cache().assert_sound(&[]);
    assert!(storewatch.cache().archives().is_superset(&archives), "an archive has been replaced");
    expected.extend(new);
    assert_eq!(storewatch.cache().store_paths(), expected.into_iter().collect::<BTreeSet<_>>());
}

/// A copy of the database as it is now, beside it.
fn back_up(store: &ScratchStore) -> PathBuf {
    let copy = store.db_path().with_file_name("backup.sqlite");
    let database = rusqlite::Connection::open(store.db_path()).unwrap();
    database.execute("vacuum into ?", [copy.to_str().unwrap()]).unwrap();
    copy
}

/// Takes others the right to read the database.
fn close_database(store: &ScratchStore) {
    fs::set_permissions(store.db_path().parent().unwrap(), Permissions::from_mode(0o700)).unwrap();
}
