//! Filling a cache of an Attic server, against the bare PUTs that it takes at least: as many at once, of archives that are
//! packed already, with nobody asking anything. Storewatch sends at normal priority there, as they do; its default is low,
//! which matters on this machine alone, where the server wants the same processors.
//!
//! A server is another machine's, as a rule, and small paths keep it busy. So it has a processor of its own there, and
//! whoever sends another one; where all share all of them is measured beside.
//!
//! `ATTICD` names a real server; without one the strict fake stands in, and the figures are about storewatch alone. Every
//! run has a server of its own, since Attic keeps what is the same in two caches once.

#![allow(clippy::unwrap_used, reason = "a bench that can't go on panics, with the line that says where")]

mod common;
#[allow(dead_code, unused_imports, unused_macros, reason = "the tests use all of it")]
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::machine::Machine;
use common::processors::Processors;
use common::{Random, Usage, measured, median, mib, millis, row, seconds, size};
use hyper::Method;
use rusqlite::{Connection, OpenFlags};
use storewatch::nix::nar::{NarOptions, encode};
use storewatch::nix::{Database, StoreDir};
use support::nix::base_name;
use support::{AtticServer, Grant, Nix, Running, ScratchStore, Storewatch, Visibility};
use tokio::runtime::Runtime;

/// Uploads at once, here and there: storewatch's default.
const AT_ONCE: usize = 4;

/// Between two looks: what is measured is right within it.
const LOOK: Duration = Duration::from_micros(500);

/// One that takes longer is lost, and the bench with it.
const LOST: Duration = Duration::from_secs(60);

fn main() {
    let Some(nix) = Nix::recent() else { return };
    type Part = fn(&Nix);
    let parts: [(&str, Part); 4] =
        [("latency", latency), ("small", many_small), ("large", a_large_one), ("away", away)];
    common::wanted(parts).for_each(|part| part(&nix));
}

fn server() -> (&'static str, AtticServer) {
    match AtticServer::real() {
        Some(server) => ("real server", server),
        None => ("fake server", AtticServer::fake()),
    }
}

/// A server with an empty cache `team`, and the policy of a storewatch that fills it at that priority.
fn site<'a>(store: &'a ScratchStore, attic: &AtticServer, priority: &str) -> (Storewatch<'a>, String) {
    attic.create("team", Visibility::Public, store);
    let token = attic.token(&Grant::all(&["team"]));
    let storewatch = Storewatch::new(store);
    let file = storewatch.policy_path().with_file_name("token");
    support::write_secret(&file, &token);
    storewatch.policy(&format!(
        "version = 1\n[limits]\npriority = \"{priority}\"\n[caches.team]\nurl = \"{}\"\ntoken = {{ file = \"{}\" }}\n",
        attic.url("team"),
        file.display()
    ));
    (storewatch, token)
}

