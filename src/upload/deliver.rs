//! One path's way into one cache.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{oneshot, watch};
use tokio::task::spawn_blocking;

use super::backoff::{next_try, retry};
use super::contents::Remembered;
use super::flight::{Flight, Flights};
use super::presence::{Presence, Unanswered};
use super::realisations;
use super::references::{Deliverable, References, find_references};
use super::roots::{Root, Roots};
use super::step::Progress;
use super::target::{Ends, LONGEST_TOLD, Pause, Waits};
use crate::cache::{
    CacheError, CallOff, Class, Gate, Hindrance, NarFailure, NarStream, Push, Pushed, Seat, Tally, Upstreams,
};
use crate::limit::{Allowance, Lane, Shaper, Slots};
use crate::nix::{PathInfo, StoreDir, StoreFacts, StorePath};
use crate::policy::{ByteSize, CacheName, NeedsReferences, Policy};
use crate::queue::{Delivery, Job, Outcome, QueueHandle, Volume, now};
use crate::report::one_line;

/// What may be a fault on the way as well as a fault of the path is tried so often. Tries that ended otherwise, such as for
/// want of an upstream's answer, don't count.
const DOUBTFUL_TRIES: u32 = 4;

/// A path that waits for room is tried after pauses that don't grow beyond those of so many tries, half a minute: what it
/// costs is a look at the file system.
const WHILE_NO_ROOM: u32 = 5;

/// What every delivery needs. Cheap to clone.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) facts: StoreFacts,
    pub(super) roots: Roots,
    /// Where the store's files are, which is not where they are said to be for a store within a root.
    pub(super) real_store: PathBuf,
    /// The file system that they were on when the service began; `None` where that couldn't be learnt.
    pub(super) store_device: Option<u64>,
    pub(super) tally: Tally,
    pub(super) flights: Flights,
    pub(super) policy: watch::Receiver<Option<Arc<Policy>>>,
    pub(super) upstreams: Upstreams,
    pub(super) queue: QueueHandle,
    pub(super) shaper: Shaper,
}

impl Context {
    /// Whether the store is on the file system that it was on, rather than unmounted.
    async fn store_is_there(&self) -> bool {
        let (store, before) = (self.real_store.clone(), self.store_device);
        let now = spawn_blocking(move || device(&store)).await.ok().flatten();
        before.is_none() || now == before
    }
}

/// The file system that a folder is on.
pub(super) fn device(folder: &Path) -> Option<u64> {
    Some(fs::metadata(folder).ok()?.dev())
}

/// What became of a delivery.
pub struct Landed {
    pub(super) outcome: Outcome,
    pub(super) cache: Verdict,
    /// What it has shown that the cache does, whatever becomes of the job.
    pub(super) shown: Option<Ends>,
    /// What is to be looked for next, where somebody has asked for the closure of the path.
    pub(super) walk: Vec<StorePath>,
}

/// What a delivery says of its cache as a whole.
pub(super) enum Verdict {
    /// Nothing.
    Nothing,
    /// Nothing: it is an upstream's trouble, which is told once and not for each path.
    ToldElsewhere,
    /// Nothing, and what became of the path is told at its first try alone: what is free is another at each.
    ToldOnce,
    /// It did not serve a request: once may be chance, several times in a row are not.
    Faltered(String),
    /// It takes nothing for now.
    Waits(Waits),
}

impl From<Outcome> for Landed {
    fn from(outcome: Outcome) -> Self {
        let shown = match outcome {
            Outcome::Delivered(Delivery::Uploaded { .. }) => Some(Ends::Took),
            Outcome::Delivered(Delivery::AlreadyThere | Delivery::AtUpstream) => Some(Ends::Answered),
            _ => None,
        };
        Self { outcome, cache: Verdict::Nothing, shown, walk: Vec::new() }
    }
}

/// What a delivery may take.
pub(super) struct Place {
    /// The cache's slots.
    pub(super) slots: Slots,
    /// How much backfill may still bring into the cache, where it may have no more than a size.
    pub(super) allowance: Option<Allowance>,
    /// Shut while the cache takes nothing; none for who is to try it.
    pub(super) gate: Option<Gate>,
    /// A seat, where other caches want the path at the same time.
    pub(super) seat: Option<Seat>,
    /// Whether the cache is reached over a line, or is on a disk of this host.
    pub(super) over_line: bool,
    /// Calls it off, and no other.
    pub(super) call_off: CallOff,
    /// Is told how far it is.
    pub(super) progress: Progress,
}

