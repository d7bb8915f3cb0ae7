//! What was there before: taken by the same policy, resumed where it stopped, and summed up.

use crate::support::nix::base_name;
use crate::support::{Nix, Running, Said, ScratchStore, Storewatch, each_nix, expr};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;

each_nix! {
    fn the_whole_store(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        let top = store.build(&expr::lattice(10, 1000)).unwrap();
        let paths = store.query_closure(&top[0]);
        let said = storewatch.cmd(&["backfill", "--dry-run"]).ok();
        for path in &paths {
            assert!(said.contains(&format!("{path} -> local\n")), "{path} in {said}");
        }
        assert!(said.contains("would upload 10 paths") && said.contains("would skip 10 by"), "{said}");
        assert!(!storewatch.cache().dir().exists(), "a dry run has made a cache");

        let said = storewatch.cmd(&["backfill"]).ok();
        assert_eq!(line(&said, "uploaded"), "10", "{said}");
        assert_eq!(line(&said, "already there"), "0", "{said}");
        assert!(said.contains("skipped          10 by built-in rule \"derivation\"\n"), "{said}");
        storewatch.cache().assert_sound(&[]);
        assert_eq!(storewatch.cache().store_paths(), paths.into_iter().collect::<BTreeSet<_>>());
        let key = storewatch.public_key("local");
        store.read_back(&storewatch.cache().url(), &key, &top).unwrap();

        // Asked for again, it asks the cache again, and brings what has gone from there.
        fs::remove_file(storewatch.cache().dir().join(format!("{}.narinfo", &base_name(&top[0])[..32]))).unwrap();
        let said = storewatch.cmd(&["backfill"]).ok();
        assert_eq!((line(&said, "uploaded"), line(&said, "already there")), ("1", "9"), "{said}");
        assert!(storewatch.cache().has(&top[0]));
        // That it was there already takes nothing from what was sent.
        let sent = storewatch.cache_status("local")["bytes_sent"].clone();
        let said = storewatch.cmd(&["backfill"]).ok();
        assert_eq!((line(&said, "uploaded"), line(&said, "already there")), ("0", "10"), "{said}");
        assert_eq!(storewatch.cache_status("local")["bytes_sent"], sent);
    }

    fn it_waits_while_nix_writes_without_a_write_ahead_log(nix: Nix) {
        let store = ScratchStore::with_settings(&nix, "use-sqlite-wal = false");
        let storewatch = Storewatch::new(&store);
        let paths = store.build(&expr::many(3)).unwrap();
        // As Nix does then, by a file beside it.
        let flags = rusqlite::OpenFlags::default();
        let writer = rusqlite::Connection::open_with_flags_and_vfs(store.db_path(), flags, c"unix-dotfile").unwrap();
        writer.execute_batch("begin exclusive").unwrap();
        for signal in [Some(Signal::INT), None] {
            let mut backfill = storewatch.spawn(&["backfill"]);
            backfill.eventually_logs("the backfill waits: ");
            match signal {
                Some(signal) => backfill.eventually_ends_by(signal, 4),
                None => {
                    writer.execute_batch("rollback").unwrap();
                    backfill.eventually_logs("the Nix database can be read again");
                    let log = backfill.log();
                    assert!(backfill.wait_exit().success(), "{log}");
                    assert_eq!(log.matches("the backfill waits: ").count(), 1, "said once");
                }
            }
        }
        assert!(storewatch.cache().has_all(&paths));
    }

    fn two_of_one_closure_at_the_same_time_each_tell_all_of_it(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        let top = store.build(&expr::lattice(12, 1000)).unwrap().remove(0);
        let paths = store.query_closure(&top);
        let all = |said: &str| ["uploaded", "already there"].map(|what| line(said, what).parse::<usize>().unwrap());
        let [one, other] = std::thread::scope(|scope| {
            let backfills = [storewatch.command(), storewatch.command()].map(|mut command| {
                command.args(["backfill", &top]);
                scope.spawn(move || Said::by(&mut command).ok())
            });
            backfills.map(|backfill| backfill.join().unwrap())
        });
        for said in [&one, &other] {
            assert_eq!(all(said).iter().sum::<usize>(), paths.len(), "{one}\n{other}");
        }
        assert!(all(&one)[0] + all(&other)[0] >= paths.len(), "all was uploaded: {one}\n{other}");
        assert!(storewatch.cache().has_all(&paths));
    }

    fn only_what_was_asked_for_and_what_that_needs(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        let chain = store.query_closure(&store.build(&expr::chain(3)).unwrap()[0]);
        let folder = store.build(&expr::script("folder", "mkdir -p $out/bin; echo x > $out/bin/x")).unwrap().remove(0);
        let others = store.build(&expr::many(2)).unwrap();
        let link = store.root().join("result");
        symlink(&chain[1], &link).unwrap();
        let second_link = store.root().join("result-of-a-result");
        symlink("result", &second_link).unwrap();
        let below = format!("{folder}/bin/x");
        let said = storewatch.cmd(&["backfill", second_link.to_str().unwrap(), &below, base_name(&folder)]).ok();
        assert_eq!(line(&said, "uploaded"), "3", "{said}");
        let expected = [&chain[..2], &[folder]].concat();
        assert_eq!(storewatch.cache().store_paths(), expected.into_iter().collect::<BTreeSet<_>>(), "not {others:?}");
        storewatch.cache().assert_sound(&[]);
    }

    fn only_what_is_new_enough(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        let paths = store.build(&expr::many(4)).unwrap();
        for (path, hours) in paths.iter().zip([50, 30, 10, 0]) {
            let database = rusqlite::Connection::open(store.db_path()).unwrap();
            let older = "update ValidPaths set registrationTime = registrationTime - ? * 3600 where path = ?";
            assert_eq!(database.execute(older, (hours, path)).unwrap(), 1);
        }
        for (age, expected) in [("20m", &paths[3..]), ("11h", &paths[2..]), ("2d", &paths[1..]), ("1w", &paths[..])] {
            storewatch.cmd(&["backfill", "--since", age]).ok();
            assert_eq!(storewatch.cache().store_paths(), expected.iter().cloned().collect::<BTreeSet<_>>(), "{age}");
        }
    }

    fn only_what_garbage_collection_would_keep(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        let kept = store.query_closure(&store.build(&expr::chain(3)).unwrap()[0]);
        let loose = store.build(&expr::many(2)).unwrap();
        store.keep(&kept[2..]);
        storewatch.cmd(&["backfill", "--roots"]).ok();
        assert_eq!(storewatch.cache().store_paths(), kept.into_iter().collect::<BTreeSet<_>>(), "not {loose:?}");
    }

    fn interrupted_it_goes_on_where_it_stopped(nix: Nix) {
        for signal in [Signal::KILL, Signal::INT] {
            let store = ScratchStore::new(&nix);
            let storewatch = Storewatch::new(&store);
            let paths = store.build(&expr::many(5)).unwrap();
            storewatch.cache().block();
            let mut backfill = storewatch.spawn(&["backfill"]);
            backfill.eventually("its jobs", || has_pending(&storewatch, 5));
            backfill.signal(signal);
            if signal == Signal::INT {
                backfill.eventually_logs("interrupted with 5 paths to go; what is left stays queued, and the same command goes on");
            }
            let expected = (signal == Signal::INT).then_some(4);
            assert_eq!(backfill.wait_exit().code(), expected);
            storewatch.cache().unblock();
            let said = storewatch.cmd(&["backfill"]);
            assert!(said.stderr.contains("going on where the last one stopped"), "{said:?}");
            let said = said.ok();
            assert_eq!(line(&said, "uploaded"), "5", "{said}");
            assert_eq!(storewatch.cache().store_paths(), paths.into_iter().collect::<BTreeSet<_>>());
            storewatch.cache().assert_sound(&[]);
        }
    }

    fn resumed_it_looks_at_what_was_registered_since(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        let mut paths = store.build(&expr::many(3)).unwrap();
        is_interrupted_with(&storewatch, 3);
        paths.extend(store.build(&expr::many(2)).unwrap());
        let said = storewatch.cmd(&["backfill"]);
        assert!(said.stderr.contains("going on where the last one stopped"), "{said:?}");
        assert!(!said.stderr.contains("begins anew"), "{said:?}");
        assert_eq!(line(&said.ok(), "uploaded"), "5");
        assert_eq!(storewatch.cache().store_paths(), paths.into_iter().collect::<BTreeSet<_>>());
    }

    fn resumed_in_another_database_it_begins_anew(nix: Nix) {
        // Its rows end before where the backfill was, or go on beyond that.
        for built in [2, 12] {
            let store = ScratchStore::new(&nix);
            let storewatch = Storewatch::new(&store);
            store.build(&expr::many(6)).unwrap();
            is_interrupted_with(&storewatch, 6);
            fs::remove_dir_all(store.state_dir()).unwrap();
            let paths = store.build(&expr::many(built)).unwrap();
            let said = storewatch.cmd(&["backfill"]);
            let told = "the Nix database isn't the one any more of which this backfill has looked at a part: it begins anew";
            assert!(said.stderr.contains(told), "{said:?}");
            let said = said.ok();
            assert_eq!((line(&said, "uploaded"), line(&said, "collected")), (&*built.to_string(), "6"), "{said}");
            assert_eq!(line(&said, "skipped"), built.to_string(), "what was passed over before counts no more: {said}");
            assert_eq!(storewatch.cache().store_paths(), paths.into_iter().collect::<BTreeSet<_>>());
        }
    }

    fn by_another_policy_it_starts_anew(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        let (old, new) = (storewatch.cache_at("old"), storewatch.cache_at("new"));
        let policy = |cache: &str| format!("version = 1\n[caches.team]\nurl = \"{cache}\"\n");
        storewatch.policy(&policy(&old.url()));
        let paths = store.build(&expr::many(5)).unwrap();
        old.block();
        let mut backfill = storewatch.spawn(&["backfill"]);
        backfill.eventually("its jobs", || has_pending(&storewatch, 5));
        backfill.kill9();
        storewatch.policy(&policy(&new.url()));
        ends_well(storewatch.spawn(&["backfill"]));
        assert_eq!(new.store_paths(), paths.into_iter().collect::<BTreeSet<_>>());
    }

    fn what_cannot_be_delivered_is_named_and_gives_its_own_exit_code(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        let chain = store.query_closure(&store.build(&expr::chain(3)).unwrap()[0]);
        alter(&chain[1]);
        let said = storewatch.cmd(&["backfill"]);
        assert_eq!(said.code, Some(3), "{said:?}");
        let Said { stdout, .. } = said;
        let lines = ["uploaded", "failed", "held"].map(|what| line(&stdout, what));
        assert_eq!(lines, ["1", "1", "1"], "{stdout}");
        assert!(stdout.contains(&format!("{} -> local: its content has changed", base_name(&chain[1]))), "{stdout}");
        assert!(stdout.contains(&format!("{} -> local: needs {}", base_name(&chain[2]), base_name(&chain[1]))), "{stdout}");
    }
}

