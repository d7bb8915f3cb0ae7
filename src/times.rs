//! Times as people read them: by the clock on the wall, and with how far that is from UTC, since who reads may sit elsewhere
//! or go by another zone than the service does.

use std::time::SystemTime;

use jiff::Timestamp;
use jiff::fmt::temporal::{DateTimeParser, DateTimePrinter};
use jiff::tz::TimeZone;

/// From so many seconds on nobody counts minutes any more: the time itself says it better.
const LONG: i64 = 60 * 60;

/// Below so many, seconds are counted.
const SHORT: i64 = 90;

/// A time in that zone: `2026-11-27 18:00 +01:00`.
#[must_use]
pub fn shown(time: Timestamp, zone: &TimeZone) -> String {
    time.to_zoned_datetime(zone.clone()).strftime("%F %H:%M %:z").to_string()
}

/// A time as this host's clock shows it.
#[must_use]
pub fn here(time: SystemTime) -> String {
    let time = Timestamp::try_from(time).unwrap_or(Timestamp::MAX);
    shown(time, &TimeZone::system())
}

/// A time that was, in milliseconds since 1970: `2026-11-27 18:00 +01:00 (4 min ago)`.
#[must_use]
pub fn past(time: i64, now: i64, zone: &TimeZone) -> String {
    // What lies ahead was noted while the clock stood otherwise.
    match span(now.saturating_sub(time).max(0) / 1_000) {
        Some(span) => format!("{} ({span} ago)", in_ms(time, zone)),
        None => in_ms(time, zone),
    }
}

/// A time that is to come, in milliseconds since 1970: `2026-11-27 18:00 +01:00 (in 4 min)`; `None` once it is over.
#[must_use]
pub fn ahead(time: i64, now: i64, zone: &TimeZone) -> Option<String> {
    let left = u64::try_from(time.saturating_sub(now)).ok().filter(|left| *left > 0)?;
    // Whole seconds, the one that has begun among them.
    let left = i64::try_from(left.div_ceil(1_000)).unwrap_or(i64::MAX);
    Some(match span(left) {
        Some(span) => format!("{} (in {span})", in_ms(time, zone)),
        None => in_ms(time, zone),
    })
}

/// A zone as it can be written down and [read](parse_zone) elsewhere; `None` for one that has no name, such as that of an
/// `/etc/localtime` that is a copy.
#[must_use]
pub fn zone_name(zone: &TimeZone) -> Option<String> {
    if zone.is_unknown() {
        return zone_name(&TimeZone::UTC);
    }
    DateTimePrinter::new().time_zone_to_string(zone).ok()
}

/// The zone of that name; `None` where this system has none of it.
#[must_use]
pub fn parse_zone(name: &str) -> Option<TimeZone> {
    DateTimeParser::new().parse_time_zone(name).ok()
}

fn in_ms(time: i64, zone: &TimeZone) -> String {
    shown(Timestamp::from_millisecond(time).unwrap_or(Timestamp::UNIX_EPOCH), zone)
}

/// `40 s`, `4 min`; `None` where it is long.
fn span(seconds: i64) -> Option<String> {
    match seconds {
        ..SHORT => Some(format!("{seconds} s")),
        SHORT..LONG => Some(format!("{} min", (seconds + 30) / 60)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_names_its_zone_and_how_far_away_it_is_if_that_is_short() {
        let zone = TimeZone::posix("CET-1").expect("a zone");
        let (now, minute) = (1_795_788_000_000, 60_000);
        assert_eq!(shown(Timestamp::from_millisecond(now).expect("a time"), &zone), "2026-11-27 15:00 +01:00");
        for (time, words) in [
            (now + 9_500, Some("2026-11-27 15:00 +01:00 (in 10 s)")),
            (now + 4 * minute, Some("2026-11-27 15:04 +01:00 (in 4 min)")),
            (now + 60 * minute, Some("2026-11-27 16:00 +01:00")),
            (now, None),
            (now - minute, None),
        ] {
            assert_eq!(ahead(time, now, &zone).as_deref(), words, "{time}");
        }
        for (time, words) in [
            (now - 9_500, "2026-11-27 14:59 +01:00 (9 s ago)"),
            (now - 100_000, "2026-11-27 14:58 +01:00 (2 min ago)"),
            (now - 90 * minute, "2026-11-27 13:30 +01:00"),
            (now + minute, "2026-11-27 15:01 +01:00 (0 s ago)"),
        ] {
            assert_eq!(past(time, now, &zone), words, "{time}");
        }
    }

    #[test]
    fn a_zone_is_understood_elsewhere() {
        for zone in [TimeZone::UTC, TimeZone::posix("XXX3YYY,M3.2.0,M11.1.0").expect("a zone")] {
            let name = zone_name(&zone).expect("a name");
            assert_eq!(parse_zone(&name), Some(zone), "{name}");
        }
        assert_eq!(zone_name(&TimeZone::unknown()).as_deref(), Some("UTC"));
        assert_eq!(parse_zone("Nowhere/Atall"), None);
    }
}
