//! One reading of a path for all caches that want it at the same time.
//!
//! ```text
//!              ┌─► channel ─► cache A
//! read + hash ─┼─► channel ─► cache B
//!              └─► channel ─► cache C     stays full for 2 s: leaves, and its job is done later in a pass of its own
//! ```
//!
//! Who is to take part has a [`Seat`] from the beginning. The pass begins when each seat is either taken or given up, and
//! at the latest some time after the first was taken. A cache that was late, or did not keep up, must not delay the others
//! again and again: it is known by its [`Punctuality`], is waited for no more, and gets no seat for a while. The channels
//! are the only buffers, of a megabyte each, so the caches go at the pace of the slowest that keeps up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use super::{Archive, CHUNKS_AHEAD, CallOff, NarFailure};
use crate::nix::NarHash;

/// How long those who have begun wait for those who have not: longer than a cache in reach takes to say what it lacks, also
/// on a host that is busy.
const GATHERING: Duration = Duration::from_secs(2);

/// A cache whose buffer stays full for so long leaves the pass, so that the others can go on.
const KEEPING_UP: Duration = Duration::from_secs(2);

/// So long a cache that was late, or did not keep up, gets no seat: the time that it costs the others is small against it.
const REMEMBERED: Duration = Duration::from_secs(60);

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
    /// Who has a seat that is neither taken nor given up, by the seat's number.
    expected: BTreeMap<usize, Punctuality>,
    seats: usize,
    /// It has begun, and nobody can join any more.
    begun: bool,
    /// What the first to come wants to read. Who wants something else, since Nix has registered the path anew, reads alone.
    registered: Option<(NarHash, u64)>,
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
    /// Who is called off leaves, and the others go on.
    call_off: CallOff,
    punctuality: Punctuality,
}

/// A place in a pass. Dropped, it is given up.
pub struct Seat {
    pass: Pass,
    number: usize,
}

/// Whether a cache comes to its passes in time. Cheap to clone; all clones are about one cache.
#[derive(Clone, Debug, Default)]
pub struct Punctuality {
    late_until: Arc<Mutex<Option<Instant>>>,
}

impl Punctuality {
    /// Whether a pass went on without it, some time ago.
    #[must_use]
    pub fn is_late(&self) -> bool {
        self.lock().is_some_and(|until| Instant::now() < until)
    }

