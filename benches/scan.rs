//! A first scan and the policy over a large database, as a whole process: `storewatch backfill --dry-run`, and the service
//! after its queue had to be replaced, which reads everything from the beginning.
//!
//! The database has Nix's own schema (`nix-store --init` makes it) and rows as a host with many generations has them:
//! names of packages, sizes over five orders of magnitude, a signature, a deriver and some references each. Decided by
//! name, neither references nor signatures are looked at; where each signature must be verified, both are. That takes
//! so much longer that fewer rows are read, and the time for all is reckoned from it.

#![allow(clippy::unwrap_used, reason = "a bench that can't go on panics, with the line that says where")]

mod common;
#[allow(dead_code, unused_imports, unused_macros, reason = "the tests use all of it")]
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use common::{Random, measured, median, memory, mib, row, seconds, size};
use rusqlite::{Connection, OpenFlags, params};
use storewatch::nix::{NarHash, PathInfo, SecretKey, StoreDir, fingerprint};
use support::{Nix, ScratchStore, Storewatch};

const BY_NAME: &str = r#"
[[rules]]
match = { name = ["cuda*", "*-unfree-*", "nvidia-x11-*"] }
action = "deny"
[[rules]]
match = { name = ["*.drv", "source", "*-source"] }
action = "skip"
[[rules]]
match = { name = ["linux-*", "*-modules-shrunk", "initrd-*"] }
action = "skip"
[[rules]]
match = { name = "*" }
action = "skip"
"#;

const WORDS: [&str; 24] = [
    "python3.12",
    "perl5.40",
    "haskell",
    "rust",
    "lib",
    "glibc",
    "openssl",
    "systemd",
    "gcc",
    "llvm",
    "xorg",
    "font",
    "texlive",
    "kde",
    "gnome",
    "nodejs",
    "go",
    "linux",
    "firmware",
    "boost",
    "qt",
    "gtk",
    "ffmpeg",
    "unit",
];

const LIMIT: Duration = Duration::from_secs(4);
const MEMORY: u64 = 64 << 20;

fn main() {
    let (rows, signed, rounds) = (size(1_000_000, 20_000), size(100_000, 2_000), size(5, 1));
    let Some(nix) = Nix::v2_8() else { return };

    let store = ScratchStore::new(&nix);
    fill(&store, rows, None);
    common::headline(&format!("scan: {rows} valid paths, {rounds} rounds, medians"));
    let sorted = |(wall, peak): (Duration, u64), what: &str| {
        let ratio = wall.as_secs_f64() / LIMIT.as_secs_f64();
        let (time_goal, memory_goal) = (("<= 4.00 s", wall <= LIMIT), ("<= 64 MiB", peak <= MEMORY));
        row(what, &seconds(wall), "4 s", Some(ratio), Some(time_goal).filter(|_| !common::quick()));
        row(&format!("{what}: peak resident"), &mib(peak), "64 MiB", None, Some(memory_goal));
    };
    // How long SQLite alone takes to hand over the same columns, without anything being made of them.
    let read = median((0..rounds).map(|_| read_only(&store)).collect());
    let by_name = (0..rounds).map(|_| dry_run(&store, BY_NAME)).collect::<Vec<_>>();
    sorted(middle(&by_name), "scan by name: backfill --dry-run");
    println!("{:>62} {} SQLite alone", "", seconds(read));
    let rescans = (0..rounds).map(|_| rescan(&store, rows)).collect::<Vec<_>>();
    sorted(middle(&rescans), "scan by name: service with a new queue");

    let store = ScratchStore::new(&nix);
    let key = SecretKey::generate("bench-1").unwrap();
    fill(&store, signed, Some(&key));
    let policy = format!("[upstreams]\nkeys = [\"{}\"]\n", key.public());
    // Steady work of one thread: a few rounds tell as much as many.
    let verified = (0..rounds.min(3)).map(|_| dry_run(&store, &policy)).collect::<Vec<_>>();
    let (wall, peak) = middle(&verified);
    let scaled = wall * u32::try_from(rows / signed).unwrap();
    row(
        &format!("scan, each signature verified: {signed} rows"),
        &seconds(wall),
        &format!("{:.0} µs a row", wall.as_secs_f64() * 1e6 / signed as f64),
        None,
        None,
    );
    println!("{:>62} {} reckoned for {rows}, {} resident", "", seconds(scaled), mib(peak));
}

fn middle(measured: &[(Duration, u64)]) -> (Duration, u64) {
    let of = |index: usize| measured.iter().map(move |round| [round.0.as_nanos() as u64, round.1][index]).collect();
    (Duration::from_nanos(median(of(0))), measured.iter().map(|round| round.1).max().unwrap())
}

