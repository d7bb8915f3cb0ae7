//! NAR encode + SHA-256 against the slowest part that can't be avoided: reading the files, or SHA-256 over as many bytes.
//!
//! The page cache is warm throughout. The three are measured in turn, round after round, and the medians compared, so
//! that a machine with other work slows all of them alike. `share` is what the slower of the two takes alone, of what
//! encode + SHA-256 takes together: 1.00 would be a NAR for free. The goal is 0.80.

use std::convert::Infallible;
use std::fs::{self, File};
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use storewatch::nix::nar::{NarOptions, encode, encode_hashed};

const ROUNDS: usize = 9;
const BIG: usize = 1 << 30;
const SMALL_FILES: usize = 20_000;
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

    println!("{ROUNDS} rounds, medians, page cache warm");
    println!("{:<22} {:>9} {:>9} {:>9} {:>9} {:>11} {:>6}", "", "read", "sha256", "encode", "both", "", "share");
    measure("1 file of 1 GiB", &big)?;
    measure("20,000 files to 8 KiB", &small)
}

fn measure(what: &str, root: &Path) -> io::Result<()> {
    let mut files = Vec::new();
    files_in_order(root, &mut files)?;
    let (_, size) = hashed(root);
    let mut times: [Vec<Duration>; 4] = Default::default();
    let mut buffer = vec![0; BUFFER];
    for _ in 0..ROUNDS {
        times[0].push(timed(|| files.iter().try_for_each(|file| read(file, &mut buffer)))?);
        times[1].push(timed(|| hash(size, &buffer))?);
        times[2].push(timed(|| {
            let Ok(()) = encode(root, &NarOptions::default(), |chunk| {
                black_box(chunk);
                Ok::<_, Infallible>(())
            }) else {
                return Err(io::Error::other("no NAR"));
            };
            Ok(())
        })?);
        times[3].push(timed(|| {
            black_box(hashed(root));
            Ok(())
        })?);
    }
    let [read, sha256, encode, both] = times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    });
    let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    println!(
        "{what:<22} {:>9} {:>9} {:>9} {:>9} {:>11} {:>6.2}",
        ms(read),
        ms(sha256),
        ms(encode),
        ms(both),
        format!("{:.0} MiB/s", size as f64 / both.as_secs_f64() / f64::from(1 << 20)),
        read.max(sha256).as_secs_f64() / both.as_secs_f64(),
    );
    Ok(())
}

fn hashed(root: &Path) -> ([u8; 32], u64) {
    let outcome = encode_hashed(root, &NarOptions::default(), |chunk| {
        black_box(chunk);
        Ok::<_, Infallible>(())
    });
    match outcome {
        Ok((hash, size)) => (hash.0, size),
        Err(error) => panic!("{error}"),
    }
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

fn timed(work: impl FnOnce() -> io::Result<()>) -> io::Result<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
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
