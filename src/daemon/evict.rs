//! Caches in a directory that may have no more than a size: what was longest unread is dropped, whole closures from the top.
//!
//! It is a prune (`cache/care/prune` says what protects uploads meanwhile) by another choice, and it knows what is under
//! way here: what the paths need that are claimed for the cache stays. An upload that saw a reference before it was dropped
//! asks for it again just before it shows its path, doesn't show it then, and has the reference brought first.
//!
//! While a cache is larger than it may be, backfill into it waits: it would only be dropped, or drop what is read.
//!
//! Whoever writes there, the folder of the archives tells that there are others; only then the cache is listed, and only
//! where it has grown too large its narinfos are read. That takes memory by the number of its paths, some 300 bytes each
//! (`cache/care`), as nothing else of the service does; it is given back when the cache has been looked through.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet, spawn_blocking};
use tracing::{debug, info, warn};

use crate::cache::care::{self, Choice, Clock, Owner, Pruned, Pruning, Shelf, prune, seconds};
use crate::cache::file::FileShelf;
use crate::cache::{BoxFuture, CacheError, CacheUrl, CallOff};
use crate::config::{CacheConfig, NixStore};
use crate::disk::Levels;
use crate::nix::{HashPart, StoreFacts};
use crate::policy::{ByteSize, CacheName};
use crate::queue::{CacheId, QueueHandle, Routes, now};
use crate::report::one_line;

/// How often the folder of the archives is looked at. That costs some microseconds.
const INTERVAL: Duration = Duration::from_secs(10);

/// What listing and reading a cache takes is no more than this share of the time.
const SHARE: u32 = 20;

/// One that is still too large is listed again after so long: then some of what is hidden may be old enough to go, or what
/// was read just now to be dropped.
const AGAIN: Duration = Duration::from_secs(60);

/// Nothing younger is dropped, and no archive is removed sooner after its path: far longer than it takes from an uploader's
/// last look at its references until the path is shown.
const GRACE: Duration = Duration::from_secs(10 * 60);

/// A cache that may have no more than a size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bounded {
    id: CacheId,
    name: CacheName,
    dir: PathBuf,
    /// Bytes.
    max_size: u64,
}

/// What it takes to care for them.
#[derive(Clone)]
pub(super) struct Surroundings {
    pub(super) queue: QueueHandle,
    pub(super) facts: StoreFacts,
    pub(super) nix: NixStore,
    /// Where it is noted that one is too large.
    pub(super) levels: Arc<watch::Sender<Levels>>,
    /// Rung when one isn't any more.
    pub(super) bell: Arc<Notify>,
}

/// Those of these caches that have a size.
pub(super) fn bounded(caches: &[CacheConfig], routes: &Routes) -> Vec<Bounded> {
    let bounded = |cache: &CacheConfig| {
        let CacheUrl::File { dir, .. } = &cache.place else { return None };
        let id = *routes.caches.get(&cache.name)?;
        Some(Bounded { id, name: cache.name.clone(), dir: dir.clone(), max_size: cache.max_size? })
    };
    caches.iter().filter_map(bounded).collect()
}

/// The caches of which nobody says any more that they are too large: of those that were bounded `before`, the ones that aren't
/// `now`, or otherwise.
pub(super) fn no_longer_bounded(before: &[Bounded], now: &[Bounded]) -> Vec<CacheId> {
    before.iter().filter(|cache| !now.contains(cache)).map(|cache| cache.id).collect()
}

/// Keeps caches within their sizes, each on its own, until nobody is left who could say which; one whose terms are the same
/// as before is kept on. Ends early only by a defect.
pub(super) async fn keep_all(mut caches: watch::Receiver<Vec<Bounded>>, surroundings: Surroundings) {
    let mut keepers = JoinSet::new();
    let mut kept: Vec<(Bounded, AbortHandle)> = Vec::new();
    loop {
        let wanted = caches.borrow_and_update().clone();
        kept.retain(|(cache, keeper)| {
            let stays = wanted.contains(cache);
            if !stays {
                keeper.abort();
            }
            stays
        });
        for cache in wanted {
            if !kept.iter().any(|(known, _)| *known == cache) {
                let keeper = keepers.spawn(keep(cache.clone(), surroundings.clone()));
                kept.push((cache, keeper));
            }
        }
        loop {
            tokio::select! {
                changed = caches.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                Some(ended) = keepers.join_next() => if ended.is_err_and(|ended| ended.is_panic()) {
                    return;
                },
            }
        }
    }
}

/// Notes for those who decide by it that a cache is too large, until it isn't or nobody keeps it any more.
struct Size<'a> {
    cache: &'a Bounded,
    levels: &'a watch::Sender<Levels>,
    bell: &'a Notify,
}

impl Size<'_> {
    fn note(&self, is_too_large: bool) {
        let name = self.cache.name.as_str();
        let is_new = self.levels.send_if_modified(|levels| levels.note_too_large(name, is_too_large));
        match (is_new, is_too_large) {
            (true, true) => {
                info!(cache = %self.cache.name, "the cache is larger than its `max_size`: backfill waits there")
            }
            (true, false) => self.bell.notify_one(),
            (false, _) => {}
        }
    }
}

