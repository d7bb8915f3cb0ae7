//! What people and disks get wrong: said clearly, with nothing lost by it.

use crate::support::{Nix, ScratchStore, Storewatch, expr};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Five things wrong, on lines 2, 4, 7, 8 and 10.
const BAD_POLICY: &str = r#"version = 1
unknown = "key"
[limits]
uploads = "four"
[[rules]]
name = "bad"
match = { size = "many" }
to = ["nowhere"]
action = "upload"
[caches.team]
"#;

#[test]
fn all_that_is_wrong_with_a_policy_is_said_at_once() {
    let Some(nix) = Nix::v2_8() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    storewatch.policy(BAD_POLICY);
    let file = storewatch.policy_path();
    for command in [&["run"][..], &["policy", "check"], &["backfill"], &["status"]] {
        let said = storewatch.cmd(command);
        assert_eq!(said.code, Some(2), "{command:?}: {said:?}");
        for line in [2, 4, 7, 8, 10] {
            assert!(said.stderr.contains(&format!("{}:{line}:", file.display())), "line {line} in {}", said.stderr);
        }
        assert!(!said.stderr.contains("panicked"), "{}", said.stderr);
    }
    assert!(!storewatch.state_dir().join("queue.sqlite").exists(), "something was begun");
}

#[test]
fn less_than_nothing_is_refused_for_what_it_is() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    for command in [
        &["limit", "none", "--for", "-1h"][..],
        &["pause", "--for", "-1h"],
        &["push", "--timeout", "-1h"],
        &["backfill", "--since", "-1h"],
        &["cache", "prune", "local", "--keep", "-1h"],
        &["cache", "prune", "local", "--max-size", "-5GB"],
    ] {
        let said = storewatch.cmd(command);
        assert_eq!(said.code, Some(2), "{command:?}: {said:?}");
        assert!(!said.stderr.contains("unexpected argument") && said.stderr.contains("`-"), "{command:?}: {said:?}");
    }
}

#[test]
fn a_bad_policy_is_refused_as_a_whole_and_the_old_one_stays() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    storewatch.policy("version = 1\n[[rules]]\nmatch = { name = \"small-0\" }\naction = \"skip\"\n");
    let mut running = storewatch.start();
    storewatch.policy(BAD_POLICY);
    running.eventually_logs("the old one stays in force");
    let paths = store.build(&expr::many(2)).unwrap();
    running.eventually("what the old policy wants", || storewatch.cache().has(&paths[1]));
    assert!(!storewatch.cache().has(&paths[0]));
    assert_eq!(running.log().matches("the old one stays in force").count(), 1, "said once");

    // Mended, it is taken without a word from anybody; and at SIGHUP.
    storewatch.policy("version = 1\n[[rules]]\nmatch = { name = \"small-1\" }\naction = \"skip\"\n");
    running.eventually_logs("the policy has changed and is in force");
    let paths = store.build(&expr::many(2)).unwrap();
    running.eventually("what the new policy wants", || storewatch.cache().has(&paths[0]));
    assert!(!storewatch.cache().has(&paths[1]));
    storewatch.policy("version = 1\n");
    running.signal(Signal::HUP);
    running.eventually_logs("told to read the policy again");
    running.eventually_logs_times("the policy has changed and is in force", 2);
    let paths = store.build(&expr::many(2)).unwrap();
    running.eventually("everything", || storewatch.cache().has_all(&paths));
}

#[test]
fn a_policy_that_was_never_there_is_not_missed() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let mut running = storewatch.start();
    running.signal(Signal::HUP);
    running.eventually_logs("there is no policy file, the built-in policy stays in force");
    storewatch.policy("version = 1\n");
    running.eventually_logs("the policy has changed and is in force");
    fs::remove_file(storewatch.policy_path()).unwrap();
    running.eventually_logs("the policy file can't be read, the old policy stays in force");
}

