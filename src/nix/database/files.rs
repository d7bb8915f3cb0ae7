//! Which files a database consists of.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Access, DatabaseError};

/// Which file something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
}

/// The three files of a database. As long as a connection is open that has read by a write-ahead log, nobody removes that
/// log or its index, so that others in their places are another database's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Files {
    pub(super) database: Identity,
    /// The write-ahead log.
    pub(super) log: Option<Identity>,
    /// The log's index, which all processes map that have it open.
    pub(super) index: Option<Identity>,
}

impl Files {
    /// What is there now. It asks by path only, as the header of `database` says why.
    ///
    /// # Errors
    /// [`DatabaseError::NotFound`], [`DatabaseError::Denied`].
    pub(super) fn at(path: &Path) -> Result<Self, DatabaseError> {
        Self::at_resolved(path, &resolved(path))
    }

    /// The same, where it is known which file a link at `path` leads to; if it leads to another now, that shows in the first.
    ///
    /// # Errors
    /// [`DatabaseError::NotFound`], [`DatabaseError::Denied`].
    pub(super) fn at_resolved(path: &Path, real: &Path) -> Result<Self, DatabaseError> {
        let database = match fs::metadata(path) {
            Ok(found) => identity(&found),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(DatabaseError::Denied { path: path.to_owned(), access: Access::File, source: None });
            }
            Err(_) => return Err(DatabaseError::NotFound { path: path.to_owned() }),
        };
        let beside = |suffix: &str| {
            let mut name = real.as_os_str().to_owned();
            name.push(suffix);
            fs::metadata(PathBuf::from(name)).ok().map(|found| identity(&found))
        };
        Ok(Self { database, log: beside("-wal"), index: beside("-shm") })
    }
}

/// The file that a link leads to: log and index lie beside that one.
pub(super) fn resolved(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

fn identity(found: &fs::Metadata) -> Identity {
    Identity { dev: found.dev(), ino: found.ino() }
}
