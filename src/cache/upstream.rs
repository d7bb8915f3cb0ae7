//! Caches of others: what they have need not be uploaded, and counts as delivered.
//!
//! They are asked for narinfos, a few at a time, and their answers are believed for as long as the policy says. That
//! something is missing is believed for a few minutes at most: it may be there soon, and then need not be uploaded.
//!
//! One that can't be asked is left alone for a moment, and it is counted how often in a row that was so. What follows from
//! it is for others to decide: whether to wait for it, or to go on without.

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
    /// Paths whose question was asked in vain, and how often in a row.
    in_vain: Mutex<HashMap<StorePath, u32>>,
}

struct Upstream {
    url: Url,
    away: Mutex<Option<Trouble>>,
}

/// That an upstream can't be asked.
struct Trouble {
    /// When it was found out last.
    asked: Instant,
    /// When the question was begun by which it was.
    begun: Instant,
    /// How often in a row it was asked in vain; questions that were under way together count as one.
    in_vain: u32,
    why: String,
}

/// What the upstreams have said.
#[derive(Debug)]
pub struct Answers {
    /// The paths that at least one of them has.
    pub there: HashSet<StorePath>,
    /// Why it isn't known of others among them.
    pub unanswered: Option<Unanswered>,
}

/// Why a question to the upstreams has no answer.
#[derive(Debug)]
pub struct Unanswered {
    /// What went wrong.
    pub error: CacheError,
    /// How the upstream is away; `None` where it isn't the upstream's fault.
    pub away: Option<Away>,
    /// How often in a row the question for this path was asked in vain, whatever became of others'.
    pub of_path: u32,
}

/// How an upstream is away, for who asks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Away {
    /// How often in a row it was asked in vain, at some distance.
    pub in_vain: u32,
    /// Whether it was asked just now, rather than known to be away.
    pub was_asked: bool,
    /// After how long it is asked again.
    pub again: Duration,
}

