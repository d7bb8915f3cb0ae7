//! Ends of all kinds: by `kill -9` at each step of a path's way, by signals, and by a second one of the kind.

use crate::support::{Nix, ScratchStore, Storewatch, each_nix, expr};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::thread;

/// Some 100 ms of packing for a fast machine: time enough to see it happen.
const LARGE: u64 = 40_000_000;

each_nix! {
    fn killed_after_paths_were_admitted(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        storewatch.cache().block();
        let mut running = storewatch.start();
        let paths = store.query_closure(&store.build(&expr::lattice(10, 1000)).unwrap()[0]);
        running.eventually("all jobs in the queue", || storewatch.jobs("pending").len() == paths.len());
        running.kill9();
        assert_eq!(storewatch.jobs_left().len(), paths.len());
        storewatch.cache().unblock();
        all_arrive_once(&storewatch, &paths);
    }

    fn killed_in_mid_stream(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        // One is read while the others have been claimed and wait for their turn.
        storewatch.policy("version = 1\n[limits]\nuploads = 1\n");
        storewatch.start().stop();
        let paths: Vec<_> = (0..3).map(|_| store.build(&expr::sized(LARGE)).unwrap().remove(0)).collect();
        let mut running = storewatch.start();
        running.eventually("the first upload", || storewatch.cache().largest_temporary_file() > 100_000);
        running.kill9();
        let claimed = storewatch.jobs("uploading").len();
        assert!(claimed > 0, "nothing was under way any more: make the path larger");
        assert_ne!(storewatch.cache().temporary_files(), BTreeSet::new());
        all_arrive_once(&storewatch, &paths);
    }

    fn killed_when_a_path_is_published_and_the_queue_does_not_know(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        let mut running = storewatch.start();
        let path = store.build(&expr::sized(LARGE)).unwrap().remove(0);
        running.eventually("the upload", || storewatch.cache().largest_temporary_file() > 100_000);
        // Whoever writes into the queue waits for this transaction, some seconds long.
        let queue = rusqlite::Connection::open(storewatch.state_dir().join("queue.sqlite")).unwrap();
        queue.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
        queue.execute_batch("BEGIN IMMEDIATE").unwrap();
        running.eventually("the narinfo", || storewatch.cache().has(&path));
        running.kill9();
        drop(queue);
        assert_eq!(storewatch.jobs("uploading").len(), 1, "the queue knew already: make the path larger");
        let archives = storewatch.cache().archives();
        all_arrive_once(&storewatch, &[path]);
        assert_eq!(storewatch.cache().archives(), archives, "it was uploaded a second time");
    }

    fn killed_at_any_moment_of_a_build(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        storewatch.start().stop();
        let paths = thread::scope(|scope| {
            let building = scope.spawn(|| store.build(&expr::many(60)).unwrap());
            // Numbers that look random and are the same each time: after so many more paths it is killed.
            for more in [1, 0, 3, 1, 5, 0, 2, 7, 1, 4] {
                let mut running = storewatch.start();
                let enough = storewatch.cache().narinfos().len() + more;
                let enough_or_over = || storewatch.cache().narinfos().len() >= enough || building.is_finished();
                running.eventually("some more paths, or the end of the build", enough_or_over);
                running.kill9();
            }
            building.join().unwrap()
        });
        all_arrive_once(&storewatch, &paths);
        let key = storewatch.public_key("local");
        store.read_back(&storewatch.cache().url(), &key, &paths).unwrap();
    }
}

#[test]
fn an_archive_whose_narinfo_never_appeared_is_swept_and_anothers_is_not() {
    let Some(nix) = Nix::v2_8() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let mut running = storewatch.start();
    let paths = store.build(&expr::many(1)).unwrap();
    running.eventually("a path", || storewatch.cache().has_all(&paths));
    running.stop();
    // As a kill between the two renames leaves it, here and on another host that uses the cache.
    let queue = rusqlite::Connection::open(storewatch.state_dir().join("queue.sqlite")).unwrap();
    let instance = "select value from meta where key = 'instance'";
    let instance: String = queue.query_row(instance, [], |row| row.get(0)).unwrap();
    let dir = storewatch.cache().dir().to_owned();
    for (whose, archive) in [(instance.as_str(), "nar/ours.nar.zst"), ("0123456789abcdef", "nar/theirs.nar.zst")] {
        let narinfo = format!("StorePath: {}\nURL: {archive}\n", paths[0]);
        std::fs::write(dir.join(format!(".tmp/{whose}.fedcba9876543210.7")), narinfo).unwrap();
        std::fs::write(dir.join(archive), "").unwrap();
    }
    let mut running = storewatch.start();
    let later = store.build(&expr::many(1)).unwrap();
    running.eventually("another path", || storewatch.cache().has_all(&later));
    running.stop();
    let archives = storewatch.cache().archives();
    assert!(!archives.contains("nar/ours.nar.zst") && archives.contains("nar/theirs.nar.zst"), "{archives:?}");
    assert_eq!((archives.len(), storewatch.cache().temporary_files().len()), (3, 1));
}

