//! Laws of what is in force, at any time and in time zones with all kinds of clock changes.

use jiff::civil::{Date, DateTime, date};
use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::*;
use crate::limit::{DAY, Days};

const MIB: u64 = 1 << 20;

/// As POSIX writes them, so that no host's database is needed: without clock changes, an hour in spring and autumn, on the
/// southern half at midnight, and half an hour.
const ZONES: [&str; 5] = [
    "UTC0",
    "CET-1CEST,M3.5.0,M10.5.0/3",
    "EST5EDT,M3.2.0,M11.1.0",
    "<-03>3<-02>,M10.3.0/0,M2.3.0/0",
    "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0",
];

fn zone(posix: &str) -> TimeZone {
    TimeZone::posix(posix).expect("a time zone")
}

fn berlin() -> TimeZone {
    zone(ZONES[1])
}

fn window(days: Days, from: u16, to: u16, bandwidth: u64) -> Window {
    Window::new(days, from, to).saying(Some(Bandwidth::new(bandwidth)), None)
}

fn of_windows(windows: Vec<Window>) -> Schedule {
    Schedule { bandwidth: Some(Bandwidth::new(20 * MIB)), windows, ..Schedule::default() }
}

fn at(clock: DateTime, zone: &TimeZone) -> ZonedDateTime {
    clock.to_zoned_datetime(zone.clone()).expect("a time")
}

fn now_in(schedule: &Schedule, now: &ZonedDateTime) -> InForce {
    schedule.in_force(&[], Conditions::default(), now)
}

/// How much may be sent, by what, and what the clock shows when that changes.
fn line(schedule: &Schedule, now: &ZonedDateTime) -> (u64, bool, Option<String>) {
    let Ruling { bandwidth, by, until, gives_way: _ } = now_in(schedule, now).line;
    let until = until.map(|until| until.to_zoned_datetime(now.time_zone().clone()).strftime("%a %H:%M").to_string());
    (bandwidth.and_then(Bandwidth::per_second).unwrap_or(u64::MAX), matches!(by, By::Window(_)), until)
}

#[test]
fn working_hours() {
    let schedule = of_windows(vec![window(Days::of(0..5), 9 * 60, 18 * 60, 2 * MIB)]);
    let on = |day: Date, hour, minute| line(&schedule, &at(day.at(hour, minute, 0, 0), &berlin()));
    let (friday, sunday) = (date(2026, 11, 27), date(2026, 11, 29));
    let until = |text: &str| Some(text.to_owned());
    assert_eq!(on(friday, 8, 59), (20 * MIB, false, until("Fri 09:00")));
    assert_eq!(on(friday, 9, 0), (2 * MIB, true, until("Fri 18:00")));
    assert_eq!(on(friday, 18, 0), (20 * MIB, false, until("Mon 09:00")));
    assert_eq!(on(sunday, 12, 0), (20 * MIB, false, until("Mon 09:00")));
}

#[test]
fn the_first_of_several_windows_counts_for_what_it_says() {
    let night = Window::new(Days::ALL, 20 * 60, 8 * 60).saying(None, Some(Bandwidth::Nothing));
    let schedule = of_windows(vec![night, window(Days::ALL, 0, DAY, MIB), window(Days::ALL, 0, DAY, 0)]);
    let in_force = now_in(&schedule, &at(date(2026, 11, 27).at(7, 0, 0, 0), &berlin()));
    assert_eq!(in_force.line.bandwidth, Some(Bandwidth::new(MIB)));
    assert_eq!(in_force.line.until, None, "it is always so");
    assert!(in_force.backfill.is_pause() && in_force.backfill.until.is_some());
}

