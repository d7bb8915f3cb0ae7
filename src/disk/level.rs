//! Whether what is free is enough. Pure.

use std::fmt;

use super::{Room, Share};

/// A size counts for no more than this share (per cent) of a file system, where it says what is little and what is next to
/// nothing: otherwise a small one would always be full.
const MOST_OF_A_SMALL_ONE: Marks = Marks { low: 25, critical: 10 };

/// Where sizes are given, inodes are counted by these shares (per cent). A file system out of inodes is as full as one out
/// of space, and nobody thinks of them as a size.
const INODES: Marks = Marks { low: 5, critical: 1 };

/// How a file system is off for room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// There is enough.
    #[default]
    Ok,
    /// It is running out.
    Low,
    /// Next to nothing is left.
    Critical,
}

/// Less free than this is too little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threshold {
    /// Bytes.
    Size(u64),
    /// Of the file system, in per cent.
    Percent(u8),
    /// Whichever of the two is less.
    Smaller {
        /// Of the file system.
        percent: u8,
        /// Bytes.
        size: u64,
    },
}

/// What is little, and what is next to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Below this it is [`Level::Low`].
    pub low: Threshold,
    /// Below this it is [`Level::Critical`].
    pub critical: Threshold,
}

/// Below this it is low, and critical.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) low: u64,
    pub(super) critical: u64,
}

impl Default for Thresholds {
    /// On a small disk shares of it, and on a large one no more than anybody needs: a large build takes some gigabytes.
    fn default() -> Self {
        const GIB: u64 = 1 << 30;
        Self {
            low: Threshold::Smaller { percent: 5, size: 10 * GIB },
            critical: Threshold::Smaller { percent: 1, size: 2 * GIB },
        }
    }
}

impl Level {
    const ALL: [Self; 3] = [Self::Ok, Self::Low, Self::Critical];

    /// Its name, as `status` shows it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Low => "low",
            Self::Critical => "critical",
        }
    }

    /// The one with that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Threshold {
    /// Of a file system of so many bytes; a size counts for at most `most` per cent of it.
    pub(super) fn of(self, all: u64, most: u64) -> u64 {
        let share = |percent: u64| u64::try_from(u128::from(all) * u128::from(percent) / 100).unwrap_or(u64::MAX);
        match self {
            Self::Size(size) => size.min(share(most)),
            Self::Percent(percent) => share(u64::from(percent)),
            Self::Smaller { percent, size } => size.min(share(u64::from(percent))),
        }
    }

    /// The share of the inodes, in per cent.
    fn of_inodes(self, where_it_is_a_size: u64) -> u64 {
        match self {
            Self::Size(0) => 0,
            Self::Size(_) => where_it_is_a_size,
            Self::Percent(percent) | Self::Smaller { percent, .. } => u64::from(percent),
        }
    }
}

impl Thresholds {
    /// In bytes, of a file system of so many.
    pub(super) fn of_space(&self, all: u64) -> Marks {
        let critical = self.critical.of(all, MOST_OF_A_SMALL_ONE.critical);
        // One may be a size and the other a share, so that which is more differs by file system.
        Marks { low: self.low.of(all, MOST_OF_A_SMALL_ONE.low).max(critical), critical }
    }

    /// In inodes, of a file system of so many.
    pub(super) fn of_inodes(&self, all: u64) -> Marks {
        let share = |percent| Threshold::Percent(u8::try_from(percent).unwrap_or(100)).of(all, 100);
        let critical = share(self.critical.of_inodes(INODES.critical));
        Marks { low: share(self.low.of_inodes(INODES.low)).max(critical), critical }
    }
}

/// What a file system's room means, when it was `before` until now.
///
/// A level is entered below its threshold and left with a quarter more than that, so that a disk that hovers about a
/// threshold isn't told of again and again.
#[must_use]
pub fn level(room: &Room, thresholds: &Thresholds, before: Level) -> Level {
    let space = of_share(room.space, thresholds.of_space(room.space.all), before);
    space.max(of_share(room.inodes, thresholds.of_inodes(room.inodes.all), before))
}

