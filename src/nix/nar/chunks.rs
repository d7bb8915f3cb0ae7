//! The chunks that a NAR is handed on in, filled to the last byte and used again.

use std::os::fd::AsFd;

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::io::{Errno, read, retry_on_intr};

/// Length of every chunk but the last, in bytes.
pub const CHUNK: usize = 256 * 1024;

/// How many chunks are kept in mind to be filled again. More than that are under way only where the taker is slow, and
/// then a new allocation costs nothing that anyone waits for.
const KEPT: usize = 8;

/// Bytes go in, in any portions; chunks come out, in order.
pub(super) struct Chunks<F> {
    /// The chunk being filled. Its capacity is the chunk length, and it is never full between two calls.
    filling: Vec<u8>,
    chunk: usize,
    /// Chunks handed on. One that nobody else holds any more is filled again: fresh memory would have to be mapped and
    /// zeroed by the kernel first, which for a chunk takes as long as reading it from the page cache.
    kept: Vec<Bytes>,
    emit: F,
}

/// Why a file didn't get into the chunks whole.
pub(super) enum CopyError<E> {
    Read(Errno),
    /// It ends before or goes on after the length it was said to have.
    Length,
    Sink(E),
}

impl<E, F: FnMut(Bytes) -> Result<(), E>> Chunks<F> {
    pub(super) fn new(chunk: usize, emit: F) -> Self {
        Self { filling: Vec::with_capacity(chunk), chunk, kept: Vec::with_capacity(KEPT), emit }
    }

    /// Appends `bytes`.
    pub(super) fn put(&mut self, mut bytes: &[u8]) -> Result<(), E> {
        loop {
            let room = self.chunk - self.filling.len();
            if bytes.len() < room {
                self.filling.extend_from_slice(bytes);
                return Ok(());
            }
            let (fits, rest) = bytes.split_at(room);
            self.filling.extend_from_slice(fits);
            self.hand_on()?;
            bytes = rest;
        }
    }

    /// Appends the length of a word.
    pub(super) fn put_len(&mut self, len: u64) -> Result<(), E> {
        self.put(&len.to_le_bytes())
    }

    /// Appends the zeros behind a word of `len` bytes.
    pub(super) fn pad(&mut self, len: u64) -> Result<(), E> {
        self.put(&[0; 7][..(len.wrapping_neg() % 8) as usize])
    }

    /// Appends a word.
    pub(super) fn put_word(&mut self, word: &[u8]) -> Result<(), E> {
        self.put_len(word.len() as u64)?;
        self.put(word)?;
        self.pad(word.len() as u64)
    }

    /// Appends what is left to read of a file, which must be `len` bytes.
    pub(super) fn put_file(&mut self, file: impl AsFd, len: u64) -> Result<(), CopyError<E>> {
        let mut left = len;
        loop {
            let room = self.chunk - self.filling.len();
            let got = retry_on_intr(|| read(&file, spare_capacity(&mut self.filling))).map_err(CopyError::Read)?;
            left = left.checked_sub(got as u64).ok_or(CopyError::Length)?;
            // Less than asked for is the end of the file. A file that fills the chunk to the brim is asked again, so
            // that one that has grown doesn't pass for whole.
            let ended = got == 0 || (left == 0 && got < room);
            if got == room {
                self.hand_on().map_err(CopyError::Sink)?;
            }
            if ended {
                return if left == 0 { Ok(()) } else { Err(CopyError::Length) };
            }
        }
    }

    /// Hands on what there is.
    pub(super) fn finish(mut self) -> Result<(), E> {
        if self.filling.is_empty() { Ok(()) } else { (self.emit)(self.filling.into()) }
    }

    fn hand_on(&mut self) -> Result<(), E> {
        let full = Bytes::from(std::mem::take(&mut self.filling));
        if self.kept.len() == KEPT {
            self.kept.remove(0);
        }
        self.kept.push(full.clone());
        (self.emit)(full)?;
        self.filling = match self.kept.iter().position(Bytes::is_unique) {
            Some(at) => {
                let mut free = self.kept.remove(at);
                // Cut short first, or the way back to a vector would copy what is in it; not emptied, or it would go.
                free.truncate(1);
                let mut free = Vec::from(free);
                free.clear();
                free
            }
            None => Vec::with_capacity(self.chunk),
        };
        debug_assert!(self.filling.is_empty() && self.filling.capacity() == self.chunk);
        Ok(())
    }
}
