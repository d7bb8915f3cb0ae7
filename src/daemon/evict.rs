//! Caches in a directory that may have no more than a size: what was longest unread is dropped, whole closures from the top.
//!
//! It is a prune (`cache/care/prune` says what protects uploads meanwhile) by another choice, and it knows what is under
//! way here: what the paths need that are claimed for the cache stays. An upload that saw a reference before it was dropped
//! asks for it again just before it shows its path, doesn't show it then, and has the reference brought first.
//!
//! While a cache is larger than it may be, backfill into it waits: it would only be dropped, or drop what is read. So it does
//! until the cache was looked at for the first time, and once this process has brought as much as was left at the last look
//! (`limit::Allowance`).
//!
//! Whoever writes there, the folder of the archives tells that there are others; only then the cache is listed, and only
//! where it has grown too large its narinfos are read. That takes memory by the number of its paths, some 300 bytes each
//! (`cache/care`), as nothing else of the service does; it is given back when the cache has been looked through.

mod size;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet, spawn_blocking};
use tracing::{debug, info, warn};

use self::size::{Size, open};
use super::caches::Allowances;
use crate::cache::care::{self, Choice, Clock, Owner, Pruned, Pruning, prune, seconds};
use crate::cache::{BoxFuture, CacheError, CacheUrl, CallOff};
use crate::config::{CacheConfig, NixStore};
use crate::limit::Allowance;
use crate::nix::{HashPart, StoreFacts};
use crate::policy::{ByteSize, CacheName};
use crate::queue::{CacheId, QueueHandle, Routes};
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
    /// How much backfill may still bring.
    allowance: Allowance,
}

/// What it takes to care for them.
#[derive(Clone)]
pub(super) struct Surroundings {
    pub(super) queue: QueueHandle,
    pub(super) facts: StoreFacts,
    pub(super) nix: NixStore,
    /// Rung when backfill may go on into one.
    pub(super) bell: Arc<Notify>,
}

/// What may be brought into those of these caches that have a size: one whose terms are the same as `before` has what it had.
pub(super) fn allowances(caches: &[CacheConfig], before: &[Bounded]) -> Allowances {
    let of_cache = |cache: &CacheConfig| {
        let (dir, max_size) = terms(cache)?;
        let known = before
            .iter()
            .find(|known| (&known.name, known.dir.as_path(), known.max_size) == (&cache.name, dir, max_size));
        Some((cache.name.clone(), known.map(|known| known.allowance.clone()).unwrap_or_default()))
    };
    caches.iter().filter_map(of_cache).collect()
}

/// Those of these caches that have a size.
pub(super) fn bounded(caches: &[CacheConfig], routes: &Routes, allowances: &Allowances) -> Vec<Bounded> {
    let bounded = |cache: &CacheConfig| {
        let (dir, max_size) = terms(cache)?;
        let (id, allowance) = (*routes.caches.get(&cache.name)?, allowances.get(&cache.name)?.clone());
        Some(Bounded { id, name: cache.name.clone(), dir: dir.to_owned(), max_size, allowance })
    };
    caches.iter().filter_map(bounded).collect()
}