/// For how long (minutes) a window of one day is open within the three days around it, looked at every minute.
fn minutes_open(window: &Window, day: Date, zone: &TimeZone) -> i64 {
    let schedule = of_windows(vec![window.clone()]);
    let begin = at(day.yesterday().expect("a day").at(0, 0, 0, 0), zone);
    let minute = |minutes: i64| begin.checked_add(minutes.minutes()).expect("a time");
    let is_open = |now: &ZonedDateTime| matches!(schedule.at(&[], Conditions::default(), now).line.by, By::Window(_));
    (0..4 * 24 * 60).filter(|minutes| is_open(&minute(*minutes))).count() as i64
}

#[test]
fn days_of_23_and_25_hours() {
    let (spring, autumn, usual) = (date(2026, 3, 29), date(2026, 10, 25), date(2026, 11, 1));
    let on = |day: Date, from: u16, to: u16| minutes_open(&window(Days::of([6]), from, to, MIB), day, &berlin());
    assert_eq!([on(spring, 0, DAY), on(autumn, 0, DAY), on(usual, 0, DAY)], [23 * 60, 25 * 60, 24 * 60]);
    // Across the midnight before it.
    let night = |day: Date| minutes_open(&window(Days::of([5]), 22 * 60, 6 * 60, MIB), day, &berlin());
    assert_eq!([night(spring), night(autumn), night(usual)], [7 * 60, 9 * 60, 8 * 60]);
    // 02:30 doesn't exist in spring: it begins when the clock jumps to 3; in autumn it comes twice, and both count.
    assert_eq!([on(spring, 150, 300), on(autumn, 150, 300), on(usual, 150, 300)], [120, 180, 150]);
    assert_eq!([on(spring, 130, 170), on(autumn, 130, 170)], [0, 80]);
}

#[test]
fn a_beginning_that_does_not_exist_is_when_the_clock_jumps() {
    let schedule = of_windows(vec![window(Days::ALL, 150, 300, MIB)]);
    let before = at(date(2026, 3, 29).at(1, 0, 0, 0), &berlin());
    assert_eq!(line(&schedule, &before).2.as_deref(), Some("Sun 03:00"));
}

#[test]
fn what_is_said_by_hand_wins_until_its_time_is_over() {
    let schedule = of_windows(vec![window(Days::ALL, 0, DAY, 0)]);
    let now = at(date(2026, 11, 27).at(12, 0, 0, 0), &berlin());
    let ms = now.timestamp().as_millisecond();
    let said = |bandwidth, until| ByHand { whose: Whose::Line, bandwidth, since: ms, until };
    let in_force = |by_hand: &[ByHand], later: i64| {
        let now = now.checked_add(later.milliseconds()).expect("a time");
        let conditions = Conditions { is_metered: true, is_on_battery: true };
        let strict =
            Schedule { metered: Some(Bandwidth::Nothing), battery: Some(Bandwidth::Nothing), ..schedule.clone() };
        strict.in_force(by_hand, conditions, &now).line
    };
    let limit = said(Some(Bandwidth::new(MIB)), Some(ms + 5_000));
    let ruling = in_force(std::slice::from_ref(&limit), 0);
    assert_eq!((ruling.bandwidth, ruling.by), (Some(Bandwidth::new(MIB)), By::Hand));
    assert_eq!(ruling.until.map(Timestamp::as_millisecond), Some(ms + 5_000));
    assert_eq!(in_force(std::slice::from_ref(&limit), 4_999).by, By::Hand);
    assert_ne!(in_force(std::slice::from_ref(&limit), 5_000).by, By::Hand);
    let pause = said(Some(Bandwidth::Nothing), None);
    assert!(in_force(&[limit, pause], 0).is_pause(), "a pause hides a limit");
    let lifted = in_force(&[said(None, None)], 1_000_000);
    assert_eq!((lifted.bandwidth, lifted.by, lifted.until), (None, By::Hand, None));
}

