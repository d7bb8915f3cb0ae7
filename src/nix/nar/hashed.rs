//! A NAR with its hash.

use std::panic::resume_unwind;
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{Builder, Scope, ScopedJoinHandle, scope};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{CHUNK, NarError, NarOptions, encode};
use crate::nix::NarHash;

/// How many chunks the reading may be ahead of the hashing. Enough that neither waits for the other over a run of
/// small files, and small against what an upload holds anyway.
const AHEAD: usize = 4;

/// As [`encode`](fn@encode), and says at the end what the SHA-256 and the length of the whole NAR are.
///
/// A NAR of more than one chunk is hashed by a second thread, which inherits the priority of this one: reading and
/// SHA-256 take about as long as each other where files are small. `emit` may have seen a chunk before it is hashed.
///
/// # Errors
/// [`NarError`]; what was emitted by then is to be thrown away.
pub fn encode_hashed<E>(
    root: &Path,
    options: &NarOptions,
    mut emit: impl FnMut(Bytes) -> Result<(), E>,
) -> Result<(NarHash, u64), NarError<E>> {
    scope(|threads| {
        let mut hashing = Hashing::Here(Sha256::new());
        let mut size = 0;
        encode(root, options, |chunk| {
            size += chunk.len() as u64;
            hashing.take(&chunk, threads);
            emit(chunk)
        })?;
        Ok((NarHash(hashing.finish()), size))
    })
}

enum Hashing<'scope> {
    Here(Sha256),
    Beside { chunks: SyncSender<Bytes>, hasher: ScopedJoinHandle<'scope, Sha256> },
}

impl<'scope> Hashing<'scope> {
    fn take<'env>(&mut self, chunk: &Bytes, threads: &'scope Scope<'scope, 'env>) {
        if let Self::Here(hash) = self {
            if chunk.len() < CHUNK {
                return hash.update(chunk);
            }
            // A full chunk: another one will follow.
            let (chunks, arriving) = sync_channel::<Bytes>(AHEAD);
            let mut hash_there = hash.clone();
            let spawned = Builder::new().name("nar-hash".to_owned()).spawn_scoped(threads, move || {
                for chunk in arriving {
                    hash_there.update(&chunk);
                }
                hash_there
            });
            match spawned {
                Ok(hasher) => *self = Self::Beside { chunks, hasher },
                // No thread to be had: slower, and just as right.
                Err(_) => return hash.update(chunk),
            }
        }
        if let Self::Beside { chunks, .. } = self {
            // It fails only where the thread has panicked, which `finish` passes on.
            let _ = chunks.send(chunk.clone());
        }
    }

    fn finish(self) -> [u8; 32] {
        let hash = match self {
            Self::Here(hash) => hash,
            Self::Beside { chunks, hasher } => {
                drop(chunks);
                hasher.join().unwrap_or_else(|panic| resume_unwind(panic))
            }
        };
        hash.finalize().into()
    }
}
