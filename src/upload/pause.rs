//! Pauses: which caches are given nothing for now, and giving back what is under way to them.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::sleep;

use super::Uploader;
use super::deliver::Landed;
use crate::cache::CallOff;
use crate::limit::Lane;
use crate::policy::CacheName;
use crate::queue::{Job, Outcome, Paused, QueueError};

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
}

/// Comes true a while after a job was to be given back.
pub(super) struct GivenBack(oneshot::Receiver<()>);

impl UnderWay {
    /// A job that is being begun, with what it is called off by.
    pub(super) fn begin(job: Job, name: CacheName, call_off: CallOff) -> (Self, GivenBack) {
        let (give_back, told) = oneshot::channel();
        (Self { job, name, call_off, give_back: Some(give_back) }, GivenBack(told))
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
