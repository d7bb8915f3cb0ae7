//! Learning of new paths without the database: the store directory says what might be new, the Nix daemon what is valid.
//!
//! The names taken up are a table of the queue's, written together with the jobs. A name that isn't valid yet, since it is
//! being built, is not written down and asked about again at the next look.

use std::path::PathBuf;

use tracing::{debug, info, warn};

use crate::limit::Lane;
use crate::nix::{Daemon, DaemonError, StoreDir, StorePath, store_listing};
use crate::queue::{Admission, Ended, QueueError, QueueHandle, Routes, now};

/// Paths that are asked for and admitted together.
const BATCH: usize = 500;

/// The store directory, and a connection to the daemon.
pub(super) struct Listing {
    real_store: PathBuf,
    socket: PathBuf,
    store_dir: StoreDir,
    daemon: Daemon,
    /// Seconds since 1970: what was registered before watching began is for backfill.
    since: i64,
}

/// Why nothing can be learnt this way for now.
#[derive(Debug, thiserror::Error)]
pub enum ListingError {
    /// The daemon doesn't answer.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// The store directory can't be listed.
    #[error("list {dir}", dir = dir.display())]
    Store {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Nothing could be admitted.
    #[error(transparent)]
    Queue(#[from] QueueError),
}

impl Listing {
    /// Connects to the daemon. What was registered before the first time is for backfill.
    pub(super) async fn open(
        real_store: PathBuf,
        socket: PathBuf,
        store_dir: StoreDir,
        queue: &QueueHandle,
    ) -> Result<Self, ListingError> {
        let daemon = Daemon::connect(&socket, &store_dir).await?;
        let dir = store_dir.clone();
        let since = queue
            .call(move |queue| {
                if let Some(since) = queue.watched_since(&dir)? {
                    return Ok(since);
                }
                info!("watching from now on; `storewatch backfill` takes what is there already");
                let since = now() / 1000;
                queue.begin_watching(&dir, since)?;
                Ok(since)
            })
            .await?;
        Ok(Self { real_store, socket, store_dir, daemon, since })
    }

    /// Takes up what is new. Returns how many jobs that made.
    pub(super) async fn look(&mut self, queue: &QueueHandle, routes: &Routes) -> Result<u64, ListingError> {
        if self.daemon.is_broken() {
            self.daemon = Daemon::connect(&self.socket, &self.store_dir).await?;
        }
        let names = self.names()?;
        let unseen = queue.call(move |queue| queue.unseen(&names)).await?;
        let mut opened = 0;
        for names in unseen.chunks(BATCH) {
            opened += self.take_up(names, queue, routes).await?;
        }
        Ok(opened)
    }

    async fn take_up(
        &mut self,
        names: &[StorePath],
        queue: &QueueHandle,
        routes: &Routes,
    ) -> Result<u64, ListingError> {
        let valid = self.daemon.valid(names).await?;
        let mut wanted = Vec::new();
        let mut taken = Vec::with_capacity(valid.len());
        for path in valid {
            let info = match self.daemon.path_info(&path).await {
                Ok(Some(info)) => info,
                // Collected between the two questions.
                Ok(None) => continue,
                Err(error @ DaemonError::Malformed { .. }) => {
                    warn!(%path, "what the Nix daemon says of it can't be understood, it is passed over: {error}");
                    taken.push(path);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if info.registration_time >= self.since
                && let Ok(decision) = routes.policy.decide(&info, &self.store_dir)
            {
                debug!(%path, action = %decision.action(), rule = %decision.rule(), "decided");
                wanted.extend(routes.wanted(&info, &decision));
            }
            taken.push(path);
        }
        Ok(queue.call(move |queue| queue.admit_seen(&admission(&wanted), &taken)).await?)
    }

    fn names(&self) -> Result<Vec<StorePath>, ListingError> {
        let explain = |source| ListingError::Store { dir: self.real_store.clone(), source };
        store_listing::list(&self.real_store).and_then(Iterator::collect).map_err(explain)
    }
}

fn admission(wanted: &[crate::queue::Wanted]) -> Admission<'_> {
    Admission {
        lane: Lane::Fresh,
        ended: Ended::StartsAnewIfRegisteredAnew,
        needed: false,
        run: None,
        wanted,
        now: now(),
    }
}
