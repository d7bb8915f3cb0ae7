//! Why the Nix database can't be read, as far as somebody acts differently on it.

use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;
use rusqlite::ffi;
use rustix::fs::{AtFlags, CWD};

/// Why the database, or a row of it, can't be read.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// There is no such file. Keeps a mistyped state directory from looking like an empty store.
    #[error("there is no Nix database at `{path}`", path = path.display())]
    NotFound {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file is there, and has no tables. Keeps whoever reads it from looking for a file that isn't missing, and a database
    /// that was lost from looking like one that is about to be made.
    #[error(
        "the Nix database `{path}` is empty: {}",
        if *was_made {
            "Nix had made it, as the file `schema` beside it says, so it was truncated"
        } else {
            "Nix has not made its tables yet, or it was truncated"
        },
        path = path.display()
    )]
    Empty {
        /// The file.
        path: PathBuf,
        /// Whether Nix has noted beside it that it had made it.
        was_made: bool,
    },
    /// This user may not read it. Keeps the watcher from waiting for what never comes: it asks the Nix daemon instead.
    #[error("no permission to {access} of the Nix database `{path}`", path = path.display())]
    Denied {
        /// The database.
        path: PathBuf,
        /// What wasn't allowed.
        access: Access,
        /// What SQLite says, if it was asked.
        source: Option<rusqlite::Error>,
    },
    /// Some other file. Keeps foreign tables from being taken for store paths.
    #[error("`{path}` is not a Nix database: {why}", path = path.display())]
    NotNix {
        /// The file.
        path: PathBuf,
        /// How that showed.
        why: String,
    },
    /// Made by a Nix that may mean something else by the same columns. Keeps a guess from being uploaded.
    #[error(
        "the Nix database `{path}` has schema {found}, this storewatch knows up to {known}; use a newer storewatch",
        path = path.display()
    )]
    NewerSchema {
        /// The database.
        path: PathBuf,
        /// The number in `STATE/db/schema`.
        found: u32,
        /// [`KNOWN_SCHEMA`](super::KNOWN_SCHEMA).
        known: u32,
    },
    /// Somebody writes for longer than the timeout, or was killed while writing without a write-ahead log, which Nix's next
    /// command puts right. Keeps a build from waiting for us, and us from giving up: try again at the next wake-up. What
    /// SQLite says is left out: for one that is to be rolled back, that we must not write it, which nobody wants.
    #[error("{verb}: the Nix database is being written")]
    Busy {
        /// What was to be done.
        verb: &'static str,
    },
    /// Another database is being put in its place, file by file, as from a backup. Keeps a mixture of both from being read, and
    /// Nix from meeting it: try again in some seconds.
    #[error("files of the Nix database `{path}` are being replaced", path = path.display())]
    Replaced {
        /// The database.
        path: PathBuf,
    },
    /// A row that was asked for can't be made sense of. Keeps a path from going out with some references left out.
    #[error("Nix database, {row}: {why}")]
    Malformed {
        /// Path or id.
        row: String,
        /// What is wrong with it.
        why: String,
    },
    /// Anything else: a damaged file, a failing disk. A person must look.
    #[error("{verb} `{path}`", path = path.display())]
    Other {
        /// What was to be done.
        verb: &'static str,
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
}

/// What of the database this user lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading the file, or passing through a folder above it.
    File,
    /// Opening or creating the files of its write-ahead log; Nix older than 2.22 removes them when its last command ends.
    WriteAheadLog,
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::File => "read the file",
            Self::WriteAheadLog => "open the write-ahead log",
        })
    }
}

impl DatabaseError {
    /// What a person may do about it, where the error itself doesn't say.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotFound { .. } => {
                Some("is Nix installed? NIX_STATE_DIR, NIX_REMOTE or [store] in the policy say where its state is")
            }
            Self::Empty { was_made: false, .. } => Some(
                "Nix makes them with its next command, such as `nix-store --init`; if there were paths here before, put the \
                 database back from a backup",
            ),
            Self::Empty { was_made: true, .. } => {
                Some("put it back from a backup of Nix's state, and until then let nothing be built or collected")
            }
            Self::Malformed { .. } => Some("Nix would not have written that: put the database right from a backup"),
            Self::Denied { .. } => Some("this takes the database itself: run it as root, or as a user who may read it"),
            Self::NotNix { .. } => Some(
                "put it right from a backup, or say where Nix's state is: NIX_STATE_DIR, NIX_REMOTE or [store] in the policy",
            ),
            Self::Replaced { .. } => Some("ask again in some seconds"),
            Self::Busy { .. } => {
                Some("ask again in a moment; if a Nix was killed meanwhile, the next one puts it right")
            }
            _ => None,
        }
    }

    /// Whether another user may read the database: the time for the Nix daemon.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Denied { .. })
    }

    /// Whether it is worth trying again soon.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Replaced { .. })
    }

    /// Whether it has to be opened anew, once whoever replaces it is through.
    #[must_use]
    pub fn is_replaced(&self) -> bool {
        matches!(self, Self::Replaced { .. })
    }

    /// Sorts an error of SQLite's by its code and by what this user may do with the files.
    pub(super) fn from_sqlite(verb: &'static str, path: &Path, source: rusqlite::Error) -> Self {
        let rusqlite::Error::SqliteFailure(failure, _) = &source else {
            return Self::Other { verb, path: path.to_owned(), source };
        };
        let denied = |access, source| Self::Denied { path: path.to_owned(), access, source: Some(source) };
        match failure.code {
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed => {
                Self::Busy { verb }
            }
            ErrorCode::ReadOnly if is_to_be_rolled_back(&source) => Self::Busy { verb },
            ErrorCode::NotADatabase => Self::NotNix { path: path.to_owned(), why: "not written by SQLite".to_owned() },
            ErrorCode::CannotOpen if !path.exists() => Self::NotFound { path: path.to_owned() },
            ErrorCode::CannotOpen | ErrorCode::PermissionDenied if !may(path, rustix::fs::Access::READ_OK) => {
                denied(Access::File, source)
            }
            // SQLite wants to write a file beside the database, and can't.
            ErrorCode::ReadOnly => denied(Access::WriteAheadLog, source),
            ErrorCode::CannotOpen if !may_use_log(path) => denied(Access::WriteAheadLog, source),
            _ => Self::Other { verb, path: path.to_owned(), source },
        }
    }
}

/// Whether there is a journal beside the database: Nix is writing it, without a write-ahead log, or was killed while it did.
pub(super) fn is_to_be_rolled_back(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error().map(|failure| failure.extended_code);
    code == Some(ffi::SQLITE_READONLY_ROLLBACK)
}

fn may(path: &Path, access: rustix::fs::Access) -> bool {
    rustix::fs::accessat(CWD, path, access, AtFlags::EACCESS).is_ok()
}

/// Whether both files of the write-ahead log can be read, or else created.
fn may_use_log(db_path: &Path) -> bool {
    let creatable = || db_path.parent().is_some_and(|folder| may(folder, rustix::fs::Access::WRITE_OK));
    ["-wal", "-shm"].iter().all(|suffix| {
        let mut name = db_path.as_os_str().to_owned();
        name.push(suffix);
        let file = Path::new(&name);
        if file.exists() { may(file, rustix::fs::Access::READ_OK) } else { creatable() }
    })
}
