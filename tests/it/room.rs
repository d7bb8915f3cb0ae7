//! Disks that are full or read-only: what can't be written waits, says why, and arrives once there is room.

use crate::support::nix::skipped;
use crate::support::{CacheDir, Nix, Said, ScratchStore, Storewatch, expr};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

const MIB: u64 = 1024 * 1024;

#[test]
fn a_full_cache_waits_and_the_others_go_on() {
    let Some(store) = scratch() else { return };
    let storewatch = Storewatch::new(&store);
    let (small, roomy) = (storewatch.cache_at("small"), storewatch.cache_at("roomy"));
    let Some(disk) = Disk::mount(small.dir(), 4 * MIB) else { return };
    storewatch.policy(&policy_for(&small, &roomy));
    let mut running = storewatch.start();
    let first = store.build(&expr::many(1)).unwrap();
    running.eventually("a path in both", || small.has_all(&first) && roomy.has_all(&first));

    disk.fill();
    let paths: Vec<_> = (0..3).map(|_| store.build(&expr::sized(700_000)).unwrap().remove(0)).collect();
    running.eventually("all of them where there is room", || roomy.has_all(&paths));
    running.eventually("the reason in the status", || waits_because(&storewatch, "small", "No space left"));
    assert_eq!(storewatch.cache_status("roomy")["waiting_why"], serde_json::Value::Null);
    assert!(storewatch.cmd(&["status"]).ok().contains("takes nothing for "));
    assert_eq!((small.store_paths().len(), small.archives().len()), (1, 1), "nothing half is shown");
    assert_eq!(storewatch.cache_status("small")["failed"], 0);

    // Asked again and again, it says so once for each thing that it tried in vain, not once for each try.
    running.eventually_logs_times("given back", 4);
    let told = running.log().matches("the cache takes nothing for now").count();
    assert!(told <= 2, "told {told} times");

    disk.clear();
    running.eventually("all of them", || small.has_all(&paths));
    running.eventually("the queue's end", || storewatch.jobs_left().is_empty());
    assert_eq!(storewatch.cache_status("small")["waiting_why"], serde_json::Value::Null);
    running.stop();
    small.assert_sound(&[]);
    store.read_back(&small.url(), &storewatch.public_key("small"), &paths).unwrap();
}

#[test]
fn a_read_only_cache_waits_and_the_others_go_on() {
    let Some(store) = scratch() else { return };
    let storewatch = Storewatch::new(&store);
    let (fixed, roomy) = (storewatch.cache_at("fixed"), storewatch.cache_at("roomy"));
    let Some(disk) = Disk::mount(fixed.dir(), 4 * MIB) else { return };
    disk.remount("ro");
    storewatch.policy(&policy_for(&fixed, &roomy));
    let mut running = storewatch.start();
    let paths = store.query_closure(&store.build(&expr::chain(3)).unwrap()[0]);
    running.eventually("all of them in the other", || roomy.has_all(&paths));
    running.eventually("the reason in the status", || waits_because(&storewatch, "fixed", "Read-only file system"));
    assert_eq!(storewatch.cache_status("fixed")["pending"], 3);
    disk.remount("rw");
    running.eventually("all of them", || fixed.has_all(&paths));
    running.stop();
    fixed.assert_sound(&[]);
}

#[test]
fn the_embedded_cache_leaves_a_tenth_of_the_disk_free() {
    let Some(store) = scratch() else { return };
    let storewatch = Storewatch::new(&store);
    let Some(disk) = Disk::mount(&storewatch.state_dir(), 40 * MIB) else { return };
    // Room enough for all that follows, but less than a tenth.
    disk.leave_free(3 * MIB);
    let mut running = storewatch.start();
    let paths = store.build(&expr::many(3)).unwrap();
    running.eventually("the reason in the status", || {
        waits_because(&storewatch, "local", "the cache takes nothing below 10 %")
    });
    running.eventually("the jobs, waiting", || storewatch.jobs("pending").len() == 3);
    assert!(storewatch.cache().narinfos().is_empty() && storewatch.cache().archives().is_empty());
    disk.clear();
    running.eventually("all of them", || storewatch.cache().has_all(&paths));
    running.stop();
    storewatch.cache().assert_sound(&[]);
}

#[test]
fn a_full_disk_under_the_queue_loses_nothing() {
    let Some(store) = scratch() else { return };
    let storewatch = Storewatch::new(&store);
    let Some(disk) = Disk::mount(&storewatch.state_dir(), 8 * MIB) else { return };
    let cache = storewatch.cache_at("elsewhere");
    storewatch.policy(&format!("version = 1\n[caches.elsewhere]\nurl = \"{}\"\n", cache.url()));
    let mut running = storewatch.start();
    let mut paths = store.build(&expr::many(1)).unwrap();
    running.eventually("a path", || cache.has_all(&paths));
    disk.fill();
    // Enough that the queue needs more room than its file has.
    paths.extend(store.build(&expr::many(100)).unwrap());
    // Whether it waits or ends is its own affair; it has to say so, and to go on once there is room.
    running.eventually_logs("full");
    drop(running);
    disk.clear();
    let mut running = storewatch.start();
    running.eventually("all of them", || cache.has_all(&paths));
    running.eventually("the queue's end", || storewatch.jobs_left().is_empty());
    running.stop();
    cache.assert_sound(&[]);
}

fn scratch() -> Option<ScratchStore> {
    Nix::recent().map(|nix| ScratchStore::new(&nix))
}

fn policy_for(small: &CacheDir, roomy: &CacheDir) -> String {
    let name = small.dir().file_name().unwrap().to_str().unwrap();
    let (small, roomy) = (small.url(), roomy.url());
    format!("version = 1\n[caches.{name}]\nurl = \"{small}\"\n[caches.roomy]\nurl = \"{roomy}\"\n")
}

fn waits_because(storewatch: &Storewatch<'_>, cache: &str, reason: &str) -> bool {
    storewatch.cache_status(cache)["waiting_why"].as_str().is_some_and(|why| why.contains(reason))
}

/// A small disk in memory. Gone when dropped.
struct Disk {
    mounted: PathBuf,
}

impl Disk {
    /// Mounts it; says so where that isn't allowed here.
    fn mount(at: &Path, bytes: u64) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let size = format!("size={bytes},mode=755");
        let said = Said::by(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "storewatch-test"]).arg(at));
        if said.code != Some(0) {
            skipped(&format!("no disk can be mounted here: {}", said.stderr.trim()));
            return None;
        }
        Some(Self { mounted: at.to_owned() })
    }

    fn remount(&self, mode: &str) {
        Said::by(Command::new("mount").args(["-o", &format!("remount,{mode}")]).arg(&self.mounted)).ok();
    }

    /// Leaves not a byte.
    fn fill(&self) {
        self.leave_free(0);
    }

    /// Fills it until only so many bytes are free.
    fn leave_free(&self, bytes: u64) {
        let stat = rustix::fs::statvfs(&self.mounted).unwrap();
        let free = stat.f_bavail * stat.f_frsize;
        let filler = vec![1; usize::try_from(free - bytes).unwrap()];
        match fs::write(self.filler(), filler) {
            // Somebody else has taken some of it meanwhile.
            Err(error) if error.kind() == ErrorKind::StorageFull => {}
            written => written.unwrap(),
        }
    }

    fn clear(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.mounted.join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whoever still has a file open there doesn't keep it.
        let _ = Command::new("umount").arg("--lazy").arg(&self.mounted).output();
    }
}