/// Puts one path into one cache, if the policy still wants that and the cache lacks it. Where somebody has asked for its
/// closure, says what is behind it.
///
/// Who waits for `flight` goes on as soon as the path is there.
pub(super) async fn deliver(
    context: Context,
    name: CacheName,
    presence: Presence,
    job: &Job,
    place: Place,
    flight: &Flight,
) -> Landed {
    let tap = context.shaper.tap(name.as_str(), flight.urgency().clone(), place.over_line);
    let landed = tap.scope(deliver_alone(context, name, presence, job, place, flight)).await;
    if let Outcome::Delivered(_) = landed.outcome {
        flight.land();
    }
    landed
}

/// What is to be looked for behind a path that is there. What an upstream has is the upstream's to keep whole.
fn behind(job: &Job, info: &PathInfo) -> Vec<StorePath> {
    if job.walk { info.other_references().cloned().collect() } else { Vec::new() }
}

async fn deliver_alone(
    context: Context,
    name: CacheName,
    presence: Presence,
    job: &Job,
    place: Place,
    flight: &Flight,
) -> Landed {
    let Some(policy) = context.policy.borrow().clone() else { return Outcome::Returned.into() };
    let info = match context.facts.path_info(&job.path).await {
        Ok(Some(info)) => info,
        Ok(None) => return Outcome::Gone.into(),
        Err(error) if error.is_malformed() => {
            let cure = error.hint().map_or_else(String::new, |hint| format!("; {hint}, then `storewatch queue retry`"));
            return Outcome::Failed { reason: format!("{}{cure}", one_line(&error)) }.into();
        }
        Err(error) => return retry(job, one_line(&error)).into(),
    };
    if let Some(reason) = no_longer_wanted(context.facts.store_dir(), &policy, &name, &info, job.needed) {
        return Outcome::Withdrawn { reason }.into();
    }
    let cache = Arc::clone(presence.cache());
    let references = match find_references(&context, &policy, &name, &presence, job, &info).await {
        Ok(References::Deliverable(references)) => references,
        // Perhaps an earlier try came no further, or what Nix has noted is new.
        Ok(References::Settled(landed)) if landed.outcome == Outcome::Delivered(Delivery::AlreadyThere) => {
            // It may just have been dropped: then it is claimed again, and is missing.
            if job.walk && !cache.note_use(&job.path).await {
                return Outcome::Returned.into();
            }
            flight.land();
            realisations::add(&cache, &name, &info).await;
            return Landed { walk: behind(job, &info), ..landed };
        }
        Ok(References::Settled(landed)) => return landed,
        Err(Unanswered::Refused(error)) => return judge(&context, job, &info, &error).await,
        // Not at once, or each of those that asked together would ask again, back to back.
        Err(Unanswered::WithOthers) => {
            let reason = "the cache did not say what it lacks".to_owned();
            return Outcome::Postponed { not_before: next_try(job), reason }.into();
        }
    };
    let rooted = Rooted::default();
    let files = context.real_store.join(job.path.base_name());
    let Place { slots, allowance, gate, seat, over_line: _, call_off, progress } = place;
    let urgency = flight.urgency().clone();
    for arrival in &references.under_way {
        urgency.waits_for(arrival.urgency());
    }
    slots.look_again();
    // Who waits for references may come late: the others are not to wait for that.
    let seat = seat.filter(|_| references.under_way.is_empty());
    let (rooting, begun, lane) =
        (root(context.clone(), info.clone(), rooted.clone()), progress.clone(), urgency.clone());
    // Dropped at the end, with the promise in it.
    let (promises, _promised) = oneshot::channel();
    let (nar_size, may_bring) = (info.nar_size, allowance.clone());
    let first = async move {
        // The cache may have become as large as it may be while this waited for its turn.
        if let Some(allowance) = may_bring.filter(|_| lane.lane() == Lane::Backfill) {
            let promise = allowance.promise(nar_size).ok_or(NarFailure::Cancelled)?;
            // Nobody waits any more where the push has ended.
            let _ = promises.send(promise);
        }
        begun.begin();
        rooting.await
    };
    let nar = NarStream::new(files, &info, urgency, slots, call_off)
        .behind(gate)
        .seated(seat)
        .counted(&context.tally)
        .only_after(Box::pin(first));
    let denied = denied(context.clone(), name.clone(), info.clone(), job.needed);
    let Deliverable { under_way, there } = references;
    let arrivals = Box::pin(async move {
        progress.wait_for_references(!under_way.is_empty());
        for arrival in under_way {
            arrival.wait().await?;
        }
        progress.wait_for_references(false);
        Ok(())
    });
    let go_ahead = Box::pin(go_ahead(context.clone(), name.clone(), presence.clone(), info.clone(), job.needed, there));
    let contents = Arc::new(Remembered { queue: context.queue.clone(), cache: job.cache });
    let push = Push { info: info.clone(), nar, arrivals, go_ahead, contents, anew: job.distrusted.is_some() };
    let pushed = tokio::select! {
        biased;
        pushed = Arc::clone(&cache).push(push) => pushed,
        // A push that is dropped shows nothing. Some caches show a path as soon as its last byte is there, long after the
        // go-ahead was asked for.
        reason = denied => Err(Hindrance::NotWanted(reason).into()),
    };
    match pushed {
        Ok(Pushed { read, sent, deduplicated }) => {
            presence.saw(&job.path);
            allowance.inspect(|allowance| allowance.bring(sent));
            flight.land();
            realisations::add(&cache, &name, &info).await;
            let volume = Volume::of(info.nar_size, read, sent);
            let uploaded = Outcome::Delivered(Delivery::Uploaded { row: info.id, volume, deduplicated });
            Landed { walk: behind(job, &info), ..uploaded.into() }
        }
        Err(error) => judge(&context, job, &info, &error).await,
    }
}

