//! How much is done at once and how much is sent, and for whom first.
//!
//! No I/O here, and no clock but tokio's, which tests hold.

mod background;
mod rate;
mod shaper;
mod slots;

pub use background::Background;
pub use rate::Rate;
pub use shaper::{Rates, Shaper, Tap};
pub use slots::{Slot, Slots};

/// Which of two lanes work stands in; the first is always served first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Newly valid paths.
    Fresh = 0,
    /// What was there before.
    Backfill = 1,
}
