//! What can't be left out of packing paths: reading each, SHA-256 of its archive, zstd -3, and SHA-256 of what that comes to.
//! A program that does no more than this is as fast as any could be.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use sha2::{Digest, Sha256};
use storewatch::nix::nar::{NarOptions, encode};

use crate::common::{Usage, cpu};

/// Packs one path into `out`.
pub fn pack<W: Write>(path: &Path, out: W) -> W {
    let mut nar_hash = Sha256::new();
    let mut packed = zstd::stream::write::Encoder::new(Hashed { hash: Sha256::new(), out }, 3).unwrap();
    encode(path, &NarOptions::default(), |chunk| {
        nar_hash.update(&chunk);
        packed.write_all(&chunk)
    })
    .unwrap();
    let Hashed { hash, out } = packed.finish().unwrap();
    std::hint::black_box((nar_hash.finalize(), hash.finalize()));
    out
}

/// Does `work` with each path on so many threads; the last first, which are the large ones, so that all end together.
pub fn at_once(paths: &[PathBuf], threads: usize, work: impl Fn(&Path) + Sync) -> Usage {
    let queue = Mutex::new(paths.to_vec());
    let (began, before) = (Instant::now(), cpu(std::process::id()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let Some(path) = queue.lock().unwrap().pop() else { return };
                    work(&path);
                }
            });
        }
    });
    Usage { wall: began.elapsed(), cpu: cpu(std::process::id()) - before, peak: 0 }
}

struct Hashed<W> {
    hash: Sha256,
    out: W,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hash.update(bytes);
        self.out.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
