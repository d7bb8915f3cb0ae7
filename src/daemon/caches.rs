//! From the caches of the policy file to caches that can be opened.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::info;

use crate::cache::file::{FileCache, FileOptions};
use crate::cache::{Cache, CacheError, CacheUrl};
use crate::config::{CacheConfig, NixStore};
use crate::nix::{PublicKey, SecretKey};
use crate::queue::{Queue, QueueError, Routes, now};
use crate::secret::{self, SecretError};
use crate::upload::{Open, Target};

/// The embedded cache takes nothing while less than so many per cent of its file system are free: it was not asked for,
/// so it must not be what fills a disk.
const EMBEDDED_RESERVE_PERCENT: u64 = 10;

/// What a cache needs beside its own lines in the policy file.
#[derive(Clone)]
pub struct CacheSurroundings {
    /// The state directory.
    pub state_dir: PathBuf,
    /// The Nix store.
    pub nix: NixStore,
    /// Tells this state directory's temporary files from another's.
    pub instance: String,
}

/// The targets of a configuration, and the routes that lead to them; caches that are new get their numbers, and what has
/// failed at one that is configured otherwise than before is tried again.
///
/// # Errors
/// [`QueueError`].
pub fn targets(
    queue: &mut Queue,
    caches: &[CacheConfig],
    policy: &Arc<crate::policy::Policy>,
    surroundings: &CacheSurroundings,
) -> Result<(Vec<Target>, Routes), QueueError> {
    let named = caches.iter().map(|cache| (cache.name.clone(), cache.url.clone()));
    let routes = Routes::find(queue, Arc::clone(policy), named)?;
    for cache in caches {
        let Some(id) = routes.caches.get(&cache.name) else { continue };
        let again = queue.serve_cache(*id, &cache.fingerprint(), now())?;
        if again > 0 {
            info!(cache = %cache.name, jobs = again, "its configuration has changed: what had failed is tried again");
        }
    }
    let target = |cache: &CacheConfig| {
        let id = *routes.caches.get(&cache.name)?;
        let (config, surroundings) = (cache.clone(), surroundings.clone());
        let open: Open = Arc::new(move || open(&config, &surroundings));
        Some(Target { id, name: cache.name.clone(), open })
    };
    let targets = caches.iter().filter_map(target).collect();
    Ok((targets, routes))
}

fn open(config: &CacheConfig, surroundings: &CacheSurroundings) -> Result<Arc<dyn Cache>, CacheError> {
    let CacheUrl::File { dir, compression, priority, want_mass_query } = CacheUrl::parse(&config.url)?;
    let key = match &config.signing_key {
        Some(file) => read_key(file, &surroundings.nix.real)?,
        None => own_key(config, surroundings)?,
    };
    let cache = FileCache::open(FileOptions {
        dir,
        store_dir: surroundings.nix.logical.clone(),
        compression,
        priority,
        want_mass_query,
        key,
        instance: surroundings.instance.clone(),
        reserve_percent: if config.builtin { EMBEDDED_RESERVE_PERCENT } else { 0 },
    })?;
    Ok(Arc::new(cache))
}

fn read_key(file: &Path, real_store: &Path) -> Result<SecretKey, CacheError> {
    let text = secret::read(file, real_store)?;
    SecretKey::parse(&text).map_err(|problem| CacheError::Key { path: file.to_owned(), problem: problem.to_string() })
}

/// The key generated for a cache whose policy names none; made now if it isn't there yet.
fn own_key(config: &CacheConfig, surroundings: &CacheSurroundings) -> Result<SecretKey, CacheError> {
    let file = own_key_file(&surroundings.state_dir, config);
    if !file.exists() {
        let key = SecretKey::generate(&key_name())
            .map_err(|problem| CacheError::Key { path: file.clone(), problem: problem.to_string() })?;
        match secret::write_new(&file, &key.to_nix_string()) {
            Err(SecretError::Io { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists => {}
            written => written?,
        }
    }
    let key = read_key(&file, &surroundings.nix.real)?;
    let public = file.with_extension("public");
    let text = format!("{}\n", key.public());
    if std::fs::read_to_string(&public).is_ok_and(|there| there == text) {
        return Ok(key);
    }
    std::fs::write(&public, text).map_err(|source| CacheError::Io { action: "write", path: public, source })?;
    Ok(key)
}

fn own_key_file(state_dir: &Path, config: &CacheConfig) -> PathBuf {
    state_dir.join("keys").join(format!("{}.secret", config.name))
}

/// `HOST-1`, as Nix's manual names keys; the number leaves room for a next one.
fn key_name() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let legal: String = host.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    format!("{}-1", if legal.is_empty() { "storewatch" } else { &legal })
}

/// The key that verifies what a cache's narinfos are signed with, where this user may know it.
#[must_use]
pub fn public_key(config: &CacheConfig, state_dir: &Path, nix: &NixStore) -> Option<PublicKey> {
    match &config.signing_key {
        Some(file) => Some(read_key(file, &nix.real).ok()?.public()),
        None => {
            let public = own_key_file(state_dir, config).with_extension("public");
            PublicKey::parse(std::fs::read_to_string(public).ok()?.trim()).ok()
        }
    }
}

/// What Nix takes as a substituter to read from a cache.
#[must_use]
pub fn substituter(url: &str) -> String {
    match CacheUrl::parse(url) {
        Ok(CacheUrl::File { dir, .. }) => format!("file://{}", dir.display()),
        Err(_) => url.to_owned(),
    }
}
