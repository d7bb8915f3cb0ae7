//! What becomes of a path while an upstream can't be asked whether it has it.
//!
//! It waits until the upstream is asked again. Only questions that were really asked count, and no other tries of a path: else
//! some seconds without an upstream, or a full disk, would use up the tries of what is queued, and all of it would be uploaded
//! together with everything that the upstream would have delivered.

use super::backoff::retry;
use crate::cache::{Away, Unanswered};
use crate::queue::{Job, Outcome};
use crate::report::one_line;

/// An upstream that was asked in vain so often in a row is done without, and so is one that has failed a path so often: that
/// takes more room than it need, but an upstream that is gone for good must not stop everything. Between two questions lies
/// half a minute, so that one that is only started anew is waited for.
const WITHOUT_UPSTREAM: u32 = 3;

/// What becomes of the job at that time (ms since 1970); `None` if it goes on without the answer.
pub(super) fn without_answer(job: &Job, unanswered: &Unanswered, now: i64) -> Option<Outcome> {
    let reason = || format!("an upstream cache: {}", one_line(&unanswered.error));
    if unanswered.of_path >= WITHOUT_UPSTREAM {
        return None;
    }
    let Some(Away { in_vain, was_asked, again }) = unanswered.away else { return Some(retry(job, reason())) };
    if in_vain >= WITHOUT_UPSTREAM {
        return None;
    }
    let not_before = now.saturating_add(i64::try_from(again.as_millis()).unwrap_or(i64::MAX));
    Some(match was_asked {
        true => Outcome::Retry { not_before, reason: reason() },
        false => Outcome::Postponed { not_before, reason: reason() },
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cache::CacheError;
    use crate::limit::Lane;
    use crate::nix::StorePath;
    use crate::queue::CacheId;

    fn job(attempts: u32) -> Job {
        let path = StorePath::from_base_name("0123456789abcdfghijklmnpqrsvwxyz-x").expect("a path");
        Job {
            id: 1,
            path,
            cache: CacheId(1),
            lane: Lane::Fresh,
            attempts,
            doubts: 0,
            needed: false,
            walk: false,
            collectable: false,
            reason: None,
            distrusted: None,
            among_distrusted: false,
        }
    }

    fn away(in_vain: u32, was_asked: bool, of_path: u32) -> Unanswered {
        let error = CacheError::LostThread { action: "ask" };
        Unanswered { error, away: Some(Away { in_vain, was_asked, again: Duration::from_secs(20) }), of_path }
    }

    #[test]
    fn a_short_absence_of_an_upstream_is_waited_for() {
        for attempts in [0, 2, 7] {
            for in_vain in 1..WITHOUT_UPSTREAM {
                let outcome = without_answer(&job(attempts), &away(in_vain, false, 0), 1_000);
                let known = matches!(outcome, Some(Outcome::Postponed { not_before: 21_000, .. }));
                assert!(known, "it wasn't asked for this one, so that is no try of it: {outcome:?}");
            }
        }
        for attempts in [0, WITHOUT_UPSTREAM] {
            let asked = without_answer(&job(attempts), &away(1, true, 1), 1_000);
            let waited_for = matches!(asked, Some(Outcome::Retry { not_before: 21_000, .. }));
            assert!(waited_for, "whatever else it was tried in vain for: {asked:?}");
        }
    }

    #[test]
    fn an_upstream_that_stays_away_or_fails_one_path_is_done_without() {
        assert_eq!(without_answer(&job(0), &away(WITHOUT_UPSTREAM, false, 0), 0), None, "gone for all");
        assert_eq!(without_answer(&job(0), &away(1, true, WITHOUT_UPSTREAM), 0), None, "it answers others");
        let own = |of_path| {
            let error = CacheError::LostThread { action: "ask" };
            without_answer(&job(WITHOUT_UPSTREAM), &Unanswered { error, away: None, of_path }, 0)
        };
        assert!(matches!(own(1), Some(Outcome::Retry { .. })));
        assert_eq!(own(WITHOUT_UPSTREAM), None);
    }
}
