//! Pins: queued paths are kept from the garbage collector until they are uploaded, within a budget.
//!
//! A pin is an indirect root, a link below the runtime directory that Nix knows of: it is kept over a restart and gone with
//! a reboot. What is pinned is always found anew from what is queued: fresh paths before backfill's, the newest first, as far
//! as the budget goes, so that the oldest are released first. A look follows some time after something has changed, since
//! what is uploaded at once needs no pin.
//!
//! Invariants kept here:
//!
//! - **Nothing fills up.** Pins are bounded by the budget and by `MOST_PINS`, and given up while space is needed.
//! - **Nobody waits.** The queue is read by a connection of its own. Where nothing can be pinned, that is said once, and what
//!   is collected ends as gone.
//!
//! Deliberately absent: what is held, which may be so for ever, and what waits for a cache that the policy doesn't name or
//! that is off on this host.

mod budget;
mod folder;
mod tell;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use self::budget::{Budget, Verdict};
use self::folder::PinFolder;
pub use self::folder::{Released, release_all};
use self::tell::{Untold, by_daemon, by_state_dir};
use crate::disk::Levels;
use crate::nix::{FactsError, StoreFacts, StorePath};
use crate::queue::{CacheId, Pinned, Queue, QueueError, QueueHandle};
use crate::report::one_line;

/// More are never pinned, however small: each is two links, and every collection reads all of them.
const MOST_PINS: usize = 10_000;

/// What is uploaded within this time is never pinned.
const SETTLED: Duration = Duration::from_secs(1);

/// So long nothing is pinned after that was not possible, and a path that has gone isn't asked for again.
const LEFT_ALONE: Duration = Duration::from_secs(60);

/// Queued paths that are looked at, of which some may have gone.
const MOST_LOOKED_AT: usize = 2 * MOST_PINS;

/// Looks take no more than this share of the time, however much is queued, unless one takes longer than some seconds: after a
/// minute what is queued is another, and is looked at.
const LOOKS_SHARE: u32 = 20;

/// What the pins are made of.
pub struct Parts {
    /// Where the queue lies.
    pub state_dir: PathBuf,
    /// Where it is noted what is pinned, for those who look.
    pub queue: QueueHandle,
    /// Asks Nix about paths.
    pub facts: StoreFacts,
    /// Nix's state directory.
    pub nix_state: PathBuf,
    /// The Nix daemon's socket.
    pub socket: PathBuf,
    /// Where the links lie; `None` where there is no such place, and so no pin.
    pub runtime_dir: Option<PathBuf>,
    /// What to pin.
    pub orders: watch::Receiver<Orders>,
    /// How the file systems are off: where the store is so full that Nix must be able to free what it can, nothing is pinned.
    pub disks: watch::Receiver<Levels>,
    /// Rung when something was queued, claimed or done.
    pub stirred: Arc<Notify>,
}

/// What to pin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// So many bytes at most, counted by the sizes of the pinned paths' own archives; `None` for no pins.
    pub budget: Option<u64>,
    /// What is queued for these caches.
    pub caches: Vec<CacheId>,
}

/// What is pinned where nothing is to be.
const NOTHING: Pinned = Pinned { paths: 0, bytes: 0 };

