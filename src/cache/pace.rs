//! How much effort packing for a cache is worth, so that neither the processor nor the link waits for the other.
//!
//! Of each upload it is known how long it was packed (`busy`), and how long it waited for who takes it; what it waits to be
//! read says nothing of either. Where packers were at work for less than a quarter of the two, the link is what is waited
//! for, and the level goes up by one; where it was more than three quarters, it goes down by one; in between it stays. A
//! level counts as tried after some uploads and a second, and what is older than some ten seconds counts less and less. A
//! host that is busy otherwise makes packers slow, and so lowers the level, too.
//!
//! Where packers are what is waited for at the level of the beginning, the least is next, and one archive is sent as it is. If
//! that takes no more than half the time, all are, as long as it does; otherwise it is tried again only after the link has
//! been found slow. A directory gets packed archives in any case: what counts there is room.
//!
//! It comes to rest on a link that stays as it is, as long as no level takes three times as long as the one below: the widest
//! step that was seen was 2.9, from 4 to 5 on text.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::Compression;

/// The level of zstd to begin with: zstd's own default, and Nix's.
pub const START: i32 = 3;

/// The lowest level. On 1.1 GB of `/usr/lib` it takes a sixth less than level 2 and packs 5 % larger; level -1 would take another
/// sixth less, and pack 10 % larger (zstd 1.5.4, one run).
pub const FLOOR: i32 = 1;

/// The highest level: levels 7 and 8 take half as much memory again for each upload, some 8 MB, and level 9 twice that, so that
/// four uploads to a bucket would not stay within 128 MiB. Level 9 packed the same libraries 2 % smaller than level 8.
pub const CEILING: i32 = 6;

/// Smaller archives (bytes) say more of round trips than of the link.
const MEASURED_FROM: u64 = 1024 * 1024;

/// The link is waited for where packers are busy for less than one part in so many of the time...
const IDLE: u32 = 4;

/// ...and the packers, where they are busy for all but that part.
const BUSY: u32 = 4;

/// To send archives as they are is to take no more than one part in so many of the time, since it takes more room: on a
/// loopback it took a quarter.
const WORTH_THE_ROOM: f64 = 2.0;

/// So many uploads at a level, and so long ones in all, say what it is like.
const ENOUGH: (u32, Duration) = (3, Duration::from_secs(1));

/// What has been seen counts half from then on.
const OLD: Duration = Duration::from_secs(10);

/// What is done to an archive before it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Nothing.
    AsItIs,
    /// It is packed at that level.
    Level(i32),
}

/// How an upload went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// By what [`Pace::compression`] said of it.
    pub effort: Effort,
    /// Bytes of its archive.
    pub nar_size: u64,
    /// How long it was packed, without waiting for anybody.
    pub busy: Duration,
    /// How long its packer waited for more of it to be read.
    pub reading: Duration,
    /// How long it took from its first byte until the cache had all of it.
    pub elapsed: Duration,
}

/// The effort for a cache, moved by what its uploads show.
#[derive(Debug, Default)]
pub struct Pace(Mutex<Balance>);

impl Pace {
    /// For a cache that is reached over a line: on a fast one archives may be sent as they are.
    #[must_use]
    pub fn over_a_line() -> Self {
        Self(Mutex::new(Balance { as_it_is: AsItIs::Untried, ..Balance::default() }))
    }

    /// How the next archive is packed.
    fn effort(&self) -> Effort {
        let mut balance = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if balance.as_it_is == AsItIs::Due {
            balance.as_it_is = AsItIs::Tried;
            return Effort::AsItIs;
        }
        balance.effort
    }

    /// How the next archive is packed.
    #[must_use]
    pub fn compression(&self) -> Compression {
        match self.effort() {
            Effort::AsItIs => Compression::None,
            Effort::Level(level) => Compression::Auto { level },
        }
    }

    /// Notes how an upload went.
    pub fn note(&self, measured: Measured) {
        let mut balance = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *balance = balance.after(measured);
    }
}

/// What the uploads with the present effort have shown.
#[derive(Clone, Copy, Debug)]
struct Balance {
    effort: Effort,
    uploads: u32,
    bytes: u64,
    busy: Duration,
    reading: Duration,
    elapsed: Duration,
    as_it_is: AsItIs,
    /// Seconds that a byte took where packers were last found to be waited for.
    packed: f64,
}

/// Whether archives may be sent as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AsItIs {
    Never,
    Untried,
    /// The next archive is to be.
    Due,
    /// One has been, or is being, since the link was last found slow.
    Tried,
}

impl Default for Balance {
    fn default() -> Self {
        let (none, bytes) = (Duration::ZERO, 0);
        let (effort, as_it_is) = (Effort::Level(START), AsItIs::Never);
        Self { effort, uploads: 0, bytes, busy: none, reading: none, elapsed: none, as_it_is, packed: 0.0 }
    }
}

