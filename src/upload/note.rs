//! What becomes of paths and caches, said in the log and noted in the queue for those who look.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::target::{State, Waits};
use crate::queue::{CacheId, Delivery, Job, Outcome, Queue, QueueError, QueueHandle, Standing, Volume, now};

/// Notes that a cache takes nothing.
pub(super) async fn note_waiting(
    queue: &QueueHandle,
    id: CacheId,
    state: &mut State,
    waits: &Waits,
) -> Result<(), QueueError> {
    // Without randomness the pauses are equal, which is no reason to fail.
    let news = state.wait(waits, getrandom::u64().unwrap_or(0));
    let until =
        state.told_until().map(|until| now().saturating_add(in_ms(until.saturating_duration_since(Instant::now()))));
    // Another pause that the cache has asked for is no news, but whoever looks wants to know when it is over.
    if !news && until.is_none() {
        return Ok(());
    }
    let (noted, is_off) = (waits.why.clone(), waits.is_off);
    let note = move |queue: &mut Queue| {
        let standing = if is_off { Standing::Off(&noted) } else { Standing::Waits { why: &noted, until } };
        queue.note_cache(id, standing, now())
    };
    // In this order, so that whoever has read the log finds it in the queue.
    queue.call(note).await?;
    if !news {
        return Ok(());
    }
    let why = &waits.why;
    if is_off {
        info!(cache = %state.name(), "off on this host: {why}");
    } else {
        warn!(cache = %state.name(), "the cache takes nothing for now, its queue waits: {why}");
    }
    Ok(())
}

fn in_ms(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// Notes that a cache takes paths.
pub(super) async fn note_taking(queue: &QueueHandle, id: CacheId, state: &State) -> Result<(), QueueError> {
    queue
        .call(move |queue| {
            queue.note_cache(id, Standing::Takes, now())?;
            queue.begin_anew(id).map(|_| ())
        })
        .await?;
    info!(cache = %state.name(), "the cache takes paths again");
    Ok(())
}

/// One line in the log for each path.
pub(super) fn tell(job: &Job, outcome: &Outcome, cache: &str) {
    let path = &job.path;
    match outcome {
        Outcome::Delivered(Delivery::Uploaded { volume, deduplicated }) => {
            let Volume { read, sent, .. } = volume;
            let what = if *deduplicated { "uploaded, its content was there already" } else { "uploaded" };
            let saved = format_args!("{}%", volume.saved_percent());
            info!(%path, cache, read, sent, %saved, "{what}");
        }
        Outcome::Delivered(Delivery::AlreadyThere) => info!(%path, cache, "already there"),
        Outcome::Delivered(Delivery::AtUpstream) => info!(%path, cache, "an upstream has it"),
        Outcome::Retry { reason, .. } | Outcome::Doubted { reason, .. } => {
            warn!(%path, cache, attempt = job.attempts + 1, "will try again: {reason}");
        }
        Outcome::Postponed { reason, .. } => debug!(%path, cache, "will be tried again: {reason}"),
        Outcome::Held { reason } => warn!(%path, cache, "held: {reason}"),
        Outcome::Failed { reason } => warn!(%path, cache, "failed: {reason}"),
        Outcome::Gone => info!(%path, cache, "garbage-collected before it was uploaded"),
        Outcome::Withdrawn { reason } => info!(%path, cache, "no longer wanted: {reason}"),
        Outcome::WaitsFor(references) => debug!(%path, cache, references = references.len(), "references come first"),
        Outcome::Returned => debug!(%path, cache, "given back"),
    }
}
