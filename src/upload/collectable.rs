//! What Nix would collect goes first, while the store's disk runs out: the next garbage collection isn't far.
//!
//! Fresh jobs are looked at some at a time, each by walking from its path up through what refers to it until a root is
//! met, and the verdict is noted in the queue, which hands those out first that nothing keeps. So no set is held that
//! grows with the store, and no read of Nix's database is longer than one path's referrers. Verdicts age: roots come and
//! go. They are formed anew now and then, and as they only order what would be uploaded anyway, a wrong one does no harm.
//!
//! Where roots or database can't be read, jobs keep their order, and that is told once.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, timeout};
use tracing::info;

use crate::nix::roots::gc_roots;
use crate::nix::{HashPart, StoreDir, StoreFacts};
use crate::queue::{CacheId, QueueError, QueueHandle};
use crate::report::one_line;

/// Jobs of one cache that are looked at before a claim: as many as may be under way. It takes some 50 µs each.
const AT_ONCE: usize = 256;

/// Roots that are held, 20 bytes each. A host has some hundreds.
const MOST_ROOTS: usize = 100_000;

/// How long roots and verdicts count.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// How long a claim waits for the roots: links may lead to a file system that hangs.
const PATIENCE: Duration = Duration::from_secs(2);

/// The roots, by their hash parts, or why they can't be known.
type Roots = Result<Arc<HashSet<HashPart>>, String>;

/// What is known of garbage collection.
pub(super) struct Collectable {
    nix_state: PathBuf,
    roots: Option<(Instant, Roots)>,
    reading: Option<JoinHandle<Roots>>,
    /// Up to which job each cache's have been looked at since the roots were read.
    looked: HashMap<CacheId, i64>,
    /// Why jobs keep their order, told once.
    told: Option<String>,
}

impl Collectable {
    pub(super) fn new(nix_state: PathBuf) -> Self {
        Self { nix_state, roots: None, reading: None, looked: HashMap::new(), told: None }
    }

    /// Looks at some of the fresh jobs of these caches and notes which of them nothing keeps.
    pub(super) async fn look(
        &mut self,
        caches: &[CacheId],
        queue: &QueueHandle,
        facts: &StoreFacts,
    ) -> Result<(), QueueError> {
        let roots = match self.roots(facts.store_dir()).await {
            Some(Ok(roots)) => roots,
            Some(Err(why)) => {
                self.tell(why);
                return Ok(());
            }
            None => return Ok(()),
        };
        for cache in caches.iter().copied() {
            let after = self.looked.get(&cache).copied().unwrap_or(0);
            let jobs = queue.call(move |queue| queue.fresh_behind(cache, after, AT_ONCE)).await?;
            let Some((last, _)) = jobs.last() else { continue };
            self.looked.insert(cache, *last);
            let (ids, paths): (Vec<i64>, Vec<_>) = jobs.into_iter().unzip();
            let is_root = Arc::clone(&roots);
            match facts.which_are_kept(paths, move |path| is_root.contains(&HashPart::from(path))).await {
                Ok(kept) => {
                    let verdicts: Vec<_> = ids.into_iter().zip(kept.into_iter().map(|kept| !kept)).collect();
                    queue.call(move |queue| queue.note_collectable(&verdicts)).await?;
                }
                Err(error) => self.tell(one_line(&error)),
            }
        }
        Ok(())
    }

    /// The roots of a moment ago; `None` while they are being read.
    async fn roots(&mut self, store_dir: &StoreDir) -> Option<Roots> {
        if let Some((read, roots)) = &self.roots
            && read.elapsed() < KEPT_FOR
        {
            return Some(roots.clone());
        }
        let (nix_state, store_dir) = (self.nix_state.clone(), store_dir.clone());
        let reading = self.reading.get_or_insert_with(|| spawn_blocking(move || read_roots(&nix_state, &store_dir)));
        let read = timeout(PATIENCE, reading).await.ok()?;
        self.reading = None;
        let roots = read.unwrap_or_else(|_| Err("reading the garbage collection roots ended by a defect".to_owned()));
        self.roots = Some((Instant::now(), roots.clone()));
        self.looked.clear();
        Some(roots)
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
