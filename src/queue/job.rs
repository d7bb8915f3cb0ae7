//! A job, the states it goes through, and which change is legal.

use crate::limit::Lane;
use crate::nix::StorePath;

/// A cache as the queue knows it: its name together with its URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CacheId(pub i64);

/// ```text
/// admit ─► Pending ──claim──► Uploading ──ok──► Done
///             ▲ ▲                │   │
///             │ └─transient/crash┘   └─permanent─► Failed ──retry by hand──► Pending
/// Pending ⇄ Held        a reference is denied or failed, and no upstream delivers it
/// Uploading ──path was garbage-collected──► Gone
/// Gone/Done/Failed ──admitted again──► Pending
/// Pending, for backfill ──its cache dropped the path──► Done
/// Failed ──that cache's configuration changed──► Pending
/// ```
///
/// A job that waits for the jobs of its references is Pending with blockers. A job that the policy no longer wants, or
/// that is dropped by hand, is deleted, whatever its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobState {
    /// To be done, perhaps not before a set time or another job.
    Pending = 0,
    /// Claimed by who holds the state directory's lock.
    Uploading = 1,
    /// In the cache, durably.
    Done = 2,
    /// Can't be done before a reference can be.
    Held = 3,
    /// Won't succeed by being tried again.
    Failed = 4,
    /// Garbage-collected before it was uploaded.
    Gone = 5,
}

/// What can happen to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The path became valid, or a backfill or a referrer asks for it.
    Admitted,
    /// Taken to be worked on.
    Claimed,
    /// In the cache.
    Delivered,
    /// Given back: to be tried again, interrupted, or waiting for a reference.
    Returned,
    /// A reference can't be delivered.
    Blocked,
    /// What held it may be gone.
    Released,
    /// Trying again is of no use.
    Refused,
    /// Asked for by hand.
    Retried,
    /// What the policy file says of its cache is another now: it may have been the reason.
    Reconfigured,
    /// The path is no longer valid. That is found out when its job is claimed, not before.
    Collected,
    /// The cache had it until now and dropped it, since it may have no more than a size: backfill doesn't bring it back.
    Dropped,
}

impl JobState {
    /// Every state, in the order of their numbers.
    pub const ALL: [Self; 6] = [Self::Pending, Self::Uploading, Self::Done, Self::Held, Self::Failed, Self::Gone];

    /// The state after an event; `None` where it changes nothing or can't happen.
    #[must_use]
    pub fn after(self, event: Event) -> Option<Self> {
        match (self, event) {
            (Self::Pending, Event::Claimed) => Some(Self::Uploading),
            (Self::Uploading, Event::Delivered) => Some(Self::Done),
            (Self::Uploading, Event::Returned) => Some(Self::Pending),
            (Self::Pending | Self::Uploading, Event::Blocked) => Some(Self::Held),
            (Self::Held, Event::Released) => Some(Self::Pending),
            (Self::Uploading, Event::Refused) => Some(Self::Failed),
            (Self::Failed | Self::Held, Event::Retried) => Some(Self::Pending),
            (Self::Failed, Event::Reconfigured) => Some(Self::Pending),
            (Self::Uploading, Event::Collected) => Some(Self::Gone),
            (Self::Pending, Event::Dropped) => Some(Self::Done),
            (Self::Done | Self::Gone | Self::Failed, Event::Admitted) => Some(Self::Pending),
            _ => None,
        }
    }

    /// The state's name, as `status` and `queue list` show it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Uploading => "uploading",
            Self::Done => "done",
            Self::Held => "held",
            Self::Failed => "failed",
            Self::Gone => "gone",
        }
    }

    /// The state with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    pub(super) fn from_number(number: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|state| *state as i64 == number)
    }
}

/// How a path came to be in its cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It was uploaded.
    Uploaded {
        /// `ValidPaths.id` of what was read, where the database was asked: later than that of which the job was made, if the
        /// path was collected and registered anew meanwhile.
        row: Option<i64>,
        /// How much that was.
        volume: Volume,
        /// Whether the cache had the same content already, under another name.
        deduplicated: bool,
    },
    /// The cache had it already.
    AlreadyThere,
    /// One of the cache's upstreams has it, and so whoever reads from the cache.
    AtUpstream,
}

