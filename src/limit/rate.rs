//! Bytes a second.

use std::num::NonZeroU64;
use std::time::Duration;

/// So many bytes a second, at least one. Nothing at all is no rate: who is to send nothing waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(NonZeroU64);

impl Rate {
    /// So many bytes a second; none for zero.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Option<Self> {
        NonZeroU64::new(bytes_per_second).map(Self)
    }

    /// So many times 1,024 bytes a second, at least one.
    #[must_use]
    pub(super) const fn kib(number: u64) -> Self {
        match NonZeroU64::new(number * 1024) {
            Some(rate) => Self(rate),
            None => Self::LEAST,
        }
    }

    /// The least that there is: one byte a second.
    pub const LEAST: Self = Self(NonZeroU64::MIN);

    /// Bytes a second.
    #[must_use]
    pub fn per_second(self) -> u64 {
        self.0.get()
    }

    /// Bytes within so long.
    pub(super) fn within(self, time: Duration) -> f64 {
        // Exact up to 2^53 bytes a second, beyond which nobody counts.
        self.0.get() as f64 * time.as_secs_f64()
    }
}
