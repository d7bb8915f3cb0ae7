//! How much effort packing for a cache is worth, so that neither the processor nor the link waits for the other.
//!
//! Of each upload it is known how long it took, and for how much of that its packer was at work (`busy`). Where packers
//! were at work for less than a quarter of the time, the link is what is waited for, and the level goes up by one; where it
//! was more than three quarters, it goes down by one; in between it stays. A level counts as tried after some uploads and a
//! second, and what is older than some ten seconds counts less and less. A host that is busy otherwise makes packers slow,
//! and so lowers the level, too.
//!
//! It comes to rest on a link that stays as it is, as long as no level takes three times as long as the one below: the widest
//! step that was seen was 2.9, from 4 to 5 on text.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The level of zstd to begin with: zstd's own default, and Nix's.
pub const START: i32 = 3;

/// The lowest level: level 1 was no faster on 100 MB of shared libraries, and packed them 8 % larger (zstd 1.5.4, one run).
pub const FLOOR: i32 = 2;

/// The highest level: the last one with a window of 2 MiB. It takes some 8 MB of memory for each upload, level 3 takes
/// half of that and level 9 twice as much. Level 9 packed the same libraries 2 % smaller.
pub const CEILING: i32 = 8;

/// Smaller archives (bytes) say more of round trips than of the link.
const MEASURED_FROM: u64 = 1024 * 1024;

/// The link is waited for where packers are busy for less than one part in so many of the time...
const IDLE: u32 = 4;

/// ...and the packers, where they are busy for all but that part.
const BUSY: u32 = 4;

/// So many uploads at a level, and so long ones in all, say what it is like.
const ENOUGH: (u32, Duration) = (3, Duration::from_secs(1));

/// What has been seen counts half from then on.
const OLD: Duration = Duration::from_secs(10);

/// How an upload went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// The level that [`Pace::level`] gave for it.
    pub level: i32,
    /// Bytes of its archive.
    pub nar_size: u64,
    /// How long it was packed, without waiting for anybody.
    pub busy: Duration,
    /// How long it took from its first byte until the cache had all of it.
    pub elapsed: Duration,
}

/// The level for a cache, moved by what its uploads show.
#[derive(Debug, Default)]
pub struct Pace(Mutex<Balance>);

impl Pace {
    /// The level for the next upload.
    #[must_use]
    pub fn level(&self) -> i32 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).level
    }

    /// Notes how an upload went.
    pub fn note(&self, measured: Measured) {
        let mut balance = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *balance = balance.after(measured);
    }
}

/// What the uploads at the present level have shown.
#[derive(Clone, Copy, Debug)]
struct Balance {
    level: i32,
    uploads: u32,
    busy: Duration,
    elapsed: Duration,
}

impl Default for Balance {
    fn default() -> Self {
        Self::at(START)
    }
}

impl Balance {
    fn at(level: i32) -> Self {
        Self { level: level.clamp(FLOOR, CEILING), uploads: 0, busy: Duration::ZERO, elapsed: Duration::ZERO }
    }

