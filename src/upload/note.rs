//! What becomes of paths and caches, said in the log and noted in the queue for those who look.

use std::time::Duration;

use jiff::tz::TimeZone;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::target::{State, Waits};
use crate::queue::{CacheId, Delivery, Job, Outcome, Queue, QueueError, QueueHandle, Standing, Volume, now};
use crate::times;

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
    let (noted, is_off, lacks_credentials) = (waits.why.clone(), waits.is_off, waits.lacks_credentials);
    let note = move |queue: &mut Queue| {
        let waits = Standing::Waits { why: &noted, until, lacks_credentials };
        queue.note_cache(id, if is_off { Standing::Off(&noted) } else { waits }, now())
    };
    // In this order, so that whoever has read the log finds it in the queue.
    let since = queue.call(note).await?;
    if !news {
        return Ok(());
    }
    let (why, zone) = (&waits.why, TimeZone::system());
    if is_off {
        info!(cache = %state.name(), "off on this host: {why}");
    } else if let Some(since) = since.filter(|_| lacks_credentials) {
        let since = times::past(since, now(), &zone);
        warn!(cache = %state.name(), "valid credentials missing since {since}, the cache's queue waits: {why}");
    } else {
        let again = until.and_then(|until| times::ahead(until, now(), &zone));
        let again = again.map_or_else(String::new, |again| format!(", it is asked again at {again}"));
        warn!(cache = %state.name(), "the cache takes nothing for now{again}, its queue waits: {why}");
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
        Outcome::Delivered(Delivery::Uploaded { volume, deduplicated, .. }) => {
            let Volume { read, sent, .. } = volume;
            let what = if *deduplicated { "uploaded, its content was there already" } else { "uploaded" };
            let saved = format_args!("{}%", volume.saved_percent());
            info!(%path, cache, read, sent, %saved, "{what}");
        }
        Outcome::Delivered(Delivery::AlreadyThere) => info!(%path, cache, "already there"),
        Outcome::Delivered(Delivery::AtUpstream) => info!(%path, cache, "an upstream has it"),
        Outcome::Retry { not_before, reason } | Outcome::Doubted { not_before, reason } => {
            let again = times::ahead(*not_before, now(), &TimeZone::system());
            let again = again.map_or_else(String::new, |again| format!(" at {again}"));
            warn!(%path, cache, attempt = job.attempts + 1, "will try again{again}: {reason}");
        }
        Outcome::Postponed { reason, .. } => debug!(%path, cache, "will be tried again: {reason}"),
        // It was looked at again by itself, as after each start: whoever reads the log knows.
        Outcome::Held { reason } if job.reason.as_ref() == Some(reason) => debug!(%path, cache, "still held: {reason}"),
        Outcome::Held { reason } => warn!(%path, cache, "held: {reason}"),
        Outcome::Failed { reason } => warn!(%path, cache, "failed: {reason}"),
        Outcome::Gone => info!(%path, cache, "garbage-collected before it was uploaded"),
        Outcome::Withdrawn { reason } => info!(%path, cache, "no longer wanted: {reason}"),
        Outcome::WaitsFor(references) => debug!(%path, cache, references = references.len(), "references come first"),
        Outcome::Returned => debug!(%path, cache, "given back"),
    }
}
