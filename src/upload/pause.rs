//! Pauses: which caches are given nothing for now, and giving back what is under way to them.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::Uploader;
use super::deliver::Landed;
use super::step::{NOTED_EVERY, Progress};
use crate::cache::CallOff;
use crate::limit::Lane;
use crate::policy::CacheName;
use crate::queue::{Job, Outcome, Paused, QueueError, Step};

/// What is called off ends at its next chunk. One that waits for its turn to send, or for a server, is dropped after so long.
const GRACE: Duration = Duration::from_secs(1);

/// Which caches are paused, or backfill to them, and why.
pub type Pauses = BTreeMap<CacheName, Paused>;

/// A job whose delivery is under way.
pub(super) struct UnderWay {
    pub(super) job: Job,
    /// The cache's name.
    pub(super) name: CacheName,
    call_off: CallOff,
    give_back: Option<oneshot::Sender<()>>,
    progress: Progress,
    /// What is noted of that, and when it was begun.
    noted: Option<Step>,
    begun: Instant,
}

/// Comes true a while after a job was to be given back.
pub(super) struct GivenBack(oneshot::Receiver<()>);

impl UnderWay {
    /// A job that is being begun, with what it is called off by and what says how far it is.
    pub(super) fn begin(job: Job, name: CacheName, call_off: CallOff, progress: Progress) -> (Self, GivenBack) {
        let (give_back, told) = oneshot::channel();
        let (give_back, begun) = (Some(give_back), Instant::now());
        (Self { job, name, call_off, give_back, progress, noted: None, begun }, GivenBack(told))
    }

    /// How far it is, where that isn't noted, by its job's number; what was just begun may soon be through.
    pub(super) fn new_step(&mut self) -> Option<(i64, Step)> {
        let step = self.progress.step();
        let is_news = self.begun.elapsed() >= NOTED_EVERY && self.noted.replace(step) != Some(step);
        is_news.then_some((self.job.id, step))
    }

    /// What was to be noted of that isn't.
    pub(super) fn forget_noted(&mut self) {
        self.noted = None;
    }

    /// Calls it off.
    pub(super) fn call_off(&self) {
        self.call_off.call_off();
    }

    fn give_back(&mut self) {
        self.call_off();
        if let Some(give_back) = self.give_back.take() {
            // Who has come to its end meanwhile needs not be told.
            let _ = give_back.send(());
        }
    }
}

impl GivenBack {
    /// What becomes of the job then.
    pub(super) async fn wait(self) -> Landed {
        if self.0.await.is_err() {
            // Nobody is left who could say so.
            std::future::pending::<()>().await;
        }
        sleep(GRACE).await;
        Outcome::Returned.into()
    }
}

impl Uploader {
    /// Pauses these caches from now on and no others, and gives back what is under way to them.
    pub(super) async fn pause(&mut self, pauses: Pauses) -> Result<(), QueueError> {
        self.pauses = pauses;
        self.note_pauses().await?;
        for under_way in self.claimed.values_mut() {
            let name = self.caches.get(&under_way.job.cache).map(|state| state.name());
            let paused = name.and_then(|name| self.pauses.get(name));
            let backfill = under_way.job.lane == Lane::Backfill;
            if paused.is_some_and(|paused| paused.all.is_some() || (backfill && paused.backfill.is_some())) {
                under_way.give_back();
            }
        }
        Ok(())
    }

    /// Makes the pauses known: to the caches that are served, and to those who look at the queue.
    pub(super) async fn note_pauses(&mut self) -> Result<(), QueueError> {
        let mut noted = Vec::new();
        for (id, state) in &mut self.caches {
            let paused = self.pauses.get(state.name()).cloned().unwrap_or_default();
            state.pause(paused.all.is_some());
            noted.push((*id, paused));
        }
        self.queue.call(move |queue| queue.note_paused(&noted)).await
    }
}