#[test]
fn only_to_one_of_two_caches() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let (one, other) = (storewatch.cache_at("one"), storewatch.cache_at("other"));
    let policy = format!(
        "version = 1\n[caches.one]\nurl = \"{}\"\n[caches.other]\nurl = \"{}\"\n\
         [[rules]]\nmatch = {{ name = \"small-0\" }}\naction = \"deny\"\nfrom = [\"one\"]\n",
        one.url(),
        other.url()
    );
    storewatch.policy(&policy);
    let paths = store.build(&expr::many(3)).unwrap();
    let said = storewatch.cmd(&["backfill", "--to", "one"]).ok();
    assert_eq!(line(&said, "uploaded"), "2", "{said}");
    assert_eq!(one.store_paths(), paths[1..].iter().cloned().collect::<BTreeSet<_>>(), "it never overrides a deny");
    assert!(other.store_paths().is_empty());
    storewatch.cmd(&["backfill"]).ok();
    assert_eq!(other.store_paths(), paths.into_iter().collect::<BTreeSet<_>>());
}

#[test]
fn beside_a_service_that_does_the_work() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let before = store.query_closure(&store.build(&expr::lattice(8, 1000)).unwrap()[0]);
    let mut running = storewatch.start();
    let fresh = store.build(&expr::many(1)).unwrap();
    running.eventually("what is fresh", || storewatch.cache_status("local")["done"] == 1);
    assert!(storewatch.cache().has_all(&fresh) && !storewatch.cache().has(&before[0]));
    let said = storewatch.cmd(&["backfill"]);
    let works = format!("storewatch run, process {} works the queue off", running.pid());
    assert!(said.stderr.contains(&works), "{said:?}");
    let said = said.ok();
    assert_eq!((line(&said, "uploaded"), line(&said, "already there")), ("8", "1"), "{said}");
    for path in &before {
        let uploaded = format!("uploaded path={} ", base_name(path));
        assert!(running.log().contains(&uploaded), "the service uploads {path}");
    }
    running.stop();
    storewatch.cache().assert_sound(&[]);
}

