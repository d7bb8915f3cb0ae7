//! Where what a path refers to is, or can come from: in the cache, under way there, at an upstream, or here.

use super::backoff::retry;
use super::deliver::{Context, Landed, Verdict};
use super::flight::Arrival;
use super::presence::{Presence, Unanswered};
use super::upstream::without_answer;
use crate::cache::Answers;
use crate::nix::{PathInfo, StorePath};
use crate::policy::{CacheName, NeedsReferences, Policy};
use crate::queue::{Delivery, Job, Outcome, now};
use crate::report::one_line;

pub(super) enum References {
    /// All are in the cache, at an upstream, or under way.
    Deliverable(Deliverable),
    /// The job ends here, for now.
    Settled(Landed),
}

/// References that nothing stands in the way of.
#[derive(Default)]
pub(super) struct Deliverable {
    /// To be waited for.
    pub(super) under_way: Vec<Arrival>,
    /// Seen in the cache.
    pub(super) there: Vec<StorePath>,
}

/// Looks where the path and its references are.
pub(super) async fn find_references(
    context: &Context,
    policy: &Policy,
    name: &CacheName,
    presence: &Presence,
    job: &Job,
    info: &PathInfo,
) -> Result<References, Unanswered> {
    let mut deliverable = Deliverable::default();
    let mut asked = vec![job.path.clone()];
    // What is under way is looked for before the cache is asked: what lands in between is seen by one or the other.
    for reference in info.other_references() {
        match context.flights.arrival(job.cache, reference) {
            Some(arrival) => deliverable.under_way.push(arrival),
            None => asked.push(reference.clone()),
        }
    }
    let mut missing = match job.walk {
        true => presence.missing_now(&asked).await?,
        false => presence.missing(&asked).await?,
    };
    if job.among_distrusted {
        // What isn't well comes first: nothing new is to be shown that nobody could read for it.
        let (cache, paths) = (job.cache, asked.clone());
        match context.queue.call(move |queue| queue.distrusted(cache, &paths)).await {
            Ok(distrusted) => missing.extend(distrusted.into_iter().filter(|path| *path != job.path)),
            Err(error) => return Ok(References::Settled(retry(job, one_line(&error)).into())),
        }
    }
    // What is shown and isn't well counts for nothing: neither is it believed, nor does another cache's mend it.
    let is_there = job.distrusted.is_none() && !missing.contains(&job.path);
    if is_there && missing.is_empty() {
        return Ok(References::Settled(Outcome::Delivered(Delivery::AlreadyThere).into()));
    }
    let Answers { there: upstream, unanswered } = context.upstreams.ask(&missing).await;
    if let Some(outcome) = unanswered.and_then(|unanswered| without_answer(job, &unanswered, now())) {
        return Ok(References::Settled(Landed { cache: Verdict::ToldElsewhere, ..outcome.into() }));
    }
    let keys = presence.cache().upstream_key_names();
    let signed = !info.ultimate && policy.signed_by_named(info, context.facts.store_dir(), keys);
    if job.distrusted.is_none() && !is_there && (signed || upstream.contains(&job.path)) {
        return Ok(References::Settled(Outcome::Delivered(Delivery::AtUpstream).into()));
    }
    if is_there {
        // Its closure is broken, perhaps by the cache's garbage collection: what this host may deliver of it goes first.
        let mut to_come_first = Vec::new();
        for reference in missing.into_iter().filter(|missing| !upstream.contains(missing)) {
            if let Whereabouts::Here = find(context, policy, name, keys, &reference).await {
                to_come_first.push(reference);
            }
        }
        let outcome = match to_come_first.is_empty() {
            true => Outcome::Delivered(Delivery::AlreadyThere),
            false => Outcome::WaitsFor(to_come_first),
        };
        return Ok(References::Settled(outcome.into()));
    }
    let is_reference = |path: &StorePath| *path != job.path && !missing.contains(path);
    deliverable.there = asked.into_iter().filter(is_reference).collect();
    let mut to_come_first = Vec::new();
    for reference in missing.into_iter().filter(|missing| *missing != job.path && !upstream.contains(missing)) {
        match find(context, policy, name, keys, &reference).await {
            Whereabouts::Upstream => {}
            Whereabouts::Nowhere(reason) => return Ok(References::Settled(Outcome::Held { reason }.into())),
            // A valid path has no invalid references: it has been collected meanwhile, and the next look will say so.
            Whereabouts::Invalid => return Ok(References::Settled(Outcome::Returned.into())),
            Whereabouts::Unknown(reason) => return Ok(References::Settled(retry(job, reason).into())),
            Whereabouts::Here => match context.flights.arrival(job.cache, &reference) {
                Some(arrival) => deliverable.under_way.push(arrival),
                None => to_come_first.push(reference),
            },
        }
    }
    if to_come_first.is_empty() {
        Ok(References::Deliverable(deliverable))
    } else {
        Ok(References::Settled(Outcome::WaitsFor(to_come_first).into()))
    }
}

/// Where a reference can come from that the cache lacks.
enum Whereabouts {
    Upstream,
    Here,
    /// The cache must not get it, or nobody can bring it there: why.
    Nowhere(String),
    Invalid,
    Unknown(String),
}

async fn find(
    context: &Context,
    policy: &Policy,
    name: &CacheName,
    keys: &[String],
    reference: &StorePath,
) -> Whereabouts {
    let info = match context.facts.path_info(reference).await {
        Ok(Some(info)) => info,
        Ok(None) => return Whereabouts::Invalid,
        Err(error) if error.is_malformed() => {
            return Whereabouts::Nowhere(format!("needs {reference}: {}", one_line(&error)));
        }
        Err(error) => return Whereabouts::Unknown(one_line(&error)),
    };
    let store_dir = context.facts.store_dir();
    if policy.delivered_by_upstream(&info, store_dir).is_some() || policy.signed_by_named(&info, store_dir, keys) {
        return Whereabouts::Upstream;
    }
    match policy.decide(&info, store_dir) {
        Ok(decision) if decision.denies(name) => {
            let rule = policy.rule_for(&info, store_dir, name).unwrap_or_else(|_| decision.rule().clone());
            Whereabouts::Nowhere(format!("needs {reference}, which is denied by {rule}"))
        }
        Ok(_) => Whereabouts::Here,
        Err(undecided @ NeedsReferences) => Whereabouts::Unknown(format!("{reference}: {undecided}")),
    }
}
