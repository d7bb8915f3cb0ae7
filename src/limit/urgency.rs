//! For whom work is done, which may change while it is under way: what backfill has begun may turn out to be what a fresh path
//! waits for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Lane;

/// In which lane a delivery stands. Cheap to clone; all clones are of one delivery.
#[derive(Clone, Debug)]
pub struct Urgency(Arc<Delivery>);

#[derive(Debug)]
struct Delivery {
    is_fresh: AtomicBool,
    /// Deliveries that it waits for.
    behind: Mutex<Vec<Urgency>>,
}

impl From<Lane> for Urgency {
    fn from(lane: Lane) -> Self {
        Self(Arc::new(Delivery { is_fresh: AtomicBool::new(lane == Lane::Fresh), behind: Mutex::default() }))
    }
}

impl Urgency {
    /// The lane in which it stands now.
    #[must_use]
    pub fn lane(&self) -> Lane {
        if self.0.is_fresh.load(Ordering::Relaxed) { Lane::Fresh } else { Lane::Backfill }
    }

    /// It waits for another delivery, which is at least as urgent from now on, and becomes so when it becomes more urgent.
    pub fn waits_for(&self, other: &Self) {
        self.0.behind.lock().unwrap_or_else(PoisonError::into_inner).push(other.clone());
        if self.lane() == Lane::Fresh {
            other.raise();
        }
    }

    fn raise(&self) {
        if !self.0.is_fresh.swap(true, Ordering::Relaxed) {
            let behind = self.0.behind.lock().unwrap_or_else(PoisonError::into_inner).clone();
            behind.iter().for_each(Self::raise);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fresh_work_waits_for_is_as_urgent_however_far_behind() {
        let [far, near, other] = [(); 3].map(|()| Urgency::from(Lane::Backfill));
        near.waits_for(&far);
        assert_eq!(far.lane(), Lane::Backfill);
        Urgency::from(Lane::Fresh).waits_for(&near);
        assert_eq!([&near, &far, &other].map(Urgency::lane), [Lane::Fresh, Lane::Fresh, Lane::Backfill]);
        near.waits_for(&other);
        assert_eq!(other.lane(), Lane::Fresh);
    }
}
