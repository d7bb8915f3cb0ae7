//! What may be sent, put in force: looked at again and again, told to the shaper and to the uploader when it is another.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ZonedDateTime};
use tracing::{info, warn};

use super::Working;
use crate::limit::{Bandwidth, By, InForce, Ruling, Schedule, Whose};
use crate::policy::{ByteSize, CacheName};
use crate::queue::{Paused, Queue, QueueError};
use crate::times::{shown, zone_name};
use crate::upload::{Command, Pauses};

/// What is said where nobody knows what the clock on the wall shows.
const UNKNOWN_ZONE: &str =
    "not known, so windows go by UTC: neither TZ nor /etc/localtime says one, or there are no time zones in the system";

/// What is said where nobody knows what the clock on the wall shows, and what a person may do; by the variable TZ, which wins
/// over all else.
pub(super) fn unknown_zone(tz: Option<&str>) -> (String, &'static str) {
    match tz.filter(|tz| !tz.is_empty()) {
        Some(tz) => (
            format!("not known, so windows go by UTC: `{tz}`, which TZ says, is no time zone of this system"),
            "set TZ to a zone such as Europe/Berlin where the service gets it from, or leave it out",
        ),
        None => (UNKNOWN_ZONE.to_owned(), "set it, for example with `timedatectl set-timezone`"),
    }
}

/// What the variable TZ says in this process.
pub(super) fn tz() -> Option<String> {
    std::env::var_os("TZ").map(|tz| tz.to_string_lossy().into_owned())
}

impl Working {
    /// Says so if windows can't go by this host's clock.
    pub(super) fn tell_of_zone(schedule: &Schedule) {
        if schedule.has_windows() && TimeZone::system().is_unknown() {
            let (what, cure) = unknown_zone(tz().as_deref());
            warn!("time zone: {what}; {cure}");
        }
    }

    /// Puts in force what may be sent now, if that is another than before.
    pub(crate) async fn shape(&mut self, schedule: &Schedule) -> Result<(), QueueError> {
        let by_hand = self.queue.call(|queue: &mut Queue| queue.by_hand()).await?;
        let now = ZonedDateTime::now();
        self.note_zone(now.time_zone()).await?;
        let in_force = schedule.in_force(&by_hand, self.lookout.conditions(), &now);
        if self.in_force.as_ref() == Some(&in_force) {
            return Ok(());
        }
        changes(self.in_force.as_ref(), &in_force, now.time_zone()).iter().for_each(|change| info!("{change}"));
        // First, so that nothing goes on that is paused, and that what goes on isn't held back.
        self.shaper.set(&in_force.rates());
        let pauses = pauses(&in_force, now.time_zone());
        if self.in_force.replace(in_force).is_none_or(|before| self::pauses(&before, now.time_zone()) != pauses) {
            self.tell(Command::Pause(pauses)).await;
        }
        Ok(())
    }

    /// Lets those who ask what is in force know by which clock windows go.
    async fn note_zone(&mut self, zone: &TimeZone) -> Result<(), QueueError> {
        if self.zone.as_ref() == Some(zone) {
            return Ok(());
        }
        let name = zone_name(zone);
        self.queue.call(move |queue: &mut Queue| queue.note_zone(name.as_deref())).await?;
        self.zone = Some(zone.clone());
        Ok(())
    }

    /// When it is to be looked at again, should nothing happen before. Not for ever, since clocks are put right.
    pub(crate) fn next_shape(&self) -> Option<tokio::time::Instant> {
        let left = Timestamp::now().duration_until(self.in_force.as_ref()?.until()?);
        let left = Duration::try_from(left.max(SignedDuration::ZERO)).unwrap_or_default();
        tokio::time::Instant::now().checked_add(left)
    }
}

/// The caches that are given nothing, or no backfill, and what is said of it.
fn pauses(in_force: &InForce, zone: &TimeZone) -> Pauses {
    let pause = |name: &String| {
        let paused = Some(paused_in_words(in_force, name, zone)).filter(|paused| *paused != Paused::default())?;
        Some((CacheName::new(name).ok()?, paused))
    };
    in_force.caches.keys().filter_map(pause).collect()
}

/// Why a cache is paused, or backfill to it, for people, with what ends that.
#[must_use]
pub fn paused_in_words(in_force: &InForce, cache: &str, zone: &TimeZone) -> Paused {
    Paused {
        all: in_force.paused(cache).map(|(whose, ruling)| why_paused(&whose, ruling, zone)),
        backfill: in_force.backfill_paused(cache).map(|ruling| why_paused(&Whose::Backfill, ruling, zone)),
    }
}

