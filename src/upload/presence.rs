//! What a cache is known to have, asked in batches.
//!
//! Hundreds of deliveries begin at the same time and each asks for one path and its references. The first question goes
//! out alone; what is asked meanwhile goes out together as the next one. So a single path waits for nothing, and a
//! thousand make a handful of requests.
//!
//! That a path is there is believed for as long as the cache says its answers hold, since caches collect garbage too.
//! Where something that refers to it is about to be shown, it is believed for some seconds only, and the cache is asked
//! again; it may answer by what it has seen of itself: a bucket by a listing that is up to five minutes old, and for
//! what is missing some seconds. Another request for each reference would double what an upload costs, and a prune
//! reckons with that (`cache/care/prune`); what else removes paths from a bucket doesn't. Only where somebody has named
//! a path, or what refers to it, is nothing believed but what is there, since they may know that it has gone. That it
//! is missing is not remembered here: it may be there by now. Nor is it believed of a listing by who would throw an
//! archive away for it.
//!
//! Of a cache that can't say what it has, the queue knows what it was given, and that counts.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::contents::Remembered;
use crate::cache::{Cache, CacheError};
use crate::limit::Tap;
use crate::nix::StorePath;

/// Paths that one question asks for at most. Attic answers some 5,000 in one go, and references come on top.
const BATCH: usize = 4_000;

/// Paths that are remembered at most, some 100 bytes each.
const REMEMBERED: usize = 20_000;

/// What was seen there so long ago counts as there now: many refer to the same paths, and each of these is asked for once in
/// that time.
const AS_GOOD_AS_NOW: Duration = Duration::from_secs(5);

/// Who has an archive to lose asks again after such pauses. Together they are shorter than what a server lets a connection be
/// still for: some caches are asked in the middle of a request.
const PATIENCE: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(10)];

/// What one cache is known to have. Cheap to clone.
#[derive(Clone)]
pub(super) struct Presence {
    cache: Arc<dyn Cache>,
    memory: Option<Remembered>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// When each was last seen there.
    seen: HashMap<StorePath, Instant>,
    waiting: Vec<Question>,
    asking: bool,
    /// How often what was seen has been forgotten.
    forgotten: u64,
}

struct Question {
    paths: Vec<StorePath>,
    by: By,
    answer: oneshot::Sender<Result<Arc<HashSet<StorePath>>, Unanswered>>,
}

/// What a cache may go by in its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// What it has seen of itself for as long as that holds, such as a listing.
    WhatWasSeen,
    /// What is there now.
    WhatIsThere,
}

/// Why there is no answer.
pub(super) enum Unanswered {
    /// The cache said no.
    Refused(CacheError),
    /// It said no to another who asked at the same time, who tells.
    WithOthers,
}

impl Presence {
    /// `memory` is what stands in where the cache can't say what it has.
    pub(super) fn new(cache: Arc<dyn Cache>, memory: Option<Remembered>) -> Self {
        Self { memory: memory.filter(|_| !cache.knows_what_it_has()), cache, state: Arc::default() }
    }

    pub(super) fn cache(&self) -> &Arc<dyn Cache> {
        &self.cache
    }

    /// Notes that a path has just arrived.
    pub(super) fn saw(&self, path: &StorePath) {
        let mut state = self.lock();
        state.make_room();
        state.seen.insert(path.clone(), Instant::now());
    }

    /// Forgets what it has seen: something was removed from the cache.
    pub(super) fn forget(&self) {
        let mut state = self.lock();
        state.seen.clear();
        // What is being asked at this moment may be answered by what was.
        state.forgotten += 1;
        self.cache.forget();
    }

    /// Which of these paths the cache lacks, in the order given.
    pub(super) async fn missing(&self, paths: &[StorePath]) -> Result<Vec<StorePath>, Unanswered> {
        self.missing_for(paths, self.cache.answers_hold(), By::WhatWasSeen).await
    }

    /// The same by what is there now, or was a moment ago.
    pub(super) async fn missing_now(&self, paths: &[StorePath]) -> Result<Vec<StorePath>, Unanswered> {
        self.missing_for(paths, self.cache.answers_hold().min(AS_GOOD_AS_NOW), By::WhatIsThere).await
    }

