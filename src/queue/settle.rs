//! Settling: what became of claimed jobs, and what that means for those that wait for them.

use rusqlite::{Transaction, params};

use super::distrust::{is_distrusted, trust};
use super::links::{hold_dependents, unblock, wait_for};
use super::shared::{serve_who_walks_not, walking};
use super::walk::walk;
use super::work::{change, delete, execute, state_of};
use super::{Delivery, Event, Job, JobState, Queue, QueueError, Volume, sqlite};
use crate::nix::StorePath;

/// What became of a claimed job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// In the cache, durably.
    Delivered(Delivery),
    /// To be tried again, not before a time (milliseconds since 1970).
    Retry {
        /// Not before.
        not_before: i64,
        /// What went wrong.
        reason: String,
    },
    /// To be tried again in the same way, but it may have been the path's own fault: that is tried a few times only.
    Doubted {
        /// Not before.
        not_before: i64,
        /// What went wrong.
        reason: String,
    },
    /// To be tried again in the same way, but it was the cache as a whole that was away: that says nothing of the path, and is
    /// no try of it.
    Postponed {
        /// Not before.
        not_before: i64,
        /// What went wrong.
        reason: String,
    },
    /// Given back as it was: nothing went wrong with this path.
    Returned,
    /// To be done once these references, which the cache lacks, have been.
    WaitsFor(Vec<StorePath>),
    /// A reference can't be delivered.
    Held {
        /// Which, and why not.
        reason: String,
    },
    /// Trying again is of no use.
    Failed {
        /// What went wrong, and what to do.
        reason: String,
    },
    /// The path is no longer valid.
    Gone,
    /// The policy doesn't want it any more: the job is deleted.
    Withdrawn {
        /// By which rule.
        reason: String,
    },
}

impl Queue {
    /// Writes down what became of claimed jobs, and asks for what is behind those whose closure somebody wants (`steps`: what
    /// each refers to), all in one transaction.
    ///
    /// # Errors
    /// [`QueueError::WrongState`] if one wasn't claimed any more, [`QueueError::Sqlite`]; then nothing has changed.
    pub fn settle(
        &mut self,
        outcomes: &[(Job, Outcome)],
        steps: &[(Job, Vec<StorePath>)],
        now: i64,
    ) -> Result<(), QueueError> {
        let tx = self.begin().map_err(sqlite("begin to settle"))?;
        for (job, references) in steps {
            walk(&tx, job, references, now)?;
        }
        for (job, outcome) in outcomes {
            settle_one(&tx, job, outcome, now)?;
        }
        tx.commit().map_err(sqlite("commit what was settled"))
    }
}

