//! A state directory that goes away under a running service, and comes back.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use crate::support::backend::write_program;
use crate::support::disk::MIB;
use crate::support::{Disk, Nix, ScratchStore, Storewatch, expr};

#[test]
fn what_was_unmounted_is_waited_for_and_nothing_is_written_beneath() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let Some(_disk) = Disk::mount(storewatch.cache_at("disk").dir(), 8 * MIB) else { return };
    let bound = Disk::bind(storewatch.cache_at("disk").dir(), &storewatch.state_dir());
    let cache = storewatch.cache_at("elsewhere");
    storewatch.policy(&format!("version = 1\n[caches.elsewhere]\nurl = \"{}\"\n", cache.url()));
    let mut running = storewatch.start_with(|run| {
        run.arg("--no-events");
    });
    let first = store.build(&expr::many(1)).unwrap();
    running.eventually("a path", || cache.has_all(&first));
    bound.unmount();
    running.eventually_logs("is gone: it was unmounted or removed; nothing is watched or uploaded");
    let status = storewatch.cmd(&["status"]).ok();
    assert!(status.contains("at work: storewatch run") && status.contains("is gone: it was unmounted"), "{status}");
    for command in [&["pause"][..], &["limit", "1MiB/s"], &["queue", "list"], &["backfill"], &["run"]] {
        let said = storewatch.cmd(command);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.stderr.contains("with which storewatch run, process") && said.stderr.contains("hint: mount it"));
    }
    let doctor = storewatch.cmd(&["doctor"]).stdout;
    assert!(
        doctor.contains("trouble  state directory: ") && doctor.contains("it was unmounted or removed"),
        "{doctor}"
    );
    let paths = store.build(&expr::many(3)).unwrap();
    assert_eq!(fs::read_dir(storewatch.state_dir()).unwrap().count(), 0, "nothing is written beneath");
    let _bound = Disk::bind(storewatch.cache_at("disk").dir(), &storewatch.state_dir());
    running.eventually("all of them", || cache.has_all(&paths));
    running.eventually_logs("is back");
    assert!(!storewatch.cmd(&["status"]).ok().contains("is gone"));
    running.stop();
    cache.assert_sound(&[]);
}

#[test]
fn what_was_moved_away_is_waited_for_and_not_made_anew() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let cache = storewatch.cache_at("elsewhere");
    storewatch.policy(&format!("version = 1\n[caches.elsewhere]\nurl = \"{}\"\n", cache.url()));
    let mut running = storewatch.start();
    let first = store.build(&expr::many(1)).unwrap();
    running.eventually("a path", || cache.has_all(&first));
    storewatch.cmd(&["pause", "--backfill"]).ok();
    running.eventually_logs("bandwidth of backfill: paused by hand");
    let mut beside = storewatch.spawn(&["backfill"]);
    beside.eventually_logs("works the queue off");
    let aside = storewatch.state_dir().with_extension("aside");
    fs::rename(storewatch.state_dir(), &aside).unwrap();
    running.eventually_logs("is gone: it was unmounted or removed");
    // It doesn't take over what nobody would find.
    beside.eventually_logs("is not the one any more that this command has begun with");
    assert_eq!(beside.wait_exit().code(), Some(1));
    assert_eq!(storewatch.cmd(&["pause"]).code, Some(1));
    assert!(running.is_running(), "it waits rather than ends");
    let paths = store.build(&expr::many(2)).unwrap();
    assert!(!storewatch.state_dir().exists(), "nobody makes it anew");
    fs::rename(&aside, storewatch.state_dir()).unwrap();
    running.eventually("all of them", || cache.has_all(&paths));
    running.stop();
    // Told to end while it is away, it does.
    let mut running = storewatch.start();
    fs::rename(storewatch.state_dir(), &aside).unwrap();
    running.eventually_logs("is gone: it was unmounted or removed");
    running.stop();
}

