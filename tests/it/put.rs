//! Caches on web servers, beyond what every backend has to stand: what goes over the wire; where servers differ (`servers`);
//! and how they know us (`keys`). With a real nginx.

mod keys;
mod servers;

use crate::backend_contract::eventually_done;
use crate::support::backend::{Backend, Who};
use crate::support::nginx::{READER, WRITABLE, WRITER};
use crate::support::tls::{Authority, Certificate, Clients};
use crate::support::{
    Canned, Fault, FlakyProxy, Nginx, Nix, On, Reader, Running, ScratchStore, Storewatch, each_nix, eventually, expr,
    write_secret,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// A policy with nginx's folder, and what stands behind it, as the cache `team`, with these further lines.
fn policy(storewatch: &Storewatch<'_>, port: u16, behind: &str, lines: &str) {
    storewatch.policy(&format!("version = 1\n[caches.team]\nurl = \"http://127.0.0.1:{port}/nix{behind}\"\n{lines}"));
}

/// The lines by which nginx knows who may write; the password is in that file.
fn login(file: &Path) -> String {
    write_secret(file, WRITER.1);
    format!("user = \"{}\"\npassword = {{ file = \"{}\" }}\n", WRITER.0, file.display())
}

#[track_caller]
fn eventually_waits_because(running: &mut Running, storewatch: &Storewatch<'_>, words: &str) {
    running.eventually(&format!("the reason {words:?}"), || {
        let status = storewatch.cache_status("team");
        assert_eq!(status["failed"], 0, "{status}");
        status["waiting_why"].as_str().is_some_and(|why| why.contains(words))
    });
}

each_nix! {
    fn nix_reads_back_what_was_put(nix: Nix) {
        let Some(nginx) = Nginx::start() else { return };
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        let login = login(&storewatch.state_dir().with_file_name("password"));
        policy(&storewatch, nginx.port(), "/?write-nar-listing=true&write-build-logs=true&priority=7", &login);
        let mut running = storewatch.start();
        let mut top = store.build(&expr::lattice(6, 2_000_000)).unwrap();
        top.extend(store.build(&expr::script("said", "echo the log says so >&2; echo x > $out")).unwrap());
        eventually_done(&mut running, &storewatch, 7);
        running.stop();

        let closure: Vec<String> = top.iter().flat_map(|path| store.query_closure(path)).collect();
        let key = storewatch.public_key("team");
        let reader = Reader::empty(&store);
        reader.copy_from(&nginx.website(), &key, &top).unwrap();
        assert_eq!(reader.contents(&closure), store.contents(&closure));
        let substituted = Reader::empty(&store);
        substituted.substitute(&nginx.website(), &key, &top).unwrap();
        assert!(substituted.all_valid(&closure));
        let other = store.generate_key("other-1");
        assert!(Reader::empty(&store).copy_from(&nginx.website(), &other.public, &top).is_err());
        let cache = nginx.cache();
        let listing = std::fs::read_to_string(cache.dir().join(format!("{}.ls", hash(&top[0])))).unwrap();
        assert!(listing.contains("\"root\""), "{listing}");
        let logs = std::fs::read_dir(cache.dir().join("log")).unwrap();
        let logs: String = logs.map(|log| std::fs::read_to_string(log.unwrap().path()).unwrap()).collect();
        assert!(logs.contains("the log says so"), "{logs}");
        assert!(std::fs::read_to_string(cache.dir().join("nix-cache-info")).unwrap().contains("Priority: 7\n"));

        // The archive first, in chunks, then the narinfo, as soon as it may be shown, then what goes beside it; and
        // nothing over anything.
        let asked = nginx.asked();
        let mut put = BTreeMap::new();
        for (at, asked) in asked.iter().enumerate().filter(|(_, asked)| asked.method == "PUT") {
            assert_eq!(asked.status, 201, "{asked:?}: none was there");
            assert_eq!(asked.chunked, asked.file.starts_with("nar/"), "{asked:?}");
            assert_eq!(put.insert(asked.file.clone(), at), None, "{asked:?}: put twice");
        }
        for path in &closure {
            let narinfo = put[&format!("{}.narinfo", hash(path))];
            assert!(put[&cache.narinfo(path).unwrap().url] < narinfo && narinfo < put[&format!("{}.ls", hash(path))]);
        }
        let log = put.iter().find(|(file, _)| file.starts_with("log/") && file.ends_with("-said.drv")).unwrap();
        assert!(put[&format!("{}.narinfo", hash(top.last().unwrap()))] < *log.1);
        assert!(asked.iter().all(|asked| asked.method != "DELETE"), "{asked:?}");
    }
}

/// Whoever has the files may prune them meanwhile, and other hosts only see what the server gives out.
#[test]
fn an_archive_that_a_prune_is_about_to_remove_is_sent_again() {
    let (Some(nix), Some(nginx)) = (Nix::recent(), Nginx::start()) else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let login = login(&storewatch.state_dir().with_file_name("password"));
    let cache = nginx.cache();
    let use_it = || policy(&storewatch, nginx.port(), "", &login);
    let prune = || {
        storewatch.policy(&format!("version = 1\n[caches.team]\nurl = \"{}\"\n", cache.url()));
        storewatch.cmd(&["cache", "prune", "team", "--max-size", "0B", "--grace", "1s", "--yes"]).ok()
    };
    let build = |name: &str| store.build(&expr::script(name, "echo the same > $out")).unwrap().remove(0);
    let (one, two, three) = (build("one"), build("two"), build("three"));
    use_it();
    storewatch.cmd(&["push", &one]).ok();
    storewatch.cmd(&["push", &two]).ok();
    let archive = |path: &str| cache.narinfo(path).unwrap().url;
    let first = archive(&one);
    assert_eq!(first, archive(&two), "the server has it already");
    eventually("both hidden", || {
        prune();
        !cache.has(&one) && !cache.has(&two)
    });
    // As if the prune had been a moment ago.
    std::fs::write(cache.dir().join(&first), "about to go").unwrap();
    for entry in std::fs::read_dir(cache.dir().join("pruned")).unwrap().flatten() {
        if entry.file_name().to_str().unwrap().ends_with(".narinfo") {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    use_it();
    storewatch.cmd(&["push", &three]).ok();
    assert_ne!(archive(&three), first);
    store.read_back(&nginx.website(), &storewatch.public_key("team"), &[three]).unwrap();
}

fn hash(path: &str) -> &str {
    &crate::support::nix::base_name(path)[..32]
}

/// Four uploads of what doesn't compress, to a server that stalls: what is held then is all that ever is.
#[test]
fn four_large_uploads_take_little_memory() {
    let Some(nix) = Nix::recent() else { return };
    for line in ["", "compression_level = 6\n"] {
        let Some(nginx) = Nginx::start() else { return };
        let (store, proxy) = (ScratchStore::new(&nix), FlakyProxy::before(nginx.port()));
        let storewatch = Storewatch::new(&store);
        let login = login(&storewatch.state_dir().with_file_name("password"));
        policy(&storewatch, proxy.port(), "", &(login + line));
        proxy.fail(On::Every, Fault::StallAfter(1_000_000));
        let mut running = storewatch.start();
        (0..4).for_each(|_| drop(store.build(&expr::sized(40_000_000)).unwrap()));
        running.eventually("four that stall", || nginx.arriving() == 4);
        // As much as it ever reads ahead is read.
        let (pid, mut last) = (running.pid(), (String::new(), Instant::now()));
        running.eventually("it reads no more", || {
            let read = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
            if read.lines().next() != last.0.lines().next() {
                last = (read, Instant::now());
            }
            last.1.elapsed() > Duration::from_secs(1)
        });
        proxy.pass();
        eventually_done(&mut running, &storewatch, 4);
        let peak = running.peak();
        assert!((1..=96 << 10).contains(&peak), "{peak} KiB were resident");
        println!("{peak} KiB were resident at most, {line:?}");
        running.stop();
    }
}
