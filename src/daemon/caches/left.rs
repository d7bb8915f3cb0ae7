//! What uploads have left at caches that the policy doesn't name any more.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::Path;

use tokio::task::spawn_blocking;

use super::UNFINISHED;
use crate::cache::{CacheUrl, tell_of_cut_uploads};
use crate::config::{CacheConfig, Config};

/// Tells where uploads that were cut may have left something that no cache of this policy tidies up. Those on servers do so
/// when they are opened, and tell what they can't.
pub async fn tell_what_is_left(config: &Config, state_dir: &Path) {
    let is_on_server = |cache: &&CacheConfig| matches!(cache.place, CacheUrl::Bucket { .. } | CacheUrl::Http { .. });
    let on_servers = config.caches.iter().filter(is_on_server);
    let tidy_up: HashSet<OsString> = on_servers.map(|cache| cache.name.as_str().into()).collect();
    let folder = state_dir.join(UNFINISHED);
    let told = spawn_blocking(move || {
        let folders = std::fs::read_dir(folder).into_iter().flatten().flatten();
        for folder in folders.filter(|folder| !tidy_up.contains(&folder.file_name())) {
            tell_of_cut_uploads(&folder.path());
        }
    });
    // A thread that is lost has told nothing, and the next start does.
    let _ = told.await;
}
