//! Whether the file system of a cache in a directory is out of sight, as whoever works the queue off says.
//!
//! Who looks from outside can't see that: where a file system was unmounted there is a folder all the same, in which a new
//! cache could be made. Only who has seen the file system knows that it is missing.

use std::path::Path;

use crate::cache::{CacheError, CacheUrl};
use crate::config::CacheConfig;
use crate::disk::What;
use crate::queue::{Queue, StateLock};

/// Why a cache takes nothing for now: its file system is out of sight. `None` where it isn't, or where nobody who works says
/// so.
#[must_use]
pub fn out_of_sight(config: &CacheConfig, state_dir: &Path) -> Option<CacheError> {
    let CacheUrl::File { dir, .. } = &config.place else { return None };
    // What was seen by one who works no more may be long past.
    if matches!(StateLock::holder(state_dir), Ok(None)) {
        return None;
    }
    let disks = Queue::open_to_look(state_dir).and_then(|queue| queue.disks()).ok()?;
    let what = What::Cache(config.name.to_string()).to_string();
    let own = disks.into_iter().find(|disk| disk.place == what && Path::new(&disk.path) == *dir);
    own?.unseen.map(|why| CacheError::OutOfSight { why })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Defaults};
    use crate::queue::DiskView;

    #[test]
    fn only_who_works_says_that_a_file_system_is_out_of_sight() {
        let dir = tempfile::tempdir().expect("a folder");
        let config = Config::built_in(&Defaults { state_dir: dir.path().to_owned() });
        let cache = &config.caches[0];
        let CacheUrl::File { dir: own, .. } = &cache.place else { panic!("a directory") };
        let noted = |path: &Path, unseen: Option<&str>| DiskView {
            place: format!("cache {}", cache.name),
            path: path.display().to_string(),
            level: "ok".to_owned(),
            since: 1,
            found: "not known".to_owned(),
            unseen: unseen.map(str::to_owned),
        };
        let mut queue = Queue::open(dir.path()).expect("opened").queue;
        let said = || out_of_sight(cache, dir.path()).map(|error| error.to_string());
        let gone = noted(own, Some("it was unmounted"));
        queue.note_disks(std::slice::from_ref(&gone)).expect("noted");
        assert_eq!(said(), None, "nobody works");
        let _lock = StateLock::acquire(dir.path(), "storewatch run").expect("locked");
        assert_eq!(said().as_deref(), Some("it was unmounted"));
        queue.note_disks(&[noted(own, None)]).expect("noted");
        assert_eq!(said(), None, "it is in sight");
        queue.note_disks(&[noted(Path::new("/another"), Some("it was unmounted"))]).expect("noted");
        assert_eq!(said(), None, "another directory had the name");
    }
}