#[test]
fn told_to_end_in_mid_upload_it_finishes_or_hands_back() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let slow = storewatch.cache_at("slow");
    // At this level a core packs some MB a second: it takes longer than the service gives it.
    storewatch.policy(&format!("version = 1\n[caches.slow]\nurl = \"{}?compression-level=19\"\n", slow.url()));
    let mut running = storewatch.start();
    let small = store.build(&expr::many(1)).unwrap().remove(0);
    running.eventually("a small path", || slow.has(&small));
    let large = store.build(&expr::sized(600_000_000)).unwrap().remove(0);
    running.eventually("the upload", || slow.largest_temporary_file() > 100_000);
    // Told twice in one breath is told once. Two signals, since two of one kind may reach it as one.
    running.signal(Signal::INT);
    running.stop();
    let job = &storewatch.jobs_left()[0];
    assert_eq!((&job["state"], &job["attempts"]), (&"pending".into(), &0.into()), "it was handed back: {job}");
    let nothing_half = || !slow.has(&large) && slow.has(&small) && slow.archives().len() == 1;
    assert!(nothing_half());

    // A second signal doesn't wait for what is under way.
    let mut running = storewatch.start();
    running.eventually("the upload again", || storewatch.jobs("uploading").len() == 1);
    running.terminate();
    running.eventually_logs("ending: what is under way");
    // At once it would be taken for the first.
    running.eventually_ends_by(Signal::INT, 130);
    assert_eq!(storewatch.jobs("uploading").len(), 1);
    let told = storewatch.cmd(&["status"]).ok();
    assert!(told.contains("1 interrupted in mid-upload") && !told.contains("1 uploading"), "{told}");
    let listed = storewatch.cmd(&["queue", "list"]).ok();
    assert!(listed.contains("  interrupted in mid-upload"), "{listed}");
    assert!(nothing_half());

    // And nothing is lost by that; a thread that was packing when its process ended may have left a file, which goes.
    let left = slow.temporary_files();
    let mut running = storewatch.start();
    let anew = || slow.temporary_files().is_disjoint(&left) && slow.largest_temporary_file() > 100_000;
    running.eventually("the upload once more", anew);
}

#[test]
fn told_to_end_while_nothing_can_be_done_it_ends() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    storewatch.cache().block();
    let mut running = storewatch.start();
    let paths = store.build(&expr::many(3)).unwrap();
    running.eventually("jobs that wait", || storewatch.jobs("pending").len() == 3);
    running.signal(Signal::INT);
    assert_eq!(running.wait_exit().code(), Some(0));
    storewatch.cache().unblock();
    all_arrive_once(&storewatch, &paths);
}

#[test]
fn one_state_directory_has_one_service() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let mut running = storewatch.start();
    let second = storewatch.cmd(&["run"]);
    assert_eq!(second.code, Some(1), "{second:?}");
    let said = format!("storewatch run, process {} is already working with the state directory", running.pid());
    assert!(second.stderr.contains(&said) && second.stderr.contains("hint:"), "{}", second.stderr);
    // The first one goes on as if nothing had been.
    let path = store.build(&expr::many(1)).unwrap().remove(0);
    running.eventually("a path", || storewatch.cache().has(&path));
}

#[test]
fn a_service_waits_for_a_backfill_and_goes_on_where_it_was_left() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let paths = store.build(&expr::many(3)).unwrap();
    storewatch.cache().block();
    let mut backfill = storewatch.spawn(&["backfill"]);
    backfill.eventually("its jobs", || storewatch.jobs("pending").len() == 3);
    let mut running = storewatch.run();
    running.eventually_logs(&format!("waiting: storewatch backfill, process {}", backfill.pid()));
    assert!(!running.log().contains("the Nix database is open"));
    storewatch.cache().unblock();
    backfill.kill9();
    running.eventually("what the backfill left", || storewatch.cache().has_all(&paths));
    running.eventually_logs("the Nix database is open");
    let later = store.build(&expr::many(1)).unwrap();
    running.eventually("what is built later", || storewatch.cache().has_all(&later));
    running.stop();
    storewatch.cache().assert_sound(&[]);
}

/// Starts the service, which is to bring all these paths into the cache, once each, and nothing else.
#[track_caller]
fn all_arrive_once(storewatch: &Storewatch<'_>, paths: &[String]) {
    let mut running = storewatch.start();
    running.eventually("everything in the cache", || storewatch.cache().has_all(paths));
    running.eventually("the queue's end", || storewatch.jobs_left().is_empty());
    running.stop();
    storewatch.cache().assert_sound(&[]);
    assert_eq!(storewatch.cache().store_paths(), paths.iter().cloned().collect::<BTreeSet<_>>());
    assert_eq!(storewatch.jobs("done").len(), paths.len());
}
