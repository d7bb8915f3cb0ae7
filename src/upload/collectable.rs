//! What Nix would collect goes first, while the store's disk runs out: the next garbage collection isn't far.
//!
//! Fresh jobs are looked at some at a time, each by walking from its path up through what refers to it until a root is
//! met, and the verdict is noted in the queue, which hands those out first that nothing keeps. So no set is held that
//! grows with the store, and no read of Nix's database is longer than one path's referrers. Verdicts age: roots come and
//! go. They are formed anew now and then, and as they only order what would be uploaded anyway, a wrong one does no harm.
//!
//! That is a task of its own, with a connection to Nix's database of its own, and takes a small part of the time: a database
//! that Nix is writing, or a root's link into a file system that hangs, is in nobody's way. Claims go by what is noted, and
//! wait for the first verdicts alone, a moment at most.
//!
//! Where roots or database can't be read, jobs keep their order, and that is told once.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::info;

use crate::nix::roots::gc_roots;
use crate::nix::{HashPart, StoreDir, StoreFacts};
use crate::queue::{CacheId, QueueError, QueueHandle};
use crate::report::one_line;

/// Jobs of one cache that are looked at for a claim: as many as may be under way.
const FOR_A_CLAIM: usize = 256;

/// Jobs that are looked at together.
const AT_ONCE: usize = 32;

/// Queries after which no further job is looked at together with those before. Each takes some 20 to 50 µs. One path may take
/// a thousand.
const QUERIES: usize = 2_000;

/// Looking takes no more than one part in so many of the time.
const SHARE: u32 = 4;

/// Roots that are held, 20 bytes each. A host has some hundreds.
const MOST_ROOTS: usize = 100_000;

/// How long roots and verdicts count.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// How long claims wait for the first verdicts, and after how long it is told that the roots aren't read yet.
const PATIENCE: Duration = Duration::from_secs(2);

/// The roots, by their hash parts, or why they can't be known.
type Roots = Result<Arc<HashSet<HashPart>>, String>;

/// Has jobs looked at while the store's disk is low.
pub(super) struct Collectable {
    /// Of which caches; of none while there is room.
    asked: watch::Sender<Vec<CacheId>>,
    bell: Arc<Notify>,
    looking: JoinHandle<()>,
    /// Whether there are verdicts, or it is known that there will be none.
    is_judged: Arc<AtomicBool>,
    /// Since when jobs are looked at.
    since: Option<Instant>,
}

impl Collectable {
    /// Begins to look at nothing. `bell` is rung when a claim may find something else than before.
    pub(super) fn start(nix_state: PathBuf, queue: QueueHandle, facts: &StoreFacts, bell: Arc<Notify>) -> Self {
        let (asked, told) = watch::channel(Vec::new());
        let is_judged = Arc::<AtomicBool>::default();
        let look = Look {
            nix_state,
            queue,
            facts: facts.apart(),
            bell: Arc::clone(&bell),
            is_judged: Arc::clone(&is_judged),
            roots: None,
            looked: HashMap::new(),
            told: None,
        };
        Self { asked, bell, looking: tokio::spawn(look.run(told)), is_judged, since: None }
    }

    /// There is room: all keep their order.
    pub(super) fn rest(&mut self) {
        self.since = None;
        self.is_judged.store(false, Ordering::Relaxed);
        self.asked.send_if_modified(|caches| !std::mem::take(caches).is_empty());
    }

    /// Has some more of the fresh jobs of these caches looked at. Returns whether claims may go by what is noted: not before
    /// there is something, but for a moment at most. The bell is rung then.
    pub(super) fn look_at(&mut self, caches: Vec<CacheId>) -> bool {
        let since = *self.since.get_or_insert_with(|| {
            let (now, bell) = (Instant::now(), Arc::clone(&self.bell));
            tokio::spawn(async move {
                sleep_until(now + PATIENCE).await;
                bell.notify_one();
            });
            now
        });
        self.asked.send_replace(caches);
        since.elapsed() >= PATIENCE || self.is_judged.load(Ordering::Relaxed) || self.looking.is_finished()
    }
}