#[test]
fn a_state_directory_that_cannot_be_written() {
    let Some(nix) = Nix::v2_8() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let file = store.root().join("a-file");
    fs::write(&file, "").unwrap();
    let below = file.join("state").display().to_string();
    for command in [&["run"][..], &["backfill"]] {
        let said = storewatch.cmd(&[command, &["--state-dir", &below]].concat());
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.stderr.contains(&format!("cannot write the state directory {below}")), "{}", said.stderr);
        assert!(said.stderr.contains("hint: give a directory that you can write"), "{}", said.stderr);
    }
}

#[test]
fn a_corrupt_queue_is_moved_aside_and_filled_again() {
    let Some(nix) = Nix::recent() else { return };
    type Damage = fn(&[u8]) -> Vec<u8>;
    let damages: [(&str, Damage); 3] = [
        ("garbage", |whole| b"nonsense ".repeat(whole.len() / 9)),
        ("truncated", |whole| whole[..whole.len() / 2].to_vec()),
        ("emptied", |_| Vec::new()),
    ];
    for (damage, apply) in damages {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        let mut running = storewatch.start();
        let mut expected = store.query_closure(&store.build(&expr::lattice(8, 100)).unwrap()[0]);
        running.eventually("the first paths", || storewatch.cache().has_all(&expected));
        running.stop();
        let archives = storewatch.cache().archives();
        let queue = storewatch.state_dir().join("queue.sqlite");
        // Otherwise the log would heal it.
        let database = rusqlite::Connection::open(&queue).unwrap();
        database.query_row("pragma wal_checkpoint(truncate)", [], |_| Ok(())).unwrap();
        drop(database);
        let damaged = apply(&fs::read(&queue).unwrap());
        fs::write(&queue, &damaged).unwrap();
        expected.extend(store.build(&expr::many(2)).unwrap());

        let mut running = storewatch.start();
        running.eventually_logs("the queue was corrupt; it is kept as");
        running.eventually("what was built meanwhile", || storewatch.cache().has_all(&expected));
        running.eventually("the queue's end", || storewatch.jobs_left().is_empty());
        running.stop();
        let aside = moved_aside(&storewatch.state_dir());
        assert_eq!(fs::read(&aside).unwrap(), damaged, "{damage}: nothing is deleted");
        assert!(storewatch.cache().archives().is_superset(&archives), "{damage}: an archive was replaced");
        storewatch.cache().assert_sound(&[]);
        assert_eq!(storewatch.cache().store_paths(), expected.into_iter().collect::<BTreeSet<_>>());
    }
}

#[test]
fn a_nix_database_that_is_none_or_newer() {
    let Some(nix) = Nix::v2_8() else { return };
    let no_database = |store: &ScratchStore| fs::write(store.db_path(), "nonsense ".repeat(2000)).unwrap();
    let anothers = |store: &ScratchStore| {
        fs::remove_file(store.db_path()).unwrap();
        let database = rusqlite::Connection::open(store.db_path()).unwrap();
        database.execute_batch("create table songs (title text)").unwrap();
    };
    let newer = |store: &ScratchStore| fs::write(store.db_path().with_file_name("schema"), "99").unwrap();
    type Spoil<'a> = &'a dyn Fn(&ScratchStore);
    let cases: [(Spoil, &str); 3] =
        [(&no_database, "not written by SQLite"), (&anothers, "ValidPaths"), (&newer, "99")];
    for (spoil, clue) in cases {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        let path = store.build(&expr::many(1)).unwrap().remove(0);
        spoil(&store);
        for command in [&["run"][..], &["backfill"], &["backfill", &path], &["policy", "explain", &path]] {
            let said = storewatch.cmd(command);
            assert_eq!(said.code, Some(1), "{command:?} {clue}: {said:?}");
            let told = said.stderr.lines().find(|line| line.starts_with("storewatch: ")).unwrap_or_default();
            assert!(told.contains(clue) && told.contains("db.sqlite"), "{command:?} {clue}: {}", said.stderr);
            assert!(said.stderr.matches("a newer storewatch").count() <= 1, "advised twice: {}", said.stderr);
        }
        assert_eq!(storewatch.cache().narinfos().len(), 0);
    }
}