/// The root that a path has, to be held until its delivery ends.
type Rooted = Arc<Mutex<Option<Root>>>;

/// Roots a path that is about to be read, since its turn has come: what only waits is not kept from the garbage collector. It
/// may have been collected before, and then isn't read; without a root nothing is said of it either way.
async fn root(context: Context, info: PathInfo, rooted: Rooted) -> Result<(), NarFailure> {
    let Some(root) = context.roots.hold(&info.path).await else { return Ok(()) };
    *rooted.lock().unwrap_or_else(PoisonError::into_inner) = Some(root);
    match gone_since(&context, &info).await {
        // The next claim finds that out.
        Some(_) => Err(NarFailure::Cancelled),
        None => Ok(()),
    }
}

/// Comes true if the references that were there still are, and the policy of this moment still wants the path in the cache.
async fn go_ahead(
    context: Context,
    name: CacheName,
    presence: Presence,
    info: PathInfo,
    needed: bool,
    there: Vec<StorePath>,
) -> Result<(), Hindrance> {
    // A cache collects garbage, too.
    let missing = presence.missing_with_patience(&there).await.map_err(|unanswered| match unanswered {
        Unanswered::Refused(error) => Hindrance::Unasked(Arc::new(error)),
        Unanswered::WithOthers => Hindrance::Unknown,
    })?;
    if let Some(gone) = missing.into_iter().next() {
        return Err(Hindrance::ReferenceMissing(gone));
    }
    let Some(policy) = context.policy.borrow().clone() else { return Ok(()) };
    match no_longer_wanted(context.facts.store_dir(), &policy, &name, &info, needed) {
        Some(reason) => Err(Hindrance::NotWanted(reason)),
        None => Ok(()),
    }
}

/// Comes true once the policy denies the path to the cache, and says by which rule.
async fn denied(context: Context, name: CacheName, info: PathInfo, needed: bool) -> String {
    let Context { facts, mut policy, .. } = context;
    let store_dir = facts.store_dir();
    while policy.changed().await.is_ok() {
        let Some(policy) = policy.borrow_and_update().clone() else { continue };
        let is_spared = policy.decide(&info, store_dir).is_ok_and(|decision| !decision.denies(&name));
        if !is_spared && let Some(reason) = no_longer_wanted(store_dir, &policy, &name, &info, needed) {
            return reason;
        }
    }
    // Nobody is left who could change it.
    std::future::pending().await
}