fn settle_one(tx: &Transaction<'_>, job: &Job, outcome: &Outcome, now: i64) -> Result<(), QueueError> {
    if state_of(tx, job.id)?.is_none() {
        // Dropped by hand while it was under way.
        return Ok(());
    }
    if !matches!(outcome, Outcome::Returned | Outcome::Postponed { .. }) {
        execute(tx, "UPDATE jobs SET was_done = 0 WHERE id = ?1 AND was_done = 1", [job.id])?;
    }
    let move_on = |event, reason: Option<&str>| change(tx, job.id, JobState::Uploading, event, reason, now);
    match outcome {
        Outcome::Delivered(delivery) => {
            // Since it was claimed somebody has asked for its closure: it is claimed once more, and then for that.
            let is_seen = job.walk || walking(tx, job.id)?.is_empty();
            // Or found that what the cache shows of it isn't well, or isn't again: it may have been delivered beside
            // that, or by an archive that is damaged.
            if let Some(noted) = job.distrusted {
                trust(tx, job.id, noted)?;
            }
            let is_through = is_seen && !is_distrusted(tx, job.id)?;
            move_on(if is_through { Event::Delivered } else { Event::Returned }, None)?;
            execute(tx, "UPDATE jobs SET evicted = 0 WHERE id = ?1 AND evicted = 1", [job.id])?;
            match delivery {
                // Who watches may only come to that row now, and has nothing to add.
                Delivery::Uploaded { row, volume: Volume { read, sent, saved }, .. } => execute(
                    tx,
                    "UPDATE jobs SET found = 0, uploaded = ?2, read = ?3, saved = ?4, row = max(row, coalesce(?5, row))
                     WHERE id = ?1",
                    params![job.id, *sent as i64, *read as i64, *saved as i64, row],
                )?,
                // Perhaps since it was sent before: that stays as it is.
                Delivery::AlreadyThere => execute(tx, "UPDATE jobs SET found = 1 WHERE id = ?1", [job.id])?,
                Delivery::AtUpstream => execute(tx, "UPDATE jobs SET found = 2 WHERE id = ?1", [job.id])?,
            }
            if !is_through {
                serve_who_walks_not(tx, job.id)?;
            }
            unblock(tx, job.id, now)
        }
        Outcome::Gone => {
            move_on(Event::Collected, None)?;
            unblock(tx, job.id, now)
        }
        Outcome::Returned => move_on(Event::Returned, None),
        Outcome::Retry { not_before, reason } | Outcome::Doubted { not_before, reason } => {
            move_on(Event::Returned, Some(reason))?;
            execute(
                tx,
                "UPDATE jobs SET not_before = ?2, attempts = attempts + 1, doubts = doubts + ?3 WHERE id = ?1",
                params![job.id, not_before, matches!(outcome, Outcome::Doubted { .. })],
            )
        }
        Outcome::Postponed { not_before, reason } => {
            move_on(Event::Returned, Some(reason))?;
            execute(tx, "UPDATE jobs SET not_before = ?2 WHERE id = ?1", params![job.id, not_before])
        }
        Outcome::WaitsFor(references) => {
            let mut held_by = None;
            for reference in references {
                let state = wait_for(tx, job, reference, now)?;
                if matches!(state, JobState::Failed | JobState::Held) {
                    held_by = Some((reference, state));
                }
            }
            match held_by {
                None => move_on(Event::Returned, None),
                Some((reference, state)) => {
                    let reason = format!("needs {reference}, which is {}", state.name());
                    move_on(Event::Blocked, Some(&reason))?;
                    hold_dependents(tx, job, now)
                }
            }
        }
        Outcome::Held { reason } => {
            move_on(Event::Blocked, Some(reason))?;
            hold_dependents(tx, job, now)
        }
        // Its cache's configuration is another since it was claimed: it is tried with that one.
        Outcome::Failed { .. } if is_outdated(tx, job.id)? => move_on(Event::Returned, None),
        Outcome::Failed { reason } => {
            move_on(Event::Refused, Some(reason))?;
            hold_dependents(tx, job, now)
        }
        // Since it was claimed something that is wanted has come to need it: what the policy says of it alone isn't all any more.
        Outcome::Withdrawn { .. } if !job.needed && is_needed(tx, job.id)? => move_on(Event::Returned, None),
        Outcome::Withdrawn { .. } => {
            hold_dependents(tx, job, now)?;
            execute(
                tx,
                "UPDATE jobs SET blockers = blockers - 1 WHERE id IN (SELECT job FROM waits WHERE for = ?1)",
                [job.id],
            )?;
            execute(tx, "DELETE FROM waits WHERE for = ?1", [job.id])?;
            delete(tx, job.id).map(|_| ())
        }
    }
}

fn is_needed(tx: &Transaction<'_>, id: i64) -> Result<bool, QueueError> {
    tx.prepare_cached("SELECT needed FROM jobs WHERE id = ?1")
        .and_then(|mut statement| statement.query_row([id], |row| row.get(0)))
        .map_err(sqlite("look a job up"))
}

fn is_outdated(tx: &Transaction<'_>, id: i64) -> Result<bool, QueueError> {
    tx.prepare_cached("SELECT outdated FROM jobs WHERE id = ?1")
        .and_then(|mut statement| statement.query_row([id], |row| row.get(0)))
        .map_err(sqlite("look a job up"))
}