#[test]
fn arguments_that_are_no_paths_or_not_valid() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let gone = store.build(&expr::many(1)).unwrap().remove(0);
    store.delete(std::slice::from_ref(&gone));
    let store_dir = store.store_dir();
    let short = store_dir.join("abc-name").display().to_string();
    let itself = store_dir.display().to_string();
    for command in [&["backfill"][..], &["policy", "explain"]] {
        for (argument, clue) in
            [("/etc/passwd", "/etc/passwd"), ("nonsense", "nonsense"), (&short, "abc-name"), (&itself, &itself)]
        {
            let said = storewatch.cmd(&[command, &[argument]].concat());
            assert_eq!(said.code, Some(2), "{command:?} {argument}: {said:?}");
            assert!(said.stderr.starts_with("storewatch: ") && said.stderr.contains(clue), "{}", said.stderr);
        }
        let said = storewatch.cmd(&[command, &[&gone]].concat());
        assert_eq!(said.code, Some(2), "{said:?}");
        assert!(said.stderr.contains(&format!("{gone} is not valid")), "{}", said.stderr);
        let both = storewatch.cmd(&[command, &["nonsense", &gone]].concat());
        let told = ["`nonsense`".to_owned(), format!("{gone} is not valid")];
        assert!(both.code == Some(2) && told.iter().all(|told| both.stderr.contains(told)), "{both:?}");
    }
    let said = storewatch.cmd(&["backfill", "--to", "nowhere"]);
    assert_eq!(said.code, Some(2));
    assert!(said.stderr.contains("no cache `nowhere`") && said.stderr.contains("local"), "{}", said.stderr);
    let said = storewatch.cmd(&["backfill", "--since", "yesterday"]);
    assert_eq!(said.code, Some(2));
    assert!(said.stderr.contains("yesterday") && said.stderr.contains("7d"), "{}", said.stderr);
    let said = storewatch.cmd(&["backfill", "--since", "0d"]);
    assert!(said.code == Some(2) && said.stderr.contains("nothing is so young"), "{said:?}");
    storewatch.cmd(&["backfill", &store.build(&expr::many(1)).unwrap()[0]]).ok();
    for command in [&["queue", "drop"][..], &["queue", "drop", ""], &["queue", "drop", "/"]] {
        let said = storewatch.cmd(command);
        assert!(said.code == Some(2) && !said.stderr.contains("panicked"), "{said:?}");
        assert_eq!(storewatch.jobs("done").len(), 1, "{command:?}");
    }
}

#[test]
fn a_queue_that_is_damaged_within_is_called_corrupt_by_who_looks() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    store.build(&expr::many(30)).unwrap();
    storewatch.cmd(&["backfill"]).ok();
    let queue = storewatch.state_dir().join("queue.sqlite");
    let database = rusqlite::Connection::open(&queue).unwrap();
    database.query_row("pragma wal_checkpoint(truncate)", [], |_| Ok(())).unwrap();
    drop(database);
    // Its first page, and with that its header, stays as it is.
    let mut bytes = fs::read(&queue).unwrap();
    bytes[4096..].fill(b'x');
    fs::write(&queue, bytes).unwrap();
    for command in [&["status"][..], &["queue", "list"], &["queue", "retry"]] {
        let said = storewatch.cmd(command);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.stderr.contains("hint: the next start of `storewatch run` moves it aside"), "{said:?}");
        assert!(said.stderr.matches("malformed").count() <= 1, "told twice: {said:?}");
    }
}

fn moved_aside(state_dir: &Path) -> PathBuf {
    let names = fs::read_dir(state_dir).unwrap().map(|entry| entry.unwrap().path());
    let mut aside = names.filter(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with("queue.sqlite.corrupt-") && !name.ends_with("-wal") && !name.ends_with("-shm")
    });
    aside.next().expect("the corrupt queue, moved aside")
}