impl Balance {
    /// With another effort, of which nothing has been seen yet.
    fn at(self, effort: Effort) -> Self {
        let as_it_is = match effort {
            Effort::AsItIs => AsItIs::Tried,
            Effort::Level(level) if level > START && self.as_it_is != AsItIs::Never => AsItIs::Untried,
            Effort::Level(_) => self.as_it_is,
        };
        Self { effort, as_it_is, packed: self.packed, ..Self::default() }
    }

    /// What is known once this has been seen, too. What was begun with another effort says nothing of this one.
    fn after(self, measured: Measured) -> Self {
        let Measured { effort, nar_size, busy, reading, elapsed } = measured;
        if effort == Effort::AsItIs && self.effort != effort && self.as_it_is == AsItIs::Tried {
            return self.after_trial(measured);
        }
        if effort != self.effort || nar_size < MEASURED_FROM {
            return self;
        }
        let (busy, reading) = (busy.min(elapsed), reading.min(elapsed.saturating_sub(busy)));
        let seen = Self {
            uploads: self.uploads.saturating_add(1),
            bytes: self.bytes.saturating_add(nar_size),
            busy: self.busy.saturating_add(busy),
            reading: self.reading.saturating_add(reading),
            elapsed: self.elapsed.saturating_add(elapsed),
            ..self
        };
        if seen.uploads >= ENOUGH.0
            && seen.elapsed >= ENOUGH.1
            && let Some(next) = seen.next()
        {
            return next;
        }
        let share = if seen.elapsed > OLD { 2 } else { 1 };
        Self {
            bytes: seen.bytes / u64::from(share),
            busy: seen.busy / share,
            reading: seen.reading / share,
            elapsed: seen.elapsed / share,
            ..seen
        }
    }

    /// What is known once one archive has been sent as it is: nothing by a small one, and the next is tried once packers are
    /// found to be waited for again.
    fn after_trial(self, Measured { nar_size, elapsed, .. }: Measured) -> Self {
        if nar_size < MEASURED_FROM {
            return Self { as_it_is: AsItIs::Untried, ..self };
        }
        let is_worth_the_room = elapsed.as_secs_f64() / nar_size as f64 * WORTH_THE_ROOM <= self.packed;
        if is_worth_the_room { self.at(Effort::AsItIs) } else { self }
    }

    /// Where to go from here, if anywhere.
    fn next(self) -> Option<Self> {
        let pace = self.elapsed.as_secs_f64() / self.bytes as f64;
        let level = match self.effort {
            Effort::AsItIs => return (pace * WORTH_THE_ROOM > self.packed).then(|| self.at(Effort::Level(FLOOR))),
            Effort::Level(level) => level,
        };
        let both = self.elapsed.saturating_sub(self.reading);
        if self.busy < both / IDLE {
            return (level < CEILING).then(|| self.at(Effort::Level(level + 1)));
        }
        if both.saturating_sub(self.busy) >= both / BUSY {
            return None;
        }
        let lower = if level <= START { FLOOR } else { level - 1 };
        if level <= START && self.as_it_is == AsItIs::Untried {
            return Some(Self { packed: pace, as_it_is: AsItIs::Due, ..self }.at(Effort::Level(lower)));
        }
        (level > FLOOR).then(|| self.at(Effort::Level(lower)))
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
        /// Seconds that reading a MiB takes.
        reading: f64,
        /// MiB that the link takes in a second.
        link: f64,
        /// Whether an archive is sent while it is packed, or afterwards.
        overlaps: bool,
    }

    impl Line {
        fn upload(&self, effort: Effort, mib: f64) -> Measured {
            let (busy, sent) = match effort {
                Effort::AsItIs => (0.0, mib),
                Effort::Level(level) => {
                    let busy = mib * self.packing[usize::try_from(level - FLOOR).expect("a level")];
                    // Each level packs a little smaller.
                    (busy, mib * 0.35 * 0.98_f64.powi(level))
                }
            };
            let (reading, sent) = (mib * self.reading, sent / self.link);
            let elapsed = reading + if self.overlaps { busy.max(sent) } else { busy + sent };
            Measured {
                effort,
                nar_size: (mib * 1_048_576.0) as u64,
                busy: Duration::from_secs_f64(busy),
                reading: Duration::from_secs_f64(if effort == Effort::AsItIs { 0.0 } else { reading }),
                elapsed: Duration::from_secs_f64(elapsed),
            }
        }

        /// The efforts of so many uploads, one after the other.
        fn efforts(&self, pace: &Pace, sizes: &[f64], uploads: usize) -> Vec<Effort> {
            let next = |n: usize| {
                let effort = pace.effort();
                pace.note(self.upload(effort, sizes[n % sizes.len()]));
                effort
            };
            (0..uploads).map(next).collect()
        }
    }

