//! Caches in a directory that may have no more than a size: what was longest unread is dropped, whole closures from the top.
//!
//! It is a prune (`cache/care/prune` says what protects uploads meanwhile) by another choice, and it knows what is under
//! way here: what the paths need that are claimed for the cache stays. An upload that saw a reference before it was dropped
//! asks for it again just before it shows its path, doesn't show it then, and has the reference brought first.
//!
//! Whoever writes there, the folder of the archives tells that there are others; only then the cache is listed, and only
//! where it has grown too large its narinfos are read.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};
use tracing::{debug, info, warn};

use crate::cache::care::{self, Choice, Pruned, Pruning, Seconds, Shelf, prune};
use crate::cache::file::FileShelf;
use crate::cache::{CacheError, CacheUrl};
use crate::config::{CacheConfig, NixStore};
use crate::nix::{HashPart, StoreFacts};
use crate::policy::{ByteSize, CacheName};
use crate::queue::{CacheId, QueueHandle, Routes};
use crate::report::one_line;

/// How often the folder of the archives is looked at. That costs some microseconds.
const INTERVAL: Duration = Duration::from_secs(10);

/// What listing and reading a cache takes is no more than this share of the time.
const SHARE: u32 = 20;

/// Nothing younger is dropped, and no archive is removed sooner after its path: far longer than it takes from an uploader's
/// last look at its references until the path is shown.
const GRACE: Duration = Duration::from_secs(10 * 60);

/// A cache that may have no more than a size.
#[derive(Clone, Debug)]
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
}

/// Those of these caches that have a size.
pub(super) fn bounded(caches: &[CacheConfig], routes: &Routes) -> Vec<Bounded> {
    let bounded = |cache: &CacheConfig| {
        let Ok(CacheUrl::File { dir, .. }) = CacheUrl::parse(&cache.url) else { return None };
        let id = *routes.caches.get(&cache.name)?;
        Some(Bounded { id, name: cache.name.clone(), dir, max_size: cache.max_size? })
    };
    caches.iter().filter_map(bounded).collect()
}

/// Keeps caches within their sizes, each on its own, until nobody is left who could say which. One that is cut leaves a
/// sound cache.
pub(super) async fn keep_all(mut caches: watch::Receiver<Vec<Bounded>>, surroundings: Surroundings) {
    loop {
        let mut keeping = JoinSet::new();
        for cache in caches.borrow_and_update().clone() {
            keeping.spawn(keep(cache, surroundings.clone()));
        }
        if caches.changed().await.is_err() {
            return;
        }
    }
}

/// Keeps one cache within its size for ever.
async fn keep(cache: Bounded, surroundings: Surroundings) {
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
        let (runtime, own, cared_by) = (Handle::current(), cache.clone(), surroundings.clone());
        // On a thread of its own, which comes to an end of its own, too: what it has dropped is noted, whoever is told to end.
        let kept = spawn_blocking(move || runtime.block_on(keep_within(&own, &cared_by))).await;
        let pause = match kept.unwrap_or(Err(CacheError::LostThread { action: "keep the cache within its size" })) {
            Ok(State::Fits) => {
                told = None;
                written = last;
                Duration::ZERO
            }
            // What is hidden goes then.
            Ok(State::FitsSoon) => GRACE,
            Ok(State::TooLarge) => {
                let what = "all that is in it is needed, or was used just now";
                if told.replace(what.to_owned()).is_none_or(|told| told != what) {
                    info!(cache = %cache.name, "the cache is larger than its `max_size`: {what}");
                }
                GRACE
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

/// How large a cache is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No larger than it may be.
    Fits,
    /// It will be, when what nobody sees any more has been removed.
    FitsSoon,
    /// Too large, and there is nothing that may go.
    TooLarge,
}

async fn keep_within(cache: &Bounded, surroundings: &Surroundings) -> Result<State, CacheError> {
    let (dir, store_dir) = (cache.dir.clone(), surroundings.nix.logical.clone());
    let opened = spawn_blocking(move || FileShelf::open(dir, &store_dir)).await;
    let opened = opened.map_err(|_| CacheError::LostThread { action: "look at the cache" })?;
    let shelf: Arc<dyn Shelf> = match opened {
        Ok(shelf) => Arc::new(shelf),
        // It is being made, or its file system is away, which is told elsewhere.
        Err(CacheError::NoCacheThere { .. }) => return Ok(State::Fits),
        Err(error) => return Err(error),
    };
    let before = care::size(&*shelf).await?;
    if before <= cache.max_size {
        return Ok(State::Fits);
    }
    let pruning = Pruning {
        choice: Choice::LongestUnread,
        needed: needed(cache.id, surroundings).await,
        keep: None,
        // Some more than need be, or each upload would drop something.
        max_size: Some(cache.max_size - cache.max_size / 10),
        grace: seconds(GRACE),
        now: seconds(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()),
        is_meant: true,
    };
    let pruned = prune(&shelf, &pruning, |step| debug!(cache = %cache.name, "{step}")).await?;
    let Pruned { paths, left, hidden, archives, .. } = pruned;
    if paths > 0 || !archives.is_empty() {
        let (had, may) = (ByteSize(before), ByteSize(cache.max_size));
        info!(
            cache = %cache.name, paths, archives = archives.len(),
            "what was longest unread was dropped: the cache had {had} and may have {may}"
        );
        let id = cache.id;
        let noted = surroundings.queue.call(move |queue| queue.note_evicted(id, &hidden, &archives)).await;
        if let Err(error) = noted {
            // Then it counts as there, and whoever needs it looks first.
            debug!("{}", one_line(&error));
        }
    }
    if left > cache.max_size {
        return Ok(State::TooLarge);
    }
    let fits = care::size(&*shelf).await? <= cache.max_size;
    Ok(if fits { State::Fits } else { State::FitsSoon })
}

/// What those paths need that are under way to the cache, and they themselves.
async fn needed(cache: CacheId, Surroundings { queue, facts, .. }: &Surroundings) -> Vec<HashPart> {
    let under_way = queue.call(move |queue| queue.under_way(cache)).await.unwrap_or_default();
    let mut needed = Vec::new();
    for path in under_way {
        // What isn't known of is looked for by its uploader just before it is shown.
        let references = facts.path_info(&path).await.ok().flatten();
        needed.extend(references.iter().flat_map(|info| info.other_references()).map(HashPart::from));
        needed.push(HashPart::from(&path));
    }
    needed
}

fn seconds(duration: Duration) -> Seconds {
    Seconds::try_from(duration.as_secs()).unwrap_or(Seconds::MAX)
}
