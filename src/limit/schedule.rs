//! What is in force: from what the policy says, what was said by hand, and how this host is, to rates and pauses.
//!
//! ```text
//!  by hand ──────────────────────────► wins, until its time is over
//!  the first open window, else [limits] ─┐
//!  on a metered connection ──────────────┼─► the strictest of these
//!  on battery ───────────────────────────┘
//! ```
//!
//! Pure: `now` is an argument, with its time zone. Nothing is remembered from one time to the next, so that a clock that
//! jumps and a host that slept need no care: whoever looks again gets what is right then.

use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::AmbiguousOffset;
use jiff::{SignedDuration, Timestamp, ToSpan, ZonedDateTime};

use super::{Bandwidth, Lane, Rate, Rates, Window};

/// So many days ahead changes are looked for: what comes, comes once a week at least.
const HORIZON: i64 = 8;

/// What was said by hand may lie so far ahead: a clock is put right by less. What lies further ahead was said while the
/// clock stood wrong, and would hold for years.
const CLOCK_SLACK: SignedDuration = SignedDuration::from_secs(60);

/// To who is to send nothing: until it has noticed, next to nothing goes through.
const NEXT_TO_NOTHING: u64 = 1;

/// What the policy says of bandwidth.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// Of the line, outside of windows.
    pub bandwidth: Option<Bandwidth>,
    /// Of backfill's share of it likewise.
    pub backfill_bandwidth: Option<Bandwidth>,
    /// In the order of the file: of several that are open, the first that says something of a thing decides about it.
    pub windows: Vec<Window>,
    /// Of the line on a metered connection.
    pub metered: Option<Bandwidth>,
    /// Of the line on battery.
    pub battery: Option<Bandwidth>,
    /// Of each cache, by its name.
    pub caches: BTreeMap<String, CacheSchedule>,
}

/// What the policy says of a cache's own bandwidth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSchedule {
    /// Outside of windows.
    pub bandwidth: Option<Bandwidth>,
    /// Its own windows.
    pub windows: Vec<Window>,
    /// How what goes there gets there.
    pub way: Way,
}

/// How what goes to a cache gets there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It stays on this host's disks, and takes nothing of the line.
    Disk,
    /// A program sends it, somewhere.
    Program,
    /// Over the line to a server, which can be asked how long that takes.
    Server,
}

/// For whom something is said by hand.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whose {
    /// For all together.
    Line,
    /// For backfill's share.
    Backfill,
    /// For the cache of this name.
    Cache(String),
}

/// What was said by hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByHand {
    /// For whom.
    pub whose: Whose,
    /// What; `None`: there is no limit. A pause stands beside a limit, and hides it.
    pub bandwidth: Option<Bandwidth>,
    /// When, in milliseconds since 1970.
    pub since: i64,
    /// Until when; `None`: until something else is said.
    pub until: Option<i64>,
}

/// How this host is, as far as it matters to what may be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// Whether its connection is metered.
    pub is_metered: bool,
    /// Whether it runs on battery.
    pub is_on_battery: bool,
}

/// By what something is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// By what the policy says for all times, or doesn't say.
    Policy,
    /// By a window.
    Window(Window),
    /// By hand.
    Hand,
    /// Since the connection is metered.
    Metered,
    /// Since the host runs on battery.
    Battery,
}

/// What is in force for the line, for backfill or for a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// How much may be sent at most; `None`: as much as goes through.
    pub bandwidth: Option<Bandwidth>,
    /// Whether that is only what others leave.
    pub gives_way: bool,
    /// By what.
    pub by: By,
    /// Until when, as far as that is known now.
    pub until: Option<Timestamp>,
}

/// What is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    /// For the line.
    pub line: Ruling,
    /// For backfill's share of it.
    pub backfill: Ruling,
    /// For each cache, and how it is reached.
    pub caches: BTreeMap<String, (Ruling, Way)>,
}

impl Schedule {
    /// What is in force now, and until when.
    #[must_use]
    pub fn in_force(&self, by_hand: &[ByHand], conditions: Conditions, now: &ZonedDateTime) -> InForce {
        let mut in_force = self.at(by_hand, conditions, now);
        for change in self.possible_changes(by_hand, now) {
            let then = self.at(by_hand, conditions, &change.to_zoned_datetime(now.time_zone().clone()));
            for (ruling, next) in in_force.rulings_mut().zip(then.rulings()) {
                if ruling.until.is_none()
                    && (ruling.bandwidth, ruling.gives_way, &ruling.by) != (next.bandwidth, next.gives_way, &next.by)
                {
                    ruling.until = Some(change);
                }
            }
            if in_force.rulings().all(|ruling| ruling.until.is_some()) {
                break;
            }
        }
        in_force
    }

