//! The archive of one path on its way into caches: read when a slot is free, hashed as it goes, checked at its end.
//!
//! Invariant kept here: **nothing corrupt.** The last chunk is handed out only when the hash and the size of the whole
//! archive are those that Nix has registered, so that nobody who was given an altered archive ever holds all of it.
//!
//! Where several caches want a path at the same time, `pass` reads it once for all of them.

mod listed;
mod pass;

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::{BoxFuture, NarFailure};
use crate::limit::{Lane, Slot, Slots, Urgency};
use crate::nix::nar::{Listing, NarError, NarOptions, encode_hashed};
use crate::nix::{NarHash, PathInfo};

pub use listed::Listed;
use pass::Start;
pub use pass::{Pass, Punctuality, Seat};

/// Archives up to this size (bytes) are read by the thread that packs them: a second one would cost more than it saves.
const SMALL: u64 = 1024 * 1024;

/// Up to this size (bytes) an archive needn't wait for a slot behind others on a slow line: at 64 KiB/s it takes a second.
const BRIEF: u64 = 64 * 1024;

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

    /// Calls off when it is dropped: for a thread that works for a future, and is to end with it.
    #[must_use]
    pub fn when_dropped(&self) -> CalledOffWhenDropped {
        CalledOffWhenDropped(self.clone())
    }
}

/// See [`CallOff::when_dropped`].
pub struct CalledOffWhenDropped(CallOff);

impl Drop for CalledOffWhenDropped {
    fn drop(&mut self) {
        self.0.call_off();
    }
}

/// Keeps archives that have not been begun from being begun. Cheap to clone; all clones are one gate.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<AtomicBool>);

impl Gate {
    /// Opens or shuts it.
    pub fn shut(&self, shut: bool) {
        self.0.store(shut, Ordering::Relaxed);
    }