fn of_share(share: Share, marks: Marks, before: Level) -> Level {
    let is_below = |mark: u64, entered: bool| {
        let left_at = if entered { mark.saturating_add(mark / 4) } else { mark };
        // With a share of more than four fifths, there would be no way out.
        share.free < left_at.min(share.all)
    };
    if is_below(marks.critical, before == Level::Critical) {
        Level::Critical
    } else if is_below(marks.low, before >= Level::Low) {
        Level::Low
    } else {
        Level::Ok
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GIB: u64 = 1 << 30;

    fn room(free: u64, all: u64) -> Room {
        Room { space: Share { free, all }, inodes: Share::default() }
    }

    fn percent(low: u8, critical: u8) -> Thresholds {
        Thresholds { low: Threshold::Percent(low), critical: Threshold::Percent(critical) }
    }

    #[test]
    fn a_level_is_left_with_more_free_than_it_was_entered_with() {
        let thresholds = percent(20, 8);
        let mut now = Level::Ok;
        for (free, expected) in [
            (20, Level::Ok),
            (19, Level::Low),
            (20, Level::Low),
            (24, Level::Low),
            (25, Level::Ok),
            (24, Level::Ok),
            (7, Level::Critical),
            (9, Level::Critical),
            (10, Level::Low),
            (8, Level::Low),
            (0, Level::Critical),
            (100, Level::Ok),
        ] {
            now = level(&room(free, 100), &thresholds, now);
            assert_eq!(now, expected, "with {free} free");
        }
    }

    #[test]
    fn the_default_is_a_share_of_a_small_disk_and_a_size_of_a_large_one() {
        let at = |free, all| level(&room(free, all), &Thresholds::default(), Level::Ok);
        assert_eq!([at(GIB, 20 * GIB), at(GIB - 1, 20 * GIB)], [Level::Ok, Level::Low]);
        assert_eq!(at(20 * GIB / 100 - 1, 20 * GIB), Level::Critical);
        assert_eq!([at(10 * GIB, 4096 * GIB), at(10 * GIB - 1, 4096 * GIB)], [Level::Ok, Level::Low]);
        assert_eq!(at(2 * GIB - 1, 4096 * GIB), Level::Critical);
    }

    #[test]
    fn inodes_count_as_space_does() {
        let at = |thresholds: &Thresholds, free| {
            let inodes = Share { free, all: 1000 };
            level(&Room { inodes, ..room(GIB, GIB) }, thresholds, Level::Ok)
        };
        assert_eq!([100, 99, 9].map(|free| at(&percent(10, 1), free)), [Level::Ok, Level::Low, Level::Critical]);
        let sizes = Thresholds { low: Threshold::Size(2), critical: Threshold::Size(1) };
        assert_eq!([50, 49, 9].map(|free| at(&sizes, free)), [Level::Ok, Level::Low, Level::Critical]);
        assert_eq!(level(&room(GIB, GIB), &sizes, Level::Ok), Level::Ok, "there is no fixed number of inodes");
    }

    #[test]
    fn a_size_larger_than_the_disk_doesnt_make_it_full() {
        let sizes = Thresholds { low: Threshold::Size(10 * GIB), critical: Threshold::Size(2 * GIB) };
        let at = |free| level(&room(free, GIB), &sizes, Level::Critical);
        assert_eq!([at(GIB / 2), at(GIB / 4), at(GIB / 11)], [Level::Ok, Level::Low, Level::Critical]);
    }

    #[test]
    fn a_threshold_of_nothing_is_never_crossed() {
        for never in [percent(0, 0), Thresholds { low: Threshold::Size(0), critical: Threshold::Size(0) }] {
            let full = Room { space: Share { free: 0, all: GIB }, inodes: Share { free: 0, all: 9 } };
            assert_eq!(level(&full, &never, Level::Critical), Level::Ok);
        }
    }

    fn threshold() -> impl Strategy<Value = Threshold> {
        prop_oneof![
            any::<u64>().prop_map(Threshold::Size),
            (0..=50_u8).prop_map(Threshold::Percent),
            (0..=50_u8, any::<u64>()).prop_map(|(percent, size)| Threshold::Smaller { percent, size }),
        ]
    }

    fn share() -> impl Strategy<Value = Share> {
        any::<u64>().prop_flat_map(|all| (0..=all).prop_map(move |free| Share { free, all }))
    }

    fn any_level() -> impl Strategy<Value = Level> {
        prop_oneof![Just(Level::Ok), Just(Level::Low), Just(Level::Critical)]
    }

    proptest! {
        #[test]
        fn more_room_is_never_worse_and_there_is_always_a_way_out(
            low in threshold(), critical in threshold(), space in share(), inodes in share(), before in any_level(), more: u64,
        ) {
            let (room, thresholds) = (Room { space, inodes }, Thresholds { low, critical });
            let now = level(&room, &thresholds, before);
            let free = space.free.saturating_add(more).min(space.all);
            let better = level(&Room { space: Share { free, ..space }, inodes }, &thresholds, before);
            prop_assert!(better <= now);
            // The same look twice changes nothing.
            prop_assert_eq!(level(&room, &thresholds, now), now);
            // Where it was better before, it isn't worse now.
            let was_ok = level(&room, &thresholds, Level::Ok);
            prop_assert!(was_ok <= now);
            let empty = |share: Share| Share { free: share.all, all: share.all };
            let emptied = Room { space: empty(space), inodes: empty(inodes) };
            prop_assert_eq!(level(&emptied, &thresholds, before), Level::Ok);
        }
    }
}
