//! Reading an archive to its end: whether it is the file and holds the NAR that its narinfo says.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use bzip2::read::MultiBzDecoder;
use liblzma::read::XzDecoder;
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;

use super::narinfo::Narinfo;
use super::{Chunks, Shelf};
use crate::cache::CacheError;
use crate::nix::NarHash;

/// Bytes that are unpacked at once.
const CHUNK: usize = 256 * 1024;

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
    let read = spawn_blocking(move || said.compare(FileReader::of(chunks)));
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
    fn compare(self, mut file: FileReader) -> Result<Archive, CacheError> {
        let unpacked = self.unpack(&mut file);
        // What stands behind the packed NAR belongs to the file too.
        let rest = if unpacked.as_ref().is_err() { Ok(0) } else { io::copy(&mut file, &mut io::sink()) };
        if let Some(failure) = file.failure {
            return Err(failure);
        }
        let unpacked = match unpacked.and_then(|unpacked| rest.map(|_| unpacked)) {
            Ok(unpacked) => unpacked,
            Err(error) => {
                return Ok(Archive::Damaged(format!("it can't be unpacked as {}: {error}", self.compression)));
            }
        };
        let file_hash = NarHash(file.hasher.finalize().into()).to_string();
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

    /// Hash and size of the NAR, where it is known how that is packed.
    fn unpack(&self, file: &mut FileReader) -> io::Result<Option<(String, u64)>> {
        let hashed = match self.compression.as_str() {
            "none" => hash(file),
            "zstd" => hash(zstd::stream::read::Decoder::new(file)?),
            "xz" => hash(XzDecoder::new_multi_decoder(file)),
            "bzip2" => hash(MultiBzDecoder::new(file)),
            _ => return io::copy(file, &mut io::sink()).map(|_| None),
        };
        hashed.map(Some)
    }
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
