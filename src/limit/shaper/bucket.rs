//! A token bucket: what may be sent grows with time, up to a small burst.

use std::time::Duration;

use tokio::time::Instant;

use crate::limit::Rate;

/// What is not used within this time is lost, so that an idle line isn't followed by a flood. As long as a timer may be
/// late on a busy host without the rate suffering, and a twentieth of the half second over which a limit is to look like one.
const BURST: Duration = Duration::from_millis(25);

/// Where the rate becomes another, nobody waits for longer than this for what was sent before.
const LONGEST_DEBT: Duration = Duration::from_secs(1);

/// The bucket's content may go below zero: whoever comes gets a whole piece as soon as there is anything, and the next one
/// waits until that is paid off.
#[derive(Debug)]
pub(super) struct Bucket {
    rate: Option<Rate>,
    /// Bytes that may be sent; a debt where it is negative.
    level: f64,
    /// When the level was right.
    at: Instant,
}

impl Bucket {
    /// One that limits nothing.
    pub(super) fn unlimited(now: Instant) -> Self {
        Self { rate: None, level: 0.0, at: now }
    }

    /// Changes the rate. What was sent before is still to be paid off, at the new rate, but not for long: a debt at a high
    /// rate is nothing that a low one should stall for.
    pub(super) fn set(&mut self, rate: Option<Rate>, now: Instant) {
        self.fill(now);
        self.rate = rate;
        let within = |time| rate.map_or(0.0, |rate| rate.within(time));
        self.level = self.level.clamp(-within(LONGEST_DEBT), within(BURST));
    }

    pub(super) fn rate(&self) -> Option<Rate> {
        self.rate
    }

    /// When something may be sent; `None`: now.
    pub(super) fn opens(&mut self, now: Instant) -> Option<Instant> {
        self.fill(now);
        let rate = self.rate.filter(|_| self.level < 0.0)?;
        Some(now + Duration::from_secs_f64(-self.level / rate.within(Duration::from_secs(1))))
    }

    /// Notes that so many bytes are sent.
    pub(super) fn take(&mut self, bytes: usize) {
        if self.rate.is_some() {
            self.level -= bytes as f64;
        }
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at);
        self.at = self.at.max(now);
        if let Some(rate) = self.rate {
            self.level = (self.level + rate.within(passed)).min(rate.within(BURST));
        }
    }
}
