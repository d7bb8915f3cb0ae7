//! The state directory's lock: whoever holds it works the queue off.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Queue, RunId, is_full};

/// Held for as long as it lives; the system gives it back when the process ends, however it ends.
pub struct StateLock {
    file: File,
}

/// Why the lock can't be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Two that work one queue off would upload everything twice and lose track of what is done.
    #[error("{holder} is already working with the state directory {dir}")]
    Held {
        /// The state directory.
        dir: PathBuf,
        /// Who holds it, as it said itself: `storewatch run, process 4711`.
        holder: String,
    },
    /// The lock file can't be made.
    #[error("cannot write the state directory {dir}")]
    Io {
        /// The state directory.
        dir: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl LockError {
    /// Whether the lock file can't be written since the disk is full.
    #[must_use]
    pub fn is_about_room(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_full(source))
    }
}

/// How often the lock is tried while others look whether it is held.
const TRIES: u32 = 4;

/// Between two tries; a look at who holds the lock takes some microseconds.
const TRY_INTERVAL: Duration = Duration::from_millis(25);

impl StateLock {
    const FILE_NAME: &str = "lock";

    /// Takes the lock or says who has it; makes what is missing. `role` is what others will read: `storewatch run`. May block
    /// for some 100 ms.
    ///
    /// # Errors
    /// [`LockError::Held`], [`LockError::Io`].
    pub fn acquire(state_dir: &Path, role: &str) -> Result<Self, LockError> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir);
        made.map_err(|source| LockError::Io { dir: state_dir.to_owned(), source })?;
        Self::lock(state_dir, role, OpenOptions::new().create(true).mode(0o600))
    }

    /// As [`StateLock::acquire`], of a state directory that was there before: in a folder without a queue nothing is made, since
    /// it may be what the state directory was mounted on.
    ///
    /// # Errors
    /// As for [`StateLock::acquire`].
    pub fn acquire_again(state_dir: &Path, role: &str) -> Result<Self, LockError> {
        let has_queue = state_dir.join(Queue::FILE_NAME).exists();
        Self::lock(state_dir, role, OpenOptions::new().create(has_queue).mode(0o600))
    }

    fn lock(state_dir: &Path, role: &str, how: &OpenOptions) -> Result<Self, LockError> {
        let io = |source| LockError::Io { dir: state_dir.to_owned(), source };
        let mut options = how.clone();
        let file = options.read(true).write(true).truncate(false).open(state_dir.join(Self::FILE_NAME));
        let mut file = file.map_err(io)?;
        match say_in(&mut file, role) {
            Ok(()) => Ok(Self { file }),
            Err(TryLockError::WouldBlock) => {
                Err(LockError::Held { dir: state_dir.to_owned(), holder: read_holder(&mut file) })
            }
            Err(TryLockError::Error(source)) => Err(io(source)),
        }
    }

    /// Gives the lock back only when the process ends: threads that were called off may still be at work until then.
    pub fn keep_until_exit(self) {
        std::mem::forget(self);
    }

    /// Whether the file that is locked is the one that others would look at in this state directory.
    #[must_use]
    pub fn is_in_its_place(&self, state_dir: &Path) -> bool {
        let identity = |found: std::io::Result<Metadata>| found.ok().map(|found| (found.dev(), found.ino()));
        let own = identity(self.file.metadata());
        own.is_some() && own == identity(std::fs::metadata(state_dir.join(Self::FILE_NAME)))
    }

    /// Who holds the lock, if anybody does: `storewatch run, process 4711`.
    ///
    /// # Errors
    /// Where this user can't know it.
    pub fn holder(state_dir: &Path) -> std::io::Result<Option<String>> {
        let mut file = match File::open(state_dir.join(Self::FILE_NAME)) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(None),
            Err(TryLockError::WouldBlock) => Ok(Some(read_holder(&mut file))),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// Locks a file and writes down who has done so: `ROLE, process 4711`. Who only looks whether it is locked has it for a moment,
/// and is waited for.
///
/// # Errors
/// [`TryLockError::WouldBlock`] where another has it.
pub(super) fn say_in(file: &mut File, role: &str) -> Result<(), TryLockError> {
    let mut tries = 0;
    while let Err(error) = file.try_lock() {
        let may_be_a_look = matches!(error, TryLockError::WouldBlock) && tries < TRIES;
        if !may_be_a_look || !is_only_looked_at(file).map_err(TryLockError::Error)? {
            return Err(error);
        }
        tries += 1;
        std::thread::sleep(TRY_INTERVAL);
    }
    let said = file.set_len(0).and_then(|()| write!(file, "{role}, process {}", std::process::id()));
    said.map_err(TryLockError::Error)
}

/// Whether those who hold the lock share it with us.
fn is_only_looked_at(file: &File) -> std::io::Result<bool> {
    match file.try_lock_shared() {
        Ok(()) => file.unlock().map(|()| true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// That a process is at a backfill, for as long as this lives, so that no other takes it up meanwhile.
#[derive(Default)]
pub struct Followed {
    _file: Option<File>,
}

impl Followed {
    /// Takes a backfill up; `None` where another process is at it.
    pub(super) fn claim(state_dir: &Path, run: RunId) -> std::io::Result<Option<Self>> {
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(Self::file(state_dir, run))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: Some(file) })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Removes what a backfill that nobody will take up again has left.
    pub(super) fn forget(state_dir: &Path, run: RunId) {
        // It is empty and in nobody's way.
        let _ = std::fs::remove_file(Self::file(state_dir, run));
    }

    fn file(state_dir: &Path, run: RunId) -> PathBuf {
        state_dir.join(format!("backfill-{}.lock", run.0))
    }
}

pub(super) fn read_holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
    if read.is_ok() && !text.is_empty() { text } else { "another storewatch".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_looks_is_told_from_who_holds_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let held = StateLock::acquire(dir.path(), "storewatch run").expect("free");
        let file = || File::open(dir.path().join(StateLock::FILE_NAME)).expect("opened");
        assert!(!is_only_looked_at(&file()).expect("looked"));
        let refused = StateLock::acquire(dir.path(), "storewatch push").err().expect("held");
        assert!(refused.to_string().starts_with("storewatch run, process "), "{refused}");
        drop(held);
        let looking = file();
        looking.lock_shared().expect("free");
        assert!(is_only_looked_at(&file()).expect("looked"));
        looking.unlock().expect("let go");
        StateLock::acquire(dir.path(), "storewatch push").expect("nobody has kept it");
    }

    #[test]
    fn in_a_folder_that_a_state_directory_was_mounted_on_no_lock_is_made() {
        let dir = tempfile::tempdir().expect("a folder");
        let again = || StateLock::acquire_again(dir.path(), "storewatch run");
        assert!(matches!(again(), Err(LockError::Io { .. })));
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 0);
        std::fs::write(dir.path().join(Queue::FILE_NAME), "").expect("written");
        again().expect("the queue is there, whatever became of the lock");
    }
}
