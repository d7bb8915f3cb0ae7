//! What paths wait for, and what of that is news.

use std::collections::BTreeMap;
use std::fmt;

use crate::queue::Left;

/// Why paths for a cache wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// It takes nothing for now.
    TakesNothing(String),
    /// It takes no backfill for now.
    NoBackfill(String),
    /// It is paused, which is meant to be so.
    Paused(String),
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TakesNothing(why) => write!(f, "takes nothing for now: {why}"),
            Self::NoBackfill(why) => write!(f, "takes no backfill for now: {why}"),
            Self::Paused(why) => write!(f, "is paused {why}"),
        }
    }
}

/// The caches whose paths wait, each with the reason.
pub(super) fn what_waits(left: &[Left]) -> BTreeMap<String, Waits> {
    left.iter().filter(|left| !left.is_off).filter_map(|left| Some((left.cache.clone(), left.waits()?))).collect()
}

/// What has changed since it was told last, but for what the log tells.
pub(super) fn news(before: &BTreeMap<String, Waits>, now: &BTreeMap<String, Waits>, in_log: bool) -> Vec<String> {
    let untold = |waits: &Waits| matches!(waits, Waits::Paused(_)) || !in_log;
    let waits = now.iter().filter(|(cache, waits)| before.get(*cache) != Some(waits) && untold(waits));
    let waits = waits.map(|(cache, waits)| format!("{cache} {waits}"));
    let takes = before.iter().filter(|(cache, waits)| !now.contains_key(*cache) && untold(waits));
    waits.chain(takes.map(|(cache, _)| format!("{cache} takes paths again, or has all of them"))).collect()
}

impl Left {
    /// Why its paths wait. A pause comes first: as long as it lasts, nobody finds out whether the cache takes anything.
    fn waits(&self) -> Option<Waits> {
        let paused = self.paused.clone().map(Waits::Paused);
        let nothing = || self.takes_nothing.clone().map(Waits::TakesNothing);
        paused.or_else(nothing).or_else(|| self.backfill_waits.clone().map(Waits::NoBackfill))
    }
}

/// What the paths for a cache wait for, if there is anything to say of it.
pub(super) fn waits_for(left: &Left) -> Option<String> {
    let Left { cache, takes_nothing, is_off, last_failure, .. } = left;
    match (takes_nothing, left.waits(), last_failure) {
        (Some(why), ..) if *is_off => Some(format!("{cache}, which is off on this host: {why}")),
        (_, Some(waits), _) => Some(format!("{cache}, which {waits}")),
        (_, None, Some(why)) => Some(format!("{cache}, to be tried again: {why}")),
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
            last_failure: text(last_failure),
        }
    }

    #[test]
    fn what_waits_is_told_again_when_the_reason_is_another() {
        let off = Left { is_off: true, ..left("own", Some("it is this host itself"), None) };
        assert!(what_waits(&[off]).is_empty(), "nobody waits for that");
        let told = |before: &[Left], now: &[Left]| news(&what_waits(before), &what_waits(now), false);
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
        let told = |before: &[Left], now: &[Left]| news(&what_waits(before), &what_waits(now), true);
        let away = left("team", Some("away"), None);
        assert_eq!(told(&[], std::slice::from_ref(&away)), Vec::<String>::new(), "the log tells it");
        assert_eq!(told(&[away], std::slice::from_ref(&paused)), ["team is paused by hand"]);
        assert_eq!(told(std::slice::from_ref(&paused), &[]), ["team takes paths again, or has all of them"]);
        assert_eq!(waits_for(&paused).as_deref(), Some("team, which is paused by hand"));
        let low = Left { backfill_waits: Some("its disk is low".to_owned()), ..left("team", None, None) };
        assert_eq!(waits_for(&low).as_deref(), Some("team, which takes no backfill for now: its disk is low"));
    }
}
