//! Waiting for Nix to end what it writes, where its database has no write-ahead log and can't be read meanwhile.

use std::time::Duration;

use tracing::{info, warn};

use super::DatabaseError;

/// The first pause between two questions to a database that is being written, beyond the time that each of them waits by
/// itself; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// No pause between two questions is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How long to wait before the next question, and whether it was said that somebody waits.
pub(crate) struct Patience {
    /// That somebody waits, and who.
    words: &'static str,
    pause: Duration,
    /// It is said once this pause is reached.
    told_from: Duration,
    told: bool,
}

impl Patience {
    /// That of many who ask again and again: it is said once it has taken its time.
    pub(crate) fn of_many(words: &'static str) -> Self {
        Self { words, pause: FIRST_PAUSE, told_from: LONGEST_PAUSE, told: false }
    }

    /// That of one whom somebody watches: it is said at once.
    pub(crate) fn of_one(words: &'static str) -> Self {
        Self { words, pause: FIRST_PAUSE, told_from: FIRST_PAUSE, told: false }
    }

    /// How long to wait before the next question.
    pub(crate) fn pause(&mut self, error: &DatabaseError) -> Duration {
        if self.pause >= self.told_from && !std::mem::replace(&mut self.told, true) {
            warn!(
                "{}: {error}; if a Nix was killed while it wrote, the next one that writes puts that right",
                self.words
            );
        }
        let longer = (self.pause * 2).min(LONGEST_PAUSE);
        std::mem::replace(&mut self.pause, longer)
    }

    /// There is an answer: the next waiting is another.
    pub(crate) fn rewarded(&mut self) {
        if std::mem::take(&mut self.told) {
            info!("the Nix database can be read again");
        }
        self.pause = FIRST_PAUSE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_are_told_once() {
        let busy = DatabaseError::Busy { verb: "ask for path info" };
        let mut patience = Patience::of_many("uploads wait");
        for _ in 0..2 {
            let pauses: Vec<_> = (0..10).map(|_| (patience.pause(&busy), patience.told)).collect();
            assert_eq!(pauses[..2], [(FIRST_PAUSE, false), (FIRST_PAUSE * 2, false)]);
            assert_eq!(pauses[9], (LONGEST_PAUSE, true));
            assert!(pauses.iter().all(|(pause, told)| *told == (*pause == LONGEST_PAUSE)), "{pauses:?}");
            patience.rewarded();
        }
        let mut watched = Patience::of_one("the backfill waits");
        assert_eq!((watched.pause(&busy), watched.told), (FIRST_PAUSE, true));
    }
}
