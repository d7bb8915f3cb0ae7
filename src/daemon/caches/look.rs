//! Looking at a cache of the policy from outside the service: what it is, and whether it would take something.
//!
//! No path is uploaded, and nothing changes there, but for what is put on trial and taken back: a cache in a directory isn't
//! even opened, since that sweeps what the service may be writing.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;

use super::{attic_options, command_options, out_of_sight, place, public_key, put_options, store_options};
use crate::cache::attic::{self, AtticCache};
use crate::cache::{CacheError, CacheInfo, CacheUrl, Trial, bucket, command, file, put};
use crate::config::{CacheConfig, NixStore};
use crate::disk::{Places, Thresholds};

/// A directory that doesn't answer within this time lies on a file system that hangs: a share whose server is away.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server that hasn't let a trial come to its end within this time hangs, or may as well. A bit more than a request may be
/// without any movement, so that where a single one hangs, that is what is told.
const PATIENCE_WITH_A_SERVER: Duration = Duration::from_secs(35);

/// Asks a cache what it is.
///
/// # Errors
/// [`CacheError`].
pub async fn describe(config: &CacheConfig, state_dir: &Path, nix: &NixStore) -> Result<CacheInfo, CacheError> {
    match &config.place {
        CacheUrl::Attic { endpoint, cache } => {
            Ok(AtticCache::open(attic_options(config, nix, endpoint, cache)).await?.info())
        }
        CacheUrl::Bucket { bucket: url, .. } => {
            with_key(bucket::look(&store_options(config, nix, url)).await?, config, state_dir, nix).await
        }
        CacheUrl::Http { endpoint, .. } => {
            with_key(put::look(&put_options(config, nix, endpoint)).await?, config, state_dir, nix).await
        }
        CacheUrl::Command { .. } => Ok(CacheInfo { remark: Some(PROGRAM), ..CacheInfo::default() }),
        CacheUrl::File { dir, .. } => {
            let (dir, config, state_dir, nix) = (dir.clone(), config.clone(), state_dir.to_owned(), nix.clone());
            let look = move || {
                if let Some(error) = out_of_sight(&config, &state_dir) {
                    return Err(error);
                }
                let key = public_key(&config, &state_dir, &nix);
                Ok(CacheInfo { public_key: key.map(|key| key.to_string()), ..file::look(&dir)? })
            };
            in_time(look).await?
        }
    }
}

/// What was found, with the key that storewatch signs with there.
async fn with_key(
    found: CacheInfo,
    config: &CacheConfig,
    state_dir: &Path,
    nix: &NixStore,
) -> Result<CacheInfo, CacheError> {
    let (config, state_dir, nix) = (config.clone(), state_dir.to_owned(), nix.clone());
    let key = in_time(move || public_key(&config, &state_dir, &nix)).await?;
    Ok(CacheInfo { public_key: key.map(|key| key.to_string()), ..found })
}

/// What is known of a cache where only a program knows the rest.
const PROGRAM: &str = "a program takes its paths; where it puts them, it alone knows";

/// Finds out whether a cache can be reached and takes what is uploaded.
async fn try_out(config: &CacheConfig, state_dir: &Path, nix: &NixStore, disk: &Thresholds) -> Trial {
    match &config.place {
        CacheUrl::Attic { endpoint, cache } => attic::try_out(attic_options(config, nix, endpoint, cache)).await,
        CacheUrl::Bucket { bucket: url, .. } => bucket::try_out(&store_options(config, nix, url), &nix.logical).await,
        CacheUrl::Http { endpoint, .. } => put::try_out(&put_options(config, nix, endpoint), &nix.logical).await,
        CacheUrl::Command { program } => command::try_out(&command_options(config, nix, program)).await,
        CacheUrl::File { dir, .. } => {
            let (store_dir, terms) = (nix.logical.clone(), place(config, disk).map(|(.., terms)| terms));
            let place = Places::default().of_cache(config.name.as_str(), dir, terms.unwrap_or_default());
            let (config, state_dir) = (config.clone(), state_dir.to_owned());
            let tried = in_time(move || match out_of_sight(&config, &state_dir) {
                Some(error) => Trial::failed(error),
                None => file::try_out(&place, &store_dir),
            });
            tried.await.unwrap_or_else(Trial::failed)
        }
    }
}

