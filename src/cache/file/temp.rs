//! A file that nobody sees until it is renamed, and that is gone if it isn't.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use crate::cache::CacheError;

/// A file under a temporary name; removed when dropped, unless it has been published.
pub(super) struct TempFile {
    path: PathBuf,
    target: PathBuf,
    published: bool,
}

impl TempFile {
    /// Creates a file at `path` that will be published as `target`.
    pub(super) fn create(path: PathBuf, target: PathBuf) -> Result<(Self, File), CacheError> {
        let file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(io_error("create", &path))?;
        Ok((Self { path, target, published: false }, file))
    }

    /// Makes its content durable.
    pub(super) fn sync(&self) -> Result<(), CacheError> {
        File::open(&self.path).and_then(|file| file.sync_all()).map_err(io_error("sync", &self.path))
    }

    /// Renames it to what it is to be called.
    pub(super) fn publish(&mut self) -> Result<(), CacheError> {
        fs::rename(&self.path, &self.target).map_err(io_error("publish", &self.target))?;
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

/// Gives an I/O error its verb and its file.
pub(super) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CacheError {
    let path = path.to_owned();
    move |source| CacheError::Io { action, path, source }
}

/// Makes a directory's entries durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), CacheError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error("sync", dir))
}
