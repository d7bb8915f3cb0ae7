//! When to wake, given when events came: pure, with `now` as an argument.
//!
//! ```text
//! events  x                x xxxxxxxxx
//! wakes   x   e            x   w   w   e        e: the echo, SPACING after a wake-up, though no event came
//! ```
//!
//! The echo is there because SQLite publishes a commit (in the memory shared by `db.sqlite-shm`) a moment *after* its
//! last write to the log, which is the last event there is. A look taken between the two finds nothing, and without
//! another one the new path would wait for the timer. An idle folder has no echoes.

use std::time::{Duration, Instant};

/// At most one wake-up a folder in this time, and how long after one its echo comes. A build registers its paths in bursts
/// of writes some ms apart, so a shorter time burns CPU during floods; a longer one delays the second path of a burst,
/// which is to be readable from the cache in 30 ms.
pub(super) const SPACING: Duration = Duration::from_millis(20);

/// A wake-up by which so many paths were found, or more, is followed by as many spacings of quiet: what comes in a flood is
/// taken up in larger pieces, each of which costs transactions and syncs that the builds would have to share the disk with.
/// So 100 ms pass at most until the next piece, a delay that nobody notices of a path among many.
const MOST_SPACINGS: u32 = 5;

/// What is known of all folders.
pub(super) struct Pace {
    folders: Vec<State>,
    /// The folder that is looked at first, so that a flood in one doesn't starve the others.
    first: usize,
}

#[derive(Clone, Default)]
struct State {
    due: bool,
    echo: bool,
    not_before: Option<Instant>,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Wake for that folder.
    Now(usize),
    /// Ask again at that time; until then no event changes the answer by more than some [`SPACING`]s.
    At(Instant),
    /// Wait for an event, however long.
    Idle,
}

impl Pace {
    pub(super) fn new(folders: usize) -> Self {
        Self { folders: vec![State::default(); folders], first: 0 }
    }

    /// Something happened in that folder.
    pub(super) fn event(&mut self, folder: usize) {
        self.folders[folder].due = true;
    }

    /// So many paths were found at the last wake-up for that folder.
    pub(super) fn found(&mut self, folder: usize, paths: usize) {
        let spacings = u32::try_from(paths).unwrap_or(u32::MAX).clamp(1, MOST_SPACINGS);
        if let Some(not_before) = &mut self.folders[folder].not_before {
            *not_before += SPACING * (spacings - 1);
        }
    }

    /// Decides, and takes note that the caller was woken where it is to wake.
    pub(super) fn next(&mut self, now: Instant) -> Next {
        let count = self.folders.len();
        let mut next = Next::Idle;
        for offset in 0..count {
            let index = (self.first + offset) % count;
            let state = &mut self.folders[index];
            if !state.due && !state.echo {
                continue;
            }
            match state.not_before {
                Some(time) if time > now => {
                    next = match next {
                        Next::At(earlier) => Next::At(earlier.min(time)),
                        _ => Next::At(time),
                    };
                }
                _ => {
                    *state = State { due: false, echo: state.due, not_before: Some(now + SPACING) };
                    self.first = (index + 1) % count;
                    return Next::Now(index);
                }
            }
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_event_wakes_at_once_and_once_more() {
        let start = Instant::now();
        let mut pace = Pace::new(1);
        assert_eq!(pace.next(start), Next::Idle);
        pace.event(0);
        assert_eq!(pace.next(start), Next::Now(0));
        assert_eq!(pace.next(start), Next::At(start + SPACING));
        assert_eq!(pace.next(start + SPACING), Next::Now(0), "the echo");
        assert_eq!(pace.next(start + SPACING), Next::Idle, "an echo has none of its own");
    }

    #[test]
    fn a_flood_wakes_at_intervals_and_its_last_event_has_an_echo() {
        let start = Instant::now();
        let mut pace = Pace::new(1);
        let mut wakes = Vec::new();
        for ms in 0..=200 {
            let now = start + Duration::from_millis(ms);
            if ms < 101 {
                pace.event(0);
            }
            while let Next::Now(0) = pace.next(now) {
                wakes.push(ms);
            }
        }
        assert_eq!(wakes, [0, 20, 40, 60, 80, 100, 120]);
    }

    #[test]
    fn a_flood_of_paths_is_taken_up_in_larger_pieces() {
        let start = Instant::now();
        let mut pace = Pace::new(1);
        let mut wakes = Vec::new();
        for ms in 0..=400 {
            let now = start + Duration::from_millis(ms);
            if ms < 201 {
                pace.event(0);
            }
            while let Next::Now(0) = pace.next(now) {
                wakes.push(ms);
                // A path every 10 ms; the first wake-up finds the first one.
                pace.found(0, if ms < 201 { wakes.len() } else { 0 });
            }
        }
        assert_eq!(wakes, [0, 20, 60, 120, 200, 300], "one path, two, three, four, and the echo");
    }

    #[test]
    fn a_flood_in_one_folder_does_not_starve_another() {
        let start = Instant::now();
        let mut pace = Pace::new(2);
        pace.event(0);
        assert_eq!(pace.next(start), Next::Now(0));
        pace.event(0);
        pace.event(1);
        assert_eq!(pace.next(start), Next::Now(1));
        assert_eq!(pace.next(start + SPACING), Next::Now(0));
        pace.event(0);
        assert_eq!(pace.next(start + SPACING), Next::Now(1), "the echo of the other");
    }
}
