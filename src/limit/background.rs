//! Giving way: how much may be sent so that nobody else on the line notices.
//!
//! A line that is sent more than it carries keeps the rest in a queue, and everything on it is late by that queue's length.
//! So the delay of a small request beside an upload, against the shortest that was ever seen, shows how full the line is,
//! whoever fills it. The rate is held where the queue is about to form; where another sends without regard, the queue grows
//! far beyond that and we stand back. That is LEDBAT's way (RFC 6817), with a rate in place of a window, since there are
//! several connections, and with the delay's slope taken into account, since a rate that is changed shows in the delay only
//! later.
//!
//! Pure: times are arguments. The numbers were found by simulating lines of 1 to 100 Mbit/s with 1 to 250 ms of delay and up
//! to 8 ms of noise (`tests` below does some of it): alone, 0.9 to 0.99 of the line, and 0.87 where it is long; beside a greedy flow, some hundredths.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::Rate;

/// It never gives way further (bytes a second): a connection on which nothing moves is taken for dead, and 3 % of 1 Mbit/s is
/// what nobody misses.
const LEAST: f64 = 4.0 * 1024.0;

/// So much delay is left standing at most, beside a quarter of the line's own. RFC 6817 allows 100 ms; a call over the
/// Internet begins to suffer below that.
const TARGET: Duration = Duration::from_millis(25);

/// Of the target, at least so much: less can't be told from noise.
const LEAST_OF_TARGET: f64 = 0.25;

/// What the line has carried counts half after so long: it may carry less by now, or others may be there for good.
const FORGOTTEN: Duration = Duration::from_secs(20 * 60);

/// How much the rate grows with each answer while there is no delay: half as much again in some 1.4 s.
const UP: f64 = 0.03;

/// How much it shrinks with each answer while the delay is twice the target or more: to a third within half a second.
const DOWN: f64 = 0.2;

/// How far the delay's slope is followed into the future, in answers.
const AHEAD: f64 = 2.0;

/// While nobody knows what the line carries, the rate grows so much with each answer.
const SEARCH: f64 = 1.5;

/// After so many answers in a row without a delay to speak of, somebody else has gone, and up to half of what the line has
/// carried before the rate grows by this factor with each: tenfold within a second.
const CALM: u32 = 10;
const RECOVER: f64 = 1.3;

/// The smaller of so many answers counts, since a single one may have been late for another reason.
const SMALLEST_OF: usize = 2;

/// The shortest delay is that of the last hour, in pieces of five minutes: a longer way may be the only one by now, but a
/// download of half an hour must not become the measure of what is idle.
const FLOOR_PIECE: Duration = Duration::from_secs(5 * 60);
const FLOOR_PIECES: u32 = 12;

/// Finds the rate at which an upload gives way.
#[derive(Debug)]
pub struct Background {
    rate: f64,
    /// Whether what the line carries is still being looked for.
    searching: bool,
    calm: u32,
    /// The highest rate at which a queue began to form, less the longer ago that was.
    carried: (f64, Instant),
    recent: VecDeque<Duration>,
    /// The shortest delay of each piece of the last hour, and when it began.
    floors: VecDeque<(Instant, Duration)>,
    before: f64,
    /// Bytes that had been sent at the last answer.
    sent: u64,
    at: Instant,
}

impl Background {
    /// The rate at first: on the slowest lines in use not much.
    pub const FIRST: Rate = Rate::kib(64);

    /// For a line of which nothing is known, on which `sent` bytes have been sent so far.
    #[must_use]
    pub fn new(sent: u64, now: Instant) -> Self {
        Self {
            rate: Self::FIRST.per_second() as f64,
            searching: true,
            calm: 0,
            carried: (0.0, now),
            recent: VecDeque::with_capacity(SMALLEST_OF),
            floors: VecDeque::with_capacity(FLOOR_PIECES as usize + 1),
            before: 0.0,
            sent,
            at: now,
        }
    }

    /// What may be sent.
    #[must_use]
    pub fn rate(&self) -> Rate {
        // In the range of the type by far.
        Rate::new(self.rate as u64).unwrap_or(Rate::LEAST)
    }

