//! Tidying the queue beside the work.

use std::time::Duration;

use tokio::sync::watch;
use tracing::{debug, warn};

use crate::disk::{Level, Levels};
use crate::queue::{QueueError, QueueHandle, now};
use crate::report::one_line;

/// Between two steps, so that they never take more than a small part of the queue's thread.
const PAUSE: Duration = Duration::from_millis(20);

/// Forgets what has ended long ago and gives its room back, in steps. What goes wrong with it stops nothing: it is tried
/// again the next time.
pub(super) async fn tidy(queue: QueueHandle, disks: watch::Receiver<Levels>) {
    match in_steps(&queue, &disks).await {
        Ok(steps) => debug!(steps, "the queue is tidy"),
        Err(QueueError::Closed) => {}
        Err(error) => warn!("what has ended long ago is not forgotten now: {}", one_line(&error)),
    }
}

async fn in_steps(queue: &QueueHandle, disks: &watch::Receiver<Levels>) -> Result<u64, QueueError> {
    let has_room = disks.borrow().state() == Level::Ok;
    let (mut step, mut steps) = (Some(queue.call_once(move |queue| queue.begin_tidying(now(), has_room)).await?), 0);
    let mut failed = 0;
    while let Some(next) = step {
        failed = next.failed();
        step = queue.call_once(move |queue| queue.tidy(next)).await?;
        steps += 1;
        tokio::time::sleep(PAUSE).await;
    }
    if failed > 0 {
        warn!(
            jobs = failed,
            "what failed long ago is forgotten; `storewatch backfill` finds again what of it is valid"
        );
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::{Notify, mpsc};

    use super::super::{Event, Parts, TIDY_EVERY, Uploader};
    use super::*;
    use crate::limit::Lane;
    use crate::nix::{StoreDir, StoreFacts, StorePath};
    use crate::queue::{Admission, Ended, JobFilter, Outcome, Queue, Wanted};

    /// Far more than there are steps.
    const LOOKS: usize = 1_000;

    /// A job that ended at the beginning of time.
    fn end_a_job(queue: &mut Queue) -> Result<(), QueueError> {
        let cache = queue.cache_id("team", "file:///c")?;
        let path = StorePath::nth(0);
        let wanted = [Wanted { path, row: None, registered: 0, caches: vec![cache] }];
        let (lane, ended) = (Lane::Fresh, Ended::StartsAnew);
        queue.admit(&Admission { lane, ended, ..Admission::of_new(&wanted, 1) }, None)?;
        let jobs = queue.claim(cache, lane, 1, 1)?;
        queue.settle(&jobs.into_iter().map(|job| (job, Outcome::Gone)).collect::<Vec<_>>(), &[], 1)
    }

    async fn jobs(queue: &QueueHandle) -> usize {
        queue.call(|queue| Ok(queue.jobs(&JobFilter::default())?.len())).await.expect("listed")
    }

    #[tokio::test(start_paused = true)]
    async fn the_queue_is_tidied_each_day() {
        let dir = tempfile::tempdir().expect("a folder");
        let queue = QueueHandle::start(Queue::open(dir.path()).expect("opened").queue).expect("a thread");
        let (_commands, inbox) = mpsc::channel(1);
        let nowhere = dir.path().join("nowhere");
        let mut uploader = Uploader::new(Parts {
            queue: queue.clone(),
            facts: StoreFacts::new(nowhere.clone(), nowhere.clone(), StoreDir::default()),
            real_store: nowhere.clone(),
            socket: nowhere.clone(),
            bell: Arc::new(Notify::new()),
            shaper: crate::limit::Shaper::default(),
            stirred: Arc::new(Notify::new()),
            tally: crate::cache::Tally::default(),
            disks: watch::channel(Levels::default()).1,
            nix_state: nowhere,
            commands: inbox,
        });
        for _ in 0..2 {
            queue.call(end_a_job).await.expect("ended");
            uploader.apply(Event::Look).await.expect("looked");
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert_eq!(jobs(&queue).await, 1, "the day isn't over");
            tokio::time::sleep(TIDY_EVERY).await;
            uploader.apply(Event::Look).await.expect("looked");
            // The clock stands still while nobody sleeps: it is looked at until it has come to pass.
            for _ in 0..LOOKS {
                if jobs(&queue).await > 0 {
                    tokio::time::sleep(PAUSE).await;
                }
            }
            assert_eq!(jobs(&queue).await, 0);
        }
    }
}
