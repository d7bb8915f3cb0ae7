//! What the benches share: a table, processes watched from outside, and content to be packed.
//!
//! `STOREWATCH_BENCH_QUICK=1` makes every bench smaller: to see that it works, not to learn how fast something is.

#![allow(dead_code, reason = "each bench takes what it needs")]

pub mod machine;
pub mod processors;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Between two looks at a process: memory that comes and goes faster is not seen.
const LOOK: Duration = Duration::from_millis(2);

/// The kernel's clock ticks in a second, as `/proc/PID/stat` counts them (USER_HZ: 100 on every architecture of ours).
const TICKS: f64 = 100.0;

/// Whether everything is to be smaller.
pub fn quick() -> bool {
    std::env::var_os("STOREWATCH_BENCH_QUICK").is_some()
}

/// `full`, or `quick` where everything is to be smaller.
pub fn size(full: usize, small: usize) -> usize {
    if quick() { small } else { full }
}

/// Which parts of a bench are wanted: those that its arguments name (`cargo bench --bench auto -- loopback`), all where they
/// name none.
pub fn wanted<T>(parts: impl IntoIterator<Item = (&'static str, T)>) -> impl Iterator<Item = T> {
    let named: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let is_wanted = move |part: &str| named.is_empty() || named.iter().any(|named| named == part);
    parts.into_iter().filter_map(move |(name, part)| is_wanted(name).then_some(part))
}

/// Says what is measured, on which machine and how busy that is: without it the figures mean little.
pub fn headline(what: &str) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?");
    println!("\n{what}; {cores} cores, load {load}{}", if quick() { ", quick" } else { "" });
    println!("{:<50} {:>11} {:>34} {:>7} {:>10}  reached", "what", "measured", "against", "ratio", "goal");
}

/// One line of the table. `against` is the limit or the peer, with its own figure.
pub fn row(what: &str, measured: &str, against: &str, ratio: Option<f64>, goal: Option<(&str, bool)>) {
    let ratio = ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
    let (goal, reached) = goal.map_or(("-", ""), |(goal, reached)| (goal, if reached { "yes" } else { "NO" }));
    println!("{what:<50} {measured:>11} {against:>34} {ratio:>7} {goal:>10}  {reached}");
}

/// Seconds, as people write them.
pub fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// Milliseconds.
pub fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

/// MiB.
pub fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// The one in the middle.
pub fn median<T: Ord + Copy>(mut values: Vec<T>) -> T {
    values.sort_unstable();
    values[values.len() / 2]
}

/// What a process took from its start to its end.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    pub wall: Duration,
    pub cpu: Duration,
    /// Largest resident set, in bytes.
    pub peak: u64,
}

/// Runs a command to its end, watched. Its output is kept only to be shown if it fails.
#[track_caller]
pub fn measured(command: &mut Command) -> Usage {
    let log = tempfile::tempfile().unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log.try_clone().unwrap());
    let began = Instant::now();
    let mut child = command.spawn().unwrap();
    let mut usage = Usage { wall: Duration::ZERO, cpu: Duration::ZERO, peak: 0 };
    loop {
        usage.peak = usage.peak.max(memory(child.id(), "VmHWM"));
        usage.cpu = usage.cpu.max(cpu(child.id()));
        if let Some(status) = child.try_wait().unwrap() {
            usage.wall = began.elapsed();
            if !status.success() {
                panic!("{command:?}: {status}\n{}", said(log));
            }
            return usage;
        }
        std::thread::sleep(LOOK);
    }
}

fn said(mut log: File) -> String {
    use std::io::{Read, Seek};
    let mut text = String::new();
    let _ = log.rewind().and_then(|()| log.read_to_string(&mut text));
    text
}

/// A field of `/proc/PID/status` that counts memory, in bytes: `VmRSS`, `VmHWM`. 0 for a process that has ended.
pub fn memory(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// CPU time of a process, in user and kernel together.
pub fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, may hold anything; behind it stand the state and eleven numbers before utime.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: f64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
    Duration::from_secs_f64(ticks / TICKS)
}

/// Marsaglia's xorshift: always the same, and faster than the disk.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end
    }

    /// Between `from` and `to`, each order of magnitude as often as the next: how the sizes of store paths lie.
    pub fn sized(&mut self, from: u64, to: u64) -> u64 {
        let share = self.below(1 << 32) as f64 / (1_u64 << 32) as f64;
        ((from as f64).ln() + share * (to as f64 / from as f64).ln()).exp() as u64
    }

    /// The hash part of a store path.
    pub fn hash_part(&mut self) -> String {
        const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";
        (0..32).map(|_| char::from(ALPHABET[self.below(32) as usize])).collect()
    }
}

/// Writes made-up content: pieces of 16 to 79 bytes, half of them random and half taken from up to 64 KiB before. So there
/// are matches to find and literals to keep everywhere, which is the hardest that a compressor can meet.
pub fn write_pieces(path: &Path, len: u64, random: &mut Random) -> io::Result<()> {
    const WINDOW: usize = 64 * 1024;
    let mut file = File::create(path)?;
    let mut left = len as usize;
    let mut block = Vec::with_capacity(1 << 20);
    while left > 0 {
        block.clear();
        let end = left.min(1 << 20);
        while block.len() < end {
            let piece = (16 + random.below(64) as usize).min(end - block.len());
            if block.len() > 2 * piece && random.below(2) == 0 {
                let reach = block.len().min(WINDOW);
                let from = block.len() - reach + random.below((reach - piece) as u64) as usize;
                block.extend_from_within(from..from + piece);
            } else {
                let until = block.len() + piece;
                while block.len() < until {
                    let eight = random.next().to_le_bytes();
                    let fits = eight.len().min(until - block.len());
                    block.extend_from_slice(&eight[..fits]);
                }
            }
        }
        file.write_all(&block)?;
        left -= end;
    }
    Ok(())
}

/// Everything below a folder, in bytes and files.
pub fn total(folder: &Path) -> (u64, usize) {
    let mut sum = (0, 0);
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() {
                folders.push(entry.path());
            } else {
                sum = (sum.0 + metadata.len(), sum.1 + 1);
            }
        }
    }
    sum
}