    /// A small request was answered after `delay`; `sent` bytes have been sent by now.
    pub fn answered(&mut self, delay: Duration, sent: u64, now: Instant) {
        self.note_floor(delay, now);
        if self.recent.len() == SMALLEST_OF {
            self.recent.pop_front();
        }
        self.recent.push_back(delay);
        let floor = self.floors.iter().map(|(_, floor)| *floor).min().unwrap_or(delay);
        let queue = self.recent.iter().min().map_or(Duration::ZERO, |delay| delay.saturating_sub(floor)).as_secs_f64();
        let whole = (TARGET + floor / 4).as_secs_f64();
        let target = whole * self.share_of_target(now);
        let slope = queue - std::mem::replace(&mut self.before, queue);
        let is_used = self.is_used(sent, now);
        self.calm = if queue < whole / 4.0 { self.calm + 1 } else { 0 };
        if self.searching && queue >= target / 2.0 {
            self.searching = false;
            // It has been beyond the line for up to three answers.
            self.note_carried(self.rate / SEARCH.powi(3), now);
            // What was sent beyond what the line carries waits in its queue and is to drain.
            self.rate /= 2.0;
        } else {
            if queue >= target / 2.0 && queue - slope < target / 2.0 && is_used {
                self.note_carried(self.rate, now);
            }
            let room = ((target - queue - AHEAD * slope) / target).clamp(-1.0, 1.0);
            let grows = match () {
                () if self.searching => SEARCH,
                () if self.calm >= CALM && self.rate < self.carried(now) / 2.0 => RECOVER,
                () => 1.0 + UP * room,
            };
            self.rate *= if room < 0.0 {
                1.0 + DOWN * room
            } else if is_used {
                grows
            } else {
                1.0
            };
        }
        self.rate = self.rate.max(LEAST);
    }

    /// A small request was not answered at all: the line is full, or gone.
    pub fn unanswered(&mut self, sent: u64, now: Instant) {
        (self.sent, self.at) = (sent, now);
        self.searching = false;
        self.calm = 0;
        self.rate = (self.rate / 2.0).max(LEAST);
    }

    /// Whether what might be sent was sent. A rate that nobody uses up says nothing of the line, and doesn't grow.
    fn is_used(&mut self, sent: u64, now: Instant) -> bool {
        let passed = now.saturating_duration_since(std::mem::replace(&mut self.at, now)).as_secs_f64();
        let bytes = sent.saturating_sub(std::mem::replace(&mut self.sent, sent)) as f64;
        bytes >= 0.7 * self.rate * passed
    }

    /// Where we have much less than the line has carried, others have the rest, though they fill no queue: some kinds of TCP
    /// (BBR) keep it as short as we do. So the less we have, the less delay we leave standing.
    fn share_of_target(&self, now: Instant) -> f64 {
        (self.rate / self.carried(now).max(self.rate)).max(LEAST_OF_TARGET)
    }

    fn note_carried(&mut self, rate: f64, now: Instant) {
        self.carried = (self.carried(now).max(rate), now);
    }

    fn carried(&self, now: Instant) -> f64 {
        let (rate, since) = self.carried;
        rate * 0.5_f64.powf(now.saturating_duration_since(since).as_secs_f64() / FORGOTTEN.as_secs_f64())
    }