#[test]
fn what_was_said_while_the_clock_stood_wrong_does_not_hold_for_years() {
    let now = at(date(2026, 11, 27).at(12, 0, 0, 0), &berlin());
    let ms = now.timestamp().as_millisecond();
    let year = 365 * 24 * 60 * 60 * 1000;
    let said = |since: i64, until| ByHand { whose: Whose::Line, bandwidth: None, since, until };
    let holds = |said: ByHand| said.is_in_force(now.timestamp());
    assert!(!holds(said(ms + year, Some(ms + year + 1000))));
    assert!(holds(said(ms + 1000, Some(ms + 2000))), "a clock that is put right a little changes nothing");
    assert!(holds(said(ms + year, None)), "without an end it holds whatever the clock says");
    assert!(holds(said(i64::MIN, Some(i64::MAX))), "times that can't be said are no trouble");
}

#[test]
fn a_pause_is_for_disks_too_but_for_one_on_a_metered_connection() {
    let own = |way, windows| CacheSchedule { bandwidth: None, windows, way };
    let own_window = vec![window(Days::ALL, 0, DAY, 0)];
    let caches = [
        ("disk", own(Way::Disk, Vec::new())),
        ("server", own(Way::Server, Vec::new())),
        ("own", own(Way::Disk, own_window)),
    ];
    let caches = caches.map(|(name, own)| (name.to_owned(), own)).into();
    let schedule = Schedule {
        metered: Some(Bandwidth::Nothing),
        battery: Some(Bandwidth::Nothing),
        caches,
        ..Schedule::default()
    };
    let now = at(date(2026, 11, 27).at(12, 0, 0, 0), &berlin());
    let paused = |is_metered, is_on_battery, by_hand: &[ByHand]| {
        let in_force = schedule.in_force(by_hand, Conditions { is_metered, is_on_battery }, &now);
        ["disk", "server", "own", "of no policy"].map(|name| in_force.paused(name).is_some())
    };
    assert_eq!(paused(false, false, &[]), [false, false, true, false]);
    assert_eq!(paused(true, false, &[]), [false, true, true, true]);
    assert_eq!(paused(true, true, &[]), [true; 4]);
    assert_eq!(paused(false, true, &[]), [true; 4]);
    let at_noon = vec![window(Days::ALL, 11 * 60, 13 * 60, 0)];
    let at_noon = Schedule { windows: at_noon, ..schedule.clone() };
    let metered = Conditions { is_metered: true, is_on_battery: false };
    assert!(at_noon.in_force(&[], metered, &now).paused("disk").is_some(), "the window's isn't hidden by the other");
    let by_hand = ByHand { whose: Whose::Line, bandwidth: Some(Bandwidth::Nothing), since: 0, until: None };
    assert_eq!(paused(false, false, &[by_hand]), [true; 4]);
    let goes_on = ByHand { whose: Whose::Line, bandwidth: None, since: 0, until: None };
    assert_eq!(paused(true, true, &[goes_on]), [false, false, true, false]);
}

#[test]
fn rates_are_what_is_in_force_and_next_to_nothing_in_a_pause() {
    let schedule = of_windows(vec![window(Days::ALL, 12 * 60, 13 * 60, 0)]);
    let own = CacheSchedule { bandwidth: Some(Bandwidth::new(MIB)), windows: Vec::new(), way: Way::Server };
    let free = CacheSchedule { bandwidth: None, ..own.clone() };
    let caches = [("team".to_owned(), own), ("free".to_owned(), free)].into();
    let schedule = Schedule { backfill_bandwidth: Some(Bandwidth::new(5 * MIB)), caches, ..schedule };
    let rates = |hour| now_in(&schedule, &at(date(2026, 11, 27).at(hour, 0, 0, 0), &berlin())).rates();
    let caches = [("team".to_owned(), Rate::new(MIB).expect("a rate"))].into();
    let outside =
        Rates { line: Rate::new(20 * MIB), backfill: Rate::new(5 * MIB), caches, background: BTreeMap::new() };
    assert_eq!(rates(11), outside);
    assert_eq!(rates(12), Rates { line: Rate::new(1), ..outside });
}

