//! How true limits are, what they cost, who goes first, and how an upload in the background gives way.
//!
//! A server on the loopback notes when each byte comes. The last part needs a line of its own, made of two network namespaces
//! and a queue that lets 10 Mbit/s through, and says so where it may not make one.

#![allow(clippy::unwrap_used, reason = "a bench that can't go on panics, with the line that says where")]

mod common;
#[path = "common/line.rs"]
mod line;
#[allow(dead_code, unused_imports, unused_macros, reason = "the tests use all of it")]
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{Random, headline, median, millis, row, size};
use line::Line;
use support::{Nix, Receiver, Running, ScratchStore, Storewatch};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Over so long a limit is to look like one.
const WINDOW: Duration = Duration::from_millis(500);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(1);

/// What takes longer is lost, and the bench with it.
const LOST: Duration = Duration::from_secs(120);

fn main() {
    let Some(nix) = Nix::recent() else { return };
    type Part = fn(&Nix);
    let parts: [(&str, Part); 4] =
        [("limits", limits), ("cost", cost), ("fresh", fresh_beside_backfill), ("background", background)];
    common::wanted(parts).for_each(|part| part(&nix));
}

/// Limits against what the server received.
fn limits(nix: &Nix) {
    let windows = size(20, 6);
    headline(&format!("a limit, over {} s and in each of {windows} half seconds", windows / 2));
    let seconds = windows as u64 / 2 + 2;
    for (name, rate) in [("256 KiB/s", 256 * KIB), ("1 MiB/s", MIB), ("10 MiB/s", 10 * MIB), ("100 MiB/s", 100 * MIB)] {
        for uploads in [1, 8] {
            let store = ScratchStore::new(nix);
            let paths = add_random(&store, uploads, rate * seconds / uploads as u64);
            let (storewatch, receiver) = site(&store, &format!("bandwidth = \"{name}\"\nuploads = {uploads}\n"));
            let running = backfill(&storewatch, &paths);
            let first = wait(|| receiver.received().iter().find(|(_, bytes)| *bytes > 512).map(|(when, _)| *when));
            // What comes before all are on their way is no measure of anything.
            let from = first + WINDOW;
            let until = from + WINDOW * u32::try_from(windows).unwrap();
            std::thread::sleep((until + WINDOW / 5).saturating_duration_since(Instant::now()));
            let received = receiver.received();
            drop(running);
            let between = |from: Instant, until: Instant| {
                let within = received.iter().filter(|(when, _)| (from..until).contains(when));
                within.map(|(_, bytes)| *bytes as f64).sum::<f64>()
            };
            let off = |bytes: f64, time: Duration| (bytes / (rate as f64 * time.as_secs_f64()) - 1.0) * 100.0;
            let all = off(between(from, until), until - from);
            let each = (0..windows).map(|window| {
                let from = from + WINDOW * u32::try_from(window).unwrap();
                off(between(from, from + WINDOW), WINDOW)
            });
            let worst = each.fold(0.0_f64, |worst, off| if off.abs() > worst.abs() { off } else { worst });
            let what = format!("{name}, {uploads} at once");
            row(&what, &format!("{all:+.2} %"), "the limit", None, Some(("<= 2 %", all.abs() <= 2.0)));
            let goal = ("<= 10 %", worst.abs() <= 10.0);
            row("  the worst half second", &format!("{worst:+.1} %"), "the limit", None, Some(goal));
        }
    }
}