    fn was_late(&self) {
        *self.lock() = Some(Instant::now() + REMEMBERED);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.late_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
    /// One more seat, for a cache of which it will be known if it is late.
    #[must_use]
    pub fn seat(&self, punctuality: &Punctuality) -> Seat {
        let mut state = self.lock();
        let number = state.seats;
        state.seats += 1;
        state.expected.insert(number, punctuality.clone());
        drop(state);
        Seat { pass: self.clone(), number }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the other seats, and reads for all.
    async fn conduct(self, archive: Archive) {
        let gathered = async {
            while self.lock().expected.values().any(|absent| !absent.is_late()) {
                self.0.complete.notified().await;
            }
        };
        // Whoever has not come by then reads alone.
        let _ = timeout(GATHERING, gathered).await;
        let waiting = {
            let mut state = self.lock();
            state.begun = true;
            state.expected.values().for_each(Punctuality::was_late);
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
    pub(super) async fn start(self, mut archive: Archive) -> Result<Start, NarFailure> {
        let (chunks, receiver) = mpsc::channel(CHUNKS_AHEAD);
        let behind = Arc::new(AtomicBool::new(false));
        let (begun, beginning) = oneshot::channel();
        {
            let mut state = self.pass.lock();
            let punctuality = state.expected.remove(&self.number).unwrap_or_default();
            if state.begun || *state.registered.get_or_insert(archive.registered) != archive.registered {
                drop(state);
                self.pass.0.complete.notify_one();
                return Ok(Start::Alone(archive));
            }
            // Whoever's archive is read, it is read for as long as anybody wants it.
            let call_off = std::mem::take(&mut archive.call_off);
            let member = Member { chunks, behind: Arc::clone(&behind), call_off, punctuality };
            state.waiting.push(Waiting { member, begun });
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
        if self.pass.lock().expected.remove(&self.number).is_some() {
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
        if self.call_off.is_off() {
            return false;
        }
        match self.chunks.try_send(item.clone()) {
            Ok(()) => true,
            Err(TrySendError::Closed(_)) => false,
            Err(TrySendError::Full(item)) if alone => self.chunks.blocking_send(item).is_ok(),
            Err(TrySendError::Full(item)) => {
                match runtime.block_on(async { timeout(KEEPING_UP, self.chunks.send(item)).await }) {
                    Ok(sent) => sent.is_ok(),
                    Err(_) => {
                        self.behind.store(true, Ordering::Relaxed);
                        self.punctuality.was_late();
                        false
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{CallOff, NarStream};
    use super::*;
    use crate::limit::{Lane, Slots};
    use crate::nix::PathInfo;
    use crate::nix::nar::registered;

    fn stream(file: &Path, info: &PathInfo, seat: Option<Seat>) -> NarStream {
        NarStream::new(file.to_owned(), info, Lane::Fresh, Slots::new(1), CallOff::default()).seated(seat)
    }

    async fn read(mut reader: super::super::NarReader) -> Result<Vec<u8>, NarFailure> {
        let mut nar = Vec::new();
        while let Some(chunk) = reader.next().await? {
            nar.extend_from_slice(&chunk);
        }
        Ok(nar)
    }

    #[tokio::test]
    async fn all_who_have_a_seat_get_everything_and_who_gives_it_up_holds_nobody_up() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("a");
        for bytes in [0, 10, 3 << 20] {
            let (info, nar) = registered(&file, bytes);
            let (pass, punctual) = (Pass::default(), Punctuality::default());
            let (first, second, third) = (pass.seat(&punctual), pass.seat(&punctual), pass.seat(&punctual));
            drop(third);
            let (first, second) = (stream(&file, &info, Some(first)), stream(&file, &info, Some(second)));
            let (first, second) = tokio::join!(async { read(first.start().await.expect("begun")).await }, async {
                read(second.start().await.expect("begun")).await
            });
            assert!(first.expect("whole") == nar && second.expect("whole") == nar);
            // Who comes when it has begun reads alone.
            let late = stream(&file, &info, Some(pass.seat(&punctual))).start().await.expect("begun");
            assert!(read(late).await.expect("whole") == nar);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_late_delays_the_others_once_and_is_known_for_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("a");
        let (info, nar) = registered(&file, 10);
        let (pass, punctual, late) = (Pass::default(), Punctuality::default(), Punctuality::default());
        let (first, absent) = (pass.seat(&punctual), pass.seat(&late));
        let reader = stream(&file, &info, Some(first)).start().await.expect("begun");
        assert!(read(reader).await.expect("whole") == nar);
        assert!(late.is_late() && !punctual.is_late());
        drop(absent);
        tokio::time::advance(REMEMBERED).await;
        assert!(!late.is_late(), "it gets another chance");
    }

    #[tokio::test]
    async fn who_does_not_keep_up_is_left_behind() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("a");
        let (info, nar) = registered(&file, 8 << 20);
        let (pass, punctual) = (Pass::default(), Punctuality::default());
        let (fast, slow) = (pass.seat(&punctual), pass.seat(&punctual));
        let (fast, slow) = (stream(&file, &info, Some(fast)), stream(&file, &info, Some(slow)));
        let (fast, slow) = tokio::join!(fast.start(), slow.start());
        // The slow one takes nothing until the fast one has everything.
        assert!(read(fast.expect("begun")).await.expect("whole") == nar);
        let left = read(slow.expect("begun")).await;
        assert!(matches!(left, Err(NarFailure::Behind)), "{left:?}");
    }

    #[tokio::test]
    async fn who_is_called_off_leaves_and_the_others_get_everything() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("a");
        let (info, nar) = registered(&file, 8 << 20);
        for takes_first in [true, false] {
            let (pass, punctual, call_off) = (Pass::default(), Punctuality::default(), CallOff::default());
            let (own, others) = (pass.seat(&punctual), pass.seat(&punctual));
            let off = NarStream::new(file.clone(), &info, Lane::Fresh, Slots::new(1), call_off.clone());
            let (off, stays) = (off.seated(Some(own)), stream(&file, &info, Some(others)));
            // Whose archive is read is whose seat is taken first.
            let (off, stays) = if takes_first {
                tokio::join!(biased; off.start(), stays.start())
            } else {
                let (stays, off) = tokio::join!(biased; stays.start(), off.start());
                (off, stays)
            };
            let (mut off, stays) = (off.expect("begun"), stays.expect("begun"));
            assert!(off.next().await.expect("a chunk").is_some());
            call_off.call_off();
            assert!(read(stays).await.expect("whole") == nar);
            let ended = off.next().await;
            assert!(matches!(ended, Err(NarFailure::Cancelled)), "{ended:?}");
            assert!(!punctual.is_late(), "who is called off isn't late");
        }
    }

    /// How a reading fails, and after how many bytes.
    async fn failure_of(stream: NarStream) -> (NarFailure, u64) {
        let mut reader = stream.start().await.expect("begun");
        let mut got = 0;
        loop {
            match reader.next().await {
                Ok(Some(chunk)) => got += chunk.len() as u64,
                Ok(None) => panic!("an altered path passed for whole"),
                Err(failure) => return (failure, got),
            }
        }
    }

    #[tokio::test]
    async fn an_altered_path_is_whole_for_nobody() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("a");
        for (bytes, altered) in [(10, 10), (3 << 20, 3 << 20), (3 << 20, 4 << 20), (4 << 20, 1 << 20)] {
            let (info, _) = registered(&file, bytes);
            std::fs::write(&file, vec![8; altered]).expect("written");
            let (pass, punctual) = (Pass::default(), Punctuality::default());
            let seats = [pass.seat(&punctual), pass.seat(&punctual)];
            let [first, second] = seats.map(|seat| stream(&file, &info, Some(seat)));
            let alone = stream(&file, &info, None);
            let ended = tokio::join!(failure_of(first), failure_of(second), failure_of(alone));
            for (failure, got) in [ended.0, ended.1, ended.2] {
                assert!(matches!(failure, NarFailure::Altered { .. }), "{failure}");
                assert!(got < info.nar_size, "who stops at the registered size never has all of it");
            }
        }
    }
}
