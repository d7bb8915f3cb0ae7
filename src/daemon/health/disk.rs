//! The file systems that storewatch reads and writes: free space, and free inodes.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Finding, Grade, nearest};
use crate::cache::CacheUrl;
use crate::config::{Config, NixStore};

/// With less free (per cent), whoever builds here next may fill it.
const LOW_PERCENT: u64 = 5;

/// With less free (per cent), file systems slow down and writes begin to fail.
const CRITICAL_PERCENT: u64 = 1;

/// Free and all, of whatever is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    free: u64,
    all: u64,
}

pub(super) fn examine(config: Option<&Config>, state_dir: &Path, nix: Option<&NixStore>) -> Vec<Finding> {
    let mut places: Vec<(String, PathBuf)> =
        nix.map(|nix| ("store".to_owned(), nix.real.clone())).into_iter().collect();
    places.push(("state directory".to_owned(), state_dir.to_owned()));
    for cache in config.iter().flat_map(|config| &config.caches) {
        if let Ok(CacheUrl::File { dir, .. }) = CacheUrl::parse(&cache.url) {
            places.push((format!("cache {}", cache.name), dir));
        }
    }
    // Most of it lies on one file system, which is told once.
    let mut systems: Vec<(u64, Vec<String>, PathBuf)> = Vec::new();
    for (what, path) in places {
        let there = nearest(&path);
        let Ok(metadata) = std::fs::metadata(there) else { continue };
        match systems.iter_mut().find(|(device, ..)| *device == metadata.dev()) {
            Some((_, names, _)) => names.push(what),
            None => systems.push((metadata.dev(), vec![what], there.to_owned())),
        }
    }
    systems.iter().map(|(_, names, path)| of_file_system(&names.join(", "), path)).collect()
}

fn of_file_system(what: &str, path: &Path) -> Finding {
    let about = format!("disk of {what}");
    let stat = match rustix::fs::statvfs(path) {
        Ok(stat) => stat,
        Err(errno) => {
            return Finding::warning(about, format!("{}: it isn't said what is free: {errno}", path.display()));
        }
    };
    let space = Share { free: stat.f_bavail, all: stat.f_blocks };
    // Some file systems have no fixed number of inodes, and say 0.
    let inodes = Share { free: stat.f_favail, all: stat.f_files };
    let gib = |blocks: u64| blocks as f64 * stat.f_frsize as f64 / f64::from(1 << 30);
    let mut found = format!("{:.1} GiB of {:.1} GiB are free", gib(space.free), gib(space.all));
    if inodes.all > 0 {
        found += &format!(", and {} % of the inodes", inodes.percent());
    }
    let grade = space.grade().max(inodes.grade());
    let cure = (grade != Grade::Ok).then_some("make room: `nix-collect-garbage` frees the store");
    Finding::new(grade, about, found).cured_by(cure)
}

impl Share {
    fn percent(self) -> u64 {
        self.free.saturating_mul(100) / self.all.max(1)
    }

    fn grade(self) -> Grade {
        if self.all == 0 || self.percent() >= LOW_PERCENT {
            Grade::Ok
        } else if self.percent() >= CRITICAL_PERCENT {
            Grade::Warning
        } else {
            Grade::Trouble
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_is_a_warning_and_nearly_nothing_is_trouble() {
        let grade = |free, all| Share { free, all }.grade();
        assert_eq!([grade(5, 100), grade(4, 100), grade(1, 100)], [Grade::Ok, Grade::Warning, Grade::Warning]);
        assert_eq!([grade(9, 1000), grade(0, 1)], [Grade::Trouble, Grade::Trouble]);
        assert_eq!(grade(0, 0), Grade::Ok, "there is no limit");
    }
}
