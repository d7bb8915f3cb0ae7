//! Noticing that the host has slept, or that its clock was put right.

use std::time::{Duration, Instant, SystemTime};

/// A step of the wall clock against the monotonic one that is larger than this was a suspend, or a clock put right.
const SUSPENDED: Duration = Duration::from_secs(10);

/// The two clocks, which part while a computer sleeps.
pub(super) struct Clocks {
    wall: SystemTime,
    steady: Instant,
}

impl Clocks {
    pub(super) fn now() -> Self {
        Self { wall: SystemTime::now(), steady: Instant::now() }
    }

    /// Whether the wall clock has gone another way than the steady one since the last look, forward or back.
    pub(super) fn have_parted(&mut self) -> bool {
        self.have_parted_at(Self::now())
    }

    fn have_parted_at(&mut self, now: Self) -> bool {
        let steady = now.steady.duration_since(self.steady);
        let parted = match now.wall.duration_since(self.wall) {
            Ok(wall) => wall.abs_diff(steady) > SUSPENDED,
            Err(back) => back.duration() + steady > SUSPENDED,
        };
        *self = now;
        parted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_either_way_is_noticed_once() {
        let (wall, steady) = (SystemTime::now(), Instant::now());
        let after = |wall_passed: i64, steady_passed| {
            let step = Duration::from_secs(wall_passed.unsigned_abs());
            let wall = if wall_passed < 0 { wall - step } else { wall + step };
            Clocks { wall, steady: steady + Duration::from_secs(steady_passed) }
        };
        let mut clocks = after(0, 0);
        assert!(!clocks.have_parted_at(after(3600, 3600)), "an hour at work");
        assert!(clocks.have_parted_at(after(7200, 3605)), "nearly an hour asleep");
        assert!(!clocks.have_parted_at(after(7205, 3610)));
        assert!(clocks.have_parted_at(after(-60, 3615)), "put right");
        assert!(!clocks.have_parted_at(after(-50, 3620)), "that is no more than a clock that is nudged");
    }
}