/// The rule that keeps the path away from the cache, should the policy have changed since it was admitted.
fn no_longer_wanted(
    store_dir: &StoreDir,
    policy: &Policy,
    name: &CacheName,
    info: &PathInfo,
    needed: bool,
) -> Option<String> {
    let decision = match policy.decide(info, store_dir) {
        Ok(decision) => decision,
        // What is not known to be allowed goes nowhere.
        Err(undecided @ NeedsReferences) => return Some(undecided.to_string()),
    };
    // What is under way to a cache that the policy no longer names is finished; the rules say nothing of it.
    let named = policy.caches().contains(name);
    let wanted = !decision.denies(name) && (!named || needed || decision.uploads_to().contains(name));
    (!wanted).then(|| {
        let rule = policy.rule_for(info, store_dir, name).unwrap_or_else(|_| decision.rule().clone());
        format!("{} by {rule}", decision.verdict(name))
    })
}

/// What becomes of the job, if the path was collected since, and perhaps registered anew.
async fn gone_since(context: &Context, info: &PathInfo) -> Option<Outcome> {
    match context.facts.path_info(&info.path).await {
        Ok(None) => Some(Outcome::Gone),
        Ok(Some(again)) if again.id != info.id => Some(Outcome::Returned),
        _ => None,
    }
}

/// What a failure means for the job, and for the cache.
async fn judge(context: &Context, job: &Job, info: &PathInfo, error: &CacheError) -> Landed {
    // Garbage collection takes a path out of the database first and its files later: what looked like damage may have been
    // its work.
    if let CacheError::Nar(NarFailure::Altered { .. } | NarFailure::Unreadable { .. }) = error
        && let Some(outcome) = gone_since(context, info).await
    {
        return outcome.into();
    }
    let mut reason = one_line(error);
    if let CacheError::LargerThanCache { .. } = error {
        // It isn't tried again by itself.
        reason = error.with_cure();
    }
    if error.is_about_size() {
        reason = format!("{reason}; its archive has {}, unpacked", ByteSize(info.nar_size));
    }
    let waits = |reason: String, pause, ends| Landed {
        // With this moment as its time, so that the cache is next tried with another path, whose time was earlier: perhaps
        // only this one is too large.
        cache: Verdict::Waits(Waits {
            why: error.with_cure(),
            pause,
            ends,
            lacks_credentials: error.class() == Class::Credentials,
            is_off: error.is_own_server(),
        }),
        ..Outcome::Retry { not_before: now(), reason }.into()
    };
    match error.class() {
        Class::Transient => retry(job, reason).into(),
        Class::NoRoomYet => {
            let tried = Job { attempts: job.attempts.min(WHILE_NO_ROOM), ..job.clone() };
            Landed { cache: Verdict::ToldOnce, ..retry(&tried, error.with_cure()).into() }
        }
        Class::Unavailable => Landed { cache: Verdict::Faltered(error.with_cure()), ..retry(job, reason).into() },
        // This try isn't counted yet.
        Class::Doubtful if job.doubts + 1 < DOUBTFUL_TRIES => {
            Outcome::Doubted { not_before: next_try(job), reason }.into()
        }
        Class::Doubtful | Class::Permanent => Outcome::Failed { reason }.into(),
        Class::Vanished if !context.store_is_there().await => {
            retry(job, "the store's file system is not there".to_owned()).into()
        }
        Class::Vanished => {
            let reason = format!("{reason}; Nix holds the path for valid: `nix-store --verify` mends its database");
            Outcome::Failed { reason }.into()
        }
        Class::Throttled { after } => waits(reason, Pause::Told(after.min(LONGEST_TOLD)), Ends::Answered),
        Class::CacheWaits => waits(reason, Pause::Growing, Ends::Took),
        Class::Credentials => waits(reason, Pause::until_other_credentials(error), Ends::Answered),
        Class::NotWanted => Outcome::Withdrawn { reason }.into(),
        Class::ToldByAnother => Outcome::Postponed { not_before: next_try(job), reason }.into(),
        Class::ReferenceFirst | Class::Cancelled => Outcome::Returned.into(),
    }
}