#[test]
fn it_goes_on_when_who_works_the_queue_off_ends() {
    let Some(nix) = Nix::recent() else { return };
    for at_work in ["run", "backfill"] {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        let paths = store.build(&expr::many(4)).unwrap();
        storewatch.cache().block();
        let mut first = storewatch.spawn(&[at_work]);
        let who = format!("storewatch {at_work}, process {}", first.pid());
        first.eventually("it is at work", || storewatch.cmd(&["status"]).stdout.contains(&format!("at work: {who}")));
        let mut backfill = storewatch.spawn(&["backfill"]);
        backfill.eventually_logs(&format!("{who} works the queue off"));
        backfill.eventually("its jobs", || has_pending(&storewatch, 4));
        first.kill9();
        backfill.eventually_logs(&format!("{who} has ended; going on in its place"));
        storewatch.cache().unblock();
        ends_well(backfill);
        assert_eq!(storewatch.cache().store_paths(), paths.into_iter().collect::<BTreeSet<_>>());
        storewatch.cache().assert_sound(&[]);
    }
}

#[test]
fn an_empty_store_has_nothing_to_fill_with() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let said = Storewatch::new(&store).cmd(&["backfill"]).ok();
    assert_eq!((line(&said, "uploaded"), line(&said, "already there")), ("0", "0"), "{said}");
}

