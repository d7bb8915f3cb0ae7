//! `compression = "auto"` against the levels that people choose, on lines of several kinds: what a closure takes to arrive
//! on a web server, and what it comes to there.
//!
//! A third of the closure is text, a third programs and libraries, and a third is packed already. The slow line is one
//! (`common/line`), and then one of our own limits, which is to look like one. On the loopback the line is no line: there
//! the processors are what is waited for, and all of it is sent before `auto` has found that out. So what counts there is
//! how long the second half of the paths takes.

#![allow(clippy::unwrap_used, reason = "a bench that can't go on panics, with the line that says where")]

mod common;
#[path = "common/line.rs"]
mod line;
#[allow(dead_code, unused_imports, unused_macros, reason = "the tests use all of it")]
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use common::machine::Machine;
use common::{Random, Usage, headline, measured, mib, row, seconds, size};
use line::Line;
use support::{Nix, Receiver, ScratchStore, Storewatch};

/// What is compared: its name, and the lines of a policy that choose it.
const CHOICES: [(&str, &str); 3] = [
    ("auto", "compression = \"auto\"\n"),
    ("zstd 3", "compression = \"zstd\"\n"),
    ("none", "compression = \"none\"\n"),
];

/// `auto` may take so much longer than the best of the others: it has to find out what the line is like.
const LONGER: f64 = 1.1;

/// Resident, with four uploads at once at whatever level.
const MEMORY: u64 = 128 << 20;

fn main() {
    let Some(nix) = Nix::recent() else { return };
    type Part = fn(&Nix);
    let parts: [(&str, Part); 3] = [("line", slow_line), ("limit", limit), ("loopback", loopback)];
    common::wanted(parts).for_each(|part| part(&nix));
}

fn slow_line(nix: &Nix) {
    let store = ScratchStore::new(nix);
    let (paths, bytes) = mixed(&store, size(8, 2), 4 << 20);
    headline(&format!("auto: {} of text, programs and packed files over a line of 20 Mbit/s", mib(bytes)));
    let Some(line) = Line::make("reno", "20mbit") else { return };
    compare(&store, &paths, 1, Counted::All, Some(&line), "");
}

fn limit(nix: &Nix) {
    let store = ScratchStore::new(nix);
    let (paths, bytes) = mixed(&store, size(8, 2), 4 << 20);
    headline(&format!("auto: {} likewise, by a limit of 4 MiB/s", mib(bytes)));
    compare(&store, &paths, 1, Counted::All, None, "bandwidth = \"4 MiB/s\"\n");
}

fn loopback(nix: &Nix) {
    let (store, rounds) = (ScratchStore::new(nix), size(3, 1));
    let (paths, bytes) = mixed(&store, size(24, 4), 32 << 20);
    headline(&format!("auto: {} likewise, on the loopback, {rounds} rounds, the shortest", mib(bytes)));
    compare(&store, &paths, rounds, Counted::SecondHalf, None, "");
}

/// Sends the paths by each choice in turn, round after round.
fn compare(store: &ScratchStore, paths: &[String], rounds: usize, counted: Counted, line: Option<&Line>, limits: &str) {
    let time = |sent: &Sent| match counted {
        Counted::All => sent.usage.wall,
        Counted::SecondHalf => sent.second_half,
    };
    let mut best: [Option<Sent>; CHOICES.len()] = [None; CHOICES.len()];
    for _ in 0..rounds {
        for (best, (_, compression)) in best.iter_mut().zip(CHOICES) {
            let sent = send(store, paths, line, limits, compression);
            if best.is_none_or(|so_far| time(&sent) < time(&so_far)) {
                *best = Some(sent);
            }
        }
    }
    let [auto, fixed @ ..] = best.map(Option::unwrap);
    let say = |sent: &Sent| {
        let Sent { usage, bytes, .. } = sent;
        let (all, cpu) = (seconds(usage.wall), seconds(usage.cpu));
        println!("{:>62} {all} in all, {} sent, {cpu} of CPU, {} resident", "", mib(*bytes), mib(usage.peak));
    };
    for ((name, _), sent) in CHOICES[1..].iter().zip(&fixed) {
        row(name, &seconds(time(sent)), "-", None, None);
        say(sent);
    }
    let quickest = fixed.iter().map(time).min().unwrap();
    let ratio = time(&auto).as_secs_f64() / quickest.as_secs_f64();
    let against = format!("the best of these {}", seconds(quickest));
    row("auto", &seconds(time(&auto)), &against, Some(ratio), Some(("<= 1.10", ratio <= LONGER)));
    say(&auto);
    let peak = auto.usage.peak;
    row("  resident at most", &mib(peak), "128 MiB", None, Some(("<= 128 MiB", peak <= MEMORY)));
}

/// What is compared.
#[derive(Clone, Copy)]
enum Counted {
    All,
    SecondHalf,
}

/// What it took to send the paths.
#[derive(Clone, Copy)]
struct Sent {
    usage: Usage,
    /// Between half of the paths being there and all of them.
    second_half: Duration,
    bytes: u64,
}

/// Sends the paths by a storewatch that has never run before.
fn send(store: &ScratchStore, paths: &[String], line: Option<&Line>, limits: &str, compression: &str) -> Sent {
    let receiver = line.map_or_else(Receiver::start, |line| Receiver::at(line.here));
    let storewatch = Storewatch::new(store);
    storewatch.policy(&format!(
        "version = 1\n[limits]\npriority = \"normal\"\n{limits}[caches.team]\nurl = \"{}\"\nallow_unencrypted = true\n\
         allow_self = true\n{compression}",
        receiver.url()
    ));
    let mut command = storewatch.command();
    command.arg("backfill").args(paths).env("STOREWATCH_LOG", std::env::var("STOREWATCH_LOG").unwrap_or_default());
    let mut command = match line {
        Some(line) => line.within(command),
        None => command,
    };
    let usage = measured(&mut command);
    assert_eq!(storewatch.cache_status("team")["done"], paths.len(), "something didn't arrive");
    let mut shown: Vec<_> = paths.iter().map(|path| receiver.shows(path).unwrap()).collect();
    shown.sort_unstable();
    let second_half = shown[shown.len() - 1] - shown[shown.len() / 2 - 1];
    Sent { usage, second_half, bytes: receiver.total() as u64 }
}

/// Adds so many paths of each kind, of so many bytes each; tells them and their bytes.
fn mixed(store: &ScratchStore, count: usize, len: u64) -> (Vec<String>, u64) {
    let is_text = |file: &Path| file.extension().is_some_and(|extension| extension == "h" || extension == "hpp");
    let is_program = |file: &Path| file.to_string_lossy().contains(".so");
    let kinds = [Machine::files_of(&["include"], is_text), Machine::files_of(&["lib"], is_program)];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut paths = Vec::new();
    for _ in 0..count {
        for kind in &kinds {
            let source = store.root().join("source");
            kind.copy_some(len, &source, &mut random).unwrap();
            paths.push(store.add(&source));
            fs::remove_dir_all(source).unwrap();
        }
        let source = store.root().join("packed");
        let mut file = File::create(&source).unwrap();
        let block: Vec<u8> = (0..len / 8).flat_map(|_| random.next().to_le_bytes()).collect();
        file.write_all(&block).unwrap();
        paths.push(store.add(&source));
        fs::remove_file(source).unwrap();
    }
    (paths, 3 * count as u64 * len)
}