fn dry_run(store: &ScratchStore, policy: &str) -> (Duration, u64) {
    let storewatch = Storewatch::new(store);
    storewatch.policy(&format!("version = 1\n[limits]\npriority = \"normal\"\n{policy}"));
    let usage = measured(storewatch.command().env_remove("STOREWATCH_LOG").args(["backfill", "--dry-run"]));
    (usage.wall, usage.peak)
}

/// The service whose queue was corrupt: from its start until the cursor stands at the last row.
fn rescan(store: &ScratchStore, rows: usize) -> (Duration, u64) {
    let storewatch = Storewatch::new(store);
    storewatch.policy(&format!("version = 1\n[limits]\npriority = \"normal\"\n{BY_NAME}"));
    let queue = storewatch.state_dir().join("queue.sqlite");
    std::fs::write(&queue, "no database, and longer than the header of one: ".repeat(100)).unwrap();
    let began = Instant::now();
    let mut running = storewatch.run_with(|command| {
        command.env("STOREWATCH_LOG", "info");
    });
    let mut wall = Duration::ZERO;
    let reached = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let row = Connection::open_with_flags(&queue, flags)
            .and_then(|queue| queue.query_row("SELECT max(row) FROM cursor", [], |row| row.get::<_, i64>(0)));
        wall = began.elapsed();
        row.is_ok_and(|row| row >= rows as i64)
    };
    running.eventually("the cursor at the last row", reached);
    let peak = memory(running.pid(), "VmHWM");
    running.terminate();
    running.wait_exit();
    (wall, peak)
}

fn read_only(store: &ScratchStore) -> Duration {
    let database = Connection::open_with_flags(store.db_path(), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let began = Instant::now();
    let sql =
        "SELECT id, path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca FROM ValidPaths ORDER BY id";
    let mut statement = database.prepare(sql).unwrap();
    let mut rows = statement.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        std::hint::black_box((row.get_ref(1).unwrap(), row.get_ref(2).unwrap(), row.get_ref(7).unwrap()));
    }
    began.elapsed()
}

/// Fills a database that Nix has made. With a key each signature is a true one; without, it only looks like one.
fn fill(store: &ScratchStore, rows: usize, key: Option<&SecretKey>) {
    let mut database = Connection::open(store.db_path()).unwrap();
    database.pragma_update(None, "synchronous", "off").unwrap();
    let transaction = database.transaction().unwrap();
    let dir = StoreDir::new(store.store_dir().to_str().unwrap());
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut paths: Vec<String> = Vec::with_capacity(rows);
    {
        let mut insert = transaction
            .prepare(
                "INSERT INTO ValidPaths (path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca)
                 VALUES (?1, ?2, ?3, ?4, ?5, NULL, ?6, NULL)",
            )
            .unwrap();
        let mut refer = transaction.prepare("INSERT OR IGNORE INTO Refs VALUES (?1, ?2)").unwrap();
        for number in 0..rows {
            let word = |random: &mut Random| WORDS[random.below(WORDS.len() as u64) as usize];
            let name = format!("{}-{}-{}.{}", word(&mut random), word(&mut random), number % 40, random.below(100));
            let base = format!("{}-{name}", random.hash_part());
            let path = format!("{}/{base}", dir.as_str());
            let deriver = format!("{}/{}-{name}.drv", dir.as_str(), random.hash_part());
            let mut hash = NarHash([0; 32]);
            hash.0.chunks_mut(8).for_each(|eight| eight.copy_from_slice(&random.next().to_le_bytes()));
            let nar_size = random.sized(512, 100 << 20);
            let mut references: Vec<usize> =
                (0..random.below(7)).filter(|_| number > 0).map(|_| random.below(number as u64) as usize).collect();
            references.sort_unstable();
            references.dedup();
            let sigs = match key {
                Some(key) => {
                    let references = references.iter().map(|number| dir.parse(&paths[*number]).unwrap()).collect();
                    let info = PathInfo {
                        id: None,
                        path: dir.parse(&path).unwrap(),
                        nar_hash: hash,
                        nar_size,
                        registration_time: 0,
                        deriver: None,
                        ultimate: false,
                        sigs: Vec::new(),
                        ca: None,
                        references: Some(references),
                    };
                    key.sign(&fingerprint(&dir, &info))
                }
                None => format!(
                    "cache.nixos.org-1:{}{}==",
                    random.hash_part(),
                    "AbCdEfGhIjKlMnOpQrStUvWxYz0123456789+/AbCdEfGhIjKlMnOp"
                ),
            };
            let hex: String = hash.0.iter().map(|byte| format!("{byte:02x}")).collect();
            let time = 1_700_000_000 + number as i64 / 10;
            insert.execute(params![path, format!("sha256:{hex}"), time, deriver, nar_size as i64, sigs]).unwrap();
            for reference in references {
                refer.execute(params![number as i64 + 1, reference as i64 + 1]).unwrap();
            }
            paths.push(path);
        }
    }
    transaction.commit().unwrap();
    database.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
}