fn has_pending(storewatch: &Storewatch<'_>, count: usize) -> bool {
    storewatch.jobs("pending").len() == count
}

/// A backfill that has looked at the whole store, and is interrupted before any of its jobs is done.
#[track_caller]
fn is_interrupted_with(storewatch: &Storewatch<'_>, jobs: usize) {
    storewatch.cache().block();
    let mut backfill = storewatch.spawn(&["backfill"]);
    backfill.eventually("its jobs", || has_pending(storewatch, jobs));
    backfill.signal(Signal::INT);
    assert_eq!(backfill.wait_exit().code(), Some(4));
    storewatch.cache().unblock();
}

#[track_caller]
fn ends_well(running: Running) {
    assert_eq!(running.wait_exit().code(), Some(0));
}

/// The first word behind the name of a line of the summary.
#[track_caller]
fn line<'s>(summary: &'s str, name: &str) -> &'s str {
    let line =
        summary.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}: {summary}"));
    line.split_whitespace().next().unwrap()
}

/// Changes a file of the store behind Nix's back.
fn alter(path: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, "altered").unwrap();
}

#[test]
fn a_push_brings_what_a_path_that_is_there_has_lost() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let chain = store.query_closure(&store.build(&expr::chain(2)).unwrap()[0]);
    let top = chain.last().unwrap();
    storewatch.cmd(&["push", top]).ok();
    assert!(storewatch.cache().has_all(&chain));
    lose(&storewatch, &chain[0]);
    storewatch.cmd(&["push", top]).ok();
    assert!(storewatch.cache().has_all(&chain));
}

#[test]
fn what_a_cache_lacks_far_behind_a_path_that_is_named_is_found_and_brought() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let chain = store.query_closure(&store.build(&expr::chain(5)).unwrap()[0]);
    let top = chain.last().unwrap();
    storewatch.cmd(&["push", top]).ok();
    for (command, beside) in [("push", false), ("backfill", false), ("push", true), ("backfill", true)] {
        let mut running = beside.then(|| storewatch.start());
        lose(&storewatch, &chain[0]);
        let said = storewatch.cmd(&[command, top]).ok();
        assert!(storewatch.cache().has_all(&chain), "{command}: {said}");
        assert_eq!((line(&said, "uploaded"), line(&said, "already there")), ("1", "4"), "{said}");
        running.take().into_iter().for_each(Running::stop);
    }
    // What is denied is looked past: it stays where it is, and nothing behind it is asked for.
    storewatch.policy("version = 1\n[[rules]]\nmatch = { name = \"chain-2\" }\naction = \"deny\"\n");
    lose(&storewatch, &chain[0]);
    let said = storewatch.cmd(&["push", top]).ok();
    assert_eq!((line(&said, "uploaded"), line(&said, "already there")), ("0", "2"), "{said}");
    assert!(!storewatch.cache().has(&chain[0]) && storewatch.jobs_left().is_empty());
}

/// As a cache's garbage collection may.
fn lose(storewatch: &Storewatch<'_>, path: &str) {
    let narinfo = format!("{}.narinfo", &base_name(path)[..32]);
    fs::remove_file(storewatch.cache().dir().join(narinfo)).unwrap();
}