impl Drop for Size<'_> {
    fn drop(&mut self) {
        self.note(false);
    }
}

/// Keeps one cache within its size for ever. What is under way when this is dropped ends at its next path.
async fn keep(cache: Bounded, surroundings: Surroundings) {
    let call_off = CallOff::default();
    let _ends_the_thread = call_off.when_dropped();
    let size = Size { cache: &cache, levels: &surroundings.levels, bell: &surroundings.bell };
    let (mut written, mut told) = (None, None);
    loop {
        tokio::time::sleep(INTERVAL).await;
        let archives = cache.dir.join("nar");
        let last = spawn_blocking(move || fs::metadata(archives).and_then(|metadata| metadata.modified()).ok()).await;
        let last = last.ok().flatten();
        if last.is_none() || last == written {
            continue;
        }
        let began = Instant::now();
        let runtime = Handle::current();
        let upkeep = Upkeep { cache: cache.clone(), around: surroundings.clone(), call_off: call_off.clone() };
        // On a thread of its own, which comes to an end of its own, too: what it has dropped is noted, whoever is told to end.
        let kept = spawn_blocking(move || runtime.block_on(upkeep.keep_within())).await;
        let kept = kept.unwrap_or(Err(CacheError::LostThread { action: "keep the cache within its size" }));
        if let Ok((state, Some(bytes))) = &kept {
            note_size(&cache, *bytes, *state != State::Fits, &surroundings.queue).await;
        }
        let pause = match kept.map(|(state, _)| state) {
            Ok(State::Fits) => {
                told = None;
                written = last;
                size.note(false);
                Duration::ZERO
            }
            Ok(State::NotKnown) => Duration::ZERO,
            Ok(State::FitsSoon) => {
                size.note(true);
                AGAIN
            }
            Ok(State::TooLarge) => {
                let what = "all that is in it is needed, or was used just now";
                if told.replace(what.to_owned()).is_none_or(|told| told != what) {
                    info!(cache = %cache.name, "the cache is larger than its `max_size`: {what}");
                }
                size.note(true);
                AGAIN
            }
            Err(error) => {
                let what = error.with_cure();
                if told.as_ref() != Some(&what) {
                    warn!(cache = %cache.name, "the cache can't be kept within its `max_size` for now: {what}");
                    told = Some(what);
                }
                INTERVAL
            }
        };
        tokio::time::sleep(pause.max(began.elapsed() * SHARE)).await;
    }
}

/// Notes how large a cache is for those who look. Whatever keeps it from being noted: it only keeps them from knowing.
async fn note_size(cache: &Bounded, bytes: u64, is_too_large: bool, queue: &QueueHandle) {
    let id = cache.id;
    let noted = queue.call_once(move |queue| queue.note_size(id, bytes, is_too_large, now())).await;
    if let Err(error) = noted {
        debug!("{}", one_line(&error));
    }
}

/// How large a cache is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No larger than it may be.
    Fits,
    /// It will be, when what nobody sees any more has been removed.
    FitsSoon,
    /// Too large, and there is nothing that may go.
    TooLarge,
    /// It isn't known what is under way there, so nothing may go.
    NotKnown,
}

/// A cache that is kept within its size just now.
struct Upkeep {
    cache: Bounded,
    around: Surroundings,
    /// Called off when others are to be kept, or this one otherwise.
    call_off: CallOff,
}

