//! An archive that is packed on a thread, for who sends it meanwhile.

use std::io::{self, ErrorKind, Write};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::{PackError, Packed, pack_while};
use crate::cache::{CacheError, Compression, NarFailure, NarReader};

/// Chunks that may lie between the thread that packs and the one who sends: 1 MiB.
const CHUNKS_AHEAD: usize = 4;

/// An archive being packed on a thread. Dropped, it is called off: the thread ends at its next chunk, and lets go of the
/// archive and its slot.
pub struct Packing {
    chunks: mpsc::Receiver<Item>,
    /// What it came to, once everything has been taken.
    packed: Option<Packed>,
}

enum Item {
    Chunk(Bytes),
    End(Result<Packed, NarFailure>),
}

impl Packing {
    /// Begins to pack an archive of `expected_size` bytes (0: nobody knows), on a thread of the runtime's that may wait.
    #[must_use]
    pub fn start(nar: NarReader, compression: Compression, expected_size: u64) -> Self {
        let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
        spawn_blocking(move || {
            let out = Sender(sender.clone());
            let end = match pack_while(nar, compression, expected_size, out, || !sender.is_closed()) {
                Ok((packed, _)) => Ok(packed),
                Err(PackError::Nar(failure)) => Err(failure),
                // The receiver is gone; or a library has no memory, which is taken for a thread that was lost.
                Err(PackError::Write(_)) => Err(NarFailure::LostThread),
            };
            // Nobody listening any more is fine.
            let _ = sender.blocking_send(Item::End(end));
        });
        Self { chunks, packed: None }
    }

    /// The next chunk, of some 256 KiB; `None` when all have been taken and the archive was whole and
    /// the one that Nix has registered.
    ///
    /// It may be dropped at any time, and loses nothing.
    ///
    /// # Errors
    /// [`NarFailure`]; ask no more then.
    pub async fn next(&mut self) -> Result<Option<Bytes>, NarFailure> {
        if self.packed.is_some() {
            return Ok(None);
        }
        match self.chunks.recv().await {
            Some(Item::Chunk(chunk)) => Ok(Some(chunk)),
            Some(Item::End(Ok(packed))) => {
                self.packed = Some(packed);
                Ok(None)
            }
            Some(Item::End(Err(failure))) => Err(failure),
            None => Err(NarFailure::LostThread),
        }
    }

    /// What it came to, once [`Packing::next`] has said that all is taken.
    ///
    /// # Errors
    /// [`CacheError::Nar`] where that isn't so.
    pub fn packed(&self) -> Result<Packed, CacheError> {
        self.packed.ok_or(CacheError::Nar(NarFailure::Cancelled))
    }
}

/// Hands chunks to the other side, and waits where that is behind.
struct Sender(mpsc::Sender<Item>);

impl Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Item::Chunk(Bytes::copy_from_slice(bytes)));
        sent.map_err(|_| io::Error::from(ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
