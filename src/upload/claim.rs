//! Taking jobs from the queue, for all caches at once: so a path that goes to several of them is taken for all of them,
//! and read once.

use std::collections::{HashMap, HashSet};

use super::deliver::{Place, deliver};
use super::note::note_taking;
use super::pause::UnderWay;
use super::presence::Presence;
use super::step::Progress;
use super::target::State;
use super::{UNDER_WAY, Uploader};
use crate::cache::{CallOff, Gate, Pass, Punctuality, Seat};
use crate::disk::Level;
use crate::limit::{Allowance, Lane, Slots};
use crate::policy::CacheName;
use crate::queue::{CacheId, Job, Queue, QueueError, now};

/// So many places are never taken by backfill, which may have them for long.
const KEPT_FOR_FRESH: usize = 64;

/// Backfill claims at least so many jobs at once, so that a claim is worth its transaction.
const WORTH_A_CLAIM: usize = 64;

/// How many jobs are to be claimed for a cache, and how.
pub(super) struct Question {
    pub(super) cache: CacheId,
    /// At most so many.
    pub(super) room: usize,
    pub(super) how: How,
    /// Whether backfill may go there, which it may not where disks are running out or the cache is as large as it may be.
    pub(super) backfill: bool,
    /// Where what a garbage collection would take goes first: how many more of it keep the cache busy.
    pub(super) collectable_first: Option<usize>,
}

/// What a claim is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// To try a cache that took nothing, with the job that was tried least.
    Probe,
    /// To begin, with whatever there is.
    Idle,
    /// To go on, with as much as is worth it.
    Busy,
}

impl Uploader {
    /// Claims what there is room for.
    pub(super) async fn claim(&mut self) -> Result<(), QueueError> {
        if self.caches.values().any(State::is_waiting) {
            for cache in self.queue.call(Queue::take_retried).await? {
                self.caches.get_mut(&cache).into_iter().for_each(State::hurry_by_hand);
            }
        }
        self.open_caches().await?;
        let questions = self.questions();
        // One moment for both: what comes due in between would be neither claimed now nor looked for later.
        let at = now();
        let claim = move |queue: &mut Queue| Ok((all(queue, &questions, at)?, queue.doubts()?));
        let (answers, doubts) = self.queue.call(claim).await?;
        if self.doubts.replace(doubts).is_some_and(|before| before != doubts) {
            // Before any of the claimed paths is looked for: it may be the one that was removed.
            self.caches.values().filter_map(State::presence).for_each(Presence::forget);
        }
        let mut claimed = Vec::new();
        for (id, jobs) in answers {
            let Some(state) = self.caches.get_mut(&id) else { continue };
            if jobs.is_empty() && state.is_waiting() && state.put_off() {
                note_taking(&self.queue, id, state).await?;
            }
            state.under_way += jobs.len();
            if let (true, [probe]) = (state.is_waiting(), jobs.as_slice()) {
                state.probe_with(probe.id);
            }
            claimed.extend(jobs.into_iter().filter_map(|job| Claimed::new(job, state)));
        }
        // All are announced before the first begins, so that each sees the others.
        let flights: Vec<_> = claimed.iter().map(|Claimed { job, .. }| self.context.flights.announce(job)).collect();
        let seats = seats(&claimed);
        for ((claimed, flight), seat) in claimed.into_iter().zip(flights).zip(seats) {
            let Claimed { job, name, presence, slots, allowance, gate, over_line, .. } = claimed;
            let (context, call_off, progress) = (self.context.clone(), CallOff::default(), Progress::default());
            let (under_way, given_back) =
                UnderWay::begin(job.clone(), name.clone(), call_off.clone(), progress.clone());
            let place = Place { slots, allowance, gate, seat, over_line, call_off, progress };
            let task = self.tasks.spawn(async move {
                tokio::select! {
                    landed = deliver(context, name, presence, &job, place, &flight) => landed,
                    landed = given_back.wait() => landed,
                }
            });
            self.claimed.insert(task.id(), under_way);
        }
        self.next_due = self.queue.call(move |queue| queue.next_due(at)).await?;
        self.stirred.notify_one();
        Ok(())
    }

    /// What may be claimed now, cache by cache: as much as there is room for, and as the disks let it. Nothing for a moment
    /// where it has yet to be found out what goes first.
    pub(super) fn questions(&mut self) -> Vec<Question> {
        let questions = self.questions_by_room();
        if self.disks.borrow().store() == Level::Ok {
            self.collectable.rest();
        } else if !questions.is_empty() {
            let asked = questions.iter().map(|question| question.cache).collect();
            if !self.collectable.look_at(asked) {
                return Vec::new();
            }
        }
        questions
    }

