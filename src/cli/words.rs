//! Numbers, times and what they belong to, as people write them.

use jiff::tz::TimeZone;

use crate::queue::{CacheCounts, Volume, now};
use crate::times;

/// `1 path`, `2 paths`.
pub(super) fn counted(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Bytes for people: `12.3 MiB`.
pub(super) fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

/// How much was uploaded, for people: `3 MiB read, 1 MiB sent, 2 MiB saved`.
pub(super) fn in_words(Volume { read, sent, saved }: Volume) -> String {
    format!("{} read, {} sent, {} saved", bytes(read), bytes(sent), bytes(saved))
}

/// When something is done again that waits for a time of the queue's: `again at 2026-11-27 18:00 +01:00 (in 3 min)`.
pub(super) fn again_at(time: i64) -> Option<String> {
    Some(format!("again at {}", times::ahead(time, now(), &TimeZone::system())?))
}

/// A time of the queue's that was: `2026-11-27 17:57 +01:00 (3 min ago)`.
pub(super) fn past(time: i64) -> String {
    times::past(time, now(), &TimeZone::system())
}

/// Since when and why a cache takes nothing, and when it is asked again, as far as all that is known; that it is being asked
/// just now, where somebody is `at_work` who does so.
pub(super) fn takes_nothing(counts: &CacheCounts, at_work: bool) -> Option<String> {
    let asked = counts.asked_since.filter(|_| at_work).map(past);
    let Some((why, since)) = counts.waiting_why.as_ref().zip(counts.waiting_since) else {
        return Some(format!("asked since {} whether it takes anything, without an answer yet", asked?));
    };
    let what = if counts.lacks_credentials { "valid credentials missing" } else { "takes nothing" };
    let again = match asked {
        Some(asked) => format!(", asked again since {asked}, without an answer yet; before"),
        None => counts.waiting_until.and_then(again_at).map_or_else(String::new, |again| format!(", {again}")),
    };
    Some(format!("{what} since {}{again}: {why}", past(since)))
}
