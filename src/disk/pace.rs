//! When to look again: soon where room runs out, seldom where there is plenty. Pure.

use std::time::Duration;

use super::level::{Level, Marks, Thresholds};
use super::{Room, Share};

/// The shortest interval. A look costs some microseconds, and at rest the process is to wake up no more than once a second.
const SHORTEST: Duration = Duration::from_secs(1);

/// The longest interval, with however much room: disks are made smaller, too.
const LONGEST: Duration = Duration::from_secs(60);

/// While there is too little, it is noticed within this time that there is room again.
const WHILE_SHORT: Duration = Duration::from_secs(5);

/// Bytes a second that a host is expected to write out of the blue: a download over a fast line, a build on many
/// processors. So a threshold that is 16 GiB away needs no look within a minute.
const SUDDEN_BYTES: u64 = 256 << 20;

/// The same of inodes: unpacking an archive of small files.
const SUDDEN_INODES: u64 = 20_000;

/// How long until the next look at a file system that has `room` and had `before` so long ago.
pub(super) fn next_look(
    room: &Room,
    before: Option<(Room, Duration)>,
    thresholds: &Thresholds,
    level: Level,
) -> Duration {
    let fall = |share: Share, earlier: fn(&Room) -> Share| {
        let (before, since) = before?;
        let fallen = earlier(&before).free.saturating_sub(share.free);
        Some((fallen as f64 / since.as_secs_f64().max(0.001)) as u64)
    };
    let until = |share: Share, marks: Marks, sudden: u64, earlier: fn(&Room) -> Share| {
        if share.all == 0 {
            return LONGEST;
        }
        let mark = if share.free >= marks.low { marks.low } else { marks.critical };
        // Twice as fast as it fell: half of the time that is left.
        let speed = fall(share, earlier).unwrap_or(0).saturating_mul(2).max(sudden);
        Duration::from_secs_f64(share.free.saturating_sub(mark) as f64 / speed as f64)
    };
    let space = until(room.space, thresholds.of_space(room.space.all), SUDDEN_BYTES, |room| room.space);
    let inodes = until(room.inodes, thresholds.of_inodes(room.inodes.all), SUDDEN_INODES, |room| room.inodes);
    let longest = if level == Level::Ok { LONGEST } else { WHILE_SHORT };
    match level {
        // There is nothing further down to be in time for.
        Level::Critical => WHILE_SHORT,
        Level::Ok | Level::Low => space.min(inodes).clamp(SHORTEST, longest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Threshold;

    const GIB: u64 = 1 << 30;

    fn thresholds() -> Thresholds {
        Thresholds { low: Threshold::Size(10 * GIB), critical: Threshold::Size(2 * GIB) }
    }

    fn room(free: u64) -> Room {
        Room { space: Share { free, all: 1000 * GIB }, inodes: Share::default() }
    }

    fn seconds(free: u64, before: Option<(u64, u64)>) -> u64 {
        let level = crate::disk::level(&room(free), &thresholds(), Level::Ok);
        let before = before.map(|(free, since)| (room(free), Duration::from_secs(since)));
        next_look(&room(free), before, &thresholds(), level).as_secs()
    }

    #[test]
    fn the_nearer_the_threshold_the_sooner() {
        assert_eq!([500, 26, 14, 11].map(|gib| seconds(gib * GIB, None)), [60, 60, 16, 4]);
        assert_eq!([10 * GIB, 10 * GIB - 1, 3 * GIB, 2 * GIB].map(|free| seconds(free, None)), [1, 5, 4, 1]);
        assert_eq!(seconds(0, None), 5, "it is critical, and can only get better");
    }

    #[test]
    fn the_faster_it_falls_the_sooner() {
        // A gibibyte a second, and 100 s until it is low.
        assert_eq!(seconds(110 * GIB, Some((120 * GIB, 10))), 50);
        assert_eq!(seconds(110 * GIB, Some((120 * GIB, 1000))), 60);
        assert_eq!(seconds(110 * GIB, Some((100 * GIB, 1))), 60, "it grows");
        assert_eq!(seconds(110 * GIB, Some((1000 * GIB, 0))), 1, "no time has passed");
    }

    #[test]
    fn inodes_are_waited_for_as_well() {
        let room = Room { inodes: Share { free: 150_000, all: 1_000_000 }, ..room(500 * GIB) };
        assert_eq!(next_look(&room, None, &thresholds(), Level::Ok), Duration::from_secs(5));
    }
}
