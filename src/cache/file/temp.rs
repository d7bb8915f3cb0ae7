//! A file that nobody sees until it is renamed, and that is gone if it isn't.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};

use crate::cache::{CacheError, run};

/// A name that no other temporary file has: `INSTANCE.RUN.NUMBER`.
pub(super) fn new_name(instance: &str) -> String {
    format!("{instance}.{}", run::new_name())
}

/// What stands behind the name of a log's temporary file.
const LOG: &str = ".log";

/// What stands behind the name of one that is a copy of what is there.
const COPY: &str = ".copy";

/// A name for a log, which is not ours: what it says means nothing to who sweeps.
pub(super) fn new_log_name(instance: &str) -> String {
    format!("{}{LOG}", new_name(instance))
}

/// A name for a copy of a narinfo that stands, or one that names the archive of a path that stands: who sweeps it must not
/// think that its archive is nobody's.
pub(super) fn new_copy_name(instance: &str) -> String {
    format!("{}{COPY}", new_name(instance))
}

/// Whether what a temporary file of that name says means nothing to who sweeps.
pub(super) fn says_nothing(name: &Path) -> bool {
    let name = name.to_string_lossy();
    name.ends_with(LOG) || name.ends_with(COPY)
}

/// What stands behind the name of a narinfo that is being swept: who made it, should it wake up, finds it no more.
const RETIRED: &str = ".retired";

/// What a narinfo is called while it is swept. It is whose it was, so that a sweep that is cut short is done by the next.
pub(super) fn retired(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    if !path.to_string_lossy().ends_with(RETIRED) {
        name.push(RETIRED);
    }
    name.into()
}

/// Whether an earlier run of this instance has left a file of that name.
pub(super) fn is_left_over(name: &str, instance: &str) -> bool {
    let rest = name.strip_prefix(instance).and_then(|rest| rest.strip_prefix('.'));
    rest.is_some_and(|rest| !run::is_own(rest))
}

/// Makes a file as young as if it were written and read just now.
pub(super) fn make_young(file: &Path) -> io::Result<()> {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    Ok(utimensat(CWD, file, &Timestamps { last_access: now, last_modification: now }, AtFlags::empty())?)
}

/// A file under a temporary name; removed when dropped, unless it has been published.
pub(super) struct TempFile {
    path: PathBuf,
    target: PathBuf,
    published: bool,
}

impl TempFile {
    /// Creates a file at `path` that will be published as `target`.
    pub(super) fn create(path: PathBuf, target: PathBuf) -> Result<(Self, File), CacheError> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(io_error("create a file in", folder(&path)))?;
        Ok((Self { path, target, published: false }, file))
    }

    /// Creates one of that content, which is on its way to the disk then.
    pub(super) fn holding(
        path: PathBuf,
        target: PathBuf,
        content: &[u8],
        action: &'static str,
    ) -> Result<Self, CacheError> {
        let (temp, mut file) = Self::create(path, target)?;
        file.write_all(content).map_err(io_error(action, folder(&temp.target)))?;
        write_out(&file, 0);
        Ok(temp)
    }

    /// Makes it as young as what is written just now: it may have waited for long, and its age is to be that of its being
    /// shown. Who removes what is old and named by nothing must not take it for that.
    pub(super) fn make_young(&self) {
        // Where it fails, so does what follows, and says why.
        let _ = make_young(&self.path);
    }

    /// Makes its content durable.
    pub(super) fn sync(&self) -> Result<(), CacheError> {
        File::open(&self.path).and_then(|file| file.sync_all()).map_err(io_error("sync a file in", folder(&self.path)))
    }

    /// Whether it bears its final name.
    pub(super) fn is_published(&self) -> bool {
        self.published
    }

    /// Whether there is a file of its final name, be it this one or an earlier one.
    pub(super) fn is_there(&self) -> bool {
        self.target.exists()
    }

    /// Takes it back, should it have been published: nothing names it.
    pub(super) fn withdraw(&mut self) {
        if self.published {
            // Should it fail, it takes up room and does no other harm.
            let _ = fs::remove_file(&self.target);
        }
    }

    /// As [`TempFile::publish`], once its content is durable.
    pub(super) fn publish_durably(mut self) -> Result<(), CacheError> {
        self.sync()?;
        self.publish()
    }

    /// Renames it to what it is to be called.
    pub(super) fn publish(&mut self) -> Result<(), CacheError> {
        fs::rename(&self.path, &self.target).map_err(io_error("publish a file in", folder(&self.target)))?;
        self.published = true;
        Ok(())
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.published {
            // Should it fail, the next start sweeps the folder.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Lets the system begin to write out what of a file lies behind `from`, so that syncing it has less to wait for. On Linux
/// that takes half of the time that a group of small files needs: their contents are on their way when the first of them
/// asks for a commit of the file system's journal, which is then one for all.
pub(super) fn write_out(file: &File, from: u64) {
    #[cfg(target_os = "linux")]
    {
        // Advice: where it isn't taken, nothing is lost. What isn't written yet stays in memory.
        let _ = rustix::fs::fadvise(file, from, None, rustix::fs::Advice::DontNeed);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, from);
}

/// What errors name: a file's own name is another at each try, and one trouble is to be told once.
fn folder(file: &Path) -> &Path {
    file.parent().unwrap_or(file)
}

/// Gives an I/O error its verb and its file.
pub(super) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CacheError {
    let path = path.to_owned();
    move |source| CacheError::Io { action, path, source }
}

/// What is there; that it isn't is no error.
pub(super) fn there<T>(done: io::Result<T>, action: &'static str, path: &Path) -> Result<Option<T>, CacheError> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(io_error(action, path)(source)),
    }
}

/// Makes a directory's entries durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), CacheError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error("sync", dir))
}