/// How much an upload was, or many were, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// Read from the store.
    pub read: u64,
    /// What the cache took: the compressed size where it is compressed.
    pub sent: u64,
    /// What needn't be sent of the archives, since they were compressed, or since the cache had their content already.
    pub saved: u64,
}

impl Volume {
    /// Of one upload of an archive of `nar_size` bytes (0: nobody knows).
    #[must_use]
    pub fn of(nar_size: u64, read: u64, sent: u64) -> Self {
        Self { read, sent, saved: nar_size.max(read).saturating_sub(sent) }
    }

    /// How many per cent of the archives needn't be sent.
    #[must_use]
    pub fn saved_percent(self) -> u64 {
        let whole = u128::from(self.saved) + u128::from(self.sent);
        // Never more than a hundred.
        (u128::from(self.saved) * 100 / whole.max(1)) as u64
    }
}

/// One path for one cache, claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its number.
    pub id: i64,
    /// The path.
    pub path: StorePath,
    /// The cache.
    pub cache: CacheId,
    /// Which lane it stands in.
    pub lane: Lane,
    /// How often it has failed so far.
    pub attempts: u32,
    /// How often of these by what may be the path's own fault as well as one on the way.
    pub doubts: u32,
    /// Whether a referrer needs it, whatever the policy says of the path on its own account.
    pub needed: bool,
    /// Whether a backfill asks for what it refers to as well.
    pub walk: bool,
    /// Whether a garbage collection would take it, as far as that was looked at.
    pub collectable: bool,
    /// Why it was held until it was released by itself, or why it is tried again.
    pub reason: Option<String>,
    /// Since when (ms since 1970) it is known that what its cache shows of it isn't well: then it is uploaded all the same.
    pub distrusted: Option<i64>,
    /// Whether its cache shows anything that isn't well, as far as that is known.
    pub among_distrusted: bool,
}

/// How far an upload that is under way has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It waits until its cache has a place for it: only so many are read and sent at once.
    Waits = 1,
    /// It waits for a reference that is under way to its cache, too.
    WaitsForReference = 2,
    /// It is being read, packed and sent.
    Sent = 3,
}

impl Step {
    /// The step's name, as `queue list` shows it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Waits => "waits for its turn",
            Self::WaitsForReference => "waits for a reference under way",
            Self::Sent => "being sent",
        }
    }

    pub(super) fn from_number(number: i64) -> Option<Self> {
        [Self::Waits, Self::WaitsForReference, Self::Sent].into_iter().find(|step| *step as i64 == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Event::*;
    use JobState::*;

    const EVENTS: [Event; 11] =
        [Admitted, Claimed, Delivered, Returned, Blocked, Released, Refused, Retried, Reconfigured, Collected, Dropped];

    #[test]
    fn what_is_saved_is_what_the_archive_is_larger_than_what_was_sent() {
        let percent = |nar_size, read, sent| {
            let volume = Volume::of(nar_size, read, sent);
            (volume.saved, volume.saved_percent())
        };
        assert_eq!(percent(200, 200, 50), (150, 75));
        assert_eq!(percent(200, 0, 0), (200, 100), "the cache had it");
        assert_eq!(percent(0, 200, 50), (150, 75), "its size was not registered");
        assert_eq!(percent(200, 200, 213), (0, 0), "packing has made it larger");
        assert_eq!(percent(0, 0, 0), (0, 0));
        assert_eq!(percent(u64::MAX, u64::MAX, 1), (u64::MAX - 1, 99));
    }

    #[test]
    fn the_drawing_and_the_function_agree() {
        let drawn = [
            (Pending, Claimed, Uploading),
            (Pending, Blocked, Held),
            (Pending, Dropped, Done),
            (Uploading, Delivered, Done),
            (Uploading, Returned, Pending),
            (Uploading, Blocked, Held),
            (Uploading, Refused, Failed),
            (Uploading, Collected, Gone),
            (Held, Released, Pending),
            (Held, Retried, Pending),
            (Failed, Retried, Pending),
            (Failed, Reconfigured, Pending),
            (Done, Admitted, Pending),
            (Failed, Admitted, Pending),
            (Gone, Admitted, Pending),
        ];
        for state in JobState::ALL {
            for event in EVENTS {
                let expected = drawn.iter().find(|(from, on, _)| (*from, *on) == (state, event)).map(|(_, _, to)| *to);
                assert_eq!(state.after(event), expected, "{state:?} after {event:?}");
            }
        }
    }
}