    /// Whether anything depends on the time of day.
    #[must_use]
    pub fn has_windows(&self) -> bool {
        !self.windows.is_empty() || self.caches.values().any(|cache| !cache.windows.is_empty())
    }

    /// What is in force at a time, without until when.
    fn at(&self, by_hand: &[ByHand], conditions: Conditions, now: &ZonedDateTime) -> InForce {
        let hand = |whose: &Whose| by_hand_for(whose, by_hand, now.timestamp()).map(|said| said.ruling());
        let line = hand(&Whose::Line).unwrap_or_else(|| {
            let usual = by_policy(&self.windows, |window| window.bandwidth, self.bandwidth, now);
            let given =
                |holds: bool, given, by| holds.then_some(given).flatten().map(|given| Ruling::new(Some(given), by));
            let battery = given(conditions.is_on_battery, self.battery, By::Battery);
            let metered = given(conditions.is_metered, self.metered, By::Metered);
            strictest(usual, battery, metered)
        });
        let backfill = hand(&Whose::Backfill).unwrap_or_else(|| {
            by_policy(&self.windows, |window| window.backfill_bandwidth, self.backfill_bandwidth, now)
        });
        let cache = |(name, own): (&String, &CacheSchedule)| {
            let ruling = hand(&Whose::Cache(name.clone()))
                .unwrap_or_else(|| by_policy(&own.windows, |window| window.bandwidth, own.bandwidth, now));
            (name.clone(), (ruling, own.way))
        };
        InForce { line, backfill, caches: self.caches.iter().map(cache).collect() }
    }

    /// When something may change: whenever a window opens or closes, whenever clocks are changed, and when what was said by
    /// hand begins or ends.
    fn possible_changes(&self, by_hand: &[ByHand], now: &ZonedDateTime) -> BTreeSet<Timestamp> {
        let mut changes = BTreeSet::new();
        let windows = || self.windows.iter().chain(self.caches.values().flat_map(|cache| &cache.windows));
        if self.has_windows() {
            for day in (-1..=HORIZON).filter_map(|day| now.date().checked_add(day.days()).ok()) {
                for edge in windows().flat_map(|window| window.edges(day)) {
                    let time = now.time_zone().to_ambiguous_timestamp(edge);
                    let offsets = match time.offset() {
                        AmbiguousOffset::Unambiguous { offset } => [offset, offset],
                        // What a clock never shows begins as it jumps, which is looked for below.
                        AmbiguousOffset::Gap { before, after } | AmbiguousOffset::Fold { before, after } => {
                            [before, after]
                        }
                    };
                    changes.extend(offsets.iter().filter_map(|offset| offset.to_timestamp(edge).ok()));
                }
            }
            let horizon = now.timestamp().checked_add(SignedDuration::from_hours(24 * HORIZON));
            let horizon = horizon.unwrap_or(Timestamp::MAX);
            let transitions = now.time_zone().following(now.timestamp()).map(|transition| transition.timestamp());
            changes.extend(transitions.take_while(|time| *time <= horizon));
        }
        changes.extend(by_hand.iter().flat_map(|said| [said.begins(), said.ends()]).flatten());
        changes.split_off(&now.timestamp()).into_iter().filter(|change| *change > now.timestamp()).collect()
    }
}

/// What was said last by hand and is in force; a pause hides a limit.
fn by_hand_for<'h>(whose: &Whose, by_hand: &'h [ByHand], now: Timestamp) -> Option<&'h ByHand> {
    let said = || by_hand.iter().filter(|said| said.whose == *whose && said.is_in_force(now));
    said().find(|said| said.is_pause()).or_else(|| said().next())
}

/// What the first open window says that says anything, or what holds outside of windows.
fn by_policy(
    windows: &[Window],
    says: impl Fn(&Window) -> Option<Bandwidth>,
    usual: Option<Bandwidth>,
    now: &ZonedDateTime,
) -> Ruling {
    let clock = now.datetime();
    let open = windows.iter().find_map(|window| Some((window, says(window).filter(|_| window.is_open(clock))?)));
    match open {
        Some((window, bandwidth)) => Ruling::new(Some(bandwidth), By::Window(window.clone())),
        None => Ruling::new(usual, By::Policy),
    }
}

/// The strictest of these. Of equal ones the first, so that a pause that is for more caches isn't hidden by one on a metered
/// connection.
fn strictest(usual: Ruling, battery: Option<Ruling>, metered: Option<Ruling>) -> Ruling {
    let strictness = |ruling: &Ruling| ruling.bandwidth.and_then(Bandwidth::per_second).unwrap_or(u64::MAX);
    let stricter = |one: Ruling, other: Ruling| {
        let gives_way = one.gives_way || other.gives_way;
        // Who gives way is no less limited for that, and who is limited gives way all the same.
        let only_that = !one.gives_way && other.gives_way && one.bandwidth.is_none();
        let first = if strictness(&other) < strictness(&one) || only_that { other } else { one };
        Ruling { gives_way, ..first }
    };
    [battery, metered].into_iter().flatten().fold(usual, stricter)
}

