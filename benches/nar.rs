//! NAR encode + SHA-256 against the slowest part that can't be avoided: reading the files, or SHA-256 over as many bytes.
//!
//! The page cache is warm throughout. All are measured in turn, round after round, so that a machine with other work
//! slows them alike. `share` is what the slower of the two takes alone, of what encode + SHA-256 takes together: 1.00
//! would be a NAR for free, the goal is 0.80. The median of the rounds is shown, of the times and of the shares.

use std::convert::Infallible;
use std::fs::{self, File};
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use sha2::{Digest, Sha256};
use storewatch::nix::NarHash;
use storewatch::nix::nar::{NarOptions, encode, encode_hashed};

const BIG: usize = 1 << 30;
const BIG_ROUNDS: usize = 11;
const SMALL_FILES: usize = 20_000;
const SMALL_ROUNDS: usize = 51;
const DIRECTORIES: usize = 200;
const SMALL_MAX: u64 = 8 * 1024;
const BUFFER: usize = 256 * 1024;

fn main() -> io::Result<()> {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let mut random = XorShift(0x9e37_79b9_7f4a_7c15);

    let big = scratch.path().join("big");
    write_big(&big, &mut random)?;
    let small = scratch.path().join("small");
    write_small(&small, &mut random)?;

    println!("medians of {BIG_ROUNDS} and {SMALL_ROUNDS} rounds, page cache warm");
    println!("{:<22} {:>9} {:>9} {:>9} {:>9} {:>11} {:>6}", "", "read", "sha256", "encode", "both", "", "share");
    measure("1 file of 1 GiB", &big, BIG_ROUNDS)?;
    measure("20,000 files to 8 KiB", &small, SMALL_ROUNDS)
}

fn measure(what: &str, root: &Path, rounds: usize) -> io::Result<()> {
    let mut files = Vec::new();
    files_in_order(root, &mut files)?;
    let (_, size) = hashed(root)?;
    let mut times: [Vec<f64>; 5] = Default::default();
    let mut buffer = vec![0; BUFFER];
    for _ in 0..rounds {
        let read = timed(|| files.iter().try_for_each(|file| read(file, &mut buffer)))?;
        let sha256 = timed(|| hash(size, &buffer))?;
        let encode = timed(|| encoded(root))?;
        let both = timed(|| hashed(root).map(black_box).map(drop))?;
        for (column, value) in times.iter_mut().zip([read, sha256, encode, both, read.max(sha256) / both]) {
            column.push(value);
        }
    }
    let [read, sha256, encode, both, share] = times.map(|mut column| {
        column.sort_unstable_by(f64::total_cmp);
        column[column.len() / 2]
    });
    let ms = |seconds: f64| format!("{:.1} ms", seconds * 1e3);
    let speed = format!("{:.0} MiB/s", size as f64 / both / f64::from(1 << 20));
    println!("{what:<22} {:>9} {:>9} {:>9} {:>9} {speed:>11} {share:>6.2}", ms(read), ms(sha256), ms(encode), ms(both));
    Ok(())
}

fn encoded(root: &Path) -> io::Result<()> {
    let outcome = encode(root, &NarOptions::default(), |chunk| {
        black_box(chunk);
        Ok::<_, Infallible>(())
    });
    outcome.map_err(io::Error::other)
}

fn hashed(root: &Path) -> io::Result<(NarHash, u64)> {
    let outcome = encode_hashed(root, &NarOptions::default(), |chunk| {
        black_box(chunk);
        Ok::<_, Infallible>(())
    });
    outcome.map_err(io::Error::other)
}

/// What no encoder can do without, done plainly.
fn read(file: &Path, buffer: &mut [u8]) -> io::Result<()> {
    let mut file = File::open(file)?;
    let mut left = file.metadata()?.len();
    while left > 0 {
        let got = file.read(buffer)?;
        left = left.saturating_sub(got as u64);
        black_box(&buffer[..got]);
    }
    Ok(())
}

fn hash(size: u64, buffer: &[u8]) -> io::Result<()> {
    let mut hash = Sha256::new();
    let mut left = size as usize;
    while left > 0 {
        let now = left.min(buffer.len());
        hash.update(&buffer[..now]);
        left -= now;
    }
    black_box(hash.finalize());
    Ok(())
}

/// In seconds.
fn timed(work: impl FnOnce() -> io::Result<()>) -> io::Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64())
}

fn files_in_order(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let mut entries = fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    entries.sort();
    entries.iter().try_for_each(|entry| files_in_order(entry, files))
}

fn write_big(path: &Path, random: &mut XorShift) -> io::Result<()> {
    let mut file = File::create(path)?;
    let mut buffer = vec![0; BUFFER];
    for _ in 0..BIG / BUFFER {
        random.fill(&mut buffer);
        file.write_all(&buffer)?;
    }
    file.sync_all()
}

fn write_small(root: &Path, random: &mut XorShift) -> io::Result<()> {
    let mut buffer = vec![0; SMALL_MAX as usize];
    for n in 0..SMALL_FILES {
        // Nested two deep, as the directories of a store path are.
        let directory = root.join(format!("{}", n % 10)).join(format!("dir-{}", n % DIRECTORIES));
        fs::create_dir_all(&directory)?;
        let len = (random.next() % (SMALL_MAX + 1)) as usize;
        random.fill(&mut buffer[..len]);
        fs::write(directory.join(format!("file-{n}")), &buffer[..len])?;
    }
    Ok(())
}

/// Marsaglia's xorshift: no compressor finds anything in it, and it is faster than the disk.
struct XorShift(u64);

impl XorShift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for eight in bytes.chunks_mut(8) {
            let random = self.next().to_le_bytes();
            eight.copy_from_slice(&random[..eight.len()]);
        }
    }
}
