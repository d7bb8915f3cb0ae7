//! A cache as the uploader sees it: opened or not, taking paths or not.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::Instant;

use crate::cache::{Cache, CacheError};
use crate::policy::CacheName;
use crate::queue::CacheId;
use crate::report::one_line;

/// Opens a cache; asked again and again until it succeeds.
pub type Open = Arc<dyn Fn() -> Result<Arc<dyn Cache>, CacheError> + Send + Sync>;

/// A cache that the policy names.
#[derive(Clone)]
pub struct Target {
    /// Its number in the queue.
    pub id: CacheId,
    /// Its name in the policy.
    pub name: CacheName,
    /// Opens it.
    pub open: Open,
}

/// The first pause before a cache that takes nothing is asked again.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// No pause is longer: a disk that was cleared is in use again within this time.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// A target and how it is doing.
pub(super) struct State {
    target: Target,
    cache: Option<Arc<dyn Cache>>,
    /// Jobs claimed for it.
    pub(super) under_way: usize,
    waiting: Option<Waiting>,
}

struct Waiting {
    why: String,
    pause: Duration,
    until: Instant,
}

impl State {
    /// Serves a target, with nothing under way; one that was served before keeps what it knows, but is opened anew.
    pub(super) fn serve(target: Target, known: Option<Self>) -> Self {
        let waiting = known.and_then(|known| known.waiting);
        let mut state = Self { target, cache: None, under_way: 0, waiting };
        state.hurry();
        state
    }

    pub(super) fn name(&self) -> &CacheName {
        &self.target.name
    }

    /// How many more jobs may be claimed for it, of `most` in all. A cache that took nothing is tried with one.
    pub(super) fn room(&self, most: usize) -> usize {
        match &self.waiting {
            None => most.saturating_sub(self.under_way),
            Some(waiting) if waiting.until <= Instant::now() && self.under_way == 0 => 1,
            Some(_) => 0,
        }
    }

    /// When it is to be tried again.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.waiting.as_ref().filter(|_| self.under_way == 0).map(|waiting| waiting.until)
    }

    /// Tries it at once.
    pub(super) fn hurry(&mut self) {
        if let Some(waiting) = &mut self.waiting {
            waiting.until = Instant::now();
        }
    }

    /// The cache, opened if it isn't yet.
    pub(super) async fn open(&mut self) -> Result<Arc<dyn Cache>, String> {
        if let Some(cache) = &self.cache {
            return Ok(Arc::clone(cache));
        }
        let open = Arc::clone(&self.target.open);
        match spawn_blocking(move || open()).await {
            Ok(Ok(cache)) => {
                self.cache = Some(Arc::clone(&cache));
                Ok(cache)
            }
            Ok(Err(error)) => Err(one_line(&error)),
            Err(_) => Err("opening it ended by a defect of storewatch".to_owned()),
        }
    }

    /// It takes nothing: waits, longer each time, and is opened anew then, since it may have been replaced meanwhile.
    /// Returns whether that is news.
    pub(super) fn wait(&mut self, why: &str) -> bool {
        self.cache = None;
        let now = Instant::now();
        let before = self.waiting.take();
        let pause = match &before {
            // Many jobs under way at once fail for one reason: that is one failure.
            Some(before) if before.until > now => before.pause,
            Some(before) => (before.pause * 2).min(LONGEST_PAUSE),
            None => FIRST_PAUSE,
        };
        let news = before.is_none_or(|before| before.why != why);
        self.waiting = Some(Waiting { why: why.to_owned(), pause, until: now + pause });
        news
    }

    /// Whether it takes nothing for now.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// There is nothing to try it with for now.
    pub(super) fn put_off(&mut self) {
        if let Some(waiting) = &mut self.waiting {
            waiting.until = Instant::now() + waiting.pause;
        }
    }

    /// It has taken something. Returns whether that is news.
    pub(super) fn go_on(&mut self) -> bool {
        self.waiting.take().is_some()
    }
}
