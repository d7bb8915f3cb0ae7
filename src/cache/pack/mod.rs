//! Packing an archive for a binary cache: compressed, hashed and counted as it goes by, in bounded memory.
//!
//! [`pack`] writes into anything that takes bytes, on a thread that may wait. [`Packing`] does the same for who sends them
//! elsewhere in the meantime: a few chunks lie between the two, whoever is slower makes the other wait, and the failure of
//! either ends both.
//!
//! Invariant kept here: **nothing corrupt.** What a [`Packed`] says is true of exactly the bytes that were handed on, and
//! there is one only where the archive was whole and the one that Nix has registered.

mod auto;
mod hashing;
mod packing;

use std::io::{self, Write};
use std::time::{Duration, Instant};

use liblzma::stream::{Check, Filters, LzmaOptions, Stream};
use liblzma::write::XzEncoder;

use zstd::stream::write::Encoder;

use self::auto::{Auto, Content};
use self::hashing::{Hashing, Through};
pub use self::packing::Packing;
use super::layout::StoredNar;
use super::{Compression, NarFailure, NarReader};
use crate::nix::NarHash;

/// Smallest dictionary that xz takes (bytes).
const SMALLEST_DICTIONARY: u32 = 4096;

/// What an archive has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    /// How it is packed.
    pub compression: Compression,
    /// SHA-256 of what was handed on.
    pub file_hash: NarHash,
    /// Bytes that were handed on.
    pub file_size: u64,
    /// Bytes of the archive itself.
    pub nar_size: u64,
    /// What it took, where that says what a level is like. It doesn't where the level was given, or where the content needed
    /// no effort.
    pub took: Option<Took>,
}

/// What packing took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Took {
    /// How long it was packed, without waiting for its files or for who takes it.
    pub busy: Duration,
    /// How long it waited for its files.
    pub reading: Duration,
}

impl Packed {
    /// The archive, lying at `url`, relative to its cache's root.
    #[must_use]
    pub fn stored_at(self, url: String) -> StoredNar {
        let Self { compression, file_hash, file_size, nar_size, took: _ } = self;
        StoredNar { url, compression, file_hash, file_size, nar_size }
    }
}

/// Why packing came to no end.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The archive is at fault.
    #[error(transparent)]
    Nar(#[from] NarFailure),
    /// What was packed could not be handed on.
    #[error("write the packed archive")]
    Write(#[from] io::Error),
}

/// Packs an archive of `expected_size` bytes (0: nobody knows) into `out`, which is handed back, for what is to follow.
/// Blocks.
///
/// # Errors
/// [`PackError`].
pub fn pack<W: Write>(
    nar: NarReader,
    compression: Compression,
    expected_size: u64,
    out: W,
) -> Result<(Packed, W), PackError> {
    pack_while(nar, compression, expected_size, out, || true)
}

/// As [`pack`], called off once it isn't wanted any more: asked for every chunk of the archive.
fn pack_while<W: Write>(
    nar: NarReader,
    compression: Compression,
    expected_size: u64,
    out: W,
    is_wanted: impl Fn() -> bool,
) -> Result<(Packed, W), PackError> {
    let wanted = Wanted { nar, is_wanted };
    let out = Hashing::new(out);
    let (nar_size, (writing, reading), ending, content, out) = match compression {
        Compression::None => {
            let Written { nar_size, took, out } = wanted.write_into(out)?;
            (nar_size, took, Instant::now(), None, out)
        }
        Compression::Zstd { level } => {
            let Written { nar_size, took, out } = wanted.write_into(zstd_encoder(out, level, expected_size)?)?;
            (nar_size, took, Instant::now(), None, out.finish()?)
        }
        Compression::Auto { level } => {
            let Written { nar_size, took, out } = wanted.write_into(Auto::new(out, level, expected_size))?;
            let ending = Instant::now();
            let (content, out) = out.finish()?;
            (nar_size, took, ending, Some(content), out)
        }
        Compression::Xz { level } => {
            let encoder = XzEncoder::new_stream(out, xz_stream(level, expected_size)?);
            let Written { nar_size, took, out } = wanted.write_into(encoder)?;
            (nar_size, took, Instant::now(), None, out.finish()?)
        }
    };
    let Through { hash, written, handing_on, out } = out.finish()?;
    let busy = (writing + ending.elapsed()).saturating_sub(handing_on);
    let took = content.filter(|content| *content != Content::Packed).map(|_| Took { busy, reading });
    Ok((Packed { compression, file_hash: hash, file_size: written, nar_size, took }, out))
}

/// An archive that is read as long as it is wanted.
struct Wanted<F> {
    nar: NarReader,
    is_wanted: F,
}

/// An archive that was written.
struct Written<W> {
    nar_size: u64,
    /// How long the writer took, and the reader.
    took: (Duration, Duration),
    out: W,
}

impl<F: Fn() -> bool> Wanted<F> {
    /// Writes the archive into `out`.
    fn write_into<W: Write>(self, mut out: W) -> Result<Written<W>, PackError> {
        let Self { nar, is_wanted } = self;
        let (all, mut writing) = (Instant::now(), Duration::ZERO);
        let nar_size = nar.read_blocking(|chunk| {
            if !is_wanted() {
                return Err(PackError::Nar(NarFailure::Cancelled));
            }
            let began = Instant::now();
            out.write_all(chunk)?;
            writing += began.elapsed();
            Ok(())
        })?;
        let reading = all.elapsed().saturating_sub(writing);
        Ok(Written { nar_size, took: (writing, reading), out })
    }
}

/// zstd takes as much memory as the size of what is to be packed needs, which for a small archive is much less.
fn zstd_encoder<W: Write>(out: W, level: i32, expected_size: u64) -> io::Result<Encoder<'static, W>> {
    let mut encoder = Encoder::new(out, level)?;
    if expected_size > 0 {
        encoder.set_pledged_src_size(Some(expected_size))?;
    }
    Ok(encoder)
}

/// As `xz` at that level, with a dictionary no larger than the archive: it takes ten times its size of memory.
fn xz_stream(level: u32, expected_size: u64) -> io::Result<Stream> {
    let mut options = LzmaOptions::new_preset(level)?;
    if let Some(needed) = u32::try_from(expected_size).ok().filter(|size| *size > 0 && *size < xz_dictionary(level)) {
        options.dict_size(needed.max(SMALLEST_DICTIONARY));
    }
    let mut filters = Filters::new();
    filters.lzma2(&options);
    Ok(Stream::new_stream_encoder(&filters, Check::Crc64)?)
}

/// The dictionary that a level has by itself, in bytes (`man xz`, the table of presets).
fn xz_dictionary(level: u32) -> u32 {
    match level {
        0 => 256 * 1024,
        1 => 1 << 20,
        2 => 2 << 20,
        3 | 4 => 4 << 20,
        5 | 6 => 8 << 20,
        7 => 16 << 20,
        8 => 32 << 20,
        _ => 64 << 20,
    }
}

#[cfg(test)]
mod tests;