/// The CPU that a limit takes, against the same upload without one.
fn cost(nix: &Nix) {
    let (bytes, rounds) = (size(500, 50) as u64 * MIB, size(3, 1));
    headline(&format!("what a limit of 100 MiB/s costs, {rounds} rounds, medians"));
    let store = ScratchStore::new(nix);
    let paths = add_random(&store, 4, bytes / 4);
    let mut took = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (took, limit) in took.iter_mut().zip(["", "bandwidth = \"100 MiB/s\"\n"]) {
            let (storewatch, _receiver) = site(&store, limit);
            let usage =
                common::measured(storewatch.command().env_remove("STOREWATCH_LOG").arg("backfill").args(&paths));
            eprintln!("{limit:?} {usage:?}");
            took.push((usage.cpu, usage.wall));
        }
    }
    let [(free, _), (limited, wall)] = took.map(median);
    let share = limited.saturating_sub(free).as_secs_f64() / wall.as_secs_f64() * 100.0;
    row(
        "CPU of one core for shaping",
        &format!("{share:.2} %"),
        &format!("{} - {} in {}", millis(limited), millis(free), millis(wall)),
        None,
        Some(("<= 2 %", share <= 2.0)),
    );
}

/// A small new path while a backfill takes all of the line.
fn fresh_beside_backfill(nix: &Nix) {
    let count = size(20, 3);
    headline(&format!("{count} fresh paths of 4 KiB, each beside a backfill that fills a limit of 1 MiB/s"));
    let store = ScratchStore::new(nix);
    let large = add_random(&store, 8, size(16, 8) as u64 * MIB);
    let (storewatch, receiver) = site(&store, "bandwidth = \"1 MiB/s\"\n");
    let mut running = storewatch.run_with(|command| {
        command.env("STOREWATCH_LOG", "info");
    });
    running.eventually_logs("watching");
    let beside = backfill(&storewatch, &large);
    wait(|| (receiver.total() > MIB as usize).then_some(()));
    let mut took = Vec::new();
    for _ in 0..count {
        let source = store.root().join("fresh");
        write_random(&source, 4 * KIB, &mut Random(took.len() as u64 + 99));
        let path = store.add(&source);
        let committed = Instant::now();
        took.push(wait(|| receiver.shows(&path)).saturating_duration_since(committed));
    }
    assert!(large.iter().any(|path| receiver.shows(path).is_none()), "the backfill was over before the fresh paths");
    drop(beside);
    drop(running);
    let longest = *took.iter().max().unwrap();
    row("commit to narinfo, median", &millis(median(took)), "-", None, None);
    let goal = ("<= 1 s", longest <= Duration::from_secs(1));
    row("  the longest", &millis(longest), "-", None, Some(goal));
}

/// An upload in the background, alone on a line and beside others.
fn background(nix: &Nix) {
    let seconds = size(30, 10) as u64;
    let store = ScratchStore::new(nix);
    let paths = add_random(&store, 4, 2 * MIB * (seconds + 10));
    for control in ["reno", "bbr"] {
        headline(&format!("in the background on a line of 10 Mbit/s, {seconds} s each, after 5 s, TCP is {control}"));
        let Some(line) = Line::make(control, "10mbit") else { return };
        on_a_line(&line, &store, &paths, seconds);
    }
}

fn on_a_line(line: &Line, store: &ScratchStore, paths: &[String], seconds: u64) {
    let alone = greedy(line, Direction::Up, seconds);
    let upload = |beside: Option<Direction>| {
        let receiver = Receiver::at(line.here);
        let storewatch = Storewatch::new(store);
        storewatch.policy(&policy(
            &receiver,
            "bandwidth = \"background\"\n",
            "allow_unencrypted = true\nallow_self = true\n",
        ));
        let mut command = line.within(storewatch.command());
        let mut running = command
            .arg("backfill")
            .args(paths)
            .env("STOREWATCH_LOG", std::env::var("STOREWATCH_LOG").unwrap_or("warn".to_owned()))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        wait(|| (receiver.total() > 0).then_some(()));
        std::thread::sleep(Duration::from_secs(5));
        let before = receiver.total();
        let other = match beside {
            Some(direction) => greedy(line, direction, seconds),
            None => {
                std::thread::sleep(Duration::from_secs(seconds));
                0.0
            }
        };
        let ours = (receiver.total() - before) as f64 / seconds as f64;
        running.kill().unwrap();
        running.wait().unwrap();
        (ours, other)
    };
    let rate = |bytes: f64| format!("{:.0} KiB/s", bytes / KIB as f64);
    let (ours, _) = upload(None);
    let share = ours / alone;
    let against = format!("a greedy upload alone: {}", rate(alone));
    row("alone", &rate(ours), &against, Some(share), Some((">= 0.9", share >= 0.9)));
    for (what, direction) in [("a greedy upload", Direction::Up), ("a greedy download", Direction::Down)] {
        let free = greedy(line, direction, seconds);
        let (ours, theirs) = upload(Some(direction));
        let share = theirs / free;
        row(
            &format!("{what} beside it"),
            &rate(theirs),
            &format!("without it {}", rate(free)),
            Some(share),
            Some((">= 0.9", share >= 0.9)),
        );
        row("  and the upload in the background", &rate(ours), "-", None, None);
    }
}

