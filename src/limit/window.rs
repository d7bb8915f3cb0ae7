//! Windows: from a time of day to another, on some days of the week.
//!
//! What counts is what the clock on the wall shows. So an hour that comes twice, when summer time ends, is within the
//! window both times, one that is left out never comes, and where a window's beginning is left out it begins when the
//! clock jumps over it.

use std::fmt;
use std::ops::Range;

use jiff::civil::{Date, DateTime, Weekday};
use jiff::{Span, ToSpan};

use super::Bandwidth;

/// Minutes of a day on which the clock isn't changed.
pub const DAY: u16 = 24 * 60;

/// The days of the week as people write them, from Monday on.
pub const DAY_NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Some days of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Days(u8);

/// When another bandwidth is in force, and which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    days: Days,
    from: u16,
    to: u16,
    /// Of the line, or of the cache whose window it is; `None`: the window says nothing of it.
    pub bandwidth: Option<Bandwidth>,
    /// Of backfill's share likewise.
    pub backfill_bandwidth: Option<Bandwidth>,
}

impl Days {
    /// Every day.
    pub const ALL: Self = Self(0b111_1111);

    /// The days of these numbers, from 0 for Monday on.
    #[must_use]
    pub fn of(numbers: impl IntoIterator<Item = u8>) -> Self {
        Self(numbers.into_iter().filter(|number| *number < 7).fold(0, |days, number| days | 1 << number))
    }

    fn has(self, day: Weekday) -> bool {
        self.0 & 1 << day.to_monday_zero_offset() != 0
    }

    fn numbers(self) -> impl Iterator<Item = u8> {
        (0..7).filter(move |number| self.0 & 1 << number != 0)
    }
}

impl fmt::Display for Days {
    /// Runs of three and more are drawn together: `mon to fri`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut runs: Vec<Range<usize>> = Vec::new();
        for day in self.numbers().map(usize::from) {
            match runs.last_mut() {
                Some(run) if run.end == day => run.end += 1,
                _ => runs.push(day..day + 1),
            }
        }
        let run = |run: Range<usize>| match run.len() {
            0..3 => DAY_NAMES[run].join(", "),
            _ => format!("{} to {}", DAY_NAMES[run.start], DAY_NAMES[run.end - 1]),
        };
        f.write_str(&runs.into_iter().map(run).collect::<Vec<_>>().join(", "))
    }
}

impl Window {
    /// From and to these minutes of the day, 0 to [`DAY`]. Where it ends no later than it begins it goes on into the next
    /// day, and belongs to the one on which it begins. It says nothing of any bandwidth yet.
    #[must_use]
    pub fn new(days: Days, from: u16, to: u16) -> Self {
        Self { days, from: from % DAY, to: to.min(DAY), bandwidth: None, backfill_bandwidth: None }
    }

    /// The same, which says so much of bandwidth and of backfill's.
    #[must_use]
    pub fn saying(self, bandwidth: Option<Bandwidth>, backfill_bandwidth: Option<Bandwidth>) -> Self {
        Self { bandwidth, backfill_bandwidth, ..self }
    }

    fn crosses_midnight(&self) -> bool {
        self.to <= self.from
    }

    /// Whether it is open when a clock shows this.
    pub(super) fn is_open(&self, clock: DateTime) -> bool {
        let minute = u16::from(clock.hour().unsigned_abs()) * 60 + u16::from(clock.minute().unsigned_abs());
        let (today, yesterday) = (clock.date().weekday(), clock.date().weekday().previous());
        if self.crosses_midnight() {
            self.days.has(today) && self.from <= minute || self.days.has(yesterday) && minute < self.to
        } else {
            self.days.has(today) && (self.from..self.to).contains(&minute)
        }
    }

    /// What clocks show when it opens and closes, if it begins on that day.
    pub(super) fn edges(&self, day: Date) -> Vec<DateTime> {
        if !self.days.has(day.weekday()) {
            return Vec::new();
        }
        let end = i64::from(self.to) + if self.crosses_midnight() { i64::from(DAY) } else { 0 };
        let at = |minutes: i64| -> Option<DateTime> {
            let span: Span = minutes.minutes();
            day.to_datetime(jiff::civil::Time::midnight()).checked_add(span).ok()
        };
        [at(i64::from(self.from)), at(end)].into_iter().flatten().collect()
    }

    /// Its minutes of the week, from Monday on; what goes beyond the week is at its beginning.
    fn minutes(&self) -> Vec<Range<u32>> {
        const WEEK: u32 = 7 * DAY as u32;
        let length =
            u32::from(self.to) + if self.crosses_midnight() { u32::from(DAY) } else { 0 } - u32::from(self.from);
        let mut minutes = Vec::new();
        for day in self.days.numbers() {
            let from = u32::from(day) * u32::from(DAY) + u32::from(self.from);
            let to = from + length;
            minutes.push(from..to.min(WEEK));
            if to > WEEK {
                minutes.push(0..to - WEEK);
            }
        }
        minutes
    }

    /// The first time of the week, from Monday on, at which both are open, as people write it; `None`: never.
    #[must_use]
    pub fn overlap(&self, other: &Self) -> Option<String> {
        let others = other.minutes();
        let common = |one: &Range<u32>| {
            others.iter().map(|two| one.start.max(two.start)..one.end.min(two.end)).find(|both| !both.is_empty())
        };
        let first = self.minutes().iter().filter_map(common).map(|both| both.start).min()?;
        let (day, minute) = (first / u32::from(DAY), first % u32::from(DAY));
        Some(format!("{} {:02}:{:02}", DAY_NAMES[day as usize], minute / 60, minute % 60))
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.days != Days::ALL {
            write!(f, "{} ", self.days)?;
        }
        let (from, to) = (self.from, self.to);
        write!(f, "{:02}:{:02} to {:02}:{:02}", from / 60, from % 60, to / 60, to % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(days: &[u8], from: u16, to: u16) -> Window {
        Window::new(Days::of(days.iter().copied()), from * 60, to * 60)
    }

    #[test]
    fn days_and_windows_read_as_people_write_them() {
        for (days, text) in [
            (&[0, 1, 2, 3, 4][..], "mon to fri"),
            (&[5, 6], "sat, sun"),
            (&[0, 2, 4, 5, 6], "mon, wed, fri to sun"),
            (&[3], "thu"),
        ] {
            assert_eq!(Days::of(days.iter().copied()).to_string(), text);
        }
        assert_eq!(window(&[0], 9, 18).to_string(), "mon 09:00 to 18:00");
        assert_eq!(Window::new(Days::ALL, 0, DAY).to_string(), "00:00 to 24:00");
    }

    #[test]
    fn overlaps_are_found_across_midnight_and_across_the_week_too() {
        let overlap = |one: &Window, two: &Window| {
            let found = one.overlap(two);
            assert_eq!(found, two.overlap(one), "{one} and {two}");
            found
        };
        assert_eq!(overlap(&window(&[0], 9, 18), &window(&[0], 18, 20)), None, "one ends as the other begins");
        assert_eq!(overlap(&window(&[0], 9, 18), &window(&[0, 1], 17, 20)).as_deref(), Some("mon 17:00"));
        assert_eq!(overlap(&window(&[0], 22, 6), &window(&[1], 5, 7)).as_deref(), Some("tue 05:00"));
        assert_eq!(
            overlap(&window(&[0], 22, 6), &window(&[0], 5, 7)),
            None,
            "it belongs to the day on which it begins"
        );
        assert_eq!(overlap(&window(&[6], 22, 6), &window(&[0], 0, 7)).as_deref(), Some("mon 00:00"));
    }
}