impl Upkeep {
    /// Returns how it is, and how many bytes it has where that was looked at.
    async fn keep_within(&self) -> Result<(State, Option<u64>), CacheError> {
        let Self { cache, around, .. } = self;
        let (dir, store_dir) = (cache.dir.clone(), around.nix.logical.clone());
        let opened = spawn_blocking(move || FileShelf::open(dir, &store_dir)).await;
        let opened = opened.map_err(|_| CacheError::LostThread { action: "look at the cache" })?;
        let shelf: Arc<dyn Shelf> = match opened {
            Ok(shelf) => Arc::new(shelf),
            // It is being made, or its file system is away, which is told elsewhere.
            Err(CacheError::NoCacheThere { .. }) => return Ok((State::Fits, None)),
            Err(error) => return Err(error),
        };
        let before = care::size(&*shelf).await?;
        if before <= cache.max_size {
            return Ok((State::Fits, Some(before)));
        }
        let Some(needed) = self.under_way().await else { return Ok((State::NotKnown, None)) };
        let here = seconds(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        let pruning = Pruning {
            choice: Choice::LongestUnread,
            needed,
            keep: None,
            max_size: Some(care::after_a_prune(cache.max_size)),
            grace: seconds(GRACE),
            clock: Clock::of(&*shelf, here).await,
            is_meant: true,
        };
        let Pruned { paths, left, archives, elsewhere, .. } = prune(&shelf, &pruning, self).await?;
        if paths > 0 || !archives.is_empty() {
            let (had, may) = (ByteSize(before), ByteSize(cache.max_size));
            info!(
                cache = %cache.name, paths, archives = archives.len(), left_alone = elsewhere.len(),
                "what was longest unread was dropped: the cache had {had} and may have {may}"
            );
        }
        if left > cache.max_size {
            return Ok((State::TooLarge, Some(care::size(&*shelf).await?)));
        }
        let after = care::size(&*shelf).await?;
        let fits = after <= cache.max_size;
        Ok((if fits { State::Fits } else { State::FitsSoon }, Some(after)))
    }

    /// What those paths need that are under way to the cache, and they themselves. `None` where the queue or Nix gives no
    /// answer.
    async fn under_way(&self) -> Option<Vec<HashPart>> {
        let Surroundings { queue, facts, .. } = &self.around;
        let cache = self.cache.id;
        let not_known = |error: &(dyn std::error::Error + 'static)| debug!("{}", one_line(error));
        let under_way = queue.call(move |queue| queue.under_way(cache)).await;
        let mut needed = Vec::new();
        for path in under_way.inspect_err(|error| not_known(error)).ok()? {
            // One that Nix has collected isn't shown.
            let info = facts.path_info(&path).await.inspect_err(|error| not_known(error)).ok()?;
            needed.extend(info.iter().flat_map(|info| info.other_references()).map(HashPart::from));
            needed.push(HashPart::from(&path));
        }
        Some(needed)
    }

    async fn note(&self, hidden: Vec<HashPart>, archives: Vec<String>) {
        let id = self.cache.id;
        let noted = self.around.queue.call_once(move |queue| queue.note_evicted(id, &hidden, &archives)).await;
        if let Err(error) = noted {
            // Then it counts as there, and whoever needs it looks first.
            debug!("{}", one_line(&error));
        }
    }
}

impl Owner for Upkeep {
    fn begins(&self, step: &str) {
        debug!(cache = %self.cache.name, "{step}");
    }

    fn needed(&self) -> BoxFuture<'_, Vec<HashPart>> {
        // Where that isn't known, what is shown without it gets it back by the next prune.
        Box::pin(async { self.under_way().await.unwrap_or_default() })
    }

    fn hidden<'a>(&'a self, paths: &'a [HashPart]) -> BoxFuture<'a, ()> {
        Box::pin(self.note(paths.to_vec(), Vec::new()))
    }

    fn removes<'a>(&'a self, archives: &'a [String]) -> BoxFuture<'a, ()> {
        Box::pin(self.note(Vec::new(), archives.to_vec()))
    }

    fn is_called_off(&self) -> bool {
        self.call_off.is_off()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::nix::StoreDir;
    use crate::queue::Queue;

    fn bounded(dir: &Path, max_size: u64) -> Bounded {
        Bounded { id: CacheId(1), name: CacheName::new("team").expect("a name"), dir: dir.to_owned(), max_size }
    }

    #[test]
    fn of_a_cache_with_other_terms_it_is_no_longer_said_that_it_is_too_large() {
        let (one, another) = (bounded(Path::new("/a"), 10), bounded(Path::new("/a"), 20));
        let one = std::slice::from_ref(&one);
        assert_eq!(no_longer_bounded(one, one), []);
        assert_eq!(no_longer_bounded(one, &[another]), [CacheId(1)]);
        assert_eq!(no_longer_bounded(one, &[]), [CacheId(1)]);
        assert_eq!(no_longer_bounded(&[], one), []);
    }

    async fn settle() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn who_keeps_a_cache_goes_on_until_its_terms_change() {
        let dir = tempfile::tempdir().expect("a folder");
        let queue = Queue::open(dir.path()).expect("a queue").queue;
        let (levels, told) = watch::channel(Levels::default());
        let levels = Arc::new(levels);
        let around = Surroundings {
            queue: QueueHandle::start(queue).expect("a thread"),
            facts: StoreFacts::new(PathBuf::new(), PathBuf::new(), StoreDir::default()),
            nix: NixStore::resolve(&crate::config::StoreOptions::default(), |_| None).expect("a store"),
            levels: Arc::clone(&levels),
            bell: Arc::new(Notify::new()),
        };
        let (tell, caches) = watch::channel(vec![bounded(dir.path(), 10)]);
        let keeping = tokio::spawn(keep_all(caches, around));
        settle().await;
        // Whoever keeps it takes that back when he ends.
        levels.send_if_modified(|levels| levels.note_too_large("team", true));
        tell.send_replace(vec![bounded(dir.path(), 10)]);
        settle().await;
        assert!(!told.borrow().let_backfill_into("team"), "another one keeps it now");
        tell.send_replace(vec![bounded(dir.path(), 20)]);
        settle().await;
        assert!(told.borrow().let_backfill_into("team"), "the same one keeps it still");
        drop(tell);
        keeping.await.expect("no panic");
    }
}