fn any_window() -> impl Strategy<Value = Window> {
    // In the small hours, when clocks are changed, more often than not.
    let hour = prop_oneof![1 => 0..=DAY, 1 => (0..=24u16).prop_map(|hour| hour * 60), 4 => 0..240u16];
    let bandwidth = || prop::option::of((0..3u64).prop_map(|mib| Bandwidth::new(mib * MIB)));
    (1..128u8, hour.clone(), hour, bandwidth(), bandwidth()).prop_map(
        |(days, from, to, bandwidth, backfill_bandwidth)| {
            let days = Days::of((0..7).filter(|day| days & 1 << day != 0));
            Window::new(days, from, to).saying(bandwidth, backfill_bandwidth)
        },
    )
}

fn any_schedule() -> impl Strategy<Value = Schedule> {
    let windows = || prop::collection::vec(any_window(), 0..4);
    (windows(), windows(), prop::option::of(1..9u64)).prop_map(|(windows, own, mib)| {
        let bandwidth = mib.map(|mib| Bandwidth::new(mib * MIB));
        let team = CacheSchedule { bandwidth, windows: own, way: Way::Server };
        let caches = [("team".to_owned(), team)].into();
        Schedule { bandwidth, windows, caches, ..Schedule::default() }
    })
}

/// Days on which clocks are changed, by the number of the zone.
const CHANGES: [(usize, Date); 9] = [
    (0, date(2026, 12, 31)),
    (1, date(2026, 3, 29)),
    (1, date(2026, 10, 25)),
    (2, date(2026, 3, 8)),
    (2, date(2026, 11, 1)),
    (3, date(2026, 10, 18)),
    (3, date(2026, 2, 15)),
    (4, date(2026, 10, 4)),
    (4, date(2026, 4, 5)),
];

/// Times around clock changes, the hours before for the most part.
fn any_time() -> impl Strategy<Value = ZonedDateTime> {
    let seconds = prop_oneof![3 => -3 * 3_600..5 * 3_600i64, 1 => -3 * 86_400..3 * 86_400i64];
    (0..CHANGES.len(), seconds).prop_map(|(change, seconds)| {
        let (zone_at, day) = CHANGES[change];
        at(day.at(0, 0, 0, 0), &zone(ZONES[zone_at])).saturating_add(seconds.seconds())
    })
}

fn any_by_hand() -> impl Strategy<Value = Vec<(u8, u64, i64, Option<i64>)>> {
    prop::collection::vec((0..3u8, 0..3u64, -100_000..100_000i64, prop::option::of(0..100_000_000i64)), 0..3)
}

fn without_until(in_force: &InForce) -> InForce {
    let mut same = in_force.clone();
    same.rulings_mut().for_each(|ruling| ruling.until = None);
    same
}

