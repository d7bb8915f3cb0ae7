//! How much may be sent, as people decide it: so much a second, nothing, or what others leave.

use super::Rate;

/// What is decided of a line, of backfill or of a cache. Where nothing is decided, as much is sent as goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bandwidth {
    /// Nothing: who would send waits until it is another.
    Nothing,
    /// What all others on the line leave.
    Background,
    /// At most so much.
    AtMost(Rate),
}

impl Bandwidth {
    /// So many bytes a second; nothing for zero.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Self {
        Rate::new(bytes_per_second).map_or(Self::Nothing, Self::AtMost)
    }

    /// Bytes a second, where it is so many.
    #[must_use]
    pub fn per_second(self) -> Option<u64> {
        match self {
            Self::Nothing => Some(0),
            Self::Background => None,
            Self::AtMost(rate) => Some(rate.per_second()),
        }
    }
}