impl Drop for Collectable {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

/// Looks at jobs.
struct Look {
    nix_state: PathBuf,
    queue: QueueHandle,
    facts: StoreFacts,
    bell: Arc<Notify>,
    is_judged: Arc<AtomicBool>,
    roots: Option<(Instant, Roots)>,
    /// Up to which job each cache's have been looked at since the roots were read.
    looked: HashMap<CacheId, i64>,
    /// Why jobs keep their order, told once.
    told: Option<String>,
}

impl Look {
    async fn run(mut self, mut asked: watch::Receiver<Vec<CacheId>>) {
        while asked.changed().await.is_ok() {
            let caches = asked.borrow_and_update().clone();
            if caches.is_empty() {
                continue;
            }
            match self.look_at(&caches).await {
                Ok(()) => {}
                Err(QueueError::Closed) => return,
                // Who claims meets it, too.
                Err(error) => self.tell(one_line(&error)),
            }
            if !self.is_judged.swap(true, Ordering::Relaxed) {
                self.bell.notify_one();
            }
        }
    }

    /// Looks at some of the fresh jobs of these caches and notes which of them nothing keeps.
    async fn look_at(&mut self, caches: &[CacheId]) -> Result<(), QueueError> {
        let roots = match self.roots().await {
            Ok(roots) => roots,
            Err(why) => {
                self.tell(why);
                return Ok(());
            }
        };
        for cache in caches.iter().copied() {
            let mut left = FOR_A_CLAIM;
            while left > 0 {
                let began = Instant::now();
                let judged = self.judge_some(cache, left.min(AT_ONCE), &roots).await?;
                if judged == 0 {
                    break;
                }
                left -= judged;
                sleep(began.elapsed() * (SHARE - 1)).await;
            }
        }
        Ok(())
    }

    /// Judges the next jobs of a cache, at most `limit` of them. Returns how many.
    async fn judge_some(
        &mut self,
        cache: CacheId,
        limit: usize,
        roots: &Arc<HashSet<HashPart>>,
    ) -> Result<usize, QueueError> {
        let after = self.looked.get(&cache).copied().unwrap_or(0);
        let jobs = self.queue.call(move |queue| queue.fresh_behind(cache, after, limit)).await?;
        if jobs.is_empty() {
            return Ok(0);
        }
        let (ids, paths): (Vec<i64>, Vec<_>) = jobs.into_iter().unzip();
        let is_root = Arc::clone(roots);
        let judged =
            self.facts.which_are_kept(paths, move |path| is_root.contains(&HashPart::from(path)), QUERIES).await;
        let kept = match judged {
            Ok(kept) => kept,
            Err(error) => {
                self.tell(one_line(&error));
                return Ok(0);
            }
        };
        let verdicts: Vec<_> = ids.into_iter().zip(kept.into_iter().map(|kept| !kept)).collect();
        let (judged, last) = (verdicts.len(), verdicts.last().map(|(id, _)| *id));
        self.looked.extend(last.map(|last| (cache, last)));
        if self.queue.call(move |queue| queue.note_collectable(&verdicts)).await? > 0 {
            self.bell.notify_one();
        }
        Ok(judged)
    }

    /// The roots of a moment ago.
    async fn roots(&mut self) -> Roots {
        if let Some((read, roots)) = &self.roots
            && read.elapsed() < KEPT_FOR
        {
            return roots.clone();
        }
        let (nix_state, store_dir) = (self.nix_state.clone(), self.facts.store_dir().clone());
        let mut reading = spawn_blocking(move || read_roots(&nix_state, &store_dir));
        let read = match timeout(PATIENCE, &mut reading).await {
            Ok(read) => read,
            Err(_) => {
                self.tell(
                    "the garbage collection roots aren't read yet; perhaps one leads to where nothing answers"
                        .to_owned(),
                );
                reading.await
            }
        };
        let roots = read.unwrap_or_else(|_| Err("reading the garbage collection roots ended by a defect".to_owned()));
        self.roots = Some((Instant::now(), roots.clone()));
        self.looked.clear();
        roots
    }

