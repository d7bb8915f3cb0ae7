//! The body of an upload: an archive on its way, and whether it moves.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;

use super::movement::{ANSWERING, Movement};
use crate::cache::pack::{Packed, Packing};
use crate::cache::{BoxFuture, NarFailure, NarReader};
use crate::limit::Tap;

/// What a request brings: an archive for the most part.
pub struct Body {
    ahead: Bytes,
    archive: Archive,
    progress: Progress,
}

/// How far a body is. Cheap to clone.
#[derive(Clone, Default)]
pub struct Progress {
    movement: Movement,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
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
        Self { ahead, archive, progress: Progress::default() }
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// What is sent, as `tap` lets it through, and how far that is.
    pub(super) fn split(self, tap: Tap) -> (Chunks, Progress) {
        let Self { ahead, archive, progress } = self;
        let mut rest = Rest { ahead: VecDeque::new(), ahead_len: 0, archive, is_read: false, tap, let_through: 0 };
        rest.gather(ahead);
        (Chunks { next: Some(rest.next()), progress: progress.clone() }, progress)
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
        self.movement.has_moved();
        self.lock().offered += bytes as u64;
    }

    /// What a packed archive came to, once all of it has been taken. Before that, whatever a server says, it hasn't got it
    /// whole.
    #[must_use]
    pub fn packed(&self) -> Option<Packed> {
        self.lock().packed
    }

    /// Comes true when the server has done nothing for too long; says for how long.
    pub(super) async fn stalled(&self) -> Duration {
        self.movement.stalled(ANSWERING).await
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pieces, as a request takes them: each is asked for when there is room for it. Whoever drops them lets go of the
/// archive.
pub(super) struct Chunks {
    next: Option<BoxFuture<'static, Next>>,
    progress: Progress,
}

/// The next piece, and what is behind it.
type Next = (Rest, Result<Option<Bytes>, NarFailure>);

/// What is still to be sent.
struct Rest {
    /// Ahead of what the archive has left.
    ahead: VecDeque<Bytes>,
    ahead_len: usize,
    archive: Archive,
    /// Whether the archive has nothing left.
    is_read: bool,
    tap: Tap,
    /// Bytes of what is ahead that may be sent.
    let_through: usize,
}

impl Rest {
    /// The next piece, once it may be sent.
    fn next(mut self) -> BoxFuture<'static, Next> {
        Box::pin(async move {
            if self.let_through == 0
                && let Err(failure) = self.wait_for_turn().await
            {
                return (self, Err(failure));
            }
            let piece = self.send();
            (self, Ok(piece))
        })
    }

    /// Waits until something may be sent. At a high rate that is more than comes in one chunk: several are gathered, and go for
    /// one wait.
    async fn wait_for_turn(&mut self) -> Result<(), NarFailure> {
        let piece = self.tap.piece();
        let enough = if piece == usize::MAX { 1 } else { piece };
        while self.ahead_len < enough && !self.is_read {
            match self.archive.next().await? {
                Some(chunk) => self.gather(chunk),
                None => self.is_read = true,
            }
        }
        let bytes = piece.min(self.ahead_len);
        // The end needs no turn.
        if bytes > 0 {
            self.tap.take(bytes).await;
        }
        self.let_through = bytes;
        Ok(())
    }

    fn gather(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.ahead_len += chunk.len();
            self.ahead.push_back(chunk);
        }
    }

    /// As much of what may be sent as lies in one chunk; `None` where everything has been.
    fn send(&mut self) -> Option<Bytes> {
        let mut first = self.ahead.pop_front()?;
        let piece = first.split_to(self.let_through.min(first.len()));
        if !first.is_empty() {
            self.ahead.push_front(first);
        }
        self.ahead_len -= piece.len();
        self.let_through -= piece.len();
        Some(piece)
    }
}

impl Stream for Chunks {
    type Item = Result<Bytes, io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { next, progress } = &mut *self;
        let Some(mut reading) = next.take() else { return Poll::Ready(None) };
        let Poll::Ready((rest, piece)) = reading.as_mut().poll(context) else {
            progress.movement.is_held();
            *next = Some(reading);
            return Poll::Pending;
        };
        Poll::Ready(match piece {
            Ok(Some(piece)) => {
                progress.offer(piece.len());
                *next = Some(rest.next());
                Some(Ok(piece))
            }
            Ok(None) => {
                if let Archive::Packed(packing) = &rest.archive {
                    progress.lock().packed = packing.packed().ok();
                }
                progress.movement.is_whole();
                None
            }
            Err(failure) => {
                // Whatever the sender of the request makes of it, this is what went wrong.
                progress.lock().failure = Some(failure);
                Some(Err(io::Error::other("the archive failed")))
            }
        })
    }
}

impl Drop for Chunks {
    /// Of a request that says how long it is, nobody asks for the end.
    fn drop(&mut self) {
        self.progress.movement.ends();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::super::movement::TAKING;
    use super::*;
    use crate::limit::{Lane, Rate, Rates, Shaper};

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_given_up_sooner_than_who_has_everything() {
        let take = async |chunks: &mut Chunks| poll_fn(|context| Pin::new(&mut *chunks).poll_next(context)).await;
        for (asked_for_the_end, dropped, limit) in
            [(false, false, TAKING), (true, false, ANSWERING), (false, true, ANSWERING)]
        {
            let (mut chunks, progress) = Body::whole(Bytes::from_static(b"content")).split(Tap::of_this_task());
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

    #[tokio::test(start_paused = true)]
    async fn a_server_is_not_given_up_while_nothing_may_be_sent_to_it() {
        let shaper = Shaper::default();
        shaper.set(&Rates { line: Rate::new(1), ..Rates::default() });
        let tap = shaper.tap("team", Lane::Fresh, true);
        let (mut chunks, progress) = Body::whole(Bytes::from(vec![7; 2000])).split(tap);
        let sending = async {
            let mut sent = Vec::new();
            while let Some(piece) = poll_fn(|context| Pin::new(&mut chunks).poll_next(context)).await {
                sent.push((piece.expect("whole").len(), progress.offered()));
            }
            sent
        };
        tokio::select! {
            biased;
            sent = sending => assert_eq!(sent, [(1024, 1024), (976, 2000)], "some twenty minutes apart"),
            after = progress.stalled() => panic!("given up after {after:?}"),
        }
    }
}