fn latency(nix: &Nix) {
    let count = size(200, 20);
    let (kind, attic) = server();
    common::headline(&format!("Attic ({kind}): commit to narinfo, {count} paths of 4 KiB, one after the other"));
    let store = ScratchStore::new(nix);
    let (storewatch, token) = site(&store, &attic, "low");
    let mut running = storewatch.run_with(|command| {
        command.env("STOREWATCH_LOG", "info");
    });
    running.eventually_logs("watching");
    let database = Connection::open_with_flags(store.db_path(), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut newest = database.prepare("SELECT path FROM ValidPaths WHERE id > ?1").unwrap();
    let mut random = Random(7);
    let source = store.root().join("source");
    let mut ours = Vec::new();
    for _ in 0..count {
        write_random(&source, 4096, &mut random);
        let last: i64 = database.query_row("SELECT ifnull(max(id), 0) FROM ValidPaths", [], |row| row.get(0)).unwrap();
        let mut add = store.command("nix-store").arg("--add").arg(&source).stdout(Stdio::null()).spawn().unwrap();
        let path: String = wait(|| newest.query_row([last], |row| row.get(0)).ok());
        let committed = Instant::now();
        wait(|| is_there(&attic, &path).then_some(()));
        ours.push(committed.elapsed());
        assert!(add.wait().unwrap().success());
        std::thread::sleep(Duration::from_millis(50) + Duration::from_micros(random.below(20_000)));
    }
    end(running);

    // The same, without storewatch, of other paths.
    let mut bare = Vec::new();
    let others = store.root().join("others");
    fs::create_dir(&others).unwrap();
    for number in 0..count {
        write_random(&others.join(number.to_string()), 4096, &mut random);
    }
    for archive in archives(&store, &add(&store, &others)) {
        let began = Instant::now();
        block_on(put(client(), attic.port(), token.clone(), archive.clone()));
        wait(|| is_there(&attic, &archive.path).then_some(()));
        bare.push(began.elapsed());
    }
    let (ours, bare) = (median(ours), median(bare));
    let more = ours.saturating_sub(bare);
    let goal = ("<= 60 ms", more <= Duration::from_millis(60));
    row(
        "commit to narinfo: more than the bare PUT",
        &millis(more),
        &format!("{} - {}", millis(ours), millis(bare)),
        None,
        Some(goal),
    );
}

fn many_small(nix: &Nix) {
    let (count, store) = (size(1_000, 100), ScratchStore::new(nix));
    let sources = store.root().join("sources");
    fs::create_dir(&sources).unwrap();
    let (machine, mut random) = (Machine::look(), Random(11));
    for number in 0..count {
        let (source, len) = (sources.join(format!("small-{number}")), random.sized(1024, 256 * 1024));
        fs::create_dir(&source).unwrap();
        machine.copy_some(len, &source, &mut random).unwrap();
    }
    let paths = add(&store, &sources);
    beside_bare_puts(&store, &format!("{count} small paths"), &paths, size(9, 1), Processors::Apart);
    beside_bare_puts(
        &store,
        &format!("{count} small paths, on its processors"),
        &paths,
        size(9, 1),
        Processors::Shared,
    );
}

fn a_large_one(nix: &Nix) {
    let (len, store) = (size(1 << 30, 64 << 20) as u64, ScratchStore::new(nix));
    let sources = store.root().join("sources");
    fs::create_dir_all(sources.join("large")).unwrap();
    Machine::look().copy_some(len, &sources.join("large"), &mut Random(11)).unwrap();
    // A real server takes a minute for a GiB.
    beside_bare_puts(&store, &format!("one of {}", mib(len)), &add(&store, &sources), 1, Processors::Shared);
}

fn beside_bare_puts(store: &ScratchStore, what: &str, paths: &[String], rounds: usize, processors: Processors) {
    let archives = archives(store, paths);
    let fresh_server = || {
        processors.of_servers();
        let (_, attic) = server();
        processors.of_clients();
        attic
    };
    // They are kept to the end: what is deleted in between makes the file system slow for whoever comes next.
    let mut servers = Vec::new();
    let (mut ours, mut bare, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let (kind, _) = server();
    common::headline(&format!("Attic ({kind}): {what}, {rounds} rounds, medians"));
    for _ in 0..rounds {
        let attic = fresh_server();
        let (_, token) = site(store, &attic, "normal");
        bare.push(bare_puts(&attic, &token, &archives));
        servers.push(attic);
        let attic = fresh_server();
        let (storewatch, _) = site(store, &attic, "normal");
        let usage = measured(storewatch.command().env_remove("STOREWATCH_LOG").arg("backfill").args(paths));
        assert!(paths.iter().all(|path| attic.has("team", path)), "backfill left something out");
        servers.push(attic);
        ours.push(usage);
        // Each pair for itself, since the machine is not the same at all times.
        ratios.push((bare[bare.len() - 1].as_micros() * 1_000 / usage.wall.as_micros()) as u32);
        eprintln!("{} ({} of CPU), bare {}", seconds(usage.wall), seconds(usage.cpu), seconds(bare[bare.len() - 1]));
    }
    Processors::Shared.of_clients();
    let time = median(ours.iter().map(|usage: &Usage| usage.wall).collect());
    let bare = median(bare);
    let ratio = f64::from(median(ratios)) / 1e3;
    let goal = (processors == Processors::Apart || rounds == 1).then_some((">= 0.95", ratio >= 0.95));
    row(what, &seconds(time), &format!("bare PUTs: {}", seconds(bare)), Some(ratio), goal);
    let peak = ours.iter().map(|usage| usage.peak).max().unwrap();
    row("  resident at most", &mib(peak), "64 MiB", None, Some(("<= 64 MiB", peak <= 64 << 20)));
}

/// A server that is away, with a long queue for it.
fn away(nix: &Nix) {
    let (count, watched) = (size(10_000, 500), Duration::from_secs(size(20, 5) as u64));
    common::headline(&format!("Attic away, {count} paths queued, looked at for {} s", watched.as_secs()));
    let store = ScratchStore::new(nix);
    let mut attic = AtticServer::fake();
    let (storewatch, _) = site(&store, &attic, "low");
    attic.stop();
    let mut running = storewatch.run_with(|command| {
        command.env("STOREWATCH_LOG", "info");
    });
    running.eventually_logs("takes nothing");
    let sources = store.root().join("sources");
    fs::create_dir(&sources).unwrap();
    (0..count).for_each(|number| fs::write(sources.join(number.to_string()), number.to_string()).unwrap());
    add(&store, &sources);
    running.eventually("all of them in the queue", || storewatch.cache_status("team")["pending"] == count);
    let before = common::cpu(running.pid());
    std::thread::sleep(watched);
    let share = (common::cpu(running.pid()) - before).as_secs_f64() / watched.as_secs_f64() * 100.0;
    row("CPU of one core", &format!("{share:.2} %"), "-", None, Some(("<= 1 %", share <= 1.0)));
    let resident = common::memory(running.pid(), "VmRSS");
    row("resident", &mib(resident), "-", None, None);
    end(running);
}

fn end(running: Running) {
    running.terminate();
    running.wait_exit();
}

fn is_there(attic: &AtticServer, path: &str) -> bool {
    let file = format!("/team/{}.narinfo", &base_name(path)[..32]);
    attic.question(Method::HEAD, &file).ask().is_ok_and(|answer| answer.status == 200)
}

fn write_random(file: &Path, len: u64, random: &mut Random) {
    let content: Vec<u8> = (0..len / 8).flat_map(|_| random.next().to_le_bytes()).collect();
    fs::write(file, content).unwrap();
}

/// Adds every file of a folder to the store.
fn add(store: &ScratchStore, folder: &Path) -> Vec<String> {
    let files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let mut paths = Vec::new();
    for some in files.chunks(1_000) {
        let added = store.command("nix-store").arg("--add").args(some).output().unwrap();
        assert!(added.status.success());
        paths.extend(String::from_utf8(added.stdout).unwrap().lines().map(str::to_owned));
    }
    assert_eq!(paths.len(), files.len());
    paths
}

/// A path's archive, ready to be sent.
#[derive(Clone)]
struct Archive {
    path: String,
    info: String,
    nar: PathBuf,
    len: u64,
    _folder: Arc<tempfile::TempDir>,
}

fn archives(store: &ScratchStore, paths: &[String]) -> Vec<Archive> {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let store_dir = StoreDir::new(store.store_dir().to_str().unwrap());
    let database = Database::open(&store.db_path(), &store_dir).unwrap();
    let pack = |path: &String| {
        let name = base_name(path);
        let info = database.path_info(&store_dir.parse_below(Path::new(path)).unwrap()).unwrap().unwrap();
        let nar = folder.path().join(name);
        let mut file = File::create(&nar).unwrap();
        let packed = encode(&store.store_dir().join(name), &NarOptions::default(), |chunk| file.write_all(&chunk));
        packed.unwrap_or_else(|_| panic!("no archive of {path}"));
        let info = serde_json::json!({
            "cache": "team", "store_path_hash": &name[..32], "store_path": path, "references": [], "system": null,
            "deriver": null, "sigs": [], "ca": info.ca, "nar_hash": format!("sha256:{}", info.nar_hash.to_hex()),
            "nar_size": info.nar_size,
        });
        let len = fs::metadata(&nar).unwrap().len();
        Archive { path: path.clone(), info: info.to_string(), nar, len, _folder: Arc::clone(&folder) }
    };
    paths.iter().map(pack).collect()
}

/// So many PUTs at once, until all are sent.
fn bare_puts(attic: &AtticServer, token: &str, archives: &[Archive]) -> Duration {
    let queue = Arc::new(Mutex::new(archives.iter().cloned().collect::<VecDeque<_>>()));
    let port = attic.port();
    let client = client();
    // Its own, since it is where whoever begins it is.
    let runtime = runtime();
    let began = Instant::now();
    runtime.block_on(async {
        let mut senders = tokio::task::JoinSet::new();
        for _ in 0..AT_ONCE {
            let (queue, token, client) = (Arc::clone(&queue), token.to_owned(), client.clone());
            senders.spawn(async move {
                loop {
                    let Some(archive) = queue.lock().unwrap().pop_front() else { return };
                    put(client.clone(), port, token.clone(), archive).await;
                }
            });
        }
        while let Some(sent) = senders.join_next().await {
            sent.unwrap();
        }
    });
    began.elapsed()
}

fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

async fn put(client: reqwest::Client, port: u16, token: String, archive: Archive) {
    let (sender, chunks) = tokio::sync::mpsc::channel::<Result<Vec<u8>, std::io::Error>>(4);
    let mut file = File::open(&archive.nar).unwrap();
    tokio::task::spawn_blocking(move || {
        loop {
            let mut chunk = vec![0; 256 * 1024];
            let read = file.read(&mut chunk).unwrap();
            chunk.truncate(read);
            if read == 0 || sender.blocking_send(Ok(chunk)).is_err() {
                return;
            }
        }
    });
    let answer = client
        .put(format!("http://127.0.0.1:{port}/_api/v1/upload-path"))
        .header("Authorization", format!("bearer {token}"))
        .header("X-Attic-Nar-Info", &archive.info)
        .header("Content-Length", archive.len)
        .body(reqwest::Body::wrap_stream(Chunks(chunks)))
        .send()
        .await
        .unwrap();
    let status = answer.status();
    assert!(status.is_success(), "{status}: {}", answer.text().await.unwrap());
    answer.bytes().await.unwrap();
}

struct Chunks(tokio::sync::mpsc::Receiver<Result<Vec<u8>, std::io::Error>>);

impl futures_core::Stream for Chunks {
    type Item = Result<Vec<u8>, std::io::Error>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    static RUNTIME: std::sync::LazyLock<Runtime> = std::sync::LazyLock::new(runtime);
    RUNTIME.block_on(future)
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

fn wait<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(began.elapsed() < LOST, "what was waited for didn't come");
        std::thread::sleep(LOOK);
    }
}
