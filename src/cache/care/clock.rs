//! What time it is for a cache. Its files have their times from a clock of its own, or from that of this host, which may stand
//! wrong: without a battery until it has asked the network, for one.
//!
//! - A store's own time is gone by where it is told, and what is old is so by that.
//! - Where it isn't, a host whose clock is far ahead would have a prune hide all that a cache shows. So no prune goes by ages
//!   where nothing at all was written for long ([`Clock::is_vouched_for`]).
//! - What was written by a clock that was far ahead is from no time that is known. It is as old as it has to be to go, so that
//!   it goes last of all that may, and keeps no cache from becoming smaller ([`Clock::believed`]).

use super::inventory::Inventory;
use super::{Seconds, Shelf};

/// A file may be dated so far ahead by a clock that is right enough.
const AHEAD: Seconds = 60 * 60;

/// What was written within this time vouches for no clock: it may be that same clock's, as what a host uploads when it has
/// just been started.
const JUST_NOW: Seconds = 60 * 60;

/// Nobody wonders that a cache rests for so long.
const REST: Seconds = 30 * 24 * 60 * 60;

/// By whose clock it is what time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// By that of the server which gives the cache's files theirs.
    Servers(Seconds),
    /// By this host's, or by one of which nothing better is known.
    Hosts(Seconds),
}

impl Clock {
    /// That of a cache, or else this host's, by which it is `now`.
    pub async fn of(shelf: &dyn Shelf, now: Seconds) -> Self {
        shelf.clock().await.unwrap_or(Self::Hosts(now))
    }

    /// What time it is.
    #[must_use]
    pub fn now(self) -> Seconds {
        match self {
            Self::Servers(now) | Self::Hosts(now) => now,
        }
    }

    /// Whether a file's time is from a clock that stood wrong, this one or another.
    pub(super) fn is_behind(self, time: Seconds) -> bool {
        time.saturating_sub(self.now()) > AHEAD
    }

    /// A file's time, or one for it that is a grace period ago.
    pub(super) fn believed(self, time: Seconds, grace: Seconds) -> Seconds {
        if self.is_behind(time) { self.now().saturating_sub(grace) } else { time }
    }

    /// Whether nothing in a cache speaks against this time, where what was written within `keep` is to be kept: something was
    /// written within that time, or within a month, the last hour apart; or there is nothing older.
    pub(super) fn is_vouched_for(self, keep: Seconds, inventory: &Inventory) -> bool {
        let Self::Hosts(now) = self else { return true };
        if keep == 0 {
            // Then all goes by any clock.
            return true;
        }
        let before = |time: &Seconds| *time <= now.saturating_sub(JUST_NOW);
        let last = inventory.times().filter(before).max();
        last.is_none_or(|last| now - last <= keep.max(REST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::care::Entry;

    const DAY: Seconds = 24 * 60 * 60;
    const NOW: Seconds = 1_000 * DAY;

    fn inventory(ages: &[Seconds]) -> Inventory {
        let names = ["nar/a.nar", "0123456789abcdfghijklmnpqrsvwxyz.narinfo", "log/a"];
        let mut inventory = Inventory::default();
        for (age, name) in ages.iter().zip(names) {
            let modified = NOW - age;
            inventory.add(&Entry { name: name.to_owned(), size: 1, modified, read: modified });
        }
        inventory
    }

    #[test]
    fn a_cache_in_which_nothing_was_written_for_long_vouches_for_no_clock_but_its_own() {
        for (ages, keep, is_vouched_for) in [
            (&[][..], DAY, true),
            (&[0, 10], DAY, true),
            (&[30 * DAY, 400 * DAY], DAY, true),
            (&[31 * DAY, 400 * DAY], DAY, false),
            (&[31 * DAY, 0], DAY, false),
            (&[31 * DAY], 90 * DAY, true),
            (&[31 * DAY], 0, true),
            (&[400 * DAY, 400 * DAY, 20 * DAY], 90 * DAY, true),
            (&[400 * DAY, 400 * DAY, JUST_NOW - 1], 90 * DAY, false),
            (&[400 * DAY, 400 * DAY, JUST_NOW], 90 * DAY, true),
        ] {
            let inventory = inventory(ages);
            assert_eq!(Clock::Hosts(NOW).is_vouched_for(keep, &inventory), is_vouched_for, "{ages:?}");
            assert!(Clock::Servers(NOW).is_vouched_for(keep, &inventory));
        }
    }

    #[test]
    fn what_is_dated_far_ahead_is_a_grace_period_old() {
        let clock = Clock::Hosts(NOW);
        for (time, believed) in [(0, 0), (NOW, NOW), (NOW + AHEAD, NOW + AHEAD), (NOW + AHEAD + 1, NOW - 600)] {
            assert_eq!(clock.believed(time, 600), believed);
        }
    }
}
