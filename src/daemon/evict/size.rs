//! How large a cache is that may have no more than a size.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;
use tracing::{debug, info, warn};

use super::{Bounded, INTERVAL, SHARE, Surroundings};
use crate::cache::CacheError;
use crate::cache::care::{self, Shelf};
use crate::cache::file::FileShelf;
use crate::config::NixStore;
use crate::queue::{CacheId, Queue, QueueError, now};
use crate::report::one_line;

/// A cache that isn't there when it is looked at for the first time is looked for again after so long, and then later and
/// later: most likely it is just being made, and backfill waits for it.
const JUST_BEING_MADE: Duration = Duration::from_millis(50);

/// How large a cache is, noted for those who decide by it and for those who look.
pub(super) struct Size<'a> {
    cache: &'a Bounded,
    around: &'a Surroundings,
    is_too_large: bool,
}

impl<'a> Size<'a> {
    /// Looks for the first time, until that has succeeded: so long, backfill waits.
    pub(super) async fn learn(cache: &'a Bounded, around: &'a Surroundings) -> Self {
        let mut size = Self { cache, around, is_too_large: false };
        let (mut pause, mut told) = (JUST_BEING_MADE, None);
        loop {
            let (began, brought) = (Instant::now(), cache.allowance.brought());
            let looked = match open(cache, &around.nix).await {
                Ok(Some(shelf)) => care::size(&*shelf).await.map(Some),
                Ok(None) => Ok(None),
                Err(error) => Err(error),
            };
            match looked {
                Ok(Some(bytes)) => {
                    size.note(bytes, brought).await;
                    return size;
                }
                Ok(None) => {}
                Err(error) => {
                    let what = error.with_cure();
                    if told.as_ref() != Some(&what) {
                        warn!(
                            cache = %cache.name,
                            "how large the cache is can't be found out, so that backfill waits there: {what}"
                        );
                        told = Some(what);
                    }
                    size.note_unknown().await;
                }
            }
            tokio::time::sleep(pause.max(began.elapsed() * SHARE)).await;
            pause = (pause * 2).min(INTERVAL);
        }
    }

    /// It has so many bytes, by a look that began when so many had been `brought`.
    pub(super) async fn note(&mut self, bytes: u64, brought: u64) {
        let Bounded { max_size, allowance, .. } = self.cache;
        let is_too_large = bytes >= *max_size;
        // In this order, so that whoever has read the log finds it in the queue.
        self.write_down(move |queue, id| queue.note_size(id, bytes, is_too_large, now())).await;
        let was_left = allowance.is_left();
        allowance.looked(brought, max_size.saturating_sub(bytes));
        if allowance.is_left() && !was_left {
            self.around.bell.notify_one();
        }
        if is_too_large && !self.is_too_large {
            info!(cache = %self.cache.name, "the cache is larger than its `max_size`: backfill waits there");
        }
        self.is_too_large = is_too_large;
    }

    /// It can't be found out, so that backfill waits.
    pub(super) async fn note_unknown(&self) {
        self.write_down(|queue, id| queue.note_size_unknown(id)).await;
    }

    /// Whatever keeps it from being noted: it only keeps those who look from knowing.
    async fn write_down(&self, note: impl Fn(&mut Queue, CacheId) -> Result<(), QueueError> + Send + 'static) {
        let id = self.cache.id;
        if let Err(error) = self.around.queue.call_once(move |queue| note(queue, id)).await {
            debug!("{}", one_line(&error));
        }
    }
}

/// The files of a cache; `None` where there is none: it is being made, or its file system is away, which is told elsewhere.
pub(super) async fn open(cache: &Bounded, nix: &NixStore) -> Result<Option<Arc<dyn Shelf>>, CacheError> {
    let (dir, store_dir) = (cache.dir.clone(), nix.logical.clone());
    match spawn_blocking(move || FileShelf::open(dir, &store_dir)).await {
        Ok(Ok(shelf)) => Ok(Some(Arc::new(shelf))),
        Ok(Err(CacheError::NoCacheThere { .. })) => Ok(None),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(CacheError::LostThread { action: "look at the cache" }),
    }
}
