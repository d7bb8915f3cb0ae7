//! Bytes on their way, hashed and counted.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::nix::NarHash;

/// Bytes gathered before they are hashed and handed on.
pub(super) const WRITE_BUFFER: usize = 256 * 1024;

/// Hashes what goes into a writer, which is given pieces of some [`WRITE_BUFFER`] bytes: what doesn't fit waits for the next.
pub(super) struct Hashing<W> {
    out: W,
    hasher: Sha256,
    written: u64,
    buffer: Vec<u8>,
    /// How long the writer took.
    handing_on: Duration,
}

/// What went through.
pub(super) struct Through<W> {
    pub(super) hash: NarHash,
    /// Bytes.
    pub(super) written: u64,
    /// How long the writer took with them.
    pub(super) handing_on: Duration,
    pub(super) out: W,
}

impl<W: Write> Hashing<W> {
    pub(super) fn new(out: W) -> Self {
        Self {
            out,
            hasher: Sha256::new(),
            written: 0,
            buffer: Vec::with_capacity(WRITE_BUFFER),
            handing_on: Duration::ZERO,
        }
    }

    fn flush_buffer(&mut self) -> io::Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        self.put(&buffer)?;
        self.buffer = buffer;
        self.buffer.clear();
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.written += bytes.len() as u64;
        let began = Instant::now();
        self.out.write_all(bytes)?;
        self.handing_on += began.elapsed();
        Ok(())
    }

    /// Hands on what is left, and says what it was in all.
    pub(super) fn finish(mut self) -> io::Result<Through<W>> {
        self.flush_buffer()?;
        let began = Instant::now();
        self.out.flush()?;
        let Self { out, hasher, written, handing_on, .. } = self;
        let handing_on = handing_on + began.elapsed();
        Ok(Through { hash: NarHash(hasher.finalize().into()), written, handing_on, out })
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + bytes.len() > WRITE_BUFFER {
            self.flush_buffer()?;
        }
        if bytes.len() >= WRITE_BUFFER {
            self.put(bytes)?;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    /// Nothing: what is gathered waits for more. [`Hashing::finish`] hands it on.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
