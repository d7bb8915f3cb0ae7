//! Bytes on their way, hashed and counted.

use std::io::{self, Write};

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
}

impl<W: Write> Hashing<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, hasher: Sha256::new(), written: 0, buffer: Vec::with_capacity(WRITE_BUFFER) }
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
        self.out.write_all(bytes)
    }

    /// Hands on what is left; then the hash and the number of all bytes, and the writer.
    pub(super) fn finish(mut self) -> io::Result<(NarHash, u64, W)> {
        self.flush_buffer()?;
        self.out.flush()?;
        Ok((NarHash(self.hasher.finalize().into()), self.written, self.out))
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
