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
use tracing::{info, warn};

use super::http::{Action, Greeting, Http, HttpError, HttpOptions};
use super::{CacheError, layout};
use crate::limit::Tap;
use crate::nix::StorePath;
use crate::report::one_line;

/// Questions to all upstreams that may be under way at the same time.
const ASKED_AT_ONCE: usize = 16;

/// That something is missing is believed for so long at most.
const LACK_HOLDS: Duration = Duration::from_secs(5 * 60);

/// An upstream that could not be asked is not asked again for so long. Who asks meanwhile is told at once.
const AWAY: Duration = Duration::from_secs(30);

/// Answers that are remembered at most, some 100 bytes each.
const REMEMBERED: usize = 50_000;

/// The upstream caches of a policy. Cheap to clone.
#[derive(Clone)]
pub struct Upstreams(Arc<Shared>);

struct Shared {
    upstreams: Vec<Upstream>,
    remember: Duration,
    http: OnceCell<Http>,
    places: Semaphore,
    answers: Mutex<HashMap<StorePath, (bool, Instant)>>,
}

struct Upstream {
    url: Url,
    /// Since when it can't be asked, and why.
    away: Mutex<Option<(Instant, String)>>,
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
        let parsed = urls.iter().filter_map(|url| Url::parse(url).ok());
        let upstreams = parsed.map(|url| Upstream { url, away: Mutex::default() }).collect();
        let places = Semaphore::new(ASKED_AT_ONCE);
        Self(Arc::new(Shared { upstreams, remember, http: OnceCell::new(), places, answers: Mutex::default() }))
    }

    /// Which of these paths at least one upstream has.
    ///
    /// # Errors
    /// [`CacheError::Http`] where one of them can't be asked and no other has the path.
    pub async fn have(&self, paths: &[StorePath]) -> Result<HashSet<StorePath>, CacheError> {
        if self.0.upstreams.is_empty() {
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
                    // Its answer is for all, and who asks keeps others from asking: so it doesn't wait behind fresh work.
                    let tap = Tap::of_this_task().for_all();
                    asking.spawn(tap.scope(async move { (shared.ask(&http, &path).await, path) }));
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

/// Whether an upstream answers, and how quickly.
///
/// # Errors
/// [`HttpError`].
pub async fn greet(url: &str) -> Result<Greeting, HttpError> {
    let no_address = |_| HttpError::NotUnderstood {
        action: Action::Greeting,
        host: url.to_owned(),
        problem: "its address can't be used".to_owned(),
    };
    let url = Url::parse(url).and_then(|url| url.join(layout::CACHE_INFO)).map_err(no_address)?;
    let http = Http::new(&HttpOptions::default()).await?;
    // The first opens a connection; what a request takes is seen by the second.
    http.greet(url.clone()).await?;
    http.greet(url).await
}

impl Shared {
    /// Whether one of the upstreams has the path; the first that has it ends the search.
    async fn ask(&self, http: &Http, path: &StorePath) -> Result<bool, HttpError> {
        let mut failure = None;
        for upstream in &self.upstreams {
            match upstream.ask(http, &self.places, path).await {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(false), Err)
    }
}

impl Upstream {
    async fn ask(&self, http: &Http, places: &Semaphore, path: &StorePath) -> Result<bool, HttpError> {
        let away = || self.lock().as_ref().filter(|(since, _)| since.elapsed() < AWAY).map(|(_, why)| why.clone());
        let (Ok(_place), Ok(url)) = (places.acquire().await, self.url.join(&layout::narinfo_name(path))) else {
            return Ok(false);
        };
        // Looked at when its turn has come: of many that wait, the first finds it out for all.
        if let Some(why) = away() {
            return Err(HttpError::Away { why });
        }
        match http.ask(Action::Upstream, http.client().get(url)).await {
            // A server may answer anything to any question, and then has nothing.
            Ok(answer) => {
                self.answered();
                Ok(layout::is_narinfo_of(&String::from_utf8_lossy(&answer), path))
            }
            // Object stores that don't list say 403 for what isn't there.
            Err(HttpError::Status { status: 403 | 404 | 410, .. }) => {
                self.answered();
                Ok(false)
            }
            Err(error) => {
                let mut away = self.lock();
                let why = one_line(&error);
                if away.as_ref().is_none_or(|(_, known)| *known != why) {
                    warn!("an upstream cache can't be asked; what it may have is uploaded after three tries: {why}");
                }
                *away = Some((Instant::now(), why));
                Err(error)
            }
        }
    }

    /// It can be asked, which is news if it could not before. An answer to what was asked before it went away is none.
    fn answered(&self) {
        if self.lock().take_if(|(since, _)| since.elapsed() >= AWAY).is_some() {
            info!("the upstream cache {} can be asked again", self.url);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Instant, String)>> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_upstream_is_back_when_it_answers_what_was_asked_after_it_went_away() {
        let upstream = Upstream {
            url: Url::parse("https://cache.example.com/").expect("a URL"),
            away: Mutex::new(Some((Instant::now(), "connection refused".to_owned()))),
        };
        upstream.answered();
        assert!(upstream.lock().is_some(), "that was asked before");
        tokio::time::advance(AWAY).await;
        upstream.answered();
        assert!(upstream.lock().is_none(), "so that it is told again when it goes away again");
    }
}