    prop_compose! {
        fn lines()(
            first in 0.0005..0.02_f64,
            reading in 0.0..0.01_f64,
            steps in prop::collection::vec(1.0..2.9_f64, usize::try_from(CEILING - FLOOR).expect("levels")),
            link in prop::sample::select(vec![0.01, 0.1, 1.0, 10.0, 30.0, 100.0, 1_000.0, 100_000.0]),
            overlaps in any::<bool>(),
        ) -> Line {
            let mut packing = vec![first];
            steps.iter().for_each(|step| packing.push(packing[packing.len() - 1] * step));
            Line { packing, reading, link, overlaps }
        }
    }

    fn paces() -> [Pace; 2] {
        [Pace::default(), Pace::over_a_line()]
    }

    proptest! {
        #[test]
        fn it_stays_within_bounds_and_comes_to_rest(line in lines(), sizes in prop::collection::vec(20.0..200.0_f64, 1..8)) {
            for (pace, packs_all) in paces().into_iter().zip([true, false]) {
                let efforts = line.efforts(&pace, &sizes, 5_000);
                let is_within = |effort: &Effort| match effort {
                    Effort::AsItIs => !packs_all,
                    Effort::Level(level) => (FLOOR..=CEILING).contains(level),
                };
                prop_assert!(efforts.iter().all(is_within));
                let at_rest = &efforts[4_000..];
                prop_assert!(at_rest.iter().all(|effort| *effort == at_rest[0]), "{:?}", &at_rest[..20]);
            }
        }

        #[test]
        fn another_line_is_followed(line in lines()) {
            for (pace, least) in paces().into_iter().zip([Effort::Level(FLOOR), Effort::AsItIs]) {
                line.efforts(&pace, &[50.0], 1_000);
                for _ in 0..2 {
                    let slow = Line { link: 1e-4, ..line.clone() };
                    let at_rest = slow.efforts(&pace, &[50.0], 1_000)[999];
                    prop_assert_eq!(at_rest, Effort::Level(CEILING), "a slow link is worth all effort");
                    // What is read in no time takes none.
                    let fast = Line { link: 1e9, reading: 0.0, ..line.clone() };
                    prop_assert_eq!(fast.efforts(&pace, &[50.0], 1_000)[999], least, "a fast one none");
                }
            }
        }

        // Whatever the line is like, nothing that rests takes twice as long as packing.
        #[test]
        fn what_is_sent_as_it_is_is_sent_faster(line in lines()) {
            let pace = Pace::over_a_line();
            if line.efforts(&pace, &[50.0], 5_000)[4_999] == Effort::AsItIs {
                let took = |effort| line.upload(effort, 50.0).elapsed;
                prop_assert!(took(Effort::AsItIs) * 2 <= took(Effort::Level(START)) + Duration::from_millis(1));
            }
        }
    }

    #[test]
    fn a_small_archive_that_is_sent_as_it_is_is_followed_by_no_other() {
        let pace = Pace::over_a_line();
        let second = Duration::from_secs(1);
        let busy =
            |effort| Measured { effort, nar_size: 64 << 20, busy: second, reading: Duration::ZERO, elapsed: second };
        (0..ENOUGH.0).for_each(|_| pace.note(busy(Effort::Level(START))));
        assert_eq!(pace.effort(), Effort::AsItIs, "one is tried");
        pace.note(Measured { nar_size: 1000, ..busy(Effort::AsItIs) });
        assert_eq!([pace.effort(), pace.effort()], [Effort::Level(FLOOR); 2]);
        (0..ENOUGH.0).for_each(|_| pace.note(busy(Effort::Level(FLOOR))));
        assert_eq!([pace.effort(), pace.effort()], [Effort::AsItIs, Effort::Level(FLOOR)]);
    }

    #[test]
    fn what_says_nothing_of_the_level_changes_nothing() {
        let pace = Pace::default();
        let idle = Measured {
            effort: Effort::Level(START),
            nar_size: 64 << 20,
            busy: Duration::from_millis(1),
            reading: Duration::ZERO,
            elapsed: Duration::from_secs(9),
        };
        for _ in 0..100 {
            pace.note(Measured { effort: Effort::Level(START + 1), ..idle });
            pace.note(Measured { nar_size: MEASURED_FROM - 1, ..idle });
        }
        assert_eq!(pace.effort(), Effort::Level(START));
        for _ in 0..ENOUGH.0 {
            pace.note(idle);
        }
        assert_eq!(pace.effort(), Effort::Level(START + 1));
        // One that seems to be packed for longer than it took is no reason to panic.
        pace.note(Measured { effort: Effort::Level(START + 1), busy: Duration::from_secs(99), ..idle });
        assert_eq!(pace.effort(), Effort::Level(START + 1));
    }
}
