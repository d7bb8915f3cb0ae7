//! Reading an archive to its end: whether it is the file and holds the NAR that its narinfo says. What unpacks to more than
//! that, or wants more memory than honest packing does, is not unpacked to its end.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use bzip2::read::MultiBzDecoder;
use liblzma::read::XzDecoder;
use liblzma::stream::{CONCATENATED, Error as XzError, Stream};
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;

use super::narinfo::Narinfo;
use super::{Chunks, Shelf};
use crate::cache::CacheError;
use crate::nix::NarHash;

/// Bytes that are unpacked at once.
const CHUNK: usize = 256 * 1024;

/// Bytes of memory that unpacking xz may take: its highest preset, `xz -9`, wants 65 MiB. zstd's decoder has such a bound of
/// its own, 128 MiB.
const XZ_MEMORY: u64 = 128 * 1024 * 1024;

/// What reading an archive has shown.
pub(super) enum Archive {
    Good,
    /// The file's hash is good; what is in it can't be unpacked here.
    NotUnpacked,
    /// It isn't there.
    Gone,
    Damaged(String),
}

/// Reads an archive.
///
/// # Errors
/// [`CacheError`] where the cache can't be asked; what is wrong with the archive is no error.
pub(super) async fn read_archive(shelf: &dyn Shelf, file: &str, narinfo: &Narinfo) -> Result<Archive, CacheError> {
    let Some(chunks) = shelf.stream(file).await? else { return Ok(Archive::Gone) };
    let said = Said {
        compression: narinfo.compression.clone(),
        file_hash: narinfo.file_hash.clone(),
        nar_hash: narinfo.nar_hash.clone(),
        nar_size: narinfo.nar_size,
    };
    let read = spawn_blocking(move || said.compare(&mut FileReader::of(chunks)));
    read.await.map_err(|_| CacheError::LostThread { action: "read an archive" })?
}

/// What a narinfo says of its archive.
struct Said {
    compression: String,
    file_hash: Option<String>,
    nar_hash: String,
    nar_size: u64,
}

impl Said {
    /// Blocks.
    fn compare(self, file: &mut FileReader) -> Result<Archive, CacheError> {
        let unpacked = self.unpack(file);
        let is_too_large = matches!(&unpacked, Ok(Some((_, size))) if *size > self.nar_size);
        // What stands behind the packed NAR belongs to the file too.
        let rest = if is_too_large || unpacked.is_err() { Ok(0) } else { io::copy(file, &mut io::sink()) };
        if let Some(failure) = file.failure.take() {
            return Err(failure);
        }
        let unpacked = match unpacked.and_then(|unpacked| rest.map(|_| unpacked)) {
            Ok(unpacked) => unpacked,
            Err(error) => {
                return Ok(Archive::Damaged(format!("it can't be unpacked as {}: {error}", self.compression)));
            }
        };
        if is_too_large {
            return Ok(Archive::Damaged(format!("what is in it has more than {} bytes", self.nar_size)));
        }
        let file_hash = NarHash(std::mem::take(&mut file.hasher).finalize().into()).to_string();
        if let Some(said) = self.file_hash.filter(|said| *said != file_hash) {
            return Ok(Archive::Damaged(format!("its hash is {file_hash} instead of {said}")));
        }
        Ok(match unpacked {
            None => Archive::NotUnpacked,
            Some((hash, size)) if hash == self.nar_hash && size == self.nar_size => Archive::Good,
            Some((hash, size)) => Archive::Damaged(format!(
                "what is in it has {size} bytes and hash {hash} instead of {} with {}",
                self.nar_size, self.nar_hash
            )),
        })
    }

    /// Hash and size of the NAR, as far as it can be unpacked here. One that is too large isn't read to its end.
    fn unpack(&self, file: &mut FileReader) -> io::Result<Option<(String, u64)>> {
        let most = self.nar_size.saturating_add(1);
        let hashed = match self.compression.as_str() {
            "none" => hash(file.take(most)),
            "zstd" => hash(zstd::stream::read::Decoder::new(file)?.take(most)),
            "xz" => {
                let stream = Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED)?;
                match hash(XzDecoder::new_stream(&mut *file, stream).take(most)) {
                    Err(error) if wants_memory(&error) => return Ok(None),
                    hashed => hashed,
                }
            }
            "bzip2" => hash(MultiBzDecoder::new(file).take(most)),
            _ => return Ok(None),
        };
        hashed.map(Some)
    }
}