impl ByHand {
    /// Whether it is a pause rather than a limit.
    #[must_use]
    pub fn is_pause(&self) -> bool {
        self.bandwidth == Some(Bandwidth::Nothing)
    }

    fn ruling(&self) -> Ruling {
        Ruling::new(self.bandwidth, By::Hand)
    }

    /// Whether it holds at that time.
    #[must_use]
    pub fn is_in_force(&self, now: Timestamp) -> bool {
        self.begins().is_none_or(|begin| begin <= now) && self.ends().is_none_or(|end| now < end)
    }

    /// Only what has an end has a beginning: the rest holds whatever the clock says.
    fn begins(&self) -> Option<Timestamp> {
        self.until?;
        Timestamp::from_millisecond(self.since).ok()?.checked_sub(CLOCK_SLACK).ok()
    }

    fn ends(&self) -> Option<Timestamp> {
        Timestamp::from_millisecond(self.until?).ok()
    }
}

impl Ruling {
    fn new(bandwidth: Option<Bandwidth>, by: By) -> Self {
        let gives_way = bandwidth == Some(Bandwidth::Background);
        Self { bandwidth: bandwidth.filter(|_| !gives_way), gives_way, by, until: None }
    }

    /// Whether nothing is to be sent.
    #[must_use]
    pub fn is_pause(&self) -> bool {
        self.bandwidth == Some(Bandwidth::Nothing)
    }

    /// Whether it is for those caches too that no line leads to: who pauses means that nothing is done, whatever the way,
    /// but for a line that costs.
    fn is_for_disks(&self) -> bool {
        self.by != By::Metered
    }
}

impl InForce {
    /// What the shaper goes by.
    #[must_use]
    pub fn rates(&self) -> Rates {
        let rate = |ruling: &Ruling| match ruling.bandwidth? {
            Bandwidth::Nothing => Rate::new(NEXT_TO_NOTHING),
            Bandwidth::AtMost(rate) => Some(rate),
            // Rulings have it apart.
            Bandwidth::Background => None,
        };
        let caches = self.caches.iter().filter_map(|(name, (ruling, _))| Some((name.clone(), rate(ruling)?)));
        let background = self.caches.iter().filter_map(|(name, (own, way))| {
            let from = if self.line.gives_way || own.gives_way {
                Lane::Fresh
            } else if self.backfill.gives_way {
                Lane::Backfill
            } else {
                return None;
            };
            (*way == Way::Server).then(|| (name.clone(), from))
        });
        let (line, backfill) = (rate(&self.line), rate(&self.backfill));
        Rates { line, backfill, caches: caches.collect(), background: background.collect() }
    }

    /// By what nothing goes to a cache for now, if it is so, and whether that is said of the cache itself or of all. Of both it
    /// is what ends last.
    #[must_use]
    pub fn paused(&self, cache: &str) -> Option<(Whose, &Ruling)> {
        let own = self.caches.get(cache).map(|(own, _)| own).filter(|own| own.is_pause());
        let own = own.map(|own| (Whose::Cache(cache.to_owned()), own));
        let of_all = self.above(&self.line, cache).map(|line| (Whose::Line, line));
        let ends = |paused: &(Whose, &Ruling)| paused.1.until.unwrap_or(Timestamp::MAX);
        // The cache's own, where both end at the same time.
        of_all.into_iter().chain(own).max_by_key(ends)
    }

    /// By what no backfill goes to a cache for now, if it is so.
    #[must_use]
    pub fn backfill_paused(&self, cache: &str) -> Option<&Ruling> {
        self.above(&self.backfill, cache)
    }

    fn above<'r>(&self, ruling: &'r Ruling, cache: &str) -> Option<&'r Ruling> {
        let over_line = self.caches.get(cache).is_none_or(|(_, way)| *way != Way::Disk);
        Some(ruling).filter(|ruling| ruling.is_pause() && (over_line || ruling.is_for_disks()))
    }

    /// When something else is in force, as far as that is known.
    #[must_use]
    pub fn until(&self) -> Option<Timestamp> {
        self.rulings().filter_map(|ruling| ruling.until).min()
    }

    fn rulings(&self) -> impl Iterator<Item = &Ruling> {
        [&self.line, &self.backfill].into_iter().chain(self.caches.values().map(|(ruling, _)| ruling))
    }

    fn rulings_mut(&mut self) -> impl Iterator<Item = &mut Ruling> {
        let Self { line, backfill, caches } = self;
        [line, backfill].into_iter().chain(caches.values_mut().map(|(ruling, _)| ruling))
    }
}

#[cfg(test)]
mod tests;
