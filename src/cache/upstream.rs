//! Caches of others: what they have need not be uploaded, and counts as delivered.
//!
//! They are asked for narinfos, a few at a time, and their answers are believed for as long as the policy says. That
//! something is missing is believed for a few minutes at most: it may be there soon, and then need not be uploaded.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::Url;
use tokio::sync::{OnceCell, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::http::{Action, Http, HttpError, HttpOptions};
use super::{CacheError, layout};
use crate::nix::StorePath;

/// Questions to all upstreams that may be under way at the same time.
const ASKED_AT_ONCE: usize = 16;

/// That something is missing is believed for so long at most.
const LACK_HOLDS: Duration = Duration::from_secs(5 * 60);

/// Answers that are remembered at most, some 100 bytes each.
const REMEMBERED: usize = 50_000;

/// The upstream caches of a policy. Cheap to clone.
#[derive(Clone)]
pub struct Upstreams(Arc<Shared>);

struct Shared {
    urls: Vec<Url>,
    remember: Duration,
    http: OnceCell<Http>,
    places: Semaphore,
    answers: Mutex<HashMap<StorePath, (bool, Instant)>>,
}

impl Upstreams {
    /// None.
    #[must_use]
    pub fn none() -> Self {
        Self::new(&[], Duration::ZERO)
    }

    /// These, each by its URL with a slash at its end; one that is no URL is left out, which no validated policy has.
    #[must_use]
    pub fn new(urls: &[String], remember: Duration) -> Self {
        let urls = urls.iter().filter_map(|url| Url::parse(url).ok()).collect();
        let places = Semaphore::new(ASKED_AT_ONCE);
        Self(Arc::new(Shared { urls, remember, http: OnceCell::new(), places, answers: Mutex::default() }))
    }

    /// Which of these paths at least one upstream has.
    ///
    /// # Errors
    /// [`CacheError::Http`] where one of them can't be asked and no other has the path.
    pub async fn have(&self, paths: &[StorePath]) -> Result<HashSet<StorePath>, CacheError> {
        if self.0.urls.is_empty() {
            return Ok(HashSet::new());
        }
        let http = self.0.http.get_or_try_init(|| async { Http::new(&HttpOptions::default()).await }).await?;
        let (mut there, mut asking) = (HashSet::new(), JoinSet::new());
        for path in paths {
            match self.remembered(path) {
                Some(true) => {
                    there.insert(path.clone());
                }
                Some(false) => {}
                None => {
                    let (shared, http, path) = (Arc::clone(&self.0), http.clone(), path.clone());
                    asking.spawn(async move { (shared.ask(&http, &path).await, path) });
                }
            }
        }
        while let Some(asked) = asking.join_next().await {
            let Ok((answer, path)) = asked else {
                return Err(CacheError::LostThread { action: "ask an upstream cache" });
            };
            let has = answer?;
            self.remember(&path, has);
            if has {
                there.insert(path);
            }
        }
        Ok(there)
    }

    fn remembered(&self, path: &StorePath) -> Option<bool> {
        let (has, at) = *self.lock().get(path)?;
        let holds = if has { self.0.remember } else { self.0.remember.min(LACK_HOLDS) };
        (at.elapsed() < holds).then_some(has)
    }

    fn remember(&self, path: &StorePath, has: bool) {
        let mut answers = self.lock();
        if answers.len() >= REMEMBERED {
            // To ask again costs little; to grow for ever does not.
            answers.clear();
        }
        answers.insert(path.clone(), (has, Instant::now()));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StorePath, (bool, Instant)>> {
        self.0.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Whether one of the upstreams has the path; the first that has it ends the search.
    async fn ask(&self, http: &Http, path: &StorePath) -> Result<bool, HttpError> {
        let mut failure = None;
        for upstream in &self.urls {
            let Ok(_place) = self.places.acquire().await else { return Ok(false) };
            let Ok(url) = upstream.join(&layout::narinfo_name(path)) else { continue };
            match http.ask(Action::Upstream, http.client().head(url)).await {
                Ok(_) => return Ok(true),
                // Object stores that don't list say 403 for what isn't there.
                Err(HttpError::Status { status: 403 | 404 | 410, .. }) => {}
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(false), Err)
    }
}
