//! What every binary cache has to stand, the same cases for each backend: a directory, Garage, a strict fake of S3 with and
//! without conditional PUT, nginx with WebDAV, and a program.

use crate::support::backend::{Backend, Who, write_random};
use crate::support::nix::Key;
use crate::support::s3::Op;
use crate::support::{
    Canned, Fault, FlakyProxy, Nix, On, Reader, Running, ScratchStore, Storewatch, expr, write_secret,
};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Makes a test of each case and backend, `CASE::BACKEND`: of all, where it says `Backend`; of those between which and us
/// there is a network, where it says `Server` (a program speaks to its own by itself, and what it says of that is tested
/// where programs are); of those that take large archives in parts, where it says `Bucket`.
macro_rules! each_backend {
    ($($(#[$meta:meta])* fn $case:ident($backend:ident: $which:ident, $store:ident: ScratchStore) $body:block)+) => {$(
        mod $case {
            use super::*;

            $(#[$meta])*
            fn run($backend: super::Backend, $store: ScratchStore) $body

            fn with(backend: fn() -> Option<Backend>) {
                let (Some(nix), Some(backend)) = (Nix::recent(), backend()) else { return };
                run(backend, ScratchStore::new(&nix));
            }

            each_backend!(@rows $which);
        }
    )+};
    (@rows Backend) => {
        each_backend!(@tests file, program);
        each_backend!(@rows Server);
    };
    (@rows Server) => {
        each_backend!(@tests nginx);
        each_backend!(@rows Bucket);
    };
    (@rows Bucket) => {
        each_backend!(@tests garage, fake_s3, fake_s3_that_only_overwrites);
    };
    (@tests $($name:ident),+) => {$(
        #[test]
        fn $name() {
            with(Backend::$name);
        }
    )+};
}

/// A key that signs, in a file as the policy wants it, and its public half.
fn signing_key(storewatch: &Storewatch<'_>, key: &Key) -> PathBuf {
    let file = storewatch.state_dir().with_file_name("signing");
    write_secret(&file, std::fs::read_to_string(&key.secret).unwrap());
    file
}

/// Waits until nothing is left to do, and everything is done.
#[track_caller]
pub(crate) fn eventually_done(running: &mut Running, storewatch: &Storewatch<'_>, jobs: usize) {
    running
        .eventually("the queue's end", || storewatch.jobs_left().is_empty() && storewatch.jobs("done").len() >= jobs);
}

/// Nix, which wants signatures, gets these paths and everything they need, and finds what was built.
#[track_caller]
fn assert_read_back(backend: &Backend, store: &ScratchStore, key: &str, paths: &[String]) {
    let closure: Vec<String> =
        paths.iter().flat_map(|path| store.query_closure(path)).collect::<BTreeSet<_>>().into_iter().collect();
    let reader = Reader::empty(store);
    reader.copy_from(&backend.substituter(), key, paths).unwrap();
    assert!(reader.all_valid(&closure));
    assert_eq!(reader.contents(&closure), store.contents(&closure));
}

each_backend! {
    fn a_closure_arrives_and_is_not_sent_again(backend: Backend, store: ScratchStore) {
        let storewatch = Storewatch::new(&store);
        let key = store.generate_key("team-1");
        storewatch.policy(&backend.policy(&storewatch, &store, &signing_key(&storewatch, &key)));
        let mut running = storewatch.start();
        let mut top = store.build(&expr::lattice(8, 100_000)).unwrap();
        // Three parts of an upload, and one that fits into a single request.
        top.extend(store.build(&expr::sized(12_000_000)).unwrap());
        let closure: BTreeSet<_> = top.iter().flat_map(|path| store.query_closure(path)).collect();
        eventually_done(&mut running, &storewatch, closure.len());
        running.stop();
        assert_read_back(&backend, &store, &key.public, &top);
        assert!(backend.has_just(closure.len()));

        let again = Storewatch::new(&store);
        again.policy(&backend.policy(&again, &store, &signing_key(&again, &key)));
        again.cmd(&["push", &top[0], &top[1]]).ok();
        assert!(backend.has_just(closure.len()), "what is there is not sent again");
        if let Backend::Fake(fake) = &backend {
            fake.assert_sound();
            let asked = fake.state().asked.clone();
            assert!(asked[&Op::Part] >= 3 && asked[&Op::Complete] == 1 && fake.state().most_in_flight <= 2, "{asked:?}");
        }
    }

    fn two_at_once_end_with_one_good_narinfo(backend: Backend, store: ScratchStore) {
        let hosts = [Storewatch::new(&store), Storewatch::new(&store)];
        let top = store.build(&expr::lattice(6, 3_000_000)).unwrap();
        let closure = store.query_closure(&top[0]);
        // Both sign with one key, so that a reader can't tell which of them it was.
        let key = store.generate_key("team-1");
        let mut pushing: Vec<Running> = Vec::new();
        for host in &hosts {
            host.policy(&backend.policy(host, &store, &signing_key(host, &key)));
            pushing.push(host.spawn(&["push", &top[0]]));
        }
        for pushing in pushing {
            assert!(pushing.wait_exit().success());
        }
        assert_read_back(&backend, &store, &key.public, &top);
        if let Backend::Fake(fake) = &backend {
            assert_eq!(fake.state().store_paths(), closure.iter().cloned().collect());
            if !fake.state().overwrites {
                fake.assert_sound();
            }
        }
    }

    fn wrong_credentials_wait_for_good_ones(backend: Server, store: ScratchStore) {
        let storewatch = Storewatch::new(&store);
        storewatch.policy(&backend.policy_at(&storewatch, backend.port(), Who::Nobody));
        let mut running = storewatch.start();
        let top = store.build(&expr::chain(3)).unwrap();
        let secret = backend.secret();
        running.eventually("the reason in the status", || {
            let status = storewatch.cache_status("team");
            status["waiting_why"].as_str().is_some_and(|why| why.contains(" at ") && !why.contains(&secret))
        });
        assert_eq!(storewatch.cache_status("team")["failed"], 0);
        let said = storewatch.cmd(&["cache", "ping"]);
        assert!(said.code == Some(1) && !said.stdout.contains(&secret), "{said:?}");
        backend.give(&storewatch, Who::Writer);
        eventually_done(&mut running, &storewatch, 3);
        let ping = storewatch.cmd(&["cache", "ping"]).ok();
        assert!(ping.contains("lets us read and push"), "{ping}");
        assert_eq!(storewatch.cmd(&["cache", "info", "team", "--json"]).json()["priority"], 50);
        let log = running.log();
        assert!(!log.contains(&secret), "the secret is in the log");
        running.stop();
        assert_read_back(&backend, &store, &storewatch.public_key("team"), &top);
    }

    fn who_may_only_read_waits_for_the_right_to_write(backend: Server, store: ScratchStore) {
        let storewatch = Storewatch::new(&store);
        storewatch.policy(&backend.policy_at(&storewatch, backend.port(), Who::Reader));
        let mut running = storewatch.start();
        let top = store.build(&expr::chain(2)).unwrap();
        let says = backend.says_of_readers();
        running.eventually("the reason in the status", || {
            storewatch.cache_status("team")["waiting_why"].as_str().is_some_and(|why| why.contains(says))
        });
        backend.let_the_reader_write(&storewatch);
        eventually_done(&mut running, &storewatch, 2);
        running.stop();
        assert_read_back(&backend, &store, &storewatch.public_key("team"), &top);
    }

    fn what_is_cut_in_the_middle_arrives_later_and_leaves_nothing(backend: Server, store: ScratchStore) {
        let proxy = FlakyProxy::before(backend.port());
        let storewatch = Storewatch::new(&store);
        storewatch.policy(&backend.policy_at(&storewatch, proxy.port(), Who::Writer));
        proxy.fail(On::Every, Fault::CutAfter(1_000_000));
        let mut running = storewatch.start();
        let mut paths = store.build(&expr::sized(12_000_000)).unwrap();
        paths.extend(store.build(&expr::sized(2_000_000)).unwrap());
        running.eventually("the fault", || proxy.faults() > 2);
        proxy.pass();
        eventually_done(&mut running, &storewatch, 2);
        assert_read_back(&backend, &store, &storewatch.public_key("team"), &paths);
        running.eventually("the rest to be taken back", || backend.has_just(2));
        running.stop();
    }

    fn a_server_that_takes_nothing_for_a_while_gets_everything_in_the_end(backend: Server, store: ScratchStore) {
        let proxy = FlakyProxy::before(backend.port());
        let storewatch = Storewatch::new(&store);
        storewatch.policy(&backend.policy_at(&storewatch, proxy.port(), Who::Writer));
        proxy.fail(On::Every, Fault::StallAfter(1_000_000));
        let mut running = storewatch.start();
        let large = store.build(&expr::sized(12_000_000)).unwrap();
        running.eventually("the stall", || proxy.faults() > 0);
        // What is small goes past it meanwhile.
        let small = store.build(&expr::many(2)).unwrap();
        running.eventually("the small ones", || storewatch.jobs("done").len() == 2);
        proxy.pass();
        eventually_done(&mut running, &storewatch, 3);
        running.stop();
        assert_read_back(&backend, &store, &storewatch.public_key("team"), &[large, small].concat());
        assert!(backend.has_just(3), "nothing was sent twice");
    }

    fn a_pause_that_is_asked_for_is_made_and_nothing_fails(backend: Server, store: ScratchStore) {
        let proxy = FlakyProxy::before(backend.port());
        let storewatch = Storewatch::new(&store);
        storewatch.policy(&backend.policy_at(&storewatch, proxy.port(), Who::Writer));
        proxy.fail(On::Every, Fault::Answer(Canned::slow_down(2)));
        let mut running = storewatch.start();
        let paths = store.build(&expr::chain(3)).unwrap();
        running.eventually("the reason in the status", || {
            storewatch.cache_status("team")["waiting_why"].as_str().is_some_and(|why| why.contains("503"))
        });
        proxy.pass();
        eventually_done(&mut running, &storewatch, 3);
        assert_eq!(storewatch.jobs("failed"), Vec::<serde_json::Value>::new());
        running.stop();
        assert_read_back(&backend, &store, &storewatch.public_key("team"), &paths);
    }

    fn what_a_killed_upload_left_is_gone_after_the_next_start(backend: Bucket, store: ScratchStore) {
        let proxy = FlakyProxy::before(backend.port());
        let storewatch = Storewatch::new(&store);
        storewatch.policy(&backend.policy_at(&storewatch, proxy.port(), Who::Writer));
        proxy.fail(On::Every, Fault::StallAfter(1_000_000));
        let mut running = storewatch.start();
        let paths = store.build(&expr::sized(12_000_000)).unwrap();
        let notes = storewatch.state_dir().join("unfinished/team");
        running.eventually("a note of an upload in parts", || {
            let notes = std::fs::read_dir(&notes).into_iter().flatten().flatten();
            notes.filter_map(|note| std::fs::read_to_string(note.path()).ok()).any(|text| text.lines().count() == 3)
        });
        running.kill9();
        assert!(!backend.has_just(0), "an upload in parts has begun");
        proxy.pass();
        let mut running = storewatch.start();
        eventually_done(&mut running, &storewatch, 1);
        running.eventually("the rest to be taken back", || backend.has_just(1));
        running.stop();
        assert_read_back(&backend, &store, &storewatch.public_key("team"), &paths);
    }

    fn an_archive_that_was_not_shown_before_the_kill_is_gone_after_the_next_start(backend: Server, store: ScratchStore) {
        let proxy = FlakyProxy::before(backend.port());
        let storewatch = Storewatch::new(&store);
        storewatch.policy(&backend.policy_at(&storewatch, proxy.port(), Who::Writer));
        proxy.fail(On::Every, Fault::StallAfter(1_000_000));
        let mut running = storewatch.start();
        // The archive of the small ones is sent; their narinfos wait for that of the large ones, which hang.
        let top = store.build(&expr::lattice(3, 3_000_000)).unwrap();
        running.eventually("an archive", || proxy.faults() >= 2 && backend.archives() == 1);
        assert_eq!(storewatch.jobs("done"), Vec::<serde_json::Value>::new());
        running.kill9();
        proxy.pass();
        let mut running = storewatch.start();
        eventually_done(&mut running, &storewatch, 3);
        running.eventually("the rest to be taken back", || backend.has_just(3));
        running.stop();
        assert_read_back(&backend, &store, &storewatch.public_key("team"), &top);
    }

    fn a_limit_holds_for_what_is_sent(backend: Server, store: ScratchStore) {
        let storewatch = Storewatch::new(&store);
        let key = store.generate_key("team-1");
        let policy = backend.policy(&storewatch, &store, &signing_key(&storewatch, &key));
        let source = store.root().join("random");
        write_random(&source, 1, 200_000);
        let path = store.add(&source);
        storewatch.policy(&format!("{policy}bandwidth = \"100 kB/s\"\n"));
        let began = Instant::now();
        storewatch.cmd(&["backfill", &path]).ok();
        let took = began.elapsed();
        assert!(took > Duration::from_millis(1500), "200 kB at 100 kB/s in {took:?}");
        assert_read_back(&backend, &store, &key.public, &[path]);
    }
}
