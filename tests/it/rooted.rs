//! What is being uploaded is kept from the garbage collector, and nothing else is, or for longer.

use crate::support::backend::write_program;
use crate::support::nix::base_name;
use crate::support::{Nix, Running, ScratchStore, Storewatch, collecting, eventually, expr};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;

/// A cache that notes what it is to take, and takes it once there is a file `go`.
const WAITS: &str = "#!/bin/sh\nfolder=$(dirname \"$0\")\nread -r what\necho \"$what\" >> \"$folder/begun\"\n\
                     until [ -e \"$folder/go\" ]; do sleep 0.02; done\n";

fn policy(url: &str) -> String {
    format!("version = 1\n[caches.team]\nurl = \"{url}\"\n")
}

#[test]
fn what_is_being_uploaded_is_not_collected() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let daemon = store.daemon();
    let storewatch = Storewatch::new(&store);
    let program = store.root().join("waits");
    write_program(&program, WAITS);
    storewatch.policy(&policy(&format!("command://{}", program.display())));
    let mut running = storewatch.start();
    let path = daemon.build(&expr::many(1)).unwrap().remove(0);
    let begun = store.root().join("begun");
    running.eventually("the upload", || begun.exists());
    for _ in 0..3 {
        store.gc();
        assert!(store.valid(&path), "{path} was collected while it was uploaded\n{}", running.log());
    }
    fs::write(store.root().join("go"), "").unwrap();
    running.eventually("the path", || storewatch.jobs("done").len() == 1);
    // The service goes on, and lets go of it by and by.
    running.eventually("the end of the root", || {
        store.gc();
        !store.valid(&path)
    });
    running.stop();
}

/// Whatever brought it into the queue: a path that is collected while it waits for its turn is not read, and one that is
/// registered anew by then is uploaded as what it is now.
#[test]
fn what_was_collected_before_its_turn_is_not_read_and_what_was_built_again_is() {
    let Some(nix) = Nix::recent() else { return };
    for way in ["fresh", "backfill", "push", "retry"] {
        let store = ScratchStore::new(&nix);
        let _daemon = store.daemon();
        let storewatch = Storewatch::new(&store);
        let program = store.root().join("waits");
        write_program(&program, WAITS);
        storewatch.policy(&format!("{}uploads = 1\n", policy(&format!("command://{}", program.display()))));
        let expressions = [(); 3].map(|()| expr::sized(3 << 20));
        let build =
            || expressions.iter().map(|expression| store.build(expression).unwrap().remove(0)).collect::<Vec<_>>();
        let mut paths = if way == "fresh" { Vec::new() } else { build() };
        if way == "retry" {
            // A program that fails for good, and is mended.
            write_program(&program, "#!/bin/sh\nexit 65\n");
            assert_eq!(storewatch.cmd(&["backfill"]).code, Some(3));
            write_program(&program, WAITS);
        }
        let mut running = storewatch.start();
        let mut asking = None;
        match way {
            "fresh" => paths = build(),
            "retry" => drop(storewatch.cmd(&["queue", "retry"]).ok()),
            "push" => {
                asking = Some(
                    storewatch
                        .spawn(&std::iter::once("push").chain(paths.iter().map(String::as_str)).collect::<Vec<_>>()),
                )
            }
            _ => asking = Some(storewatch.spawn(&["backfill"])),
        }
        let begun = || fs::read_to_string(store.root().join("begun")).unwrap_or_default();
        running.eventually("the first upload", || begun().lines().count() == 1);
        running.eventually("the others at their turns", || storewatch.jobs("uploading").len() == 3);
        let first = begun();
        let [again, gone] = {
            let others: Vec<_> = (0..3).filter(|n| !first.contains(base_name(&paths[*n]))).collect();
            [others[0], others[1]]
        };
        store.delete(&[paths[again].clone(), paths[gone].clone()]);
        assert_eq!(store.build(&expressions[again]).unwrap(), [paths[again].clone()]);
        fs::write(store.root().join("go"), "").unwrap();
        running.eventually("both that are there", || storewatch.jobs("done").len() == 2);
        running.eventually("the end of the one that is gone", || storewatch.jobs("gone").len() == 1);
        let begun = begun();
        let times = |path: &str| begun.lines().filter(|line| line.contains(base_name(path))).count();
        assert_eq!((times(&paths[again]), times(&paths[gone])), (1, 0), "{way}: {begun}");
        running.stop();
        drop(asking);
    }
}

#[test]
fn builds_uploads_and_collections_side_by_side_lose_nothing() {
    let Some(nix) = Nix::recent() else { return };
    let tally = collecting::beside_each_other(&nix, 20);
    println!("{tally:?}");
    assert!(tally.uploaded_after_they_had_gone.is_empty(), "{tally:?}");
    assert!(tally.lost.is_empty() && tally.kept_after_a_stop.is_empty(), "{tally:?}");
    assert_eq!(tally.uploaded + tally.gone + tally.unseen, tally.built, "{tally:?}");
    assert!(tally.uploaded > 0 && tally.collections > 0, "{tally:?}");
}

/// A daemon that was started anew, and one that has hung, cost roots but no uploads.
#[test]
fn a_daemon_that_ends_or_hangs_stops_no_upload() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let daemon = store.daemon();
    let cache = storewatch.cache_at("cache");
    storewatch.policy(&policy(&cache.url()));
    let mut running = storewatch.start();
    let arrives = |running: &mut Running, what: &str| {
        let path = store.build(&expr::many(1)).unwrap().remove(0);
        running.eventually(what, || cache.has(&path));
    };
    arrives(&mut running, "a path with a daemon");
    assert!(!running.log().contains("nothing keeps from the garbage collector"), "{}", running.log());
    drop(daemon);
    arrives(&mut running, "a path while the daemon has gone");
    let daemon = store.daemon();
    arrives(&mut running, "a path with another daemon");
    kill_process(Pid::from_raw(daemon.pid().try_into().unwrap()).unwrap(), Signal::STOP).unwrap();
    arrives(&mut running, "a path while the daemon hangs");
    drop(daemon);
    running.stop();
}

#[test]
fn without_a_daemon_that_is_said_once() {
    let Some(nix) = Nix::v2_8() else { return };
    let store = ScratchStore::new(&nix);
    let daemon = store.daemon();
    let storewatch = Storewatch::new(&store);
    let cache = storewatch.cache_at("cache");
    storewatch.policy(&policy(&cache.url()));
    let mut running = storewatch.start();
    for _ in 0..2 {
        let path = store.build(&expr::many(1)).unwrap().remove(0);
        running.eventually("the path", || cache.has(&path));
    }
    eventually("what is said of it", || running.log().contains("protocol 1.34"));
    running.terminate();
    let log = running.log();
    assert_eq!(log.matches("nothing keeps from the garbage collector").count(), 1, "{log}");
    drop(daemon);
}
