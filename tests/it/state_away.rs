//! A state directory that goes away under a running service, and comes back.

use crate::support::disk::MIB;
use crate::support::{Disk, Nix, ScratchStore, Storewatch, expr};
use std::fs;

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
    let aside = storewatch.state_dir().with_extension("aside");
    fs::rename(storewatch.state_dir(), &aside).unwrap();
    running.eventually_logs("is gone: it was unmounted or removed");
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
