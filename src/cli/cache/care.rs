//! What the commands have in common that care for a cache.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::{CliError, Setup};
use crate::cache::CacheError;
use crate::cache::care::{Finding, Seconds, Shelf, seconds};
use crate::config::CacheConfig;
use crate::daemon::caches::{self, care};
use crate::nix::PublicKey;

/// How often it is said how far a long step is.
const INTERVAL: Duration = Duration::from_secs(10);

/// So many findings are printed as JSON at most; all are counted.
pub(super) const LISTED: usize = 1_000;

/// What is younger may be an upload's that is under way, and no prune removes it: longer than any upload takes.
pub(super) const GRACE: Duration = Duration::from_secs(24 * 60 * 60);

/// The same, as it is written.
pub(super) const GRACE_WRITTEN: &str = "1d";

/// Opens the files of a cache.
pub(super) async fn shelf(cache: &CacheConfig, setup: &Setup) -> Result<Arc<dyn Shelf>, CliError> {
    if let Some(error) = caches::out_of_sight(cache, &setup.state_dir) {
        return Err(failed(cache)(error));
    }
    care::shelf(cache, &setup.nix).await.map_err(failed(cache))
}

/// Says whose trouble it is.
pub(super) fn failed(cache: &CacheConfig) -> impl Fn(CacheError) -> CliError {
    let name = cache.name.to_string();
    move |source| CliError::Cache { name: name.clone(), source: Box::new(source) }
}

/// The cache's own key, as far as it is known here, and those that were named.
pub(super) fn trusted(cache: &CacheConfig, setup: &Setup, named: &[String]) -> Result<Vec<PublicKey>, CliError> {
    let mut keys: Vec<PublicKey> = caches::public_key(cache, &setup.state_dir, &setup.nix).into_iter().collect();
    for text in named {
        let key = PublicKey::parse(text).map_err(|error| CliError::Usage(format!("--trust: {error}")))?;
        keys.push(key);
    }
    Ok(keys)
}

/// What time it is.
pub(super) fn now() -> Seconds {
    seconds(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// Tells on standard error how far it is: a line for each step, and one now and then within it.
pub(super) struct Steps {
    last: Instant,
}

impl Steps {
    pub(super) fn new() -> Self {
        Self { last: Instant::now() }
    }

    pub(super) fn step(&mut self, text: &str) {
        self.last = Instant::now();
        eprintln!("{text}");
    }

    pub(super) fn at(&mut self, done: usize, of: usize) {
        if self.last.elapsed() >= INTERVAL {
            self.step(&format!("{done} of {of} narinfos"));
        }
    }
}

/// A finding, as it is printed as JSON.
#[derive(Serialize)]
pub(super) struct Told {
    hash: String,
    path: Option<String>,
    kind: &'static str,
    what: String,
}

impl From<&Finding> for Told {
    fn from(Finding { hash, path, fault }: &Finding) -> Self {
        let path = path.as_ref().map(ToString::to_string);
        Self { hash: hash.to_string(), path, kind: fault.kind(), what: fault.to_string() }
    }
}

/// What is said where nobody may list the uploads that have never ended.
pub(super) fn uploads_unseen(why: &str) -> String {
    format!(
        "uploads that never ended could not be listed, and stay: {why}; on S3 that takes the permission \
         s3:ListBucketMultipartUploads"
    )
}

/// A finding as a line.
pub(super) fn line(Finding { hash, path, fault }: &Finding) -> String {
    let whose = path.as_ref().map_or_else(|| format!("{hash}.narinfo"), ToString::to_string);
    format!("{whose}: {fault}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse_duration;

    #[test]
    fn the_grace_period_is_what_it_is_written_as() {
        assert_eq!(parse_duration(GRACE_WRITTEN).ok(), Some(GRACE));
    }
}
