//! The places that are watched at a time, the same for who writes there and for the monitor.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::aside::Ledger;
use super::{Place, Terms, What};

/// All of them. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Places {
    watched: Arc<Mutex<Vec<Arc<Place>>>>,
    /// Several places may lie on one file system.
    ledger: Ledger,
}

impl Places {
    /// Watches these from now on. What was watched before keeps what is known of it.
    pub fn watch(&self, wanted: impl IntoIterator<Item = (What, PathBuf, Terms)>) -> Vec<Arc<Place>> {
        let mut watched = self.lock();
        let place = |(what, path, terms): (What, PathBuf, Terms)| {
            let known = watched.iter().find(|known| *known.what() == what && known.path() == path);
            let Some(known) = known else { return self.place(what, path, terms) };
            known.set_terms(terms);
            Arc::clone(known)
        };
        let now: Vec<_> = wanted.into_iter().map(place).collect();
        watched.clone_from(&now);
        now
    }

    /// The place of a cache; one that nobody watches where it isn't among those that are watched.
    #[must_use]
    pub fn of_cache(&self, name: &str, path: &Path, terms: Terms) -> Arc<Place> {
        let what = What::Cache(name.to_owned());
        let watched = self.lock();
        let known = watched.iter().find(|known| *known.what() == what && known.path() == path);
        known.map_or_else(|| self.place(what.clone(), path.to_owned(), terms), Arc::clone)
    }

    fn place(&self, what: What, path: PathBuf, terms: Terms) -> Arc<Place> {
        Arc::new(Place::new(what, path, terms).sharing(&self.ledger))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Place>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_stays_the_same_as_long_as_it_is_watched() {
        let places = Places::default();
        let (store, dir) = ((What::Store, PathBuf::from("/a"), Terms::default()), PathBuf::from("/b"));
        let cache = |dir: &Path| (What::Cache("team".to_owned()), dir.to_owned(), Terms::default());
        let before = places.watch([store.clone(), cache(&dir)]);
        let after = places.watch([cache(&dir), store.clone()]);
        assert!(Arc::ptr_eq(&before[0], &after[1]) && Arc::ptr_eq(&before[1], &after[0]));
        assert!(Arc::ptr_eq(&before[1], &places.of_cache("team", &dir, Terms::default())));
        let moved = places.watch([store, cache(Path::new("/c"))]);
        assert!(Arc::ptr_eq(&before[0], &moved[0]) && !Arc::ptr_eq(&before[1], &moved[1]));
        assert!(!Arc::ptr_eq(&before[1], &places.of_cache("team", &dir, Terms::default())), "forgotten");
    }
}