impl From<CacheError> for Unanswered {
    fn from(error: CacheError) -> Self {
        Self { error, away: None, of_path: 0 }
    }
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
        let (answers, in_vain) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Shared { upstreams, remember, http: OnceCell::new(), places, answers, in_vain }))
    }

    /// Which of these paths at least one upstream has.
    ///
    /// # Errors
    /// [`CacheError::Http`] where one of them can't be asked and no other has the path.
    pub async fn have(&self, paths: &[StorePath]) -> Result<HashSet<StorePath>, CacheError> {
        let Answers { there, unanswered } = self.ask(paths).await;
        unanswered.map_or(Ok(there), |unanswered| Err(unanswered.error))
    }

    /// Which of these paths at least one upstream has, as far as they can be asked.
    pub async fn ask(&self, paths: &[StorePath]) -> Answers {
        let mut answers = Answers { there: HashSet::new(), unanswered: None };
        if self.0.upstreams.is_empty() {
            return answers;
        }
        let http = match self.0.http.get_or_try_init(|| async { Http::new(&HttpOptions::default()).await }).await {
            Ok(http) => http,
            Err(error) => {
                let unanswered = |path| self.0.counted(path, CacheError::from(error).into());
                answers.unanswered = paths.first().map(unanswered);
                return answers;
            }
        };
        let mut asking = JoinSet::new();
        for path in paths {
            match self.remembered(path) {
                Some(true) => {
                    answers.there.insert(path.clone());
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
            let unanswered = match asked {
                Ok((Ok(has), path)) => {
                    self.remember(&path, has);
                    if has {
                        answers.there.insert(path);
                    }
                    continue;
                }
                Ok((Err(unanswered), _)) => unanswered,
                Err(_) => CacheError::LostThread { action: "ask an upstream cache" }.into(),
            };
            answers.unanswered = Some(likelier_to_return(answers.unanswered.take(), unanswered));
        }
        answers
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

/// Of two that don't answer, the one that was asked in vain less often, for all or for its path: it is the one to be waited for.
fn likelier_to_return(known: Option<Unanswered>, other: Unanswered) -> Unanswered {
    let rank =
        |unanswered: &Unanswered| unanswered.away.map(|away| (away.in_vain, unanswered.of_path, !away.was_asked));
    match known {
        Some(known) if rank(&known) <= rank(&other) => known,
        _ => other,
    }
}

impl Shared {
    /// Whether one of the upstreams has the path; the first that has it ends the search.
    async fn ask(&self, http: &Http, path: &StorePath) -> Result<bool, Unanswered> {
        let mut failure = None;
        for upstream in &self.upstreams {
            match upstream.ask(http, &self.places, path).await {
                Ok(true) => {
                    self.lock_in_vain().remove(path);
                    return Ok(true);
                }
                Ok(false) => {}
                Err(unanswered) => failure = Some(likelier_to_return(failure, unanswered)),
            }
        }
        match failure {
            Some(failure) => Err(self.counted(path, failure)),
            None => {
                self.lock_in_vain().remove(path);
                Ok(false)
            }
        }
    }

    /// Says how often the question for a path was asked in vain, counting this time if it was.
    fn counted(&self, path: &StorePath, unanswered: Unanswered) -> Unanswered {
        let mut in_vain = self.lock_in_vain();
        if unanswered.away.is_some_and(|away| !away.was_asked) {
            return Unanswered { of_path: in_vain.get(path).copied().unwrap_or(0), ..unanswered };
        }
        if in_vain.len() >= REMEMBERED {
            // A few more questions do less harm than growing for ever.
            in_vain.clear();
        }
        let of_path = in_vain.entry(path.clone()).or_default();
        *of_path = of_path.saturating_add(1);
        Unanswered { of_path: *of_path, ..unanswered }
    }

    fn lock_in_vain(&self) -> MutexGuard<'_, HashMap<StorePath, u32>> {
        self.in_vain.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Upstream {
    async fn ask(&self, http: &Http, places: &Semaphore, path: &StorePath) -> Result<bool, Unanswered> {
        let (Ok(_place), Ok(url)) = (places.acquire().await, self.url.join(&layout::narinfo_name(path))) else {
            return Ok(false);
        };
        // Looked at when its turn has come: of many that wait, the first finds it out for all.
        if let Some(unanswered) = self.away() {
            return Err(unanswered);
        }
        let begun = Instant::now();
        match http.ask(Action::Upstream, http.client().get(url)).await {
            // A server may answer anything to any question, and then has nothing.
            Ok(answer) => {
                self.answered(begun);
                Ok(layout::is_narinfo_of(&String::from_utf8_lossy(&answer), path))
            }
            // Object stores that don't list say 403 for what isn't there.
            Err(HttpError::Status { status: 403 | 404 | 410, .. }) => {
                self.answered(begun);
                Ok(false)
            }
            Err(error) => Err(self.asked_in_vain(error, begun)),
        }
    }

    /// Why it isn't to be asked now, if so.
    fn away(&self) -> Option<Unanswered> {
        let away = self.lock();
        let Trouble { asked, in_vain, why, begun: _ } = away.as_ref()?;
        let again = AWAY.checked_sub(asked.elapsed()).filter(|again| !again.is_zero())?;
        let away = Away { in_vain: *in_vain, was_asked: false, again };
        Some(Unanswered { away: Some(away), ..CacheError::from(HttpError::Away { why: why.clone() }).into() })
    }

    /// It can be asked, which is news if it could not before: something is wrong with one path, not with all. An answer to a
    /// question that was begun before the one asked in vain says nothing: it may have gone away since.
    fn answered(&self, begun: Instant) {
        if self.lock().take_if(|away| away.begun < begun).is_some() {
            info!("the upstream cache {} can be asked again", self.url);
        }
    }

    /// It can't be asked.
    fn asked_in_vain(&self, error: HttpError, begun: Instant) -> Unanswered {
        let mut away = self.lock();
        let (why, now) = (one_line(&error), Instant::now());
        if away.as_ref().is_none_or(|away| away.why != why) {
            warn!("an upstream cache can't be asked; what it may have waits for it, for a minute or so: {why}");
        }
        let in_vain = match away.as_ref() {
            None => 1,
            // Asked together with the one that has found it out.
            Some(away) if away.asked.elapsed() < AWAY => away.in_vain,
            Some(away) => away.in_vain.saturating_add(1),
        };
        let begun = away.as_ref().map_or(begun, |away| away.begun.max(begun));
        *away = Some(Trouble { asked: now, begun, in_vain, why });
        let away = Away { in_vain, was_asked: true, again: AWAY };
        Unanswered { away: Some(away), ..CacheError::from(error).into() }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Trouble>> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
