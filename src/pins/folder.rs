//! The links by which paths are pinned, in a folder below the runtime directory.
//!
//! They have numbers for names, and the lowest that is free is used again: Nix notes each name of a link that it is told of
//! until it next collects garbage, and these stay few.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::nix::{StoreDir, StorePath};

/// Below the runtime directory; in it each state directory has a folder of its own.
const PINS: &str = "pins";

/// A path that is pinned, once Nix knows of the link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pin {
    pub(super) path: StorePath,
    pub(super) link: PathBuf,
}

/// The links of one state directory.
#[derive(Debug)]
pub(super) struct PinFolder {
    folder: PathBuf,
    store_dir: StoreDir,
    pins: BTreeMap<StorePath, u32>,
    taken: BTreeSet<u32>,
}

impl PinFolder {
    /// Reads what there is of a state directory of that name, which need not be anything. What is no pin is removed.
    pub(super) fn open(runtime_dir: &Path, instance: &str, store_dir: StoreDir) -> io::Result<Self> {
        let folder = runtime_dir.join(PINS).join(instance);
        let (mut pins, mut taken) = (BTreeMap::new(), BTreeSet::new());
        for entry in entries(&folder)? {
            let number = entry.to_str().and_then(|name| name.parse().ok());
            let link = folder.join(&entry);
            let path = fs::read_link(&link).ok().and_then(|target| store_dir.parse(target.to_str()?).ok());
            match number.zip(path) {
                Some((number, path)) if !pins.contains_key(&path) => {
                    pins.insert(path, number);
                    taken.insert(number);
                }
                _ => remove(&link)?,
            }
        }
        Ok(Self { folder, store_dir, pins, taken })
    }

    /// Has links to these paths and to no others. Returns those that are new.
    pub(super) fn pin_just(&mut self, wanted: &[StorePath]) -> io::Result<Vec<Pin>> {
        let kept: BTreeSet<_> = wanted.iter().collect();
        let released: Vec<_> = self.pins.keys().filter(|path| !kept.contains(path)).cloned().collect();
        for path in &released {
            self.release(path)?;
        }
        let mut new = Vec::new();
        for path in wanted {
            if !self.pins.contains_key(path) {
                new.push(Pin { path: path.clone(), link: self.pin(path)? });
            }
        }
        Ok(new)
    }

    /// All pins.
    pub(super) fn all(&self) -> Vec<Pin> {
        self.pins.iter().map(|(path, number)| Pin { path: path.clone(), link: self.link(*number) }).collect()
    }

    /// Makes the link of a path. It pins nothing before Nix knows of it.
    fn pin(&mut self, path: &StorePath) -> io::Result<PathBuf> {
        fs::create_dir_all(&self.folder)?;
        let number = (0..).find(|number| !self.taken.contains(number)).unwrap_or_default();
        let link = self.link(number);
        symlink(self.store_dir.full(path), &link)?;
        self.pins.insert(path.clone(), number);
        self.taken.insert(number);
        Ok(link)
    }

    /// Removes the link of a path, if there is one.
    pub(super) fn release(&mut self, path: &StorePath) -> io::Result<()> {
        let Some(number) = self.pins.get(path).copied() else { return Ok(()) };
        remove(&self.link(number))?;
        self.pins.remove(path);
        self.taken.remove(&number);
        Ok(())
    }

    fn link(&self, number: u32) -> PathBuf {
        self.folder.join(number.to_string())
    }
}

/// Releases all pins below a runtime directory, whichever state directory they belong to. Returns how many there were.
///
/// # Errors
/// What the system says.
pub fn release_all(runtime_dir: &Path) -> io::Result<u64> {
    let pins = runtime_dir.join(PINS);
    let mut released = 0;
    for instance in entries(&pins)? {
        let folder = pins.join(instance);
        for link in entries(&folder)? {
            remove(&folder.join(link))?;
            released += 1;
        }
        // One that a service has just pinned something in stays.
        let _ = fs::remove_dir(&folder);
    }
    let _ = fs::remove_dir(&pins);
    Ok(released)
}

/// The names in a folder; none where there is no folder.
fn entries(folder: &Path) -> io::Result<Vec<OsString>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.file_name())).collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn remove(link: &Path) -> io::Result<()> {
    match fs::remove_file(link) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(n: u8) -> StorePath {
        StorePath::from_base_name(&format!("{}-p", char::from(b'0' + n).to_string().repeat(32))).expect("a store path")
    }

    fn open(dir: &Path, instance: &str) -> PinFolder {
        PinFolder::open(dir, instance, StoreDir::default()).expect("opened")
    }

    fn pinned(folder: &PinFolder) -> Vec<StorePath> {
        folder.all().into_iter().map(|pin| pin.path).collect()
    }

    #[test]
    fn pins_outlive_the_process_and_numbers_are_used_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut folder = open(dir.path(), "a");
        assert!(folder.pin_just(&[]).expect("none").is_empty());
        assert!(!dir.path().join(PINS).exists(), "made before it is needed");
        let new = folder.pin_just(&[path(1), path(2)]).expect("pinned");
        assert_eq!(fs::read_link(&new[0].link).expect("a link"), Path::new(&StoreDir::default().full(&path(1))));
        assert!(folder.pin_just(&[path(2)]).expect("one released").is_empty());
        folder.release(&path(3)).expect("nothing to release");

        let mut again = open(dir.path(), "a");
        assert_eq!(pinned(&again), [path(2)]);
        let [third] = again.pin_just(&[path(2), path(4)]).expect("pinned").try_into().expect("one is new");
        assert_eq!((third.path, &third.link), (path(4), &new[0].link), "the number is free");
        assert!(new[1].link.is_symlink());
    }

    #[test]
    fn what_is_no_pin_is_removed() {
        let dir = tempfile::tempdir().expect("a folder");
        let link = open(dir.path(), "a").pin_just(&[path(1)]).expect("pinned").remove(0).link;
        for (name, target) in [("7", "/elsewhere"), ("name", "/elsewhere"), ("8", &StoreDir::default().full(&path(1)))]
        {
            symlink(target, link.with_file_name(name)).expect("a link");
        }
        assert_eq!(pinned(&open(dir.path(), "a")), [path(1)]);
        assert_eq!(entries(&dir.path().join("pins/a")).expect("listed").len(), 1);
    }

    #[test]
    fn all_are_released_whoever_pinned_them() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(release_all(dir.path()).expect("none"), 0);
        open(dir.path(), "a").pin_just(&[path(1), path(2)]).expect("pinned");
        open(dir.path(), "b").pin_just(&[path(1)]).expect("pinned");
        assert_eq!(release_all(dir.path()).expect("released"), 3);
        assert!(!dir.path().join(PINS).exists());
    }
}
