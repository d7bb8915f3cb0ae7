//! The service stands back behind what else runs on this host, with all of its threads.

use crate::support::{Nix, ScratchStore, Storewatch};
use rustix::process::{Resource, Rlimit};
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn at_low_priority_every_thread_is_nicer_and_leaves_a_processor() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let ours = of_thread(Path::new("/proc/self"));
    let nicer = (ours.0.max(10), ours.1.saturating_sub(1).max(1));
    for (policy, expected) in [("", nicer), ("[limits]\npriority = \"normal\"\n", ours)] {
        let storewatch = Storewatch::new(&store);
        storewatch.policy(&format!("version = 1\n{policy}"));
        let running = storewatch.start();
        let threads = fs::read_dir(format!("/proc/{}/task", running.pid())).unwrap();
        // The allocator's own begin before the program does, and do next to nothing.
        let is_ours = |thread: &PathBuf| !fs::read_to_string(thread.join("comm")).unwrap().starts_with("jemalloc");
        let threads: Vec<_> =
            threads.map(|thread| thread.unwrap().path()).filter(is_ours).map(|path| of_thread(&path)).collect();
        assert!(threads.len() > 2 && threads.iter().all(|thread| *thread == expected), "{policy}: {threads:?}");
        running.stop();
    }
}

/// Its memory has secrets in it.
#[test]
fn a_crash_leaves_no_core_file() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let limits = rustix::process::getrlimit(Resource::Core);
    if limits.maximum == Some(0) {
        println!("skipped: nobody may have core files here");
        return;
    }
    rustix::process::setrlimit(Resource::Core, Rlimit { current: limits.maximum, ..limits }).unwrap();
    let core = |pid: &str| {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap().trim().to_owned()
    };
    assert!(!core("self").starts_with("0 "));
    let running = storewatch.start();
    let limit = core(&running.pid().to_string());
    assert!(limit.starts_with("0 "), "{limit}");
    running.stop();
}

/// Its niceness, and how many processors it may run on.
fn of_thread(folder: &Path) -> (i64, u32) {
    let status = fs::read_to_string(folder.join("status")).unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed:")).unwrap();
    let stat = fs::read_to_string(folder.join("stat")).unwrap();
    // The name is in parentheses and may have any characters; niceness is the 17th field behind it (proc_pid_stat(5)).
    let nice = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(16).unwrap().parse().unwrap();
    (nice, mask.chars().filter_map(|digit| digit.to_digit(16)).map(u32::count_ones).sum())
}
