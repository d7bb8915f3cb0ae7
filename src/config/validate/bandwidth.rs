//! How much of the line is taken, and when: whether bandwidths and windows make sense.

use toml::Spanned;

use super::{not_empty, word};
use crate::cache::CacheUrl;
use crate::config::bandwidth::{BACKGROUND, BadBandwidth, parse_bandwidth};
use crate::config::problems::Problems;
use crate::config::raw::RawPolicy;
use crate::config::raw_cache::RawCache;
use crate::config::raw_limits::RawWindow;
use crate::limit::{Bandwidth, CacheSchedule, DAY, DAY_NAMES, Days, Schedule, Way, Window};

/// What 0 means in one place and can't mean in another.
const NEVER: &str = "would let nothing through at any time: leave it out for no limit; `bandwidth = 0` in a window is a \
                     pause, and so is `storewatch pause`";

/// Whose windows they are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    Line,
    Cache,
    /// A cache that is a program which sends by itself.
    Program,
}

/// What all of the policy says of bandwidth.
pub(super) fn schedule(raw: &RawPolicy, problems: &mut Problems<'_>) -> Schedule {
    let limits = &raw.limits;
    let always =
        |key, text: &Option<Spanned<String>>, problems: &mut Problems<'_>| always(key, text.as_ref()?, problems);
    Schedule {
        bandwidth: always("bandwidth", &limits.bandwidth, problems),
        backfill_bandwidth: always("backfill_bandwidth", &limits.backfill_bandwidth, problems),
        windows: windows(&limits.windows, Owner::Line, problems),
        metered: limits.metered.as_ref().and_then(|text| gives_way("metered", text, problems)),
        battery: limits.battery.as_ref().and_then(|text| gives_way("battery", text, problems)),
        caches: raw.caches.iter().map(|raw| (raw.name.get_ref().clone(), cache(raw, problems))).collect(),
    }
}

fn cache(raw: &RawCache, problems: &mut Problems<'_>) -> CacheSchedule {
    let url = raw.url.as_ref().and_then(|url| CacheUrl::parse(url.get_ref()).ok());
    let gives_nar = raw.gives.as_ref().is_some_and(|gives| gives.get_ref() == "nar");
    let (owner, way) = match url {
        Some(CacheUrl::Command { .. }) if !gives_nar => (Owner::Program, Way::Program),
        Some(CacheUrl::Command { .. }) => (Owner::Cache, Way::Program),
        Some(CacheUrl::File { .. }) => (Owner::Cache, Way::Disk),
        _ => (Owner::Cache, Way::Server),
    };
    let bandwidth = raw.bandwidth.as_ref().and_then(|text| always("bandwidth", text, problems));
    if let (Owner::Program, Some(text)) = (owner, &raw.bandwidth) {
        problems.add(text.span(), SENDS_BY_ITSELF);
    }
    let own = raw.bandwidth.iter().chain(raw.windows.iter().filter_map(|window| window.bandwidth.as_ref()));
    for text in own.filter(|text| way != Way::Server && text.get_ref() == BACKGROUND) {
        problems.add(text.span(), NO_SERVER);
    }
    CacheSchedule { bandwidth, windows: windows(&raw.windows, owner, problems), way }
}

/// What gives way needs somebody to ask how long the line takes.
const NO_SERVER: &str =
    "`background` is for caches on servers, to which the line can be measured: write how much a second";

/// No byte passes through storewatch that it could hold back.
const SENDS_BY_ITSELF: &str = "storewatch sends nothing to a program that is given paths, so it can't limit that: leave \
                               `bandwidth` out, or let it have the archive, `gives = \"nar\"`; a window with `bandwidth = 0` \
                               pauses it";

/// A bandwidth for all times.
fn always(key: &str, text: &Spanned<String>, problems: &mut Problems<'_>) -> Option<Bandwidth> {
    let bandwidth = within_a_window(key, text, problems)?;
    if bandwidth == Bandwidth::Nothing {
        problems.add(text.span(), format!("`{key}` of 0 {NEVER}"));
        return None;
    }
    Some(bandwidth)
}

/// A bandwidth, or a pause.
fn within_a_window(key: &str, text: &Spanned<String>, problems: &mut Problems<'_>) -> Option<Bandwidth> {
    let told = |bad: BadBandwidth| match bad {
        BadBandwidth::TooLarge(_) => format!("`{key}`: {bad}: leave it out where there is to be no limit"),
        bad => format!("`{key}`: {bad}"),
    };
    parse_bandwidth(text.get_ref()).map_err(|bad| problems.add(text.span(), told(bad))).ok()
}