#[test]
fn a_backfill_that_fails_keeps_its_lock_until_what_is_under_way_is_through() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let [begun, go_on, program] = ["begun", "go-on", "program"].map(|name| store.root().join(name));
    let waits = format!(": > {}; while [ ! -e {} ]; do sleep 0.05; done", begun.display(), go_on.display());
    write_program(&program, &format!("#!/bin/sh\n{waits}\n"));
    storewatch.policy(&format!("version = 1\n[caches.team]\nurl = \"command://{}\"\n", program.display()));
    store.build(&expr::many(1)).unwrap();
    let mut backfill = storewatch.spawn(&["backfill"]);
    backfill.eventually("an upload", || begun.exists());
    let aside = storewatch.state_dir().with_extension("aside");
    fs::rename(storewatch.state_dir(), &aside).unwrap();
    backfill.eventually_logs("ending: what is under way is finished");
    let at = |command: &[&str]| storewatch.cmd(&[&["--state-dir", aside.to_str().unwrap()], command].concat()).ok();
    let at_work = format!("at work: storewatch backfill, process {}", backfill.pid());
    let status = at(&["status"]);
    assert!(status.contains(&at_work), "{status}");
    fs::write(go_on, "").unwrap();
    backfill.eventually_logs("is not the one any more that this command has begun with");
    assert_eq!(backfill.wait_exit().code(), Some(1));
    assert_eq!(at(&["queue", "list", "--json", "--state", "uploading"]).trim(), "[]", "neither done nor handed back");
}

#[test]
fn a_queue_that_is_removed_while_it_is_open_is_put_back() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let mut running = storewatch.start();
    storewatch.cmd(&["pause"]).ok();
    let pending = store.build(&expr::many(2)).unwrap();
    running.eventually("they are queued", || storewatch.jobs_left().len() == 2);
    for suffix in ["", "-shm", "-wal"] {
        fs::remove_file(storewatch.state_dir().join(format!("queue.sqlite{suffix}"))).unwrap();
    }
    running.eventually_logs("was removed while it was open; all of it was still known");
    running.eventually_logs_times("the Nix database is open", 2);
    running.kill9();
    let mut running = storewatch.start();
    assert_eq!(storewatch.jobs_left().len(), 2, "what is pending, and that it is paused, is known");
    storewatch.cmd(&["resume"]).ok();
    running.eventually("what was pending", || storewatch.cache().has_all(&pending));
    // Only a part of it.
    fs::remove_file(storewatch.state_dir().join("queue.sqlite-wal")).unwrap();
    running.eventually_logs("was removed while it was open; all of it was still known");
    let later = store.build(&expr::many(2)).unwrap();
    running.eventually("what is built afterwards", || storewatch.cache().has_all(&later));
    running.stop();
}

#[test]
fn a_queue_that_is_damaged_while_it_is_open_is_noticed() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let mut running = storewatch.start_with(|run| {
        run.arg("--no-events");
    });
    let first = store.build(&expr::many(2)).unwrap();
    running.eventually("the paths", || storewatch.cache().has_all(&first));
    // Whoever still writes would meet it; at rest it has to be looked for.
    let log = storewatch.state_dir().join("queue.sqlite-wal");
    let rests =
        || fs::metadata(&log).unwrap().modified().unwrap().elapsed().is_ok_and(|rest| rest > Duration::from_secs(1));
    running.eventually("the queue at rest", || storewatch.jobs_left().is_empty() && rests());
    let file = OpenOptions::new().write(true).open(storewatch.state_dir().join("queue.sqlite")).unwrap();
    file.write_all_at(&[b'x'; 60_000], 0).unwrap();
    running.eventually_logs("the queue was damaged while it was open");
    running.eventually_logs("the queue was corrupt; it is kept as");
    let later = store.build(&expr::many(2)).unwrap();
    running.eventually("what is built afterwards", || storewatch.cache().has_all(&later));
    running.stop();
}