#[derive(Clone, Copy)]
enum Direction {
    Up,
    Down,
}

/// Bytes a second of a flow that takes what it gets, for so long.
fn greedy(line: &Line, direction: Direction, seconds: u64) -> f64 {
    let listener = TcpListener::bind((line.here, 0)).unwrap();
    let address = format!("/dev/tcp/{}/{}", line.here, listener.local_addr().unwrap().port());
    let there = match direction {
        Direction::Up => format!("exec cat /dev/zero > {address}"),
        Direction::Down => format!("exec cat < {address} > /dev/null"),
    };
    let mut bash = Command::new("bash");
    bash.args(["-c", &there]);
    let mut peer: Child = line.within(bash).stderr(Stdio::null()).spawn().unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    let (passed, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (counter, ended) = (Arc::clone(&passed), Arc::clone(&over));
    let reader = std::thread::spawn(move || {
        let mut chunk = vec![0; 16 * 1024];
        while !ended.load(Ordering::Relaxed) {
            let moved = match direction {
                Direction::Up => stream.read(&mut chunk),
                Direction::Down => stream.write(&chunk),
            };
            match moved {
                Ok(moved) if moved > 0 => counter.fetch_add(moved as u64, Ordering::Relaxed),
                _ => return,
            };
        }
    });
    std::thread::sleep(Duration::from_secs(seconds));
    let bytes = passed.load(Ordering::Relaxed);
    over.store(true, Ordering::Relaxed);
    let _ = peer.kill();
    let _ = peer.wait();
    reader.join().unwrap();
    bytes as f64 / seconds as f64
}

/// A storewatch with these limits, and the server that it fills.
fn site<'s>(store: &'s ScratchStore, limits: &str) -> (Storewatch<'s>, Receiver) {
    let receiver = Receiver::start();
    let storewatch = Storewatch::new(store);
    storewatch.policy(&policy(&receiver, limits, "allow_self = true\n"));
    (storewatch, receiver)
}

fn policy(receiver: &Receiver, limits: &str, cache: &str) -> String {
    format!("version = 1\n[limits]\n{limits}[caches.team]\nurl = \"{}?compression=none\"\n{cache}", receiver.url())
}

/// A backfill of these paths; killed when it is dropped.
fn backfill(storewatch: &Storewatch<'_>, paths: &[String]) -> Running {
    let mut arguments = vec!["backfill"];
    arguments.extend(paths.iter().map(String::as_str));
    storewatch.spawn(&arguments)
}

/// Adds so many paths of so many random bytes each.
fn add_random(store: &ScratchStore, count: usize, len: u64) -> Vec<String> {
    let source = store.root().join("random");
    let add = |number: usize| {
        write_random(&source, len, &mut Random(number as u64 + 1));
        store.add(&source)
    };
    let paths = (0..count).map(add).collect();
    fs::remove_file(source).unwrap();
    paths
}

fn write_random(file: &Path, len: u64, random: &mut Random) {
    let mut file = BufWriter::new(File::create(file).unwrap());
    for _ in 0..len / 8 {
        file.write_all(&random.next().to_le_bytes()).unwrap();
    }
    file.flush().unwrap();
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