/// What has changed, one line each; at first, what isn't without a limit.
fn changes(before: Option<&InForce>, now: &InForce, zone: &TimeZone) -> Vec<String> {
    let cache = |name: &str| before.and_then(|before| before.caches.get(name)).map(|(ruling, _)| ruling);
    let mut all = vec![
        ("the line".to_owned(), before.map(|before| &before.line), &now.line),
        ("backfill".to_owned(), before.map(|before| &before.backfill), &now.backfill),
    ];
    all.extend(now.caches.iter().map(|(name, (ruling, _))| (format!("cache {name}"), cache(name), ruling)));
    let is_news = |before: Option<&Ruling>, now: &Ruling| match before {
        Some(before) => (before.bandwidth, before.gives_way, &before.by) != (now.bandwidth, now.gives_way, &now.by),
        None => now.bandwidth.is_some() || now.gives_way,
    };
    let news = all.into_iter().filter(|(_, before, now)| is_news(*before, now));
    news.map(|(whose, _, now)| format!("bandwidth of {whose}: {}", in_words(now, zone))).collect()
}

/// What is in force, for people: `2.0 MiB/s by the window mon to fri 09:00 to 18:00, until 2026-11-27 18:00 +01:00`.
#[must_use]
pub fn in_words(ruling: &Ruling, zone: &TimeZone) -> String {
    let what = match (ruling.bandwidth.and_then(Bandwidth::per_second), ruling.gives_way) {
        (None, false) => "no limit".to_owned(),
        (None, true) => "in the background".to_owned(),
        (Some(0), _) => "paused".to_owned(),
        (Some(bytes), false) => format!("{}/s", ByteSize(bytes)),
        (Some(bytes), true) => format!("{}/s in the background", ByteSize(bytes)),
    };
    format!("{what} {}", why(ruling, zone))
}

/// By what, and until when.
fn why(ruling: &Ruling, zone: &TimeZone) -> String {
    let by = match &ruling.by {
        By::Policy => "by the policy".to_owned(),
        By::Window(window) => format!("by the window {window}"),
        By::Hand => "by hand".to_owned(),
        By::Metered => "on a metered connection".to_owned(),
        By::Battery => "on battery".to_owned(),
    };
    match ruling.until {
        Some(until) => format!("{by}, until {}", shown(until, zone)),
        None => by,
    }
}

/// Why a cache is paused, and what ends it.
fn why_paused(whose: &Whose, ruling: &Ruling, zone: &TimeZone) -> String {
    let why = why(ruling, zone);
    let whose = match whose {
        _ if ruling.by == By::Hand => return format!("{why}; `storewatch resume` ends that"),
        Whose::Line => String::new(),
        Whose::Backfill => " --backfill".to_owned(),
        Whose::Cache(name) => format!(" --cache {name}"),
    };
    format!("{why}; `storewatch limit none{whose} --for 1h` goes on all the same")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::{ByHand, CacheSchedule, Conditions, Days, Way, Window};

    #[test]
    fn what_is_in_force_is_said_in_words_and_again_when_it_changes() {
        let zone = TimeZone::UTC;
        let night = Window::new(Days::ALL, 22 * 60, 6 * 60).saying(Some(Bandwidth::Nothing), None);
        let own = CacheSchedule { bandwidth: None, windows: Vec::new(), way: Way::Server };
        let schedule = Schedule {
            bandwidth: Some(Bandwidth::new(2 << 20)),
            windows: vec![night],
            caches: [("team".to_owned(), own)].into(),
            ..Schedule::default()
        };
        let at = |by_hand: &[ByHand], hour| {
            let now =
                jiff::civil::date(2026, 11, 27).at(hour, 0, 0, 0).to_zoned_datetime(zone.clone()).expect("a time");
            schedule.in_force(by_hand, Conditions::default(), &now)
        };
        let (day, night) = (at(&[], 12), at(&[], 23));
        assert_eq!(
            changes(None, &day, &zone),
            ["bandwidth of the line: 2.0 MiB/s by the policy, until 2026-11-27 22:00 +00:00"]
        );
        assert_eq!(changes(Some(&day), &day, &zone), Vec::<String>::new());
        assert_eq!(
            changes(Some(&day), &night, &zone),
            ["bandwidth of the line: paused by the window 22:00 to 06:00, until 2026-11-28 06:00 +00:00"]
        );
        assert!(pauses(&day, &zone).is_empty());
        let team = CacheName::new("team").expect("a name");
        let why = |in_force: &InForce| pauses(in_force, &zone)[&team].all.clone();
        assert_eq!(
            why(&night).as_deref(),
            Some(
                "by the window 22:00 to 06:00, until 2026-11-28 06:00 +00:00; `storewatch limit none --for 1h` goes on all the same"
            )
        );
        let by_hand = ByHand { whose: Whose::Line, bandwidth: Some(Bandwidth::Nothing), since: 0, until: None };
        assert_eq!(why(&at(&[by_hand], 12)).as_deref(), Some("by hand; `storewatch resume` ends that"));
    }
}
