//! How much room the file systems have that storewatch reads and writes, and what that means.
//!
//! Invariants kept here:
//!
//! - **Nothing fills up.** A file system is [`Level::Low`] or [`Level::Critical`] from the look on that finds it so, until
//!   it has clearly more room than that ([`level()`] decides, and is pure). Who writes looks himself, just before, and sets
//!   aside what he will write ([`Place::set_aside`]), so that nobody else counts on it; the [`Monitor`] looks at intervals that shorten as room runs out, and tells what has changed.
//! - **Nobody waits.** A file system that hangs is looked at by a thread of its own, one at a time, and the others go on
//!   being watched.
//!
//! One that can't be seen, since it was unmounted or gives no answer, counts neither as full nor as empty: it is told once,
//! what was seen last stays in force, and nothing is put into a cache that lies there ([`Unseen`]).
//!
//! Time is the steady clock's, so a wall clock that jumps changes nothing. [`Monitor::next_event`] only chooses and may be
//! dropped at any time; [`Monitor::apply`] only looks and says what it saw: who acts on that stands above.
//!
//! Deliberately absent: what takes up the room, and freeing any.

mod aside;
mod level;
mod monitor;
mod pace;
mod place;
mod places;
mod room;

pub use aside::SetAside;
pub use level::{Level, Threshold, Thresholds, level};
pub use monitor::{Event, Levels, Monitor, News, Standing};
pub use place::{NoRoom, Place, Scarce, Shortage, Sight, Terms, Unseen, What, nearest};
pub use places::Places;
pub use room::{Room, Share};