proptest! {
    #[test]
    fn nothing_changes_before_the_time_that_is_told_and_something_does_then(
        schedule in any_schedule(),
        now in any_time(),
        said in any_by_hand(),
        part in 0.0..1.0f64,
    ) {
        let begin = now.timestamp().as_millisecond();
        let by_hand: Vec<_> = said.into_iter().map(|(whose, mib, since, lasts)| ByHand {
            whose: [Whose::Line, Whose::Backfill, Whose::Cache("team".to_owned())][usize::from(whose)].clone(),
            bandwidth: Some(Bandwidth::new(mib * MIB)),
            since: begin + since,
            until: lasts.map(|lasts| begin + since + lasts),
        }).collect();
        let in_force = |time: Timestamp| {
            schedule.in_force(&by_hand, Conditions::default(), &time.to_zoned_datetime(now.time_zone().clone()))
        };
        let first = in_force(now.timestamp());
        let end = first.until().unwrap_or(now.timestamp() + SignedDuration::from_hours(24 * 10));
        prop_assert!(end > now.timestamp());
        let length = now.timestamp().duration_until(end);
        let between = now.timestamp() + length.mul_f64(part).min(length - SignedDuration::from_nanos(1));
        prop_assert_eq!(without_until(&in_force(between)), without_until(&first), "at {}", between);
        prop_assert_eq!(without_until(&in_force(end - SignedDuration::from_nanos(1))), without_until(&first));
        if first.until().is_some() {
            prop_assert_ne!(without_until(&in_force(end)), without_until(&first));
        }
    }

    /// By another way of counting: from the days on which it may have begun to what the clock shows.
    #[test]
    fn a_window_is_open_while_the_clock_shows_its_hours(window in any_window(), now in any_time()) {
        let schedule = of_windows(vec![window.clone().saying(Some(Bandwidth::Nothing), None)]);
        let clock = now.datetime();
        let began = [clock.date(), clock.date().yesterday().expect("a day")];
        let open = began.into_iter().any(|day| {
            window.edges(day).chunks(2).any(|edges| edges[0] <= clock && clock < edges[1])
        });
        prop_assert_eq!(line(&schedule, &now).1, open);
    }
}

#[test]
fn who_gives_way_gives_way_where_the_line_can_be_measured() {
    let own = |bandwidth, way| CacheSchedule { bandwidth, windows: Vec::new(), way };
    let caches = [
        ("away", own(Some(Bandwidth::Background), Way::Server)),
        ("disk", own(None, Way::Disk)),
        ("program", own(None, Way::Program)),
        ("team", own(None, Way::Server)),
    ];
    let caches: BTreeMap<_, _> = caches.map(|(name, own)| (name.to_owned(), own)).into();
    let background = |line, backfill| {
        let schedule =
            Schedule { bandwidth: line, backfill_bandwidth: backfill, caches: caches.clone(), ..Schedule::default() };
        schedule
            .in_force(&[], Conditions::default(), &at(date(2026, 11, 26).at(12, 0, 0, 0), &TimeZone::UTC))
            .rates()
            .background
    };
    let names = |names: &[(&str, Lane)]| names.iter().map(|(name, lane)| ((*name).to_owned(), *lane)).collect();
    let gives_way = Some(Bandwidth::Background);
    assert_eq!(background(None, None), names(&[("away", Lane::Fresh)]));
    assert_eq!(background(gives_way, None), names(&[("away", Lane::Fresh), ("team", Lane::Fresh)]));
    assert_eq!(background(None, gives_way), names(&[("away", Lane::Fresh), ("team", Lane::Backfill)]));
}

#[test]
fn who_gives_way_is_no_less_limited_for_that() {
    let team = CacheSchedule { bandwidth: None, windows: Vec::new(), way: Way::Server };
    let line = |usual, battery, metered| {
        let caches = [("team".to_owned(), team.clone())].into();
        let schedule = Schedule { bandwidth: usual, battery, metered, caches, ..Schedule::default() };
        let conditions = Conditions { is_metered: true, is_on_battery: true };
        let rates = schedule.in_force(&[], conditions, &at(date(2026, 11, 26).at(12, 0, 0, 0), &TimeZone::UTC)).rates();
        (rates.line.map(Rate::per_second), !rates.background.is_empty())
    };
    let (away, slow, slower) = (Some(Bandwidth::Background), Some(Bandwidth::new(MIB)), Some(Bandwidth::new(MIB / 4)));
    assert_eq!(line(away, None, slower), (Some(MIB / 4), true));
    assert_eq!(line(slow, away, None), (Some(MIB), true));
    assert_eq!(line(slow, away, slower), (Some(MIB / 4), true));
    assert_eq!(line(None, away, None), (None, true));
    assert_eq!(line(slow, None, None), (Some(MIB), false));
    assert_eq!(line(away, None, Some(Bandwidth::Nothing)), (Some(1), true));
}