/// Why nothing can be pinned.
#[derive(Debug, thiserror::Error)]
enum PinError {
    /// Without a folder that is gone after a reboot, pins could be forgotten and kept for ever.
    #[error("there is no runtime directory: set RUNTIME_DIRECTORY or XDG_RUNTIME_DIR")]
    NoPlace,
    #[error("keep links below the runtime directory {}; RUNTIME_DIRECTORY names another", dir.display())]
    Folder { dir: PathBuf, source: io::Error },
    #[error(transparent)]
    Untold(#[from] Untold),
    #[error(transparent)]
    Facts(#[from] FactsError),
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error("a thread was lost")]
    LostThread(#[from] JoinError),
}

/// Keeps the pins as they should be.
pub struct Pins {
    parts: Parts,
    /// `None` before the first look, and after one that lost it.
    folder: Option<PinFolder>,
    /// The sizes of what was looked at the last time.
    sizes: HashMap<StorePath, Size>,
    look_at: Option<Instant>,
    /// Nothing that is queued leads to a look before.
    rest_until: Instant,
    /// That nothing can be pinned has been said.
    told: bool,
    /// What was noted last.
    noted: Option<Option<Pinned>>,
}

/// What Nix said of a path.
#[derive(Clone, Copy)]
struct Size {
    /// Of its archive; `None` where the path has gone, which its job will learn.
    bytes: Option<u64>,
    asked: Instant,
}

impl Size {
    /// What has gone may have been built again.
    fn is_outdated(&self) -> bool {
        self.bytes.is_none() && self.asked.elapsed() >= LEFT_ALONE
    }
}

/// How a look ended.
enum Looked {
    /// All is as it should be, and so much is pinned.
    Through(Pinned),
    /// What it went by has changed meanwhile.
    Overtaken,
}

impl Pins {
    /// Pins nothing before it runs.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let now = Instant::now();
        Self {
            parts,
            folder: None,
            sizes: HashMap::new(),
            look_at: Some(now),
            rest_until: now,
            told: false,
            noted: None,
        }
    }

    /// Works until it is dropped. What is pinned stays so then.
    pub async fn run(mut self) {
        let (mut orders, mut disks) = (self.parts.orders.clone(), self.parts.disks.clone());
        loop {
            self.something_has_changed(&mut orders, &mut disks).await;
            self.look_at = None;
            let ordered = orders.borrow_and_update().clone();
            let budget = ordered.budget.filter(|_| !disks.borrow_and_update().store_needs_space());
            let began = Instant::now();
            let mut overtaken = std::pin::pin!(either_changes(&mut orders, &mut disks));
            match self.look(budget, ordered.caches, overtaken.as_mut()).await {
                Ok(Looked::Through(pinned)) => {
                    self.told = false;
                    self.note(Some(pinned)).await;
                }
                Ok(Looked::Overtaken) => self.look_at = Some(Instant::now()),
                Err(error) => {
                    self.do_without(&error, budget.is_some());
                    self.note(None).await;
                }
            }
            self.rest_until = Instant::now() + rest_after(began.elapsed());
        }
    }

    /// Waits until the pins may have to be others. May be dropped at any time.
    async fn something_has_changed(
        &mut self,
        orders: &mut watch::Receiver<Orders>,
        disks: &mut watch::Receiver<Levels>,
    ) {
        loop {
            let look = self.look_at.unwrap_or_else(Instant::now);
            tokio::select! {
                biased;
                () = either_changes(orders, disks) => return,
                () = sleep_until(look), if self.look_at.is_some() => return,
                () = self.parts.stirred.notified(), if self.look_at.is_none() => {
                    self.look_at = Some(self.rest_until.max(Instant::now() + SETTLED));
                }
            }
        }
    }

    /// Pins what should be, and releases the rest. Whatever may take long is given up as soon as it is overtaken: pins that
    /// Nix is to be rid of don't wait for a daemon that hangs.
    async fn look(
        &mut self,
        budget: Option<u64>,
        caches: Vec<CacheId>,
        mut overtaken: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Looked, PinError> {
        let Some(runtime_dir) = self.parts.runtime_dir.clone() else {
            return budget.map_or(Ok(Looked::Through(NOTHING)), |_| Err(PinError::NoPlace));
        };
        let wanted = match budget {
            Some(budget) => tokio::select! {
                biased;
                () = &mut overtaken => return Ok(Looked::Overtaken),
                wanted = self.choose(Budget::new(budget), caches) => wanted?,
            },
            None => {
                // What isn't pinned may go at any time.
                self.sizes.clear();
                Vec::new()
            }
        };
        let sizes = wanted.iter().filter_map(|path| self.sizes.get(path)?.bytes);
        let pinned_now = Pinned { paths: wanted.len() as u64, bytes: sizes.sum() };
        let in_folder = |source| PinError::Folder { dir: runtime_dir.clone(), source };
        let known = self.folder.take();
        let (state_dir, store_dir) = (self.parts.state_dir.clone(), self.parts.facts.store_dir().clone());
        let (dir, nix_state) = (runtime_dir.clone(), self.parts.nix_state.clone());
        let pinned = spawn_blocking(move || -> io::Result<_> {
            let known = known.filter(|folder| !folder.lacks_some());
            let mut folder = known.map_or_else(|| PinFolder::open(&dir, &state_dir, store_dir), Ok)?;
            folder.pin_just(&wanted)?;
            let told = by_state_dir(&mut folder, &nix_state);
            Ok((folder, told))
        });
        let (folder, told) = pinned.await?.map_err(in_folder)?;
        let folder = self.folder.insert(folder);
        let told = match told {
            Some(told) => told,
            None => tokio::select! {
                biased;
                () = &mut overtaken => return Ok(Looked::Overtaken),
                told = by_daemon(folder, &self.parts.socket, self.parts.facts.store_dir()) => told,
            },
        };
        if told.is_err()
            && let Some(mut folder) = self.folder.take()
        {
            let released = spawn_blocking(move || folder.release_unknown().map(|()| folder));
            self.folder = Some(released.await?.map_err(in_folder)?);
        }
        Ok(told.map(|()| Looked::Through(pinned_now))?)
    }

    /// Which queued paths are to be pinned. May be dropped at any time.
    async fn choose(&mut self, mut budget: Budget, caches: Vec<CacheId>) -> Result<Vec<StorePath>, PinError> {
        let state_dir = self.parts.state_dir.clone();
        let waiting =
            spawn_blocking(move || Queue::open_to_look(&state_dir)?.waiting(&caches, MOST_LOOKED_AT)).await??;
        let mut sizes = HashMap::new();
        let mut wanted = Vec::new();
        for path in waiting {
            let size = match self.sizes.get(&path).copied().filter(|size| !size.is_outdated()) {
                Some(size) => size,
                None => {
                    let info = match self.parts.facts.path_info(&path).await {
                        // The others are pinned nevertheless.
                        Err(error) if error.is_of_the_path() => None,
                        info => info?,
                    };
                    Size { bytes: info.map(|info| info.nar_size), asked: Instant::now() }
                }
            };
            sizes.insert(path.clone(), size);
            match size.bytes.map(|bytes| budget.offer(bytes)) {
                Some(Verdict::Pin) if wanted.len() < MOST_PINS => wanted.push(path),
                Some(Verdict::PassOver) | None => {}
                Some(Verdict::Pin | Verdict::Spent) => break,
            }
        }
        self.sizes = sizes;
        Ok(wanted)
    }

    /// Notes what is pinned, if that is another than before. Whatever keeps it from being noted: it only keeps who looks from
    /// knowing.
    async fn note(&mut self, pinned: Option<Pinned>) {
        if self.noted != Some(pinned) {
            let noted = self.parts.queue.call_once(move |queue| queue.note_pinned(pinned)).await;
            self.noted = noted.is_ok().then_some(pinned);
        }
    }

    fn do_without(&mut self, error: &PinError, pins_are_wanted: bool) {
        self.look_at = Some(Instant::now() + LEFT_ALONE);
        self.sizes.clear();
        let error = one_line(error);
        if pins_are_wanted && !std::mem::replace(&mut self.told, true) {
            warn!("queued paths aren't pinned, so garbage collection may take them: {error}");
        } else {
            debug!("queued paths aren't pinned: {error}");
        }
    }
}

/// Comes true when there are other orders, or a disk is off in another way.
async fn either_changes(orders: &mut watch::Receiver<Orders>, disks: &mut watch::Receiver<Levels>) {
    tokio::select! {
        Ok(()) = orders.changed() => {}
        Ok(()) = disks.changed() => {}
        // Nobody is left who could change them.
        else => std::future::pending().await,
    }
}

/// How long what is queued leads to no look, after one that took so long.
fn rest_after(took: Duration) -> Duration {
    (took * LOOKS_SHARE).min(LEFT_ALONE)
}

#[cfg(test)]
mod tests;
