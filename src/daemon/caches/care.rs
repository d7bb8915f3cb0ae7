//! Caring for a cache of the policy: its files, its keys, and what the queue remembers of it.

use std::path::Path;
use std::sync::Arc;

use super::{keys, store_options};
use crate::cache::bucket::BucketShelf;
use crate::cache::care::Shelf;
use crate::cache::file::FileShelf;
use crate::cache::{CacheError, CacheUrl};
use crate::config::{CacheConfig, NixStore};
use crate::nix::SecretKey;
use crate::queue::{Queue, QueueError};
use crate::secret::{Provider, Source};

/// The files of a cache.
///
/// # Errors
/// [`CacheError::NotOurs`] for one whose files are in the hands of others; [`CacheError`].
pub async fn shelf(config: &CacheConfig, nix: &NixStore) -> Result<Arc<dyn Shelf>, CacheError> {
    match &config.place {
        CacheUrl::File { dir, .. } => {
            let (dir, store_dir) = (dir.clone(), nix.logical.clone());
            let opened = tokio::task::spawn_blocking(move || FileShelf::open(dir, &store_dir)).await;
            let opened = opened.map_err(|_| CacheError::LostThread { action: "look at the cache" })?;
            Ok(Arc::new(opened?))
        }
        CacheUrl::Bucket { bucket, .. } => {
            Ok(Arc::new(BucketShelf::open(&store_options(config, nix, bucket), &nix.logical).await?))
        }
        CacheUrl::Attic { .. } => Err(CacheError::NotOurs {
            why: "its server keeps its files and collects its garbage; `attic cache configure CACHE --retention-period` \
                  says when, and the server alone has the key that signs",
        }),
        CacheUrl::Http { .. } => Err(CacheError::NotOurs {
            why: "web servers have no common way to list what is in them; run this where its files are, with a cache whose \
                  `url` is that directory (`file:///DIR`) or bucket",
        }),
        CacheUrl::Command { .. } => Err(CacheError::NotOurs {
            why: "only its program knows where paths end up; use the tools of whatever that brings them to",
        }),
    }
}

/// The key that the policy signs a cache's narinfos with, or the one in `file`. `None` where it names none and this host hasn't
/// uploaded anything yet: it gets one then. None is made here, nor is anything written: who asks may be another user than the
/// service, which couldn't read it.
///
/// # Errors
/// [`CacheError::Secret`], [`CacheError::Key`].
pub async fn key_to_sign(
    config: &CacheConfig,
    file: Option<&Path>,
    state_dir: &Path,
    nix: &NixStore,
) -> Result<Option<SecretKey>, CacheError> {
    let named = file.map(Source::owners_file).or_else(|| config.signing_key.clone());
    let Some(source) = named else {
        let (config, state_dir, nix) = (config.clone(), state_dir.to_owned(), nix.clone());
        let key = tokio::task::spawn_blocking(move || keys::own_key_there(&config, &state_dir, &nix)).await;
        return key.unwrap_or(Err(CacheError::LostThread { action: "take the key" }));
    };
    let text = Provider::new(source.clone(), &nix.real, None).get().await?;
    keys::parse_key(&text, &source.to_string()).map(Some)
}

/// Makes sure, before anything is removed, that [`forget`] can be said of it: else the queue's owner would go on believing
/// that it is there.
///
/// # Errors
/// [`QueueError`]; that there is no queue is fine.
pub fn can_forget(state_dir: &Path) -> Result<(), QueueError> {
    match Queue::open_beside(state_dir) {
        Err(QueueError::NoQueue { .. }) => Ok(()),
        opened => opened.map(drop),
    }
}

/// Lets whoever works the queue off forget what it believes of caches, and which archives this one was given.
///
/// # Errors
/// [`QueueError`]; that there is no queue is fine.
pub fn forget(state_dir: &Path, config: &CacheConfig, archives: &[String]) -> Result<(), QueueError> {
    let mut queue = match Queue::open_beside(state_dir) {
        Err(QueueError::NoQueue { .. }) => return Ok(()),
        opened => opened?,
    };
    let cache = queue.cache_id(config.name.as_str(), &config.url)?;
    queue.forget_contents(cache, archives)?;
    queue.doubt()
}
