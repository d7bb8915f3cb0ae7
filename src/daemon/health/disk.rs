//! The file systems that storewatch reads and writes: free space, and free inodes.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Finding, Grade, nearest};
use crate::config::{Config, NixStore};
use crate::daemon::disk;
use crate::disk::{Level, Room, Thresholds, level};

pub(super) fn examine(config: Option<&Config>, state_dir: &Path, nix: Option<&NixStore>) -> Vec<Finding> {
    let thresholds = config.map(|config| config.disk).unwrap_or_default();
    // Without a good policy it isn't known which caches there are.
    let places = disk::places(config, &thresholds, state_dir, nix);
    // Most of it lies on one file system, which is told once.
    let mut systems: Vec<(u64, Vec<String>, PathBuf)> = Vec::new();
    for (what, path, _) in places {
        let there = nearest(&path);
        let Ok(metadata) = std::fs::metadata(there) else { continue };
        match systems.iter_mut().find(|(device, ..)| *device == metadata.dev()) {
            Some((_, names, _)) => names.push(what.to_string()),
            None => systems.push((metadata.dev(), vec![what.to_string()], there.to_owned())),
        }
    }
    systems.iter().map(|(_, names, path)| of_file_system(&names.join(", "), path, &thresholds)).collect()
}

fn of_file_system(what: &str, path: &Path, thresholds: &Thresholds) -> Finding {
    let about = format!("disk of {what}");
    let room = match Room::of(path) {
        Ok(room) => room,
        Err(error) => {
            return Finding::warning(about, format!("{}: it isn't said what is free: {error}", path.display()));
        }
    };
    let grade = grade(level(&room, thresholds, Level::Ok));
    let cure = "make room: `nix-collect-garbage` frees the store; `[disk]` in the policy says what is too little";
    Finding::new(grade, about, disk::in_words(&room)).cured_by((grade != Grade::Ok).then_some(cure))
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
    use crate::disk::Threshold;

    #[test]
    fn the_policys_thresholds_decide() {
        let dir = tempfile::tempdir().expect("a folder");
        let found = |low, critical| {
            let thresholds = Thresholds { low: Threshold::Percent(low), critical: Threshold::Percent(critical) };
            of_file_system("store", dir.path(), &thresholds)
        };
        assert_eq!(found(0, 0).grade, Grade::Ok);
        let short = found(100, 100);
        assert!(short.grade == Grade::Trouble && short.cure.is_some(), "{short:?}");
        assert_eq!([Level::Ok, Level::Low, Level::Critical].map(grade), [Grade::Ok, Grade::Warning, Grade::Trouble]);
    }
}
