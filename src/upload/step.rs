//! How far uploads have come that are under way, noted for those who look: most of what is claimed waits for its turn.
//!
//! What is soon through is never noted: that would be a transaction for each path.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use super::Uploader;
use super::pause::UnderWay;
use crate::queue::Step;
use crate::report::one_line;

/// How often it is noted what is new, while anything is under way.
pub(super) const NOTED_EVERY: Duration = Duration::from_secs(1);

/// Where a delivery is, told by its task. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub(super) struct Progress(Arc<Told>);

#[derive(Default)]
struct Told {
    has_begun: AtomicBool,
    waits: AtomicBool,
}

impl Progress {
    /// It is its turn.
    pub(super) fn begin(&self) {
        self.0.has_begun.store(true, Ordering::Relaxed);
    }

    /// It waits for references from now on, or no longer.
    pub(super) fn wait_for_references(&self, waits: bool) {
        self.0.waits.store(waits, Ordering::Relaxed);
    }

    pub(super) fn step(&self) -> Step {
        match (self.0.waits.load(Ordering::Relaxed), self.0.has_begun.load(Ordering::Relaxed)) {
            (true, _) => Step::WaitsForReference,
            (false, true) => Step::Sent,
            (false, false) => Step::Waits,
        }
    }
}

impl Uploader {
    /// Notes how far those uploads have come of which that isn't noted.
    pub(super) async fn note_steps(&mut self) {
        self.next_steps = Instant::now() + NOTED_EVERY;
        let steps: Vec<_> = self.claimed.values_mut().filter_map(UnderWay::new_step).collect();
        if steps.is_empty() {
            return;
        }
        if let Err(error) = self.queue.call_once(move |queue| queue.note_steps(&steps)).await {
            // It only keeps people from knowing, and is tried again.
            debug!("{}", one_line(&error));
            self.claimed.values_mut().for_each(UnderWay::forget_noted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_a_reference_is_told_from_what_waits_for_its_turn() {
        let progress = Progress::default();
        assert_eq!(progress.step(), Step::Waits);
        let told = progress.clone();
        told.begin();
        assert_eq!(progress.step(), Step::Sent);
        told.wait_for_references(true);
        assert_eq!(progress.step(), Step::WaitsForReference);
        told.wait_for_references(false);
        assert_eq!(progress.step(), Step::Sent);
    }
}