    fn questions_by_room(&self) -> Vec<Question> {
        let disks = self.disks.borrow();
        let mut questions = Vec::new();
        for (id, state) in &self.caches {
            let room = state.room(UNDER_WAY);
            if room == 0 || state.presence().is_none() {
                continue;
            }
            let how = match (state.is_waiting(), state.under_way) {
                (true, _) => How::Probe,
                (false, 0) => How::Idle,
                (false, _) => How::Busy,
            };
            let backfill =
                disks.let_backfill_into(state.name().as_str()) && state.allowance().is_none_or(Allowance::is_left);
            let collectable_first = (disks.store() > Level::Ok).then(|| {
                let of_it = |under_way: &&UnderWay| under_way.job.cache == *id && under_way.job.collectable;
                let under_way = self.claimed.values().filter(of_it).count();
                state.uploads().saturating_sub(under_way)
            });
            // What is claimed goes on in the order in which it was, so that then little is. Whether a cache takes paths again can
            // be tried nevertheless.
            let room = match collectable_first {
                Some(_) if how != How::Probe => room.min((2 * state.uploads()).saturating_sub(state.under_way)),
                _ => room,
            };
            if room > 0 {
                questions.push(Question { cache: *id, room, how, backfill, collectable_first });
            }
        }
        questions
    }
}

/// Claims for all caches together: what was admitted for several of them is seen for all or for none.
pub(super) fn all(queue: &mut Queue, questions: &[Question], now: i64) -> Result<Vec<(CacheId, Vec<Job>)>, QueueError> {
    let one = |queue: &mut Queue, question: &Question| {
        let Question { cache, how, backfill, .. } = *question;
        let jobs = match how {
            How::Probe => queue.claim_probe(cache, if backfill { Lane::Backfill } else { Lane::Fresh }, now)?,
            How::Idle | How::Busy => both_lanes(queue, question, now)?,
        };
        Ok((cache, jobs))
    };
    match questions {
        [] => Ok(Vec::new()),
        // Of what is claimed by halves nobody would know.
        some => queue.at_once(|queue| some.iter().map(|question| one(queue, question)).collect()),
    }
}

/// Fresh jobs as far as there is room, first those that garbage collection threatens, and backfill's as far as that leaves
/// some for fresh ones that may come.
fn both_lanes(queue: &mut Queue, question: &Question, now: i64) -> Result<Vec<Job>, QueueError> {
    let Question { cache, room, how, backfill, collectable_first } = *question;
    let mut jobs = Vec::new();
    if let Some(enough) = collectable_first {
        jobs = queue.claim_collectable(cache, room, now)?;
        // What is claimed begins in no order: the others wait until some slots would be left idle.
        if jobs.len() >= enough {
            return Ok(jobs);
        }
    }
    jobs.extend(queue.claim(cache, Lane::Fresh, room - jobs.len(), now)?);
    let left = (room - jobs.len()).saturating_sub(KEPT_FOR_FRESH);
    if backfill && (left >= WORTH_A_CLAIM || (how == How::Idle && left > 0)) {
        jobs.extend(queue.claim(cache, Lane::Backfill, left, now)?);
    }
    Ok(jobs)
}

/// A job, with what its delivery takes from its cache.
pub(super) struct Claimed {
    pub(super) job: Job,
    pub(super) name: CacheName,
    pub(super) presence: Presence,
    pub(super) slots: Slots,
    pub(super) allowance: Option<Allowance>,
    pub(super) gate: Option<Gate>,
    /// Whether the cache is reached over a line.
    pub(super) over_line: bool,
    punctuality: Punctuality,
}

impl Claimed {
    /// For a cache that is open.
    pub(super) fn new(job: Job, state: &State) -> Option<Self> {
        Some(Self {
            gate: state.gate_for(job.id),
            job,
            name: state.name().clone(),
            presence: state.presence()?.clone(),
            slots: state.slots().clone(),
            allowance: state.allowance().cloned(),
            over_line: state.is_over_line(),
            punctuality: state.punctuality().clone(),
        })
    }
}

/// Seats in shared passes, where several caches want a path at the same time and come in time.
pub(super) fn seats(claimed: &[Claimed]) -> Vec<Option<Seat>> {
    let (mut seen, mut passes) = (HashSet::new(), HashMap::new());
    let punctual = |claimed: &&Claimed| !claimed.punctuality.is_late();
    for Claimed { job, .. } in claimed.iter().filter(punctual) {
        if !seen.insert(&job.path) {
            passes.entry(&job.path).or_insert_with(Pass::default);
        }
    }
    let seat = |claimed: &Claimed| {
        let pass = passes.get(&claimed.job.path).filter(|_| punctual(&claimed))?;
        Some(pass.seat(&claimed.punctuality))
    };
    claimed.iter().map(seat).collect()
}
