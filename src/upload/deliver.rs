//! One path's way into one cache.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use super::backoff;
use super::flight::{Arrival, Flights};
use crate::cache::{Cache, CacheError, CallOff, Class, Hindrance, NarFailure, NarStream, Push};
use crate::limit::Slots;
use crate::nix::{PathInfo, StoreDir, StoreFacts, StorePath};
use crate::policy::{CacheName, Policy};
use crate::queue::{Delivery, Job, Outcome, now};
use crate::report::one_line;

/// What every delivery needs. Cheap to clone.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) facts: StoreFacts,
    /// Where the store's files are, which is not where they are said to be for a store within a root.
    pub(super) real_store: PathBuf,
    pub(super) slots: Slots,
    pub(super) call_off: CallOff,
    pub(super) flights: Flights,
    pub(super) policy: watch::Receiver<Option<Arc<Policy>>>,
}

/// What became of a delivery.
pub struct Landed {
    pub(super) outcome: Outcome,
    /// Why the cache as a whole takes nothing, if that is so.
    pub(super) cache_waits: Option<String>,
}

impl From<Outcome> for Landed {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, cache_waits: None }
    }
}

/// Puts one path into one cache, if the policy still wants that and the cache lacks it.
pub(super) async fn deliver(context: Context, name: CacheName, cache: Arc<dyn Cache>, job: &Job) -> Landed {
    let Some(policy) = context.policy.borrow().clone() else { return Outcome::Returned.into() };
    let info = match context.facts.path_info(&job.path).await {
        Ok(Some(info)) => info,
        Ok(None) => return Outcome::Gone.into(),
        Err(error) => return retry(job, one_line(&error)).into(),
    };
    if let Some(reason) = no_longer_wanted(context.facts.store_dir(), &policy, &name, &info, job.needed) {
        return Outcome::Withdrawn { reason }.into();
    }
    let references = match find_references(&context, &policy, &name, cache.as_ref(), job, &info).await {
        Ok(References::Deliverable(arrivals)) => arrivals,
        Ok(References::Settled(outcome)) => return outcome.into(),
        Err(error) => return judge(&context, job, &info, &error).await,
    };
    let root = context.real_store.join(job.path.base_name());
    let nar = NarStream::new(root, &info, job.lane, context.slots.clone(), context.call_off.clone());
    let go_ahead = Box::pin(go_ahead(context.clone(), name, info.clone(), job.needed, references));
    match cache.push(Push { info: info.clone(), nar, go_ahead }).await {
        Ok(pushed) => Outcome::Delivered(Delivery::Uploaded { sent: pushed.sent }).into(),
        Err(error) => judge(&context, job, &info, &error).await,
    }
}

/// Comes true once all references have arrived, if the policy of that moment still wants the path in the cache.
async fn go_ahead(
    context: Context,
    name: CacheName,
    info: PathInfo,
    needed: bool,
    references: Vec<Arrival>,
) -> Result<(), Hindrance> {
    for arrival in references {
        arrival.wait().await?;
    }
    let Some(policy) = context.policy.borrow().clone() else { return Ok(()) };
    match no_longer_wanted(context.facts.store_dir(), &policy, &name, &info, needed) {
        Some(reason) => Err(Hindrance::NotWanted(reason)),
        None => Ok(()),
    }
}

/// The rule that keeps the path away from the cache, should the policy have changed since it was admitted.
fn no_longer_wanted(
    store_dir: &StoreDir,
    policy: &Policy,
    name: &CacheName,
    info: &PathInfo,
    needed: bool,
) -> Option<String> {
    let decision = policy.decide(info, store_dir).ok()?;
    // What is under way to a cache that the policy no longer names is finished; the rules say nothing of it.
    let named = policy.caches().contains(name);
    let wanted = !decision.denies(name) && (!named || needed || decision.uploads_to().contains(name));
    (!wanted).then(|| format!("{} by {}", decision.action(), decision.rule()))
}

enum References {
    /// All are in the cache, at an upstream, or under way; these are to be waited for.
    Deliverable(Vec<Arrival>),
    /// The job ends here, for now.
    Settled(Outcome),
}

