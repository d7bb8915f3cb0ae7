//! One reading of a path for all caches that want it at the same time.
//!
//! ```text
//!              ┌─► channel ─► cache A
//! read + hash ─┼─► channel ─► cache B
//!              └─► channel ─► cache C     stays full for 2 s: leaves, and its job is done later in a pass of its own
//! ```
//!
//! Who is to take part has a [`Seat`] from the beginning. The pass begins when each seat is either taken or given up, and
//! at the latest a moment after the first was taken: a cache that needs longer to begin must not delay the others.
//! The channels are the only buffers, of a megabyte each, so the caches go at the pace of the slowest that keeps up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::{Archive, CHUNKS_AHEAD, NarFailure};

/// How long those who have begun wait for those who have not: as long as a cache in reach takes to say what it lacks.
const GATHERING: Duration = Duration::from_millis(250);

/// A cache whose buffer stays full for so long leaves the pass, so that the others can go on.
const KEEPING_UP: Duration = Duration::from_secs(2);

/// A reading of one path that several caches may share. Cheap to clone.
#[derive(Clone, Default)]
pub struct Pass(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Rings when the last seat is taken or given up.
    complete: Notify,
}

#[derive(Default)]
struct State {
    /// Seats that are neither taken nor given up.
    expected: usize,
    /// It has begun, and nobody can join any more.
    begun: bool,
    waiting: Vec<Waiting>,
}

/// Who has taken a seat and waits for the pass to begin.
struct Waiting {
    member: Member,
    /// Told when it begins.
    begun: oneshot::Sender<()>,
}

struct Member {
    chunks: mpsc::Sender<Result<Bytes, NarFailure>>,
    behind: Arc<AtomicBool>,
}

/// A place in a pass. Dropped, it is given up.
pub struct Seat {
    pass: Pass,
    taken: bool,
}

/// How a reading begins.
pub(super) enum Start {
    Together {
        chunks: mpsc::Receiver<Result<Bytes, NarFailure>>,
        behind: Arc<AtomicBool>,
    },
    /// The others have begun already.
    Alone(Archive),
}

impl Pass {
    /// One more seat.
    #[must_use]
    pub fn seat(&self) -> Seat {
        self.lock().expected += 1;
        Seat { pass: self.clone(), taken: false }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the other seats, and reads for all.
    async fn conduct(self, archive: Archive) {
        let gathered = async {
            while self.lock().expected > 0 {
                self.0.complete.notified().await;
            }
        };
        // Whoever has not come by then reads alone.
        let _ = timeout(GATHERING, gathered).await;
        let waiting = {
            let mut state = self.lock();
            state.begun = true;
            std::mem::take(&mut state.waiting)
        };
        let there =
            waiting.into_iter().filter_map(|Waiting { member, begun }| begun.send(()).is_ok().then_some(member));
        let members: Vec<_> = there.collect();
        if !members.is_empty() {
            let runtime = Handle::current();
            spawn_blocking(move || read_for(&archive, members, &runtime));
        }
    }
}

impl Seat {
    /// Takes the seat, and returns when the pass has begun.
    pub(super) async fn start(mut self, archive: Archive) -> Result<Start, NarFailure> {
        let (chunks, receiver) = mpsc::channel(CHUNKS_AHEAD);
        let behind = Arc::new(AtomicBool::new(false));
        let (begun, beginning) = oneshot::channel();
        {
            let mut state = self.pass.lock();
            self.taken = true;
            state.expected -= 1;
            if state.begun {
                return Ok(Start::Alone(archive));
            }
            state.waiting.push(Waiting { member: Member { chunks, behind: Arc::clone(&behind) }, begun });
            if state.waiting.len() == 1 {
                tokio::spawn(self.pass.clone().conduct(archive));
            }
        }
        self.pass.0.complete.notify_one();
        beginning.await.map_err(|_| NarFailure::Cancelled)?;
        Ok(Start::Together { chunks: receiver, behind })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if !self.taken {
            self.pass.lock().expected -= 1;
            self.pass.0.complete.notify_one();
        }
    }
}

/// Reads once, for all that keep up. Blocks.
fn read_for(archive: &Archive, mut members: Vec<Member>, runtime: &Handle) {
    archive.read_into(|item| {
        let alone = members.len() == 1;
        members.retain(|member| member.give(&item, alone, runtime));
        !members.is_empty()
    });
}

impl Member {
    /// Hands one item on; `false` where this one is out. Who is alone holds nobody up, and may take its time.
    fn give(&self, item: &Result<Bytes, NarFailure>, alone: bool, runtime: &Handle) -> bool {
        match self.chunks.try_send(item.clone()) {
            Ok(()) => true,
            Err(TrySendError::Closed(_)) => false,
            Err(TrySendError::Full(item)) if alone => self.chunks.blocking_send(item).is_ok(),
            Err(TrySendError::Full(item)) => {
                match runtime.block_on(async { timeout(KEEPING_UP, self.chunks.send(item)).await }) {
                    Ok(sent) => sent.is_ok(),
                    Err(_) => {
                        self.behind.store(true, Ordering::Relaxed);
                        false
                    }
                }
            }
        }
    }
}