/// A trial, which fails where it takes too long: a server may answer one question and hang at the next, and uploads are given
/// more time than a person has.
async fn to_its_end(trial: impl Future<Output = Trial>) -> Trial {
    let silent = |_| Trial::failed(CacheError::Silent { after: PATIENCE_WITH_A_SERVER });
    timeout(PATIENCE_WITH_A_SERVER, trial).await.unwrap_or_else(silent)
}

/// Tries several caches out at the same time; what came of it in their order. `answered` is told the place of each that is
/// through.
pub async fn try_all(
    caches: &[&CacheConfig],
    state_dir: &Path,
    nix: &NixStore,
    disk: &Thresholds,
    answered: impl Fn(usize),
) -> Vec<Trial> {
    let mut trying = JoinSet::new();
    for (place, cache) in caches.iter().enumerate() {
        let (cache, state_dir, nix, disk) = ((*cache).clone(), state_dir.to_owned(), nix.clone(), *disk);
        trying.spawn(async move { (place, to_its_end(try_out(&cache, &state_dir, &nix, &disk)).await) });
    }
    let mut trials: Vec<Trial> = caches.iter().map(|_| Trial::lost()).collect();
    while let Some(tried) = trying.join_next().await {
        if let Ok((place, trial)) = tried {
            answered(place);
            trials[place] = trial;
        }
    }
    trials
}

/// The caches that have not answered yet.
pub struct Unanswered<'a>(Mutex<Vec<Option<&'a str>>>);

impl<'a> Unanswered<'a> {
    /// None of these has.
    #[must_use]
    pub fn new(names: &[&'a str]) -> Self {
        Self(Mutex::new(names.iter().map(|name| Some(*name)).collect()))
    }

    /// The one in that place has.
    pub fn answered(&self, place: usize) {
        if let Some(name) = self.lock().get_mut(place) {
            *name = None;
        }
    }

    /// `team, archive`
    #[must_use]
    pub fn in_words(&self) -> String {
        self.lock().iter().flatten().copied().collect::<Vec<_>>().join(", ")
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Option<&'a str>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is well about a cache, in a few words; its troubles apart.
#[must_use]
pub fn summary(trial: &Trial) -> String {
    let mut words = Vec::new();
    if let Some(time) = trial.round_trip {
        words.push(match time.as_secs_f64() * 1_000.0 {
            less if less < 0.1 => "answers in less than 0.1 ms".to_owned(),
            milliseconds => format!("answers in {milliseconds:.1} ms"),
        });
    }
    match (trial.reads, trial.writes) {
        (Some(true), Some(true)) => words.push("lets us read and push".to_owned()),
        (Some(true), Some(false)) => words.push("lets us read, but not push".to_owned()),
        (Some(false), Some(true)) => words.push("lets us push but not read, which is enough".to_owned()),
        (None, Some(true)) => words.push("can be written".to_owned()),
        (Some(true), None) => words.push("lets us read".to_owned()),
        (Some(false) | None, Some(false) | None) => {}
    }
    words.extend(trial.remark.map(str::to_owned));
    words.join("; ")
}

/// Does on a thread what may hang for ever, and waits for it as long as a person would.
async fn in_time<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Result<T, CacheError> {
    match timeout(PATIENCE, spawn_blocking(look)).await {
        Ok(looked) => looked.map_err(|_| CacheError::LostThread { action: "look at the cache's directory" }),
        Err(_) => Err(CacheError::Hangs { after: PATIENCE }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_trial_that_hangs_comes_to_its_end() {
        let began = tokio::time::Instant::now();
        let trial = to_its_end(std::future::pending()).await;
        assert!(matches!(trial.troubles.as_slice(), [CacheError::Silent { .. }]), "{trial:?}");
        assert_eq!(began.elapsed(), PATIENCE_WITH_A_SERVER);
        assert!(to_its_end(async { Trial::default() }).await.went_well());
    }
}
