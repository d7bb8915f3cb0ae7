//! How long to wait before a failed upload is tried again.

use crate::queue::{Job, Outcome, now};

/// The first pause lasts at most so long (ms): a hiccup is over by then.
const FIRST: i64 = 1_000;

/// No pause is longer (ms): whoever mends the cause sees it taken up within this time.
const LONGEST: i64 = 10 * 60 * 1_000;

/// Milliseconds before try number `attempts + 1`: exponential with full jitter, so that many jobs that failed together
/// don't come back together. `draw` is a random number.
fn pause(attempts: u32, draw: u64) -> i64 {
    let ceiling = FIRST.saturating_mul(1 << attempts.min(20)).min(LONGEST);
    let share = i64::try_from(draw % ceiling.unsigned_abs()).unwrap_or(0);
    share.max(ceiling / 10)
}

/// When a job that has just failed is tried again (ms since 1970).
pub(super) fn next_try(job: &Job) -> i64 {
    // Without randomness the pauses are equal, which is no reason to fail.
    let draw = getrandom::u64().unwrap_or(0);
    now().saturating_add(pause(job.attempts, draw))
}

/// The job is to be tried again.
pub(super) fn retry(job: &Job, reason: String) -> Outcome {
    Outcome::Retry { not_before: next_try(job), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stay_within_bounds() {
        for attempts in 0..100 {
            let ceiling = FIRST.saturating_mul(1 << attempts.min(20)).min(LONGEST);
            for draw in [0, 1, 999, u64::MAX / 2, u64::MAX] {
                let pause = pause(attempts, draw);
                assert!((ceiling / 10..=ceiling).contains(&pause), "{pause} after {attempts}");
            }
        }
        assert_eq!(pause(40, LONGEST.unsigned_abs() - 1), LONGEST - 1);
    }
}
