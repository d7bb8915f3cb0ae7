//! What paths wait for, and what of that is news.

use std::collections::BTreeMap;
use std::fmt;

use crate::cli::words::past;
use crate::queue::Left;

/// Servers that are well answer within this time (ms); who looks at nothing for longer wonders.
const SOON_ANSWERED: i64 = 3_000;

/// Why paths for a cache wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// It takes nothing for now.
    TakesNothing(String),
    /// It takes no backfill for now.
    NoBackfill(String),
    /// It is asked whether it takes anything, since then (ms since 1970).
    Unanswered(i64),
    /// It is paused, which is meant to be so.
    Paused(String),
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TakesNothing(why) => write!(f, "takes nothing for now: {why}"),
            Self::NoBackfill(why) => write!(f, "takes no backfill for now: {why}"),
            Self::Unanswered(since) => {
                write!(f, "has been asked since {} whether it takes anything, without an answer yet", past(*since))
            }
            Self::Paused(why) => write!(f, "is paused {why}"),
        }
    }
}

/// The caches whose paths wait, each with the reason.
pub(super) fn what_waits(left: &[Left], now: i64) -> BTreeMap<String, Waits> {
    left.iter().filter(|left| !left.is_off).filter_map(|left| Some((left.cache.clone(), left.waits(now)?))).collect()
}

/// What has changed since it was told last, but for what the log tells.
pub(super) fn news(before: &BTreeMap<String, Waits>, now: &BTreeMap<String, Waits>, in_log: bool) -> Vec<String> {
    let untold = |waits: &Waits| matches!(waits, Waits::Paused(_) | Waits::Unanswered(_)) || !in_log;
    let waits = now.iter().filter(|(cache, waits)| before.get(*cache) != Some(waits) && untold(waits));
    let waits = waits.map(|(cache, waits)| format!("{cache} {waits}"));
    let takes = before.iter().filter(|(cache, waits)| !now.contains_key(*cache) && untold(waits));
    waits.chain(takes.map(|(cache, _)| format!("{cache} takes paths again, or has all of them"))).collect()
}

impl Left {
    /// Why its paths wait. A pause comes first: as long as it lasts, nobody finds out whether the cache takes anything.
    fn waits(&self, now: i64) -> Option<Waits> {
        let paused = self.paused.clone().map(Waits::Paused);
        let nothing = || self.takes_nothing.clone().map(Waits::TakesNothing);
        let asked = self.asked_since.filter(|since| now - since >= SOON_ANSWERED);
        let unanswered = || asked.map(Waits::Unanswered);
        paused.or_else(nothing).or_else(unanswered).or_else(|| self.backfill_waits.clone().map(Waits::NoBackfill))
    }
}

/// What the paths for a cache wait for, if there is anything to say of it.
pub(super) fn waits_for(left: &Left, now: i64) -> Option<String> {
    let Left { cache, takes_nothing, is_off, last_failure, being_sent, .. } = left;
    match (takes_nothing, left.waits(now), last_failure) {
        (Some(why), ..) if *is_off => Some(format!("{cache}, which is off on this host: {why}")),
        (_, Some(waits), _) => Some(format!("{cache}, which {waits}")),
        (_, None, Some(why)) => Some(format!("{cache}, to be tried again: {why}")),
        (_, None, None) if *being_sent > 0 => Some(format!("{cache}, {being_sent} of them being sent")),
        (_, None, None) => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::cli::progress) fn left(cache: &str, takes_nothing: Option<&str>, last_failure: Option<&str>) -> Left {
        let text = |text: Option<&str>| text.map(str::to_owned);
        Left {
            cache: cache.to_owned(),
            paths: 2,
            takes_nothing: text(takes_nothing),
            backfill_waits: None,
            is_off: false,
            paused: None,
            asked_since: None,
            being_sent: 0,
            last_failure: text(last_failure),
        }
    }

    #[test]
    fn what_waits_is_told_again_when_the_reason_is_another() {
        let off = Left { is_off: true, ..left("own", Some("it is this host itself"), None) };
        assert!(what_waits(&[off], 0).is_empty(), "nobody waits for that");
        let told = |before: &[Left], now: &[Left]| news(&what_waits(before, 0), &what_waits(now, 0), false);
        let (away, no_token) = (left("team", Some("away"), None), left("team", Some("no token"), None));
        let both = [away.clone(), left("archive", None, Some("disk error"))];
        assert_eq!(told(&[], &both), ["team takes nothing for now: away"]);
        assert_eq!(told(&both, &both), Vec::<String>::new());
        assert_eq!(told(&both, std::slice::from_ref(&no_token)), ["team takes nothing for now: no token"]);
        assert_eq!(told(&[no_token], &[]), ["team takes paths again, or has all of them"]);
    }

    #[test]
    fn a_pause_is_told_whether_or_not_there_is_a_log() {
        let paused = Left { paused: Some("by hand".to_owned()), ..left("team", Some("away"), None) };
        let told = |before: &[Left], now: &[Left]| news(&what_waits(before, 0), &what_waits(now, 0), true);
        let away = left("team", Some("away"), None);
        assert_eq!(told(&[], std::slice::from_ref(&away)), Vec::<String>::new(), "the log tells it");
        assert_eq!(told(&[away], std::slice::from_ref(&paused)), ["team is paused by hand"]);
        assert_eq!(told(std::slice::from_ref(&paused), &[]), ["team takes paths again, or has all of them"]);
        assert_eq!(waits_for(&paused, 0).as_deref(), Some("team, which is paused by hand"));
        let low = Left { backfill_waits: Some("its disk is low".to_owned()), ..left("team", None, None) };
        assert_eq!(waits_for(&low, 0).as_deref(), Some("team, which takes no backfill for now: its disk is low"));
    }

    #[test]
    fn who_does_not_answer_for_a_while_is_told_once() {
        let silent = Left { asked_since: Some(1_000), ..left("team", None, None) };
        let at = |now| what_waits(std::slice::from_ref(&silent), now);
        assert!(at(1_000 + SOON_ANSWERED - 1).is_empty());
        let told = news(&BTreeMap::new(), &at(1_000 + SOON_ANSWERED), true);
        assert!(told.len() == 1 && told[0].starts_with("team has been asked since "), "{told:?}");
        assert!(news(&at(5_000), &at(60_000), true).is_empty());
        assert!(waits_for(&silent, 5_000).is_some_and(|waits| waits.ends_with("without an answer yet")));
        let sent = Left { being_sent: 2, ..left("team", None, None) };
        assert_eq!(waits_for(&sent, 0).as_deref(), Some("team, 2 of them being sent"));
    }
}