/// Where a cache lies that has a size, and its size.
fn terms(cache: &CacheConfig) -> Option<(&Path, u64)> {
    match &cache.place {
        CacheUrl::File { dir, .. } => Some((dir, cache.max_size?)),
        _ => None,
    }
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

/// Keeps one cache within its size for ever. What is under way when this is dropped ends at its next path.
async fn keep(cache: Bounded, around: Surroundings) {
    let call_off = CallOff::default();
    let _ends_the_thread = call_off.when_dropped();
    let mut size = Size::learn(&cache, &around).await;
    let (mut written, mut told) = (None, None);
    loop {
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = cache.allowance.used_up() => {}
        }
        let archives = cache.dir.join("nar");
        let last = spawn_blocking(move || fs::metadata(archives).and_then(|metadata| metadata.modified()).ok()).await;
        let last = last.ok().flatten();
        // What was counted and isn't there came to nothing.
        if last.is_none() || (last == written && cache.allowance.is_left()) {
            continue;
        }
        let (began, brought) = (Instant::now(), cache.allowance.brought());
        let runtime = Handle::current();
        let upkeep = Upkeep { cache: cache.clone(), around: around.clone(), call_off: call_off.clone() };
        // On a thread of its own, which comes to an end of its own, too: what it has dropped is noted, whoever is told to end.
        let kept = spawn_blocking(move || runtime.block_on(upkeep.keep_within())).await;
        let kept = kept.unwrap_or(Err(CacheError::LostThread { action: "keep the cache within its size" }));
        if let Ok((_, Some(bytes))) = &kept {
            size.note(*bytes, brought).await;
        }
        let pause = match kept.map(|(state, _)| state) {
            Ok(State::Fits) => {
                told = None;
                written = last;
                Duration::ZERO
            }
            Ok(State::NotKnown) => Duration::ZERO,
            Ok(State::FitsSoon) => AGAIN,
            Ok(State::TooLarge) => {
                let what = "all that is in it is needed, or was used just now";
                if told.replace(what.to_owned()).is_none_or(|told| told != what) {
                    info!(cache = %cache.name, "the cache is larger than its `max_size`: {what}");
                }
                AGAIN
            }
            Err(error) => {
                if !cache.allowance.is_left() {
                    size.note_unknown().await;
                }
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
        let Some(shelf) = open(cache, &around.nix).await? else { return Ok((State::Fits, None)) };
        let before = care::size(&*shelf).await?;
        // At just that size nothing is left for backfill, either.
        if before < cache.max_size {
            return Ok((State::Fits, Some(before)));
        }
        let Some(needed) = self.under_way().await else { return Ok((State::NotKnown, Some(before))) };
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
        if left >= cache.max_size {
            return Ok((State::TooLarge, Some(care::size(&*shelf).await?)));
        }
        let after = care::size(&*shelf).await?;
        let fits = after < cache.max_size;
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
    use super::*;
    use crate::config::{Config, Defaults};
    use crate::nix::StoreDir;
    use crate::queue::Queue;

    fn team(dir: &Path, max_size: u64) -> Bounded {
        let (name, allowance) = (CacheName::new("team").expect("a name"), Allowance::default());
        Bounded { id: CacheId(1), name, dir: dir.to_owned(), max_size, allowance }
    }

    #[test]
    fn of_a_cache_with_other_terms_it_is_no_longer_said_that_it_is_too_large() {
        let (one, another) = (team(Path::new("/a"), 10), team(Path::new("/a"), 20));
        let one = std::slice::from_ref(&one);
        assert_eq!(no_longer_bounded(one, one), []);
        assert_eq!(no_longer_bounded(one, &[another]), [CacheId(1)]);
        assert_eq!(no_longer_bounded(one, &[]), [CacheId(1)]);
        assert_eq!(no_longer_bounded(&[], one), []);
    }

    fn config(max_size: &str) -> Config {
        let policy = format!("version = 1\n[caches.team]\nurl = \"file:///a\"\nmax_size = \"{max_size}\"\n");
        let url = |url: &str| CacheUrl::parse(url).map_err(|error| error.to_string());
        Config::parse(&policy, "policy.toml", &Defaults { state_dir: "/s".into() }, &url).expect("good")
    }

    #[test]
    fn what_may_be_brought_is_kept_as_long_as_the_terms_are_the_same() {
        let Config { caches, policy, .. } = config("10 kB");
        let routes = Routes::to(policy, caches.iter().map(|cache| (cache.name.clone(), CacheId(1))).collect());
        let first = allowances(&caches, &[]);
        let kept = bounded(&caches, &routes, &first);
        first[&caches[0].name].looked(0, 10);
        let same = allowances(&caches, &kept);
        assert!(same[&caches[0].name].is_left());
        assert_eq!(bounded(&caches, &routes, &same), kept);
        let other = config("20 kB").caches;
        assert!(!allowances(&other, &kept)[&caches[0].name].is_left(), "it hasn't been looked at with that size");
    }

    async fn poll<T>(what: impl Fn() -> Option<T>) -> T {
        loop {
            match what() {
                Some(found) => return found,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    #[tokio::test]
    async fn a_cache_is_looked_at_before_anything_is_left_of_its_size() {
        let dir = tempfile::tempdir().expect("a folder");
        let queue = Queue::open(dir.path()).expect("a queue").queue;
        let around = Surroundings {
            queue: QueueHandle::start(queue).expect("a thread"),
            facts: StoreFacts::new(PathBuf::new(), PathBuf::new(), StoreDir::default()),
            nix: NixStore::resolve(&crate::config::StoreOptions::default(), |_| None).expect("a store"),
            bell: Arc::new(Notify::new()),
        };
        let at = |name: &str, bytes: usize| {
            let dir = dir.path().join(name);
            fs::create_dir_all(dir.join("nar")).expect("made");
            fs::write(dir.join("nix-cache-info"), "StoreDir: /nix/store\n").expect("written");
            fs::write(dir.join("nar/a.nar"), vec![0; bytes]).expect("written");
            team(&dir, 1_000)
        };
        let (full, none) = (at("full", 2_000), team(&dir.path().join("none"), 1_000));
        let (tell, caches) = watch::channel(vec![full.clone(), none.clone()]);
        let keeping = tokio::spawn(keep_all(caches, around.clone()));
        // One that is made later is found.
        let made = at("none", 100);
        poll(|| none.allowance.is_left().then_some(())).await;
        around.bell.notified().await;
        none.allowance.bring(900);
        assert!(!none.allowance.is_left(), "what was there counts");
        let another = Bounded { max_size: 3_000, ..at("full", 2_000) };
        tell.send_replace(vec![another.clone(), made]);
        poll(|| another.allowance.is_left().then_some(())).await;
        assert!(!full.allowance.is_left());
        drop(tell);
        keeping.await.expect("no panic");
    }
}
