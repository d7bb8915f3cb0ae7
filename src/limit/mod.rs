//! How much is done at once and how much is sent, when, and for whom first.
//!
//! No I/O here. What is decided takes `now` as an argument; who waits for a slot or for a turn waits here, by tokio's clock,
//! which tests hold.

mod allowance;
mod background;
mod bandwidth;
mod rate;
mod schedule;
mod shaper;
mod slots;
mod urgency;
mod window;

pub use allowance::Allowance;
pub use background::Background;
pub use bandwidth::Bandwidth;
pub use rate::Rate;
pub use schedule::{By, ByHand, CacheSchedule, Conditions, InForce, Ruling, Schedule, Way, Whose};
pub use shaper::{Rates, Shaper, Tap};
pub use slots::{Slot, Slots};
pub use urgency::Urgency;
pub use window::{DAY, DAY_NAMES, Days, Window};

/// Which of two lanes work stands in; the first is always served first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Newly valid paths.
    Fresh = 0,
    /// What was there before.
    Backfill = 1,
}