    fn is_shut(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// How much has been read of all archives that are counted together, so that somebody sees that a large one moves. Cheap to
/// clone; all clones are one tally.
#[derive(Clone, Debug, Default)]
pub struct Tally(Arc<AtomicU64>);

impl Tally {
    /// Bytes read so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// An archive that has not been begun.
pub struct NarStream {
    archive: Archive,
    urgency: Urgency,
    slots: Slots,
    gate: Option<Gate>,
    seat: Option<Seat>,
    first: Option<BoxFuture<'static, Result<(), NarFailure>>>,
}

impl NarStream {
    /// The archive of the files at `root`, which Nix has registered as `info`.
    #[must_use]
    pub fn new(root: PathBuf, info: &PathInfo, urgency: impl Into<Urgency>, slots: Slots, call_off: CallOff) -> Self {
        let archive = Archive {
            root,
            registered: (info.nar_hash, info.nar_size),
            options: NarOptions::default(),
            call_off,
            tally: Tally::default(),
        };
        Self { archive, urgency: urgency.into(), slots, gate: None, seat: None, first: None }
    }

    /// The same, not begun if the gate is shut when its turn comes.
    #[must_use]
    pub fn behind(self, gate: Option<Gate>) -> Self {
        Self { gate, ..self }
    }

    /// The same, counted with others.
    #[must_use]
    pub fn counted(mut self, tally: &Tally) -> Self {
        self.archive.tally = tally.clone();
        self
    }

    /// The same, read together with whoever else has a seat in that pass.
    #[must_use]
    pub fn seated(self, seat: Option<Seat>) -> Self {
        Self { seat, ..self }
    }

    /// The same, begun only after something that may fail, for which it has its slot already.
    #[must_use]
    pub fn only_after(self, first: BoxFuture<'static, Result<(), NarFailure>>) -> Self {
        Self { first: Some(first), ..self }
    }

    /// The same archive once more, for who may have to send it a second time; read alone.
    #[must_use]
    pub fn again(&self) -> Self {
        let Self { archive, urgency, slots, gate, seat: _, first: _ } = self;
        let (archive, urgency) = (archive.clone(), urgency.clone());
        Self { archive, urgency, slots: slots.clone(), gate: gate.clone(), seat: None, first: None }
    }

    /// The lane that it stands in now.
    #[must_use]
    pub fn lane(&self) -> Lane {
        self.urgency.lane()
    }

    /// Waits for a slot and begins to read.
    ///
    /// # Errors
    /// [`NarFailure::Cancelled`].
    pub async fn start(self) -> Result<NarReader, NarFailure> {
        let Self { archive, urgency, slots, gate, seat, first } = self;
        let slot = slots.acquire(urgency, archive.is_brief()).await;
        if archive.call_off.is_off() || gate.is_some_and(|gate| gate.is_shut()) {
            return Err(NarFailure::Cancelled);
        }
        if let Some(first) = first {
            first.await?;
        }
        let call_off = archive.call_off.clone();
        let archive = match seat {
            Some(seat) => match seat.start(archive).await? {
                Start::Together { chunks, behind } => {
                    let (source, behind) = (Source::Large(chunks), Some(behind));
                    return Ok(NarReader { source, total: 0, call_off, behind, listing: None, slot });
                }
                Start::Alone(archive) => archive,
            },
            None => archive,
        };
        let source = if archive.is_small() {
            Source::Small(Some(archive))
        } else {
            let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
            spawn_blocking(move || archive.read_into(|item| sender.blocking_send(item).is_ok()));
            Source::Large(chunks)
        };
        Ok(NarReader { source, total: 0, call_off, behind: None, listing: None, slot })
    }
}

/// The files that an archive is made of, and what it must come to.
#[derive(Clone)]
struct Archive {
    root: PathBuf,
    registered: (NarHash, u64),
    options: NarOptions,
    call_off: CallOff,
    tally: Tally,
}

impl Archive {
    /// Whether it is through soon, however slow the line is.
    fn is_brief(&self) -> bool {
        let (_, size) = self.registered;
        size > 0 && size <= BRIEF
    }

    fn is_small(&self) -> bool {
        let (_, size) = self.registered;
        size > 0 && size <= SMALL
    }

    /// Gives everything to `take`, as a reader gets it: chunks, and then an empty one that says that the archive is
    /// whole, or the failure. Ends early when `take` wants no more. Blocks.
    fn read_into(&self, mut take: impl FnMut(Result<Bytes, NarFailure>) -> bool) {
        let ended = self.encode(|chunk| if take(Ok(chunk)) { Ok(()) } else { Err(NarFailure::Cancelled) });
        // Nobody listening any more is fine.
        take(ended.map(|()| Bytes::new()));
    }

    /// Reads everything, and checks it against what Nix has registered; only then gives the last chunk away.
    fn encode(&self, mut emit: impl FnMut(Bytes) -> Result<(), NarFailure>) -> Result<(), NarFailure> {
        let (registered, registered_size) = self.registered;
        let (mut size, mut kept_back) = (0, None);
        let encoded = encode_hashed(&self.root, &self.options, |chunk: Bytes| {
            if self.call_off.is_off() {
                return Err(NarFailure::Cancelled);
            }
            size += chunk.len() as u64;
            self.tally.add(chunk.len());
            // What has grown since it was registered is hashed to its end, but not handed on.
            if registered_size > 0 && size > registered_size {
                return Ok(());
            }
            kept_back.replace(chunk).map_or(Ok(()), &mut emit)
        });
        let (found, size) = encoded.map_err(|error| match error {
            NarError::Sink(failure) => failure,
            error @ (NarError::Unsupported { .. } | NarError::CaseClash { .. }) => {
                NarFailure::Unpackable { source: Arc::new(error) }
            }
            NarError::Io { ref source, .. } if source.kind() == ErrorKind::PermissionDenied => {
                NarFailure::Unpackable { source: Arc::new(error) }
            }
            error => NarFailure::Unreadable { vanished: error.is_root_gone(&self.root), source: Arc::new(error) },
        })?;
        if found != registered || (registered_size != 0 && registered_size != size) {
            return Err(NarFailure::Altered { registered, found, registered_size, found_size: size });
        }
        kept_back.map_or(Ok(()), emit)
    }
}

/// An archive being read. The slot that it takes is free again when it is dropped, unless somebody keeps it.
pub struct NarReader {
    source: Source,
    total: u64,
    /// In a pass, that of this reader alone.
    call_off: CallOff,
    /// Raised when a pass went on without this reader, which was too slow for the others.
    behind: Option<Arc<AtomicBool>>,
    /// What is in the archive, where somebody wants to know.
    listing: Option<Arc<Mutex<Listing>>>,
    slot: Slot,
}

enum Source {
    Small(Option<Archive>),
    Read(VecDeque<Bytes>),
    Large(mpsc::Receiver<Result<Bytes, NarFailure>>),
}

impl NarReader {
    /// The slot, for who needs it beyond the archive's end, since a server is still at work with it.
    #[must_use]
    pub fn slot(&self) -> Slot {
        self.slot.clone()
    }

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
        if let Source::Small(archive) = &mut self.source {
            self.source = Source::Read(archive.take().map_or_else(|| Ok(VecDeque::new()), read_whole)?);
        }
        loop {
            let next = match &mut self.source {
                Source::Small(_) => None,
                Source::Read(chunks) => chunks.pop_front(),
                Source::Large(chunks) => {
                    let received = chunks.blocking_recv();
                    self.judge(received)?
                }
            };
            let Some(chunk) = next else { return Ok(self.total) };
            self.note(&chunk);
            take(&chunk)?;
        }
    }

    /// The next chunk; `None` when the archive was whole and the one that Nix has registered.
    ///
    /// # Errors
    /// [`NarFailure`]; ask no more then.
    pub async fn next(&mut self) -> Result<Option<Bytes>, NarFailure> {
        if let Source::Small(archive) = &mut self.source {
            let archive = archive.take();
            let read = spawn_blocking(move || archive.map_or_else(|| Ok(VecDeque::new()), read_whole)).await;
            self.source = Source::Read(read.unwrap_or(Err(NarFailure::LostThread))?);
        }
        let next = match &mut self.source {
            Source::Small(_) => None,
            Source::Read(chunks) => chunks.pop_front(),
            Source::Large(chunks) => {
                let received = chunks.recv().await;
                self.judge(received)?
            }
        };
        if let Some(chunk) = &next {
            self.note(chunk);
        }
        Ok(next)
    }

    /// What came through the channel: an empty chunk says that the archive is whole; without it, it isn't.
    fn judge(&self, received: Option<Result<Bytes, NarFailure>>) -> Result<Option<Bytes>, NarFailure> {
        match received {
            Some(Ok(_)) | None if self.call_off.is_off() => Err(NarFailure::Cancelled),
            Some(Ok(chunk)) => Ok(Some(chunk).filter(|chunk| !chunk.is_empty())),
            Some(Err(failure)) => Err(failure),
            None if self.behind.as_ref().is_some_and(|behind| behind.load(Ordering::Relaxed)) => {
                Err(NarFailure::Behind)
            }
            None => Err(NarFailure::LostThread),
        }
    }
}

/// All chunks of a small archive.
fn read_whole(archive: Archive) -> Result<VecDeque<Bytes>, NarFailure> {
    let mut chunks = VecDeque::new();
    archive.encode(|chunk| {
        chunks.push_back(chunk);
        Ok(())
    })?;
    Ok(chunks)
}
