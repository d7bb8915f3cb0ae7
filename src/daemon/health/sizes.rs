//! How large caches in a directory are, and what is pinned.

use std::path::Path;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::Finding;
use crate::cache::care::{self, Shelf};
use crate::cache::file::FileShelf;
use crate::cache::{CacheError, CacheUrl};
use crate::config::{CacheConfig, Config, NixStore};
use crate::policy::ByteSize;
use crate::queue::{Pinned, Queue};

/// How long a cache may take to be listed: some 100,000 files are through by then.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn examine(config: &Config, state_dir: &Path, nix: &NixStore) -> Vec<Finding> {
    let mut findings = Vec::new();
    for cache in &config.caches {
        findings.extend(of_cache(cache, nix).await);
    }
    findings.extend(of_pins(config, state_dir));
    findings
}

/// Nothing of one that isn't there, which is told elsewhere.
async fn of_cache(cache: &CacheConfig, nix: &NixStore) -> Option<Finding> {
    let CacheUrl::File { dir, .. } = &cache.place else { return None };
    let about = format!("size of {}", cache.name);
    let (dir, store_dir) = (dir.clone(), nix.logical.clone());
    let sized = async {
        let opened = spawn_blocking(move || FileShelf::open(dir, &store_dir)).await;
        let shelf = opened.map_err(|_| CacheError::LostThread { action: "look at the cache" })??;
        care::size(&shelf as &dyn Shelf).await
    };
    let bytes = match timeout(PATIENCE, sized).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(_)) => return None,
        Err(_) => return Some(Finding::warning(about, format!("not known: listing it takes over {PATIENCE:?}"))),
    };
    let has = ByteSize(bytes);
    Some(match cache.max_size {
        None => Finding::ok(about, format!("{has}, without a `max_size`")),
        Some(most) if bytes <= most => Finding::ok(about, format!("{has} of at most {}", ByteSize(most))),
        Some(most) => Finding::warning(about, format!("{has}, and it may have {}: backfill waits", ByteSize(most)))
            .cured_by("the service drops what was longest unread; what is in use, or needed, stays: give it more"),
    })
}

fn of_pins(config: &Config, state_dir: &Path) -> Option<Finding> {
    let budget = config.pin.map(|pin| ByteSize(pin.0))?;
    let pinned = Queue::open_to_look(state_dir).and_then(|queue| queue.pinned()).ok().flatten();
    Some(match pinned {
        Some(Pinned { paths, bytes }) => {
            Finding::ok("pins", format!("{paths} paths with {} of at most {budget}", ByteSize(bytes)))
        }
        None => Finding::ok("pins", format!("at most {budget}; how much is pinned isn't known")),
    })
}
