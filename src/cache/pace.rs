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
//! been found slow. One that never arrives says neither: where packers are still what is waited for, another is sent. A
//! directory gets packed archives in any case: what counts there is room.
//!
//! It comes to rest on a link that stays as it is, as long as no level takes three times as long as the one below: the widest
//! step that was seen was 2.9, from 4 to 5 on text.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Compression;

/// The level of zstd to begin with: zstd's own default, and Nix's.
pub const START: i32 = 3;

/// The lowest level. On 1.1 GB of `/usr/lib` it takes a sixth less than level 2 and packs 5 % larger; level -1 would
/// take another sixth less, and pack 10 % larger (zstd 1.5.4, one run).
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

/// An archive that was sent as it is and hasn't arrived after so long is taken for one that never will: over a link for which
/// packers are waited it takes that long only where it has some GB, and then another one that is as large does no harm.
const TRIED_FOR: Duration = Duration::from_secs(60);

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

    /// How the next archive is packed, which has so many bytes.
    #[must_use]
    pub fn compression(&self, nar_size: u64) -> Compression {
        match self.lock().next_effort(nar_size, Instant::now()) {
            Effort::AsItIs => Compression::None,
            Effort::Level(level) => Compression::Auto { level },
        }
    }

    /// Notes how an upload went.
    pub fn note(&self, measured: Measured) {
        let mut balance = self.lock();
        *balance = balance.after(measured, Instant::now());
    }

    fn lock(&self) -> MutexGuard<'_, Balance> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// The next archive is to be that is large enough to be measured.
    Due,
    /// One is being, since then.
    UnderWay(Instant),
    /// One has been since the link was last found slow.
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
    /// The effort for an archive of so many bytes that is packed now. A small one would say nothing by being sent as it is.
    fn next_effort(&mut self, nar_size: u64, now: Instant) -> Effort {
        if self.as_it_is == AsItIs::Due && nar_size >= MEASURED_FROM {
            self.as_it_is = AsItIs::UnderWay(now);
            return Effort::AsItIs;
        }
        self.effort
    }

    /// Whether an archive is to be sent as it is, should packers be what is waited for.
    fn is_to_be_tried(&self, now: Instant) -> bool {
        match self.as_it_is {
            AsItIs::Untried => true,
            AsItIs::UnderWay(since) => now.saturating_duration_since(since) >= TRIED_FOR,
            AsItIs::Never | AsItIs::Due | AsItIs::Tried => false,
        }
    }

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
    fn after(self, measured: Measured, now: Instant) -> Self {
        let Measured { effort, nar_size, busy, reading, elapsed } = measured;
        if effort == Effort::AsItIs && matches!(self.as_it_is, AsItIs::UnderWay(_)) {
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
            && let Some(next) = seen.next(now)
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

    /// What is known once one archive has been sent as it is.
    fn after_trial(self, Measured { nar_size, elapsed, .. }: Measured) -> Self {
        let is_worth_the_room = elapsed.as_secs_f64() / nar_size as f64 * WORTH_THE_ROOM <= self.packed;
        if is_worth_the_room { self.at(Effort::AsItIs) } else { Self { as_it_is: AsItIs::Tried, ..self } }
    }

    /// Where to go from here, if anywhere.
    fn next(self, now: Instant) -> Option<Self> {
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
        if level <= START && self.is_to_be_tried(now) {
            return Some(Self { packed: pace, as_it_is: AsItIs::Due, ..self }.at(Effort::Level(lower)));
        }
        (level > FLOOR).then(|| self.at(Effort::Level(lower)))
    }
}

#[cfg(test)]
mod tests;