    fn tell(&mut self, why: String) {
        if self.told.as_ref() != Some(&why) {
            info!("what Nix would collect can't go first, all keep their order: {why}");
            self.told = Some(why);
        }
    }
}

fn read_roots(nix_state: &Path, store_dir: &StoreDir) -> Roots {
    let (mut roots, mut too_many) = (HashSet::new(), false);
    let listed = gc_roots(nix_state, store_dir, |path| {
        too_many |= roots.len() >= MOST_ROOTS;
        if !too_many {
            roots.insert(HashPart::from(&path));
        }
    });
    match listed {
        Ok(()) if too_many => Err(format!("there are more than {MOST_ROOTS} garbage collection roots")),
        Ok(()) => Ok(Arc::new(roots)),
        Err(error) => Err(format!("list the garbage collection roots: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::limit::Lane;
    use crate::nix::StorePath;
    use crate::queue::{Admission, Ended, Queue, Wanted};

    /// No test waits longer for what comes to pass at once.
    const LONG: Duration = Duration::from_secs(60);

    struct Bench {
        _dir: tempfile::TempDir,
        nix: Connection,
        facts: StoreFacts,
        queue: QueueHandle,
        cache: CacheId,
        bell: Arc<Notify>,
        collectable: Collectable,
    }

    /// A store of some paths, of which the first is a root, and all of them queued.
    async fn bench(paths: usize) -> Bench {
        let dir = tempfile::tempdir().expect("a folder");
        let (roots, db) = (dir.path().join("gcroots"), dir.path().join("db.sqlite"));
        std::fs::create_dir(&roots).expect("a folder");
        std::fs::write(roots.join(StorePath::nth(0).base_name()), "").expect("a root");
        let nix = Connection::open(&db).expect("a database");
        nix.execute_batch(
            "create table ValidPaths (id integer primary key autoincrement, path text, hash text, registrationTime integer);
             create table Refs (referrer integer, reference integer);",
        )
        .expect("Nix's tables");
        let facts = StoreFacts::new(db, dir.path().join("no-socket"), StoreDir::default());
        let queue = QueueHandle::start(Queue::open(dir.path()).expect("opened").queue).expect("a thread");
        let admit = move |queue: &mut Queue| {
            let cache = queue.cache_id("team", "file:///c")?;
            let wanted: Vec<_> = (0..paths)
                .map(|n| Wanted { path: StorePath::nth(n), row: None, registered: 0, caches: vec![cache] })
                .collect();
            let (lane, ended) = (Lane::Fresh, Ended::StartsAnew);
            queue.admit(&Admission { lane, ended, ..Admission::of_new(&wanted, 1) }, None)?;
            Ok(cache)
        };
        let cache = queue.call(admit).await.expect("admitted");
        let bell = Arc::new(Notify::new());
        let collectable = Collectable::start(dir.path().to_owned(), queue.clone(), &facts, Arc::clone(&bell));
        Bench { _dir: dir, nix, facts, queue, cache, bell, collectable }
    }

    #[tokio::test]
    async fn claims_wait_for_the_first_verdicts_and_the_bell_tells_of_them() {
        let mut bench = bench(3).await;
        let mut is_judged = bench.collectable.look_at(vec![bench.cache]);
        assert!(!is_judged, "nothing is known yet");
        while !is_judged {
            timeout(LONG, bench.bell.notified()).await.expect("the bell");
            is_judged = bench.collectable.look_at(vec![bench.cache]);
        }
        let cache = bench.cache;
        let claimed = bench.queue.call(move |queue| queue.claim_collectable(cache, 9, 1)).await.expect("claimed");
        let claimed: Vec<_> = claimed.into_iter().map(|job| job.path).collect();
        assert_eq!(claimed, [StorePath::nth(1), StorePath::nth(2)], "not the root");
        bench.collectable.rest();
        assert!(!bench.collectable.look_at(vec![bench.cache]), "the next time is another");
    }

    #[tokio::test]
    async fn a_database_that_nix_is_writing_is_waited_for_by_nobody_else() {
        let mut bench = bench(3).await;
        bench.nix.execute_batch("begin exclusive").expect("Nix writes");
        let patient = bench.facts.clone().patient();
        let waiting = tokio::spawn(async move { patient.path_info(&StorePath::nth(1)).await.map(drop) });
        let looked = Arc::clone(&bench.collectable.is_judged);
        bench.collectable.look_at(vec![bench.cache]);
        let found_out = async {
            while !looked.load(Ordering::Relaxed) {
                bench.bell.notified().await;
            }
        };
        timeout(LONG, found_out).await.expect("that it can't be known");
        assert!(!waiting.is_finished(), "an upload waits for Nix");
        assert!(bench.collectable.look_at(vec![bench.cache]), "all keep their order");
    }

    #[tokio::test]
    async fn no_more_is_asked_together_than_a_bound() {
        let bench = bench(3).await;
        let kept = |queries| {
            bench.facts.which_are_kept(
                (0..3).map(StorePath::nth).collect(),
                |path_| *path_ == StorePath::nth(0),
                queries,
            )
        };
        assert_eq!(kept(0).await.expect("asked"), [true], "the first in any case");
        assert_eq!(kept(1).await.expect("asked"), [true, false]);
        assert_eq!(kept(9).await.expect("asked"), [true, false, false]);
    }
}