/// Whether that is why xz doesn't unpack something, which says nothing of what is in it.
fn wants_memory(error: &io::Error) -> bool {
    matches!(error.get_ref().and_then(|error| error.downcast_ref()), Some(XzError::MemLimit))
}

fn hash(mut nar: impl Read) -> io::Result<(String, u64)> {
    let (mut hasher, mut size, mut chunk) = (Sha256::new(), 0, vec![0; CHUNK]);
    loop {
        match nar.read(&mut chunk) {
            Ok(0) => return Ok((NarHash(hasher.finalize().into()).to_string(), size)),
            Ok(read) => {
                hasher.update(&chunk[..read]);
                size += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reads the chunks of a file, and hashes them as they come.
struct FileReader {
    chunks: Chunks,
    chunk: Bytes,
    hasher: Sha256,
    /// Why no more came: the cache's fault, not the archive's.
    failure: Option<CacheError>,
}

impl FileReader {
    fn of(chunks: Chunks) -> Self {
        Self { chunks, chunk: Bytes::new(), hasher: Sha256::new(), failure: None }
    }
}

impl Read for FileReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.chunks.blocking_recv() {
                Some(Ok(chunk)) => {
                    self.hasher.update(&chunk);
                    self.chunk = chunk;
                }
                Some(Err(failure)) => {
                    self.failure = Some(failure);
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                None => return Ok(0),
            }
        }
        let read = into.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut into[..read]);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use liblzma::read::XzEncoder;
    use liblzma::stream::{Check, Filters, LzmaOptions};
    use tokio::sync::mpsc;

    use super::*;

    const MIB: usize = 1024 * 1024;

    fn said(compression: &str, nar: &[u8]) -> Said {
        let nar_hash = NarHash(Sha256::digest(nar).into()).to_string();
        Said { compression: compression.to_owned(), file_hash: None, nar_hash, nar_size: nar.len() as u64 }
    }

    /// What comes of reading a file, and how much of it was read.
    fn compare(said: Said, file: &[u8]) -> (Archive, usize) {
        let (chunks, arriving) = mpsc::channel(file.len() / CHUNK + 2);
        for chunk in file.chunks(CHUNK) {
            chunks.try_send(Ok(Bytes::copy_from_slice(chunk))).expect("there is room");
        }
        drop(chunks);
        let mut reader = FileReader::of(arriving);
        let archive = said.compare(&mut reader).expect("read");
        let left = std::iter::from_fn(|| reader.chunks.try_recv().ok()?.ok()).map(|chunk| chunk.len());
        (archive, file.len() - reader.chunk.len() - left.sum::<usize>())
    }

    fn xz(dictionary: u32, content: &[u8]) -> Vec<u8> {
        let mut options = LzmaOptions::new_preset(0).expect("a preset");
        options.dict_size(dictionary);
        let stream = Stream::new_stream_encoder(Filters::new().lzma2(&options), Check::Crc32).expect("an encoder");
        let mut packed = Vec::new();
        XzEncoder::new_stream(content, stream).read_to_end(&mut packed).expect("packed");
        packed
    }

    #[test]
    fn what_unpacks_to_more_than_it_says_is_not_unpacked_to_its_end() {
        // Not to be packed any better, behind what packs to next to nothing.
        let mut tail = vec![0; 4 * MIB];
        getrandom::fill(&mut tail).expect("randomness");
        let nar = vec![0; 2 * MIB];
        let bomb = [&nar[..], &tail[..]].concat();
        for (compression, file) in [("none", bomb.clone()), ("zstd", zstd::encode_all(&bomb[..], 1).expect("packed"))] {
            let (archive, read) = compare(said(compression, &nar), &file);
            assert!(
                matches!(&archive, Archive::Damaged(why) if why.contains("more than 2097152 bytes")),
                "{compression}"
            );
            assert!(read < file.len(), "{compression}: all {read} bytes were read");
        }
        let (archive, _) = compare(said("none", &nar), &nar);
        assert!(matches!(archive, Archive::Good));
    }

    #[test]
    fn what_wants_more_memory_than_honest_packing_is_not_called_damaged() {
        let nar = b"a nar".repeat(100);
        assert!(matches!(compare(said("xz", &nar), &xz(1 << 26, &nar)).0, Archive::Good), "as `xz -9` packs");
        assert!(matches!(compare(said("xz", &nar), &xz(1 << 29, &nar)).0, Archive::NotUnpacked));
    }
}