/// Looks where the path and its references are.
async fn find_references(
    context: &Context,
    policy: &Policy,
    name: &CacheName,
    cache: &dyn Cache,
    job: &Job,
    info: &PathInfo,
) -> Result<References, CacheError> {
    let mut arrivals = Vec::new();
    let mut asked = vec![job.path.clone()];
    // What is under way is looked for before the cache is asked: what lands in between is seen by one or the other.
    for reference in info.other_references() {
        match context.flights.arrival(job.cache, reference) {
            Some(arrival) => arrivals.push(arrival),
            None => asked.push(reference.clone()),
        }
    }
    let missing = cache.missing(&asked).await?;
    if !missing.contains(&job.path) {
        return Ok(References::Settled(Outcome::Delivered(Delivery::AlreadyThere)));
    }
    let mut to_come_first = Vec::new();
    for reference in missing.into_iter().filter(|missing| *missing != job.path) {
        match place(context, policy, name, &reference).await {
            Place::Upstream => {}
            Place::Denied(reason) => return Ok(References::Settled(Outcome::Held { reason })),
            // A valid path has no invalid references: it has been collected meanwhile, and the next look will say so.
            Place::Invalid => return Ok(References::Settled(Outcome::Returned)),
            Place::Unknown(reason) => return Ok(References::Settled(retry(job, reason))),
            Place::Here => match context.flights.arrival(job.cache, &reference) {
                Some(arrival) => arrivals.push(arrival),
                None => to_come_first.push(reference),
            },
        }
    }
    if to_come_first.is_empty() {
        Ok(References::Deliverable(arrivals))
    } else {
        Ok(References::Settled(Outcome::WaitsFor(to_come_first)))
    }
}

/// Where a reference can come from that the cache lacks.
enum Place {
    Upstream,
    Here,
    Denied(String),
    Invalid,
    Unknown(String),
}

async fn place(context: &Context, policy: &Policy, name: &CacheName, reference: &StorePath) -> Place {
    let info = match context.facts.path_info(reference).await {
        Ok(Some(info)) => info,
        Ok(None) => return Place::Invalid,
        Err(error) => return Place::Unknown(one_line(&error)),
    };
    let store_dir = context.facts.store_dir();
    if policy.delivered_by_upstream(&info, store_dir).is_some() {
        return Place::Upstream;
    }
    match policy.decide(&info, store_dir) {
        Ok(decision) if decision.denies(name) => {
            Place::Denied(format!("needs {reference}, which is denied by {}", decision.rule()))
        }
        _ => Place::Here,
    }
}

/// What a failure means for the job, and for the cache.
async fn judge(context: &Context, job: &Job, info: &PathInfo, error: &CacheError) -> Landed {
    if let CacheError::Nar(NarFailure::Altered { .. } | NarFailure::Unreadable { .. }) = error {
        // Garbage collection takes a path out of the database first and its files later: what looked like damage may
        // have been its work.
        match context.facts.path_info(&job.path).await {
            Ok(None) => return Outcome::Gone.into(),
            Ok(Some(again)) if again.id != info.id => return Outcome::Returned.into(),
            _ => {}
        }
    }
    let reason = one_line(error);
    match error.class() {
        Class::Transient => retry(job, reason).into(),
        Class::Throttled { after } => {
            let pause = i64::try_from(after.as_millis()).unwrap_or(i64::MAX / 2);
            Outcome::Retry { not_before: now().saturating_add(pause), reason }.into()
        }
        Class::Permanent => Outcome::Failed { reason }.into(),
        Class::Vanished => {
            let reason = format!("{reason}; Nix holds the path for valid: `nix-store --verify` mends its database");
            Outcome::Failed { reason }.into()
        }
        Class::CacheWaits => Landed {
            // Noted as a try, so that the cache is next tried with another path: perhaps only this one is too large.
            outcome: Outcome::Retry { not_before: now(), reason: reason.clone() },
            cache_waits: Some(reason),
        },
        Class::NotWanted => Outcome::Withdrawn { reason }.into(),
        Class::ReferenceFirst | Class::Cancelled => Outcome::Returned.into(),
    }
}

fn retry(job: &Job, reason: String) -> Outcome {
    // Without randomness the pauses are equal, which is no reason to fail.
    let draw = getrandom::u64().unwrap_or(0);
    Outcome::Retry { not_before: now().saturating_add(backoff::pause(job.attempts, draw)), reason }
}
