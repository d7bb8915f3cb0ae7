//! The body of an upload: an archive on its way, and whether it moves.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use tokio::time::{Instant, sleep_until};

use crate::cache::pack::{Packed, Packing};
use crate::cache::{BoxFuture, NarFailure, NarReader};

/// A server that takes nothing for so long is given up. Servers write to disks and object stores while they take, and
/// some do that in bursts.
pub(in crate::cache) const TAKING: Duration = Duration::from_secs(30);

/// A server that has everything answers within this time. One that packs a large archive and passes it on to an object
/// store needs some for what it has buffered.
pub(in crate::cache) const ANSWERING: Duration = Duration::from_secs(180);

/// What a request brings: an archive for the most part.
pub struct Body {
    ahead: Bytes,
    archive: Archive,
    progress: Progress,
}

/// How far a body is. Cheap to clone.
#[derive(Clone)]
pub struct Progress(Arc<Mutex<State>>);

struct State {
    stage: Stage,
    failure: Option<NarFailure>,
    packed: Option<Packed>,
    /// Bytes that were handed on.
    offered: u64,
}

/// What chunks come from.
enum Archive {
    None,
    Plain(NarReader),
    Packed(Packing),
}

impl Archive {
    async fn next(&mut self) -> Result<Option<Bytes>, NarFailure> {
        match self {
            Self::None => Ok(None),
            Self::Plain(reader) => reader.next().await,
            Self::Packed(packing) => packing.next().await,
        }
    }
}

enum Stage {
    /// The archive is being read: however long that takes, it isn't the server's fault.
    Reading,
    /// A chunk waits to be taken.
    Offered(Instant),
    /// Everything has been taken.
    Taken(Instant),
}

impl Body {
    /// The archive, behind some bytes that go ahead of it.
    #[must_use]
    pub fn new(ahead: Bytes, reader: NarReader) -> Self {
        Self::of(ahead, Archive::Plain(reader))
    }

    /// What is there already, in one piece.
    #[must_use]
    pub fn whole(content: Bytes) -> Self {
        Self::of(content, Archive::None)
    }

    /// The archive as it is packed.
    #[must_use]
    pub fn packed(packing: Packing) -> Self {
        Self::of(Bytes::new(), Archive::Packed(packing))
    }

    fn of(ahead: Bytes, archive: Archive) -> Self {
        let state = State { stage: Stage::Reading, failure: None, packed: None, offered: 0 };
        Self { ahead, archive, progress: Progress(Arc::new(Mutex::new(state))) }
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    pub(super) fn split(self) -> (Chunks, Progress) {
        let Self { ahead, archive, progress } = self;
        (Chunks { next: Next::Ahead(ahead, archive), progress: progress.clone() }, progress)
    }
}

impl Progress {
    /// Why the archive came to no end, if it was the archive.
    #[must_use]
    pub fn failure(&self) -> Option<NarFailure> {
        self.lock().failure.clone()
    }

    /// Bytes that have been handed on.
    #[must_use]
    pub fn offered(&self) -> u64 {
        self.lock().offered
    }

    fn offer(&self, bytes: usize) {
        let mut state = self.lock();
        state.stage = Stage::Offered(Instant::now());
        state.offered += bytes as u64;
    }

    /// What a packed archive came to, once all of it has been taken. Before that, whatever a server says, it hasn't got it
    /// whole.
    #[must_use]
    pub fn packed(&self) -> Option<Packed> {
        self.lock().packed
    }

    /// Comes true when the server has done nothing for too long; says for how long.
    pub(super) async fn stalled(&self) -> Duration {
        loop {
            let now = Instant::now();
            let (since, limit) = match self.lock().stage {
                Stage::Reading => (now, TAKING),
                Stage::Offered(since) => (since, TAKING),
                Stage::Taken(since) => (since, ANSWERING),
            };
            if since + limit <= now {
                return limit;
            }
            sleep_until(since + limit).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The chunks, as a request takes them: each is asked for when there is room for it. Whoever drops them lets go of the
/// archive.
pub(super) struct Chunks {
    next: Next,
    progress: Progress,
}

/// What comes next.
enum Next {
    Ahead(Bytes, Archive),
    OfArchive(BoxFuture<'static, (Archive, Result<Option<Bytes>, NarFailure>)>),
    Nothing,
}

impl Next {
    fn of(mut archive: Archive) -> Self {
        Self::OfArchive(Box::pin(async move {
            let next = archive.next().await;
            (archive, next)
        }))
    }
}

impl Stream for Chunks {
    type Item = Result<Bytes, io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { next, progress } = &mut *self;
        loop {
            let (archive, chunk) = match std::mem::replace(next, Next::Nothing) {
                Next::Ahead(ahead, archive) if ahead.is_empty() => {
                    *next = Next::of(archive);
                    continue;
                }
                Next::Ahead(ahead, archive) => (archive, Ok(Some(ahead))),
                Next::OfArchive(mut reading) => match reading.as_mut().poll(context) {
                    Poll::Ready(read) => read,
                    Poll::Pending => {
                        progress.lock().stage = Stage::Reading;
                        *next = Next::OfArchive(reading);
                        return Poll::Pending;
                    }
                },
                Next::Nothing => return Poll::Ready(None),
            };
            return Poll::Ready(match chunk {
                Ok(Some(chunk)) => {
                    progress.offer(chunk.len());
                    *next = Next::of(archive);
                    Some(Ok(chunk))
                }
                Ok(None) => {
                    let mut state = progress.lock();
                    state.stage = Stage::Taken(Instant::now());
                    if let Archive::Packed(packing) = &archive {
                        state.packed = packing.packed().ok();
                    }
                    None
                }
                Err(failure) => {
                    // Whatever the sender of the request makes of it, this is what went wrong.
                    progress.lock().failure = Some(failure);
                    Some(Err(io::Error::other("the archive failed")))
                }
            });
        }
    }
}

impl Drop for Chunks {
    /// Of a request that says how long it is, nobody asks for the end.
    fn drop(&mut self) {
        let mut state = self.progress.lock();
        if let Stage::Offered(_) = state.stage {
            state.stage = Stage::Taken(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_given_up_sooner_than_who_has_everything() {
        let take = async |chunks: &mut Chunks| poll_fn(|context| Pin::new(&mut *chunks).poll_next(context)).await;
        for (asked_for_the_end, dropped, limit) in
            [(false, false, TAKING), (true, false, ANSWERING), (false, true, ANSWERING)]
        {
            let (mut chunks, progress) = Body::whole(Bytes::from_static(b"content")).split();
            assert_eq!(take(&mut chunks).await.expect("a chunk").expect("whole"), "content");
            if asked_for_the_end {
                assert!(take(&mut chunks).await.is_none());
            }
            let mut chunks = Some(chunks);
            if dropped {
                chunks = None;
            }
            assert_eq!(progress.stalled().await, limit, "{asked_for_the_end} {dropped}");
            drop(chunks);
        }
    }
}
