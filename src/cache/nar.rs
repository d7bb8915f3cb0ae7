//! The archive of one path on its way into a cache: read when a slot is free, hashed as it goes, checked at its end.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::NarFailure;
use crate::limit::{Lane, Slot, Slots};
use crate::nix::nar::{NarError, NarOptions, encode_hashed};
use crate::nix::{NarHash, PathInfo};

/// Archives up to this size (bytes) are read by the thread that packs them: a second one would cost more than it saves.
const SMALL: u64 = 1024 * 1024;

/// Chunks that may lie between the thread that reads and the one that packs.
const CHUNKS_AHEAD: usize = 4;

/// Calls uploads off. Cheap to clone; all clones mean the same uploads.
#[derive(Clone, Debug, Default)]
pub struct CallOff(Arc<AtomicBool>);

impl CallOff {
    /// Lets every archive that carries this end with [`NarFailure::Cancelled`] at its next chunk.
    pub fn call_off(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it has been called off.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// An archive that has not been begun.
pub struct NarStream {
    root: PathBuf,
    registered: (NarHash, u64),
    options: NarOptions,
    lane: Lane,
    slots: Slots,
    call_off: CallOff,
}

impl NarStream {
    /// The archive of the files at `root`, which Nix has registered as `info`.
    #[must_use]
    pub fn new(root: PathBuf, info: &PathInfo, lane: Lane, slots: Slots, call_off: CallOff) -> Self {
        let options = NarOptions::default();
        Self { root, registered: (info.nar_hash, info.nar_size), options, lane, slots, call_off }
    }

    /// Waits for a slot and begins to read.
    ///
    /// # Errors
    /// [`NarFailure::Cancelled`].
    pub async fn start(self) -> Result<NarReader, NarFailure> {
        let slot = self.slots.acquire(self.lane).await;
        if self.call_off.is_off() {
            return Err(NarFailure::Cancelled);
        }
        let (_, size) = self.registered;
        let source = if size > 0 && size <= SMALL {
            Source::Small(Some(self))
        } else {
            let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
            tokio::task::spawn_blocking(move || {
                let ended = self.encode(|chunk| sender.blocking_send(Ok(chunk)).map_err(|_| NarFailure::Cancelled));
                let last = match ended {
                    // An empty chunk says that the archive is whole; without it, it isn't.
                    Ok(()) => Ok(Bytes::new()),
                    Err(failure) => Err(failure),
                };
                // Nobody listening any more is fine.
                let _ = sender.blocking_send(last);
            });
            Source::Large(chunks)
        };
        Ok(NarReader { source, total: 0, _slot: slot })
    }

    /// Reads everything, and checks it against what Nix has registered.
    fn encode(&self, mut emit: impl FnMut(Bytes) -> Result<(), NarFailure>) -> Result<(), NarFailure> {
        let (registered, registered_size) = self.registered;
        let mut size = 0;
        let encoded = encode_hashed(&self.root, &self.options, |chunk: Bytes| {
            if self.call_off.is_off() {
                return Err(NarFailure::Cancelled);
            }
            size += chunk.len() as u64;
            // What has grown since it was registered is hashed to its end, but not handed on.
            if registered_size == 0 || size <= registered_size { emit(chunk) } else { Ok(()) }
        });
        let (found, size) = encoded.map_err(|error| match error {
            NarError::Sink(failure) => failure,
            error @ (NarError::Unsupported { .. } | NarError::CaseClash { .. }) => {
                NarFailure::Unpackable { source: Box::new(error) }
            }
            NarError::Io { ref source, .. } if source.kind() == ErrorKind::PermissionDenied => {
                NarFailure::Unpackable { source: Box::new(error) }
            }
            error => NarFailure::Unreadable { vanished: error.is_root_gone(&self.root), source: Box::new(error) },
        })?;
        if found == registered && (registered_size == 0 || registered_size == size) {
            Ok(())
        } else {
            Err(NarFailure::Altered { registered, found, registered_size, found_size: size })
        }
    }
}

/// An archive being read. The slot that it takes is free again when it is dropped.
pub struct NarReader {
    source: Source,
    total: u64,
    _slot: Slot,
}

enum Source {
    Small(Option<NarStream>),
    Large(mpsc::Receiver<Result<Bytes, NarFailure>>),
}

impl NarReader {
    /// Gives every chunk to `take`, in order, and returns the archive's size in bytes. Blocks.
    ///
    /// Only when this returns `Ok` was the archive whole and the one that Nix has registered.
    ///
    /// # Errors
    /// What `take` returns, or [`NarFailure`].
    pub fn read_blocking<E: From<NarFailure>>(
        mut self,
        mut take: impl FnMut(&Bytes) -> Result<(), E>,
    ) -> Result<u64, E> {
        match &mut self.source {
            Source::Small(stream) => {
                let Some(stream) = stream.take() else { return Ok(self.total) };
                let mut chunks = Vec::new();
                stream.encode(|chunk| {
                    chunks.push(chunk);
                    Ok(())
                })?;
                chunks.iter().try_for_each(&mut take)?;
                Ok(chunks.iter().map(|chunk| chunk.len() as u64).sum())
            }
            Source::Large(chunks) => loop {
                match chunks.blocking_recv() {
                    Some(Ok(chunk)) if chunk.is_empty() => return Ok(self.total),
                    Some(Ok(chunk)) => {
                        self.total += chunk.len() as u64;
                        take(&chunk)?;
                    }
                    Some(Err(failure)) => return Err(failure.into()),
                    None => return Err(NarFailure::Cancelled.into()),
                }
            },
        }
    }
}