    fn note_floor(&mut self, delay: Duration, now: Instant) {
        match self.floors.back_mut() {
            Some((began, floor)) if now.saturating_duration_since(*began) < FLOOR_PIECE => *floor = delay.min(*floor),
            _ => self.floors.push_back((now, delay)),
        }
        let of_the_last_hour = FLOOR_PIECE * FLOOR_PIECES;
        while self.floors.front().is_some_and(|(began, _)| now.saturating_duration_since(*began) >= of_the_last_hour) {
            self.floors.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: f64 = 0.001;

    /// A line with a queue, for us and a greedy flow that halves when the queue is full, as TCP does.
    struct Line {
        /// Bytes a second.
        carries: f64,
        base: f64,
        /// Seconds that the queue may be long.
        longest: f64,
        /// Bytes in the queue, ours and others'.
        queue: [f64; 2],
        window: f64,
        cut: f64,
        now: f64,
    }

    impl Line {
        fn new(carries: f64, base: f64) -> Self {
            Self { carries, base, longest: 0.2, queue: [0.0; 2], window: 20e3, cut: 0.0, now: 0.0 }
        }

        fn delay(&self) -> f64 {
            self.base + (self.queue[0] + self.queue[1]) / self.carries
        }

        /// Sends for one step; returns what came through, ours and the other's.
        fn step(&mut self, ours: f64, greedy: bool) -> [f64; 2] {
            let round_trip = self.delay();
            let theirs = if greedy { self.window / round_trip } else { 0.0 };
            self.window += 1448.0 * STEP / round_trip;
            let room = self.carries * (STEP + self.longest) - self.queue.iter().sum::<f64>();
            let fits = (room / ((ours + theirs) * STEP)).min(1.0);
            if fits < 1.0 && self.now > self.cut + round_trip {
                self.window *= 0.7;
                self.cut = self.now;
            }
            self.queue[0] += ours * STEP * fits;
            self.queue[1] += theirs * STEP * fits;
            let waiting = self.queue.iter().sum::<f64>();
            let share = if waiting > 0.0 { (self.carries * STEP / waiting).min(1.0) } else { 0.0 };
            let through = self.queue.map(|queue| queue * share);
            self.queue = self.queue.map(|queue| queue * (1.0 - share));
            self.now += STEP;
            through
        }
    }

    /// The share of the line that we and a greedy flow get after the first `skip` of `seconds`; it is there in `greedy`.
    fn shares(mut line: Line, noise: f64, greedy: std::ops::Range<f64>, skip: f64, seconds: f64) -> [f64; 2] {
        let began = Instant::now();
        let at = |seconds: f64| began + Duration::from_secs_f64(seconds);
        let mut background = Background::new(0, began);
        let (mut sent, mut asked, mut draw) = (0.0, Some((0.0, line.delay())), 1_u64);
        let mut through = [0.0; 2];
        while line.now < seconds {
            let rate = background.rate().per_second() as f64;
            sent += rate * STEP;
            let passed = line.step(rate, greedy.contains(&line.now));
            if line.now > skip {
                through = [through[0] + passed[0], through[1] + passed[1]];
            }
            match asked {
                Some((when, delay)) if line.now >= when + delay => {
                    background.answered(Duration::from_secs_f64(delay), sent as u64, at(line.now));
                    asked = None;
                    draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                }
                None if ((line.now / STEP).round() as u64).is_multiple_of(100) => {
                    let late = noise * (draw >> 40) as f64 / (1 << 24) as f64;
                    asked = Some((line.now, line.delay() + late));
                }
                _ => {}
            }
        }
        through.map(|bytes| bytes / line.carries / (seconds - skip))
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_line_is_used_whole() {
        for carries in [125e3, 1.25e6, 12.5e6] {
            for (base, least) in [(0.001, 0.9), (0.02, 0.9), (0.1, 0.85)] {
                for noise in [0.0, 0.008] {
                    let [ours, _] = shares(Line::new(carries, base), noise, 0.0..0.0, 10.0, 60.0);
                    assert!(ours >= least, "{ours:.2} of {carries} with {base} and {noise}");
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn beside_a_greedy_flow_little_is_sent_and_after_it_all_again() {
        for base in [0.001, 0.02, 0.1] {
            let [ours, theirs] = shares(Line::new(1.25e6, base), 0.004, 10.0..60.0, 15.0, 60.0);
            assert!(ours < 0.15 && theirs > 0.84, "{ours:.2} and {theirs:.2} with {base}");
            let [ours, _] = shares(Line::new(1.25e6, base), 0.004, 10.0..30.0, 45.0, 75.0);
            assert!(ours > 0.85, "{ours:.2} with {base} when the other has gone");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_that_nobody_uses_does_not_grow_and_one_without_answers_shrinks() {
        let mut now = Instant::now();
        let mut background = Background::new(0, now);
        for _ in 0..100 {
            now += Duration::from_millis(100);
            background.answered(Duration::from_millis(20), 0, now);
        }
        assert_eq!(background.rate(), Background::FIRST);
        for _ in 0..100 {
            now += Duration::from_secs(5);
            background.unanswered(0, now);
        }
        assert_eq!(background.rate().per_second(), LEAST as u64);
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_idle_line_took_longer_ago_than_an_hour_is_no_measure() {
        let mut now = Instant::now();
        let mut background = Background::new(0, now);
        let floor = |background: &Background| background.floors.iter().map(|(_, floor)| *floor).min();
        let (home, train) = (Duration::from_millis(5), Duration::from_millis(60));
        background.answered(home, 0, now);
        now += FLOOR_PIECE * (FLOOR_PIECES - 1);
        background.answered(train, 0, now);
        assert_eq!(floor(&background), Some(home));
        now += FLOOR_PIECE;
        background.answered(train, 0, now);
        assert_eq!(floor(&background), Some(train));
    }
}