/// What is done where the line or the battery had better be spared.
fn gives_way(key: &str, text: &Spanned<String>, problems: &mut Problems<'_>) -> Option<Bandwidth> {
    let message = match (text.get_ref().as_str(), parse_bandwidth(text.get_ref())) {
        ("go on", _) => return None,
        ("pause", _) => return Some(Bandwidth::Nothing),
        (_, Ok(Bandwidth::Nothing)) => format!("`{key}` of 0: write `{key} = \"pause\"`"),
        (_, Ok(bandwidth)) => return Some(bandwidth),
        (other, Err(BadBandwidth::NoNumber(_))) => {
            format!("`{key}` can not be `{other}`: write \"pause\", \"go on\" or a bandwidth such as \"1 MiB/s\"")
        }
        (_, Err(bad @ BadBandwidth::TooLarge(_))) => format!("`{key}`: {bad}: write \"go on\" for no limit"),
        (_, Err(bad)) => format!("`{key}`: {bad}"),
    };
    problems.add(text.span(), message);
    None
}

fn windows(raw: &[RawWindow], owner: Owner, problems: &mut Problems<'_>) -> Vec<Window> {
    let windows: Vec<_> = raw.iter().map(|raw| window(raw, owner, problems)).collect();
    for (at, later) in windows.iter().enumerate() {
        let text = |window: &Option<Window>| window.as_ref().map_or_else(String::new, |window| format!(" {window}"));
        let both = |earlier: &Option<Window>| overlap(earlier.as_ref()?, later.as_ref()?);
        if let Some((first, when)) = windows[..at].iter().enumerate().find_map(|(at, window)| Some((at, both(window)?)))
        {
            let line = problems.line(&raw[first].span);
            let (one, other) = (text(&windows[at]), text(&windows[first]));
            let message = format!(
                "the windows{one} (this one) and{other} (in line {line}) are open at the same time, on {when} for one: \
                 there{other} counts, since it stands first"
            );
            problems.warn(raw[at].span.clone(), message);
        }
    }
    windows.into_iter().flatten().collect()
}

/// When two windows are both open, if they speak of the same thing.
fn overlap(one: &Window, other: &Window) -> Option<String> {
    let same = (one.bandwidth.is_some() && other.bandwidth.is_some())
        || (one.backfill_bandwidth.is_some() && other.backfill_bandwidth.is_some());
    one.overlap(other).filter(|_| same)
}

fn window(raw: &RawWindow, owner: Owner, problems: &mut Problems<'_>) -> Option<Window> {
    let days = match &raw.days {
        Some(list) => {
            not_empty("days", list, problems)?;
            let known: Vec<_> = (0..).zip(DAY_NAMES).map(|(number, name)| (name, number)).collect();
            Days::of(list.get_ref().iter().filter_map(|day| word("days", day, &known, problems)))
        }
        None => Days::ALL,
    };
    let from = raw.from.as_ref().and_then(|text| time("from", text, DAY - 1, problems));
    let to = raw.to.as_ref().and_then(|text| time("to", text, DAY, problems));
    let says = |key, text: &Option<Spanned<String>>, problems: &mut Problems<'_>| {
        within_a_window(key, text.as_ref()?, problems)
    };
    let bandwidth = says("bandwidth", &raw.bandwidth, problems);
    let backfill_bandwidth = says("backfill_bandwidth", &raw.backfill_bandwidth, problems);
    match (owner, &raw.bandwidth, &raw.backfill_bandwidth) {
        (Owner::Line, None, None) => {
            let message = "this window says nothing: write `bandwidth` or `backfill_bandwidth`, 0 for a pause";
            problems.add(raw.span.clone(), message);
        }
        (Owner::Cache | Owner::Program, _, Some(text)) => {
            let message = "`backfill_bandwidth` belongs to the windows of [limits]: leave it out of those of a cache";
            problems.add(text.span(), message);
        }
        (Owner::Cache | Owner::Program, None, None) => {
            problems.add(raw.span.clone(), "this window says nothing: write `bandwidth`, 0 for a pause");
        }
        (Owner::Program, Some(text), None) if bandwidth.is_some_and(|given| given != Bandwidth::Nothing) => {
            problems.add(text.span(), SENDS_BY_ITSELF);
        }
        _ => {}
    }
    if let (Some(from), Some(to)) = (from, to)
        && from == to
    {
        let message = "this window ends as it begins: for a whole day write from = \"00:00\", to = \"24:00\"";
        problems.add(raw.span.clone(), message);
        return None;
    }
    Some(Window::new(days, from?, to?).saying(bandwidth, backfill_bandwidth))
}

/// Minutes of the day.
fn time(key: &str, text: &Spanned<String>, last: u16, problems: &mut Problems<'_>) -> Option<u16> {
    let two_digits = |digits: &str| match digits.as_bytes() {
        [b'0'..=b'9', b'0'..=b'9'] => digits.parse().ok(),
        _ => None,
    };
    let minutes = |text: &str| -> Option<u16> {
        let (hour, minute) = text.split_once(':')?;
        let (hour, minute): (u16, u16) = (two_digits(hour)?, two_digits(minute)?);
        (minute < 60).then_some(hour * 60 + minute)
    };
    let time = minutes(text.get_ref()).filter(|minutes| *minutes <= last);
    if time.is_none() {
        let until = if last == DAY { "24:00, which is the end of the day" } else { "23:59" };
        let message = format!(
            "`{key}` can not be `{}`: write hour and minute with two digits each, 00:00 to {until}",
            text.get_ref()
        );
        problems.add(text.span(), message);
    }
    time
}
