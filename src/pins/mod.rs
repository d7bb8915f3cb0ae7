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

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use self::budget::{Budget, Verdict};
pub use self::folder::release_all;
use self::folder::{Pin, PinFolder};
use crate::disk::Levels;
use crate::nix::{Daemon, DaemonError, FactsError, StoreFacts, StorePath, add_indirect_root};
use crate::queue::{CacheId, Queue, QueueError};
use crate::report::one_line;

/// More are never pinned, however small: each is two links, and every collection reads all of them.
const MOST_PINS: usize = 10_000;

/// What is uploaded within this time is never pinned.
const SETTLED: Duration = Duration::from_secs(1);

/// So long nothing is pinned after that was not possible.
const LEFT_ALONE: Duration = Duration::from_secs(60);

/// What the pins are made of.
pub struct Parts {
    /// Where the queue lies.
    pub state_dir: PathBuf,
    /// The state directory's own name.
    pub instance: String,
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

/// Why nothing can be pinned.
#[derive(Debug, thiserror::Error)]
enum PinError {
    /// Without a folder that is gone after a reboot, pins could be forgotten and kept for ever.
    #[error("there is no runtime directory: set RUNTIME_DIRECTORY or XDG_RUNTIME_DIR")]
    NoPlace,
    #[error("keep links below the runtime directory {}; RUNTIME_DIRECTORY names another", dir.display())]
    Folder { dir: PathBuf, source: io::Error },
    #[error("tell Nix of a pin")]
    Register(#[source] io::Error),
    #[error(transparent)]
    Daemon(#[from] DaemonError),
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
    /// `None` before the first look, and after one that ended badly.
    folder: Option<PinFolder>,
    /// The sizes of what was pinned or passed over at the last look.
    sizes: HashMap<StorePath, u64>,
    look_at: Option<Instant>,
    /// That nothing can be pinned has been said.
    told: bool,
}

impl Pins {
    /// Pins nothing before it runs.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self { parts, folder: None, sizes: HashMap::new(), look_at: Some(Instant::now()), told: false }
    }

    /// Works until it is dropped. What is pinned stays so then.
    pub async fn run(mut self) {
        loop {
            self.something_has_changed().await;
            self.look_at = None;
            let orders = self.parts.orders.borrow_and_update().clone();
            let budget = orders.budget.filter(|_| !self.parts.disks.borrow_and_update().store_needs_space());
            match self.look(budget, orders.caches).await {
                Ok(()) => self.told = false,
                Err(error) => self.do_without(&error, budget.is_some()),
            }
        }
    }

    /// Waits until the pins may have to be others. May be dropped at any time.
    async fn something_has_changed(&mut self) {
        loop {
            let look = self.look_at.unwrap_or_else(Instant::now);
            tokio::select! {
                biased;
                Ok(()) = self.parts.orders.changed() => return,
                Ok(()) = self.parts.disks.changed() => return,
                () = sleep_until(look), if self.look_at.is_some() => return,
                () = self.parts.stirred.notified(), if self.look_at.is_none() => {
                    self.look_at = Some(Instant::now() + SETTLED);
                }
            }
        }
    }

    /// Pins what should be, and releases the rest.
    async fn look(&mut self, budget: Option<u64>, caches: Vec<CacheId>) -> Result<(), PinError> {
        let Some(runtime_dir) = self.parts.runtime_dir.clone() else {
            return budget.map_or(Ok(()), |_| Err(PinError::NoPlace));
        };
        let wanted = match budget {
            Some(budget) => self.choose(Budget::new(budget), caches).await?,
            None => Vec::new(),
        };
        let known = self.folder.take();
        let (instance, store_dir) = (self.parts.instance.clone(), self.parts.facts.store_dir().clone());
        let pinned = spawn_blocking(move || -> io::Result<(PinFolder, Vec<Pin>)> {
            // An earlier process may have ended before Nix knew of a link.
            let is_known = known.is_some();
            let mut folder = known.map_or_else(|| PinFolder::open(&runtime_dir, &instance, store_dir), Ok)?;
            let new = folder.pin_just(&wanted)?;
            let untold = if is_known { new } else { folder.all() };
            Ok((folder, untold))
        });
        let dir = self.parts.runtime_dir.clone().unwrap_or_default();
        let (mut folder, untold) = pinned.await?.map_err(|source| PinError::Folder { dir, source })?;
        let told = self.tell_nix(&untold).await;
        if told.is_err() {
            // They pin nothing, and would look as if they did.
            untold.iter().for_each(|pin| drop(folder.release(&pin.path)));
        }
        self.folder = Some(folder);
        told
    }

    /// Which queued paths are to be pinned.
    async fn choose(&mut self, mut budget: Budget, caches: Vec<CacheId>) -> Result<Vec<StorePath>, PinError> {
        let state_dir = self.parts.state_dir.clone();
        let waiting = spawn_blocking(move || Queue::open_to_look(&state_dir)?.waiting(&caches, MOST_PINS)).await??;
        let mut known = std::mem::take(&mut self.sizes);
        let mut wanted = Vec::new();
        for path in waiting {
            let size = match known.remove(&path) {
                Some(size) => size,
                None => match self.parts.facts.path_info(&path).await? {
                    Some(info) => info.nar_size,
                    // It has gone, which its job will learn.
                    None => continue,
                },
            };
            self.sizes.insert(path.clone(), size);
            match budget.offer(size) {
                Verdict::Pin => wanted.push(path),
                Verdict::PassOver => {}
                Verdict::Spent => break,
            }
        }
        Ok(wanted)
    }

    /// Lets Nix know of links: by itself, or by its daemon where its state is another user's.
    async fn tell_nix(&self, pins: &[Pin]) -> Result<(), PinError> {
        let (mut daemon, mut is_anothers) = (None, false);
        for Pin { link, .. } in pins {
            if !is_anothers {
                match add_indirect_root(&self.parts.nix_state, link) {
                    Ok(()) => continue,
                    Err(error) => match error.kind() {
                        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => is_anothers = true,
                        _ => return Err(PinError::Register(error)),
                    },
                }
            }
            let connection = match daemon.take() {
                Some(connection) => connection,
                None => Daemon::connect(&self.parts.socket, self.parts.facts.store_dir()).await?,
            };
            daemon.insert(connection).add_indirect_root(link).await?;
        }
        Ok(())
    }

    fn do_without(&mut self, error: &PinError, pins_are_wanted: bool) {
        self.look_at = Some(Instant::now() + LEFT_ALONE);
        let error = one_line(error);
        if pins_are_wanted && !std::mem::replace(&mut self.told, true) {
            warn!("queued paths aren't pinned, so garbage collection may take them: {error}");
        } else {
            debug!("queued paths aren't pinned: {error}");
        }
    }
}
