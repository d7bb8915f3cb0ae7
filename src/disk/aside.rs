//! Bytes that were admitted and aren't written yet: what is free is promised to somebody.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{NoRoom, Place};

/// What is set aside on each file system, by its device. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger(Arc<Mutex<BTreeMap<u64, u64>>>);

/// Bytes of a file system that somebody will write. What of it isn't written is given back when it is dropped.
#[derive(Debug)]
pub struct SetAside {
    place: Arc<Place>,
    device: u64,
    bytes: u64,
}

impl Ledger {
    /// Adds to what is set aside there, and returns how much that is by now.
    pub(super) fn add(&self, device: u64, bytes: u64) -> u64 {
        let mut ledger = self.lock();
        let all = ledger.entry(device).or_default();
        *all = all.saturating_add(bytes);
        *all
    }

    fn subtract(&self, device: u64, bytes: u64) {
        let mut ledger = self.lock();
        let Some(all) = ledger.get_mut(&device) else { return };
        *all = all.saturating_sub(bytes);
        if *all == 0 {
            ledger.remove(&device);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SetAside {
    /// Of bytes that are in the ledger already.
    pub(super) fn new(place: Arc<Place>, device: u64, bytes: u64) -> Self {
        Self { place, device, bytes }
    }

    /// So many more bytes are written, which what is free shows by itself. Asks whether the place has room still: others
    /// write there as well. Blocks as [`Place::look`] does.
    ///
    /// # Errors
    /// [`NoRoom`] where it has become critical, or can't be seen.
    pub fn took(&mut self, bytes: u64) -> Result<(), NoRoom> {
        let settled = bytes.min(self.bytes);
        self.bytes -= settled;
        self.place.ledger().subtract(self.device, settled);
        self.place.admits(0)
    }
}

impl Drop for SetAside {
    fn drop(&mut self) {
        self.place.ledger().subtract(self.device, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::disk::{Places, Room, Terms, Threshold, Thresholds, What};

    fn cache(name: &str, dir: &Path, critical: u8) -> (What, std::path::PathBuf, Terms) {
        let thresholds = Thresholds { low: Threshold::Percent(critical), critical: Threshold::Percent(critical) };
        (What::Cache(name.to_owned()), dir.to_owned(), Terms { thresholds, reserve: None })
    }

    #[test]
    fn what_is_promised_to_one_is_not_promised_to_another() {
        let dir = tempfile::tempdir().expect("a folder");
        let places = Places::default();
        let watched = places.watch([cache("one", dir.path(), 1), cache("two", &dir.path().join("two"), 1)]);
        let [one, two] = watched.as_slice() else { panic!("{watched:?}") };
        let Room { space, .. } = Room::of(dir.path()).expect("asked");
        // Each alone would leave more than what is critical, and both together would not.
        let share = space.free.saturating_sub(space.all / 100) * 6 / 10;
        assert!(one.admits(share).is_ok() && two.admits(share).is_ok());
        let mut first = one.set_aside(share).expect("there is room");
        let refused = two.set_aside(share).expect_err("promised").to_string();
        assert!(refused.contains("takes nothing where that is critical"), "{refused}");
        assert!(one.set_aside(share).is_err(), "for the same cache neither");
        // As if it had been written and removed since: what is free shows what is written.
        first.took(share - 1).expect("there is room still");
        let second = two.set_aside(share).expect("no longer promised");
        drop((first, second));
        assert!(two.ledger().lock().is_empty(), "all is given back");
    }

    #[test]
    fn who_writes_hears_that_it_has_become_critical() {
        let dir = tempfile::tempdir().expect("a folder");
        let places = Places::default();
        let place = &places.watch([cache("one", dir.path(), 0)])[0];
        let mut aside = place.set_aside(10).expect("a threshold of nothing");
        aside.took(1).expect("nor is it crossed now");
        // All that is in use is more than nothing.
        places.watch([cache("one", dir.path(), 100)]);
        let refused = aside.took(1).expect_err("critical").to_string();
        assert!(refused.ends_with("takes nothing where that is critical"), "{refused}");
    }
}