    /// What is known once this has been seen, too. What was begun at another level says nothing of this one.
    fn after(self, Measured { level, nar_size, busy, elapsed }: Measured) -> Self {
        if level != self.level || nar_size < MEASURED_FROM {
            return self;
        }
        let uploads = self.uploads.saturating_add(1);
        let (busy, elapsed) = (self.busy.saturating_add(busy.min(elapsed)), self.elapsed.saturating_add(elapsed));
        if uploads >= ENOUGH.0 && elapsed >= ENOUGH.1 {
            let idle = elapsed - busy;
            if busy < elapsed / IDLE && level < CEILING {
                return Self::at(level + 1);
            }
            if idle < elapsed / BUSY && level > FLOOR {
                return Self::at(level - 1);
            }
        }
        let share = if elapsed > OLD { 2 } else { 1 };
        Self { level, uploads, busy: busy / share, elapsed: elapsed / share }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A host and a link as they may be.
    #[derive(Clone, Debug)]
    struct Line {
        /// Seconds that a MiB takes to be packed, by level from [`FLOOR`] on.
        packing: Vec<f64>,
        /// MiB that the link takes in a second.
        link: f64,
        /// Whether an archive is sent while it is packed, or afterwards.
        overlaps: bool,
    }

    impl Line {
        fn upload(&self, level: i32, mib: f64) -> Measured {
            let busy = mib * self.packing[usize::try_from(level - FLOOR).expect("a level")];
            // Each level packs a little smaller.
            let sent = mib * 0.35 * 0.98_f64.powi(level) / self.link;
            let elapsed = if self.overlaps { busy.max(sent) } else { busy + sent };
            Measured {
                level,
                nar_size: (mib * 1_048_576.0) as u64,
                busy: Duration::from_secs_f64(busy),
                elapsed: Duration::from_secs_f64(elapsed),
            }
        }

        /// The levels of so many uploads, one after the other.
        fn levels(&self, pace: &Pace, sizes: &[f64], uploads: usize) -> Vec<i32> {
            let next = |n: usize| {
                let level = pace.level();
                pace.note(self.upload(level, sizes[n % sizes.len()]));
                level
            };
            (0..uploads).map(next).collect()
        }
    }

    prop_compose! {
        fn lines()(
            first in 0.0005..0.02_f64,
            steps in prop::collection::vec(1.0..2.9_f64, usize::try_from(CEILING - FLOOR).expect("levels")),
            link in prop::sample::select(vec![0.01, 0.1, 1.0, 10.0, 30.0, 100.0, 1_000.0, 100_000.0]),
            overlaps in any::<bool>(),
        ) -> Line {
            let mut packing = vec![first];
            steps.iter().for_each(|step| packing.push(packing[packing.len() - 1] * step));
            Line { packing, link, overlaps }
        }
    }

    proptest! {
        #[test]
        fn it_stays_within_bounds_and_comes_to_rest(line in lines(), sizes in prop::collection::vec(20.0..200.0_f64, 1..8)) {
            let pace = Pace::default();
            let levels = line.levels(&pace, &sizes, 5_000);
            prop_assert!(levels.iter().all(|level| (FLOOR..=CEILING).contains(level)));
            let at_rest = &levels[4_000..];
            prop_assert!(at_rest.iter().all(|level| *level == at_rest[0]), "{:?}", &at_rest[..20]);
        }

        #[test]
        fn another_line_is_followed(line in lines()) {
            let pace = Pace::default();
            line.levels(&pace, &[50.0], 1_000);
            let slow = Line { link: 1e-4, ..line.clone() };
            prop_assert_eq!(slow.levels(&pace, &[50.0], 1_000)[999], CEILING, "a slow link is worth all effort");
            let fast = Line { link: 1e9, ..line };
            prop_assert_eq!(fast.levels(&pace, &[50.0], 1_000)[999], FLOOR, "a fast one none");
        }
    }

    #[test]
    fn what_says_nothing_of_the_level_changes_nothing() {
        let pace = Pace::default();
        let idle = Measured {
            level: START,
            nar_size: 64 << 20,
            busy: Duration::from_millis(1),
            elapsed: Duration::from_secs(9),
        };
        for _ in 0..100 {
            pace.note(Measured { level: START + 1, ..idle });
            pace.note(Measured { nar_size: MEASURED_FROM - 1, ..idle });
        }
        assert_eq!(pace.level(), START);
        for _ in 0..ENOUGH.0 {
            pace.note(idle);
        }
        assert_eq!(pace.level(), START + 1);
        // One that seems to be packed for longer than it took is no reason to panic.
        pace.note(Measured { level: START + 1, busy: Duration::from_secs(99), ..idle });
        assert_eq!(pace.level(), START + 1);
    }
}
