//! That a service is at work, said in the runtime directory: there it can be known while its state directory isn't there.
//!
//! A file for each state directory, locked as long as the service lives. Without it, who looks at a state directory that was
//! unmounted would see an empty folder, and take what is said there for good.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::StateLock;
use super::lock::{read_holder, say_in};
use crate::nix::nix32;

/// Below the runtime directory.
const SERVICES: &str = "services";

/// Who begins or ends is for some microseconds known in one place and not in the other.
const LOOKS: u32 = 4;

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Held by a service for as long as it lives.
#[derive(Debug)]
pub struct AtWork {
    _file: File,
}

impl AtWork {
    /// What a person may do where a service's state directory is gone.
    pub const CURE: &str =
        "mount it, and the service goes on; or stop the service, and start it anew to begin with an empty one";

    /// Says that a service works with this state directory. `role` is what others will read: `storewatch run`.
    ///
    /// # Errors
    /// What the system says where the runtime directory can't be written; another service's is overwritten by none.
    pub fn say(runtime_dir: &Path, state_dir: &Path, role: &str) -> io::Result<Self> {
        let path = file_for(runtime_dir, state_dir);
        DirBuilder::new().recursive(true).mode(0o755).create(runtime_dir.join(SERVICES))?;
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o644).open(path);
        let mut file = options?;
        say_in(&mut file, role).map_err(|error| match error {
            TryLockError::Error(error) => error,
            TryLockError::WouldBlock => io::ErrorKind::ResourceBusy.into(),
        })?;
        Ok(Self { _file: file })
    }

    /// The service that works with a state directory which isn't there: `storewatch run, process 4711`. `None` where none does,
    /// or where all is well.
    #[must_use]
    pub fn without_its_state(runtime_dir: &Path, state_dir: &Path) -> Option<String> {
        let path = file_for(runtime_dir, state_dir);
        let mut who = None;
        for look in 0..LOOKS {
            if look > 0 {
                thread::sleep(LOOK_INTERVAL);
            }
            let mut file = File::open(&path).ok()?;
            let Err(TryLockError::WouldBlock) = file.try_lock_shared() else { return None };
            if !matches!(StateLock::holder(state_dir), Ok(None)) {
                return None;
            }
            who = Some(read_holder(&mut file));
        }
        who
    }
}

fn file_for(runtime_dir: &Path, state_dir: &Path) -> PathBuf {
    runtime_dir.join(SERVICES).join(name_of(&without_links(state_dir, LINKS)))
}

/// The name that stands for a state directory where several are told apart by one; its path must have no links in it.
#[must_use]
pub fn name_of(state_dir: &Path) -> String {
    let mut digits = nix32(&Sha256::digest(state_dir.as_os_str().as_bytes()));
    digits.truncate(32);
    digits
}

/// So many links that lead nowhere are followed: more than one that leads in a circle is worth.
const LINKS: u32 = 40;

/// The path without links, where it isn't there, too: a link may lead to what was unmounted.
fn without_links(path: &Path, links: u32) -> PathBuf {
    if let Ok(real) = fs::canonicalize(path) {
        return real;
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return path.to_owned() };
    let folder = without_links(folder, links);
    let found = folder.join(name);
    match fs::read_link(&found) {
        Ok(to) if links > 0 => without_links(&folder.join(to), links - 1),
        _ => found,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_service_is_known_to_be_at_work_where_its_state_is_gone() {
        let dir = tempfile::tempdir().expect("a folder");
        let (runtime, state) = (dir.path().join("run"), dir.path().join("state"));
        assert_eq!(AtWork::without_its_state(&runtime, &state), None, "nobody has said anything");
        let at_work = AtWork::say(&runtime, &state, "storewatch run").expect("said");
        let lock = StateLock::acquire(&state, "storewatch run").expect("locked");
        assert_eq!(AtWork::without_its_state(&runtime, &state), None, "all is well");
        assert!(AtWork::say(&runtime, &state, "another").is_err(), "one says it at a time");
        fs::remove_dir_all(&state).expect("removed");
        let who = format!("storewatch run, process {}", std::process::id());
        assert_eq!(AtWork::without_its_state(&runtime, &state), Some(who.clone()));
        fs::create_dir(&state).expect("made");
        assert_eq!(AtWork::without_its_state(&runtime, &state), Some(who), "an empty folder is in its place");
        assert_eq!(AtWork::without_its_state(&runtime, &dir.path().join("other")), None);
        drop((at_work, lock));
        assert_eq!(AtWork::without_its_state(&runtime, &state), None, "it has ended");
    }

    #[test]
    fn a_service_is_known_by_a_link_to_what_is_gone() {
        let dir = tempfile::tempdir().expect("a folder");
        let (runtime, state) = (dir.path().join("run"), dir.path().join("mnt/disk/state"));
        fs::create_dir_all(&state).expect("made");
        fs::create_dir(dir.path().join("lib")).expect("made");
        let link = dir.path().join("lib/storewatch");
        symlink("../mnt/disk/state", &link).expect("linked");
        let _at_work = AtWork::say(&runtime, &link, "storewatch run").expect("said");
        fs::remove_dir_all(dir.path().join("mnt/disk")).expect("removed");
        assert!(AtWork::without_its_state(&runtime, &link).is_some(), "by the link");
        assert!(AtWork::without_its_state(&runtime, &state).is_some(), "by its own name");
        let circle = dir.path().join("circle");
        symlink("circle", &circle).expect("linked");
        assert_eq!(AtWork::without_its_state(&runtime, &circle), None, "it leads nowhere");
    }
}