    /// The same, where what was seen there counts for so long.
    async fn missing_for(&self, paths: &[StorePath], fresh: Duration, by: By) -> Result<Vec<StorePath>, Unanswered> {
        let (paths, answered, ask) = {
            let mut state = self.lock();
            let believed = |path: &StorePath| state.seen.get(path).is_some_and(|seen| seen.elapsed() < fresh);
            let paths: Vec<_> = paths.iter().filter(|path| !believed(path)).cloned().collect();
            if paths.is_empty() {
                return Ok(paths);
            }
            let (answer, answered) = oneshot::channel();
            state.waiting.push(Question { paths: paths.clone(), by, answer });
            (paths, answered, !std::mem::replace(&mut state.asking, true))
        };
        if ask {
            // On its own, so that a delivery that is called off leaves nobody without an answer. Should it end by a defect,
            // those who wait are told, and the next who asks begins anew.
            let (asking, own) =
                (tokio::spawn(Tap::of_this_task().for_all().scope(self.clone().ask_for_all())), self.clone());
            tokio::spawn(async move {
                if asking.await.is_err() {
                    let mut state = own.lock();
                    state.asking = false;
                    state.waiting.clear();
                }
            });
        }
        let missing = answered.await.unwrap_or(Err(Unanswered::WithOthers))?;
        Ok(paths.into_iter().filter(|path| missing.contains(path)).collect())
    }

    /// For who has sent an archive already, which would be sent again. By what was seen a moment ago, or by the cache
    /// itself for as long as that holds; but what is missing by that may have come since, so that is asked for once
    /// more.
    pub(super) async fn missing_with_patience(&self, paths: &[StorePath]) -> Result<Vec<StorePath>, Unanswered> {
        let mut pauses = PATIENCE.into_iter();
        let missing = self.ask_with_patience(paths, By::WhatWasSeen, &mut pauses).await?;
        self.ask_with_patience(&missing, By::WhatIsThere, &mut pauses).await
    }

    /// Where another was told why there is no answer, asks again after these pauses.
    async fn ask_with_patience(
        &self,
        paths: &[StorePath],
        by: By,
        pauses: &mut (dyn Iterator<Item = Duration> + Send),
    ) -> Result<Vec<StorePath>, Unanswered> {
        let fresh = self.cache.answers_hold().min(AS_GOOD_AS_NOW);
        loop {
            let answered = self.missing_for(paths, fresh, by).await;
            let Err(Unanswered::WithOthers) = answered else { return answered };
            let Some(pause) = pauses.next() else { return answered };
            sleep(pause).await;
        }
    }

    /// Asks until nobody waits.
    async fn ask_for_all(self) {
        loop {
            let (mut questions, forgotten) = {
                let mut state = self.lock();
                let (mut asked, by) = (0, state.waiting.first().map(|first| first.by));
                let mut fits = |question: &Question| {
                    asked += question.paths.len();
                    asked <= BATCH && Some(question.by) == by
                };
                let take = state.waiting.iter().take_while(|question| fits(question)).count().max(1);
                let take = take.min(state.waiting.len());
                if take == 0 {
                    state.asking = false;
                    return;
                }
                (state.waiting.drain(..take).collect::<Vec<_>>(), state.forgotten)
            };
            let all: HashSet<&StorePath> = questions.iter().flat_map(|question| &question.paths).collect();
            let all: Vec<StorePath> = all.into_iter().cloned().collect();
            let by = questions.first().map_or(By::WhatWasSeen, |first| first.by);
            match self.ask(&all, by).await {
                Ok(missing) => {
                    let missing: Arc<HashSet<_>> = Arc::new(missing.into_iter().collect());
                    let now = Instant::now();
                    {
                        let mut state = self.lock();
                        state.make_room();
                        for path in missing.iter() {
                            state.seen.remove(path);
                        }
                        if state.forgotten == forgotten {
                            let there = all.into_iter().filter(|path| !missing.contains(path));
                            state.seen.extend(there.map(|path| (path, now)));
                        }
                    }
                    for question in questions {
                        // Who no longer waits needs no answer.
                        let _ = question.answer.send(Ok(Arc::clone(&missing)));
                    }
                }
                Err(error) => {
                    // One failure, told by one: many would look like many.
                    let told = questions.iter().position(|question| !question.answer.is_closed()).unwrap_or(0);
                    let _ = questions.swap_remove(told).answer.send(Err(Unanswered::Refused(error)));
                    for question in questions {
                        let _ = question.answer.send(Err(Unanswered::WithOthers));
                    }
                }
            }
        }
    }

    async fn ask(&self, paths: &[StorePath], by: By) -> Result<Vec<StorePath>, CacheError> {
        let mut missing = match by {
            By::WhatWasSeen => self.cache.missing(paths).await?,
            By::WhatIsThere => self.cache.missing_now(paths).await?,
        };
        if let Some(memory) = &self.memory {
            let given = memory.given(&missing).await;
            missing.retain(|path| !given.contains(path));
        }
        Ok(missing)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Forgets everything rather than grow: to ask again costs little.
    fn make_room(&mut self) {
        if self.seen.len() >= REMEMBERED {
            self.seen.clear();
        }
    }
}

#[cfg(test)]
mod tests;
