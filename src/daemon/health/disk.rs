//! The file systems that storewatch reads and writes: free space, and free inodes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

use super::{Finding, Grade};
use crate::config::{Config, NixStore};
use crate::daemon::caches::out_of_sight;
use crate::daemon::disk;
use crate::disk::{Level, Place, Room, Sight, Terms, Unseen, What};
use crate::report::one_line;

/// How long all of them together may take to answer; those on this host take microseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// A file system and what lies on it.
struct System {
    device: u64,
    names: Vec<String>,
    room: Room,
    level: Level,
    /// Which caches take nothing there, and why.
    refusals: Vec<String>,
}

pub(super) async fn examine(config: Option<&Config>, state_dir: &Path, nix: Option<&NixStore>) -> Vec<Finding> {
    let thresholds = config.map(|config| config.disk).unwrap_or_default();
    // Without a good policy it isn't known which caches there are.
    let places = disk::places(config, &thresholds, state_dir, nix);
    // Told where the caches are examined. What is in its place is none of the cache's.
    let caches = config.map(|config| &*config.caches).unwrap_or_default();
    let out_of_sight: Vec<What> = caches
        .iter()
        .filter(|cache| out_of_sight(cache, state_dir).is_some())
        .map(|cache| What::Cache(cache.name.to_string()))
        .collect();
    of_places(places.into_iter().filter(|(what, ..)| !out_of_sight.contains(what)).collect()).await
}

async fn of_places(places: Vec<(What, PathBuf, Terms)>) -> Vec<Finding> {
    let begin = |(what, path, terms)| {
        let place = Arc::new(Place::new(what, path, terms));
        let own = Arc::clone(&place);
        (place, spawn_blocking(move || look(&own)))
    };
    let looks: Vec<_> = places.into_iter().map(begin).collect();
    let until = Instant::now() + PATIENCE;
    // Most of it lies on one file system, which is told once.
    let (mut systems, mut findings) = (Vec::<System>::new(), Vec::new());
    for (place, looking) in looks {
        let path = || place.path().to_owned();
        let seen = match timeout_at(until, looking).await {
            Ok(Ok(seen)) => seen,
            Ok(Err(lost)) => Err(Unseen::Silent { path: path(), source: Arc::new(io::Error::other(lost)) }),
            Err(_) => Err(Unseen::Hangs { path: path() }),
        };
        let (sight, refusal) = match seen {
            Ok(seen) => seen,
            Err(unseen) => {
                findings.push(Finding::warning(format!("disk of {}", place.what()), one_line(&unseen)));
                continue;
            }
        };
        let Sight { device, room, level } = sight;
        let known = systems.iter().position(|system| system.device == device).unwrap_or_else(|| {
            systems.push(System { device, names: Vec::new(), room, level, refusals: Vec::new() });
            systems.len() - 1
        });
        systems[known].names.push(place.what().to_string());
        systems[known].refusals.extend(refusal);
    }
    systems.iter().map(of_system).chain(findings).collect()
}

/// What is seen there, and why a cache takes nothing, by its own terms. Blocks.
fn look(place: &Place) -> Result<(Sight, Option<String>), Unseen> {
    let sight = place.look()?;
    let refused = matches!(place.what(), What::Cache(_)).then(|| place.admits(0).err()).flatten();
    Ok((sight, refused.map(|why| format!("{} takes nothing: {}", place.what(), one_line(&why)))))
}

fn of_system(System { names, room, level, refusals, .. }: &System) -> Finding {
    let grade = if refusals.is_empty() { grade(*level) } else { Grade::Trouble };
    let found: Vec<String> = [disk::in_words(room)].into_iter().chain(refusals.iter().cloned()).collect();
    let of_store = names.iter().any(|name| *name == What::Store.to_string());
    let of_cache = names.iter().any(|name| name.starts_with("cache "));
    let cure = match (of_store, of_cache) {
        (true, _) => "make room: `nix-collect-garbage` frees the store; `[disk]` in the policy says what is too little",
        (false, true) => {
            "make room there, or give the cache a `max_size`; `[disk]` in the policy says what is too little"
        }
        (false, false) => "make room there; `[disk]` in the policy says what is too little",
    };
    Finding::new(grade, format!("disk of {}", names.join(", ")), found.join("; "))
        .cured_by((grade != Grade::Ok).then_some(cure))
}

fn grade(level: Level) -> Grade {
    match level {
        Level::Ok => Grade::Ok,
        Level::Low => Grade::Warning,
        Level::Critical => Grade::Trouble,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Threshold, Thresholds};

    fn terms(percent: u8, reserve: Option<u8>) -> Terms {
        let threshold = Threshold::Percent(percent);
        Terms {
            thresholds: Thresholds { low: threshold, critical: threshold },
            reserve: reserve.map(Threshold::Percent),
        }
    }

    #[tokio::test]
    async fn the_policys_thresholds_decide() {
        let dir = tempfile::tempdir().expect("a folder");
        let found = async |percent| of_places(vec![(What::Store, dir.path().to_owned(), terms(percent, None))]).await;
        assert_eq!(found(0).await[0].grade, Grade::Ok);
        let short = found(100).await;
        assert!(short[0].grade == Grade::Trouble && short[0].cure.is_some(), "{short:?}");
        assert_eq!([Level::Ok, Level::Low, Level::Critical].map(grade), [Grade::Ok, Grade::Warning, Grade::Trouble]);
    }

    #[tokio::test]
    async fn a_cache_that_takes_nothing_by_its_own_terms_is_trouble() {
        let dir = tempfile::tempdir().expect("a folder");
        let cache = What::Cache("local".to_owned());
        let places = vec![
            (What::Store, dir.path().to_owned(), terms(0, None)),
            (cache, dir.path().join("cache"), terms(0, Some(100))),
        ];
        let [found] = &of_places(places).await[..] else { panic!("one file system is told once") };
        assert_eq!((found.grade, found.about.as_str()), (Grade::Trouble, "disk of store, cache local"));
        assert!(found.found.contains("; cache local takes nothing: it would leave "), "{found:?}");
    }

    #[tokio::test]
    async fn what_cant_be_looked_at_is_a_finding() {
        let dir = tempfile::tempdir().expect("a folder");
        // Below a file of this name nothing can be looked for.
        let path = dir.path().join("a".repeat(300));
        let [found] = &of_places(vec![(What::State, path, terms(0, None))]).await[..] else {
            panic!("nothing is found")
        };
        assert_eq!((found.grade, found.about.as_str()), (Grade::Warning, "disk of state directory"));
    }
}
