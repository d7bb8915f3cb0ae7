//! Where secrets come from, and from where they must not come.
//!
//! Invariant kept here: **nothing leaks.** A secret is read from a file that only its owner can read and that isn't in
//! the Nix store, which everybody can read. It is held in memory that is wiped, and has no `Debug` that shows it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// No secret that storewatch reads is longer (bytes); what is longer is the wrong file.
const LONGEST: u64 = 64 * 1024;

/// Why a secret is not taken from a file.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Everyone on this host can read the store, and it may be copied to others.
    #[error(
        "{path} lies in the Nix store, where everybody can read it; keep the secret outside, readable for its owner only"
    )]
    InStore {
        /// The file, with symlinks followed.
        path: PathBuf,
    },
    /// A directory, a pipe or the like.
    #[error("{path} is no regular file")]
    NoFile {
        /// What was named.
        path: PathBuf,
    },
    /// Others on this host could read it.
    #[error("{path} can be read by others (mode {mode:04o}); run `chmod 600 {path}`")]
    Readable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is no secret that storewatch could use: binary, or far too long.
    #[error("{path} is no text of at most {LONGEST} bytes")]
    NoText {
        /// The file.
        path: PathBuf,
    },
    /// The file can't be read or written.
    #[error("{action} {path}")]
    Io {
        /// The verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SecretError {
    let path = path.to_owned();
    move |source| SecretError::Io { action, path, source }
}

/// Reads a secret, without white space around it. `real_store` is the directory in which the store's files are.
///
/// # Errors
/// [`SecretError`].
pub fn read(path: &Path, real_store: &Path) -> Result<Zeroizing<String>, SecretError> {
    // Before it is opened: to open a pipe waits for who writes into it.
    if !fs::metadata(path).map_err(io_error("look at", path))?.is_file() {
        return Err(SecretError::NoFile { path: path.to_owned() });
    }
    let file = File::open(path).map_err(io_error("open", path))?;
    let resolved = fs::canonicalize(path).map_err(io_error("resolve", path))?;
    if resolved.starts_with(real_store) || resolved.starts_with("/nix/store") {
        return Err(SecretError::InStore { path: resolved });
    }
    let mode = file.metadata().map_err(io_error("look at", path))?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(SecretError::Readable { path: resolved, mode });
    }
    let mut text = Zeroizing::new(String::with_capacity(1024));
    match file.take(LONGEST + 1).read_to_string(&mut text) {
        Ok(read) if read as u64 <= LONGEST => Ok(Zeroizing::new(text.trim().to_owned())),
        Ok(_) => Err(SecretError::NoText { path: resolved }),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(SecretError::NoText { path: resolved }),
        Err(error) => Err(io_error("read", path)(error)),
    }
}

/// Writes a new secret to a file that only its owner can read; makes its folder. The file appears whole or not at all,
/// and one that is there is left alone.
///
/// # Errors
/// [`SecretError::Io`]; `AlreadyExists` among them.
pub fn write_new(path: &Path, secret: &str) -> Result<(), SecretError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io_error("create", folder))?;
    let temp = path.with_extension(format!("new-{}", std::process::id()));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temp)
        .and_then(|mut file| file.write_all(secret.as_bytes()).and_then(|()| file.sync_all()))
        .map_err(io_error("write", &temp))
        // A link, unlike a rename, never takes the place of another's secret.
        .and_then(|()| fs::hard_link(&temp, path).map_err(io_error("create", path)))
        .and_then(|()| File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error("sync", folder)));
    // Whether or not it worked, the temporary name has served its turn.
    let _ = fs::remove_file(&temp);
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_secret_comes_back_without_its_newline() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("keys/a.secret");
        write_new(&path, "s3cret\n").expect("written");
        assert_eq!(*read(&path, Path::new("/nix/store")).expect("read"), "s3cret");
        assert!(matches!(write_new(&path, "other"), Err(SecretError::Io { .. })), "an existing secret is left alone");
        assert_eq!(*read(&path, Path::new("/nix/store")).expect("read"), "s3cret");
        assert_eq!(fs::read_dir(dir.path().join("keys")).expect("a folder").count(), 1, "no temporary file is left");
    }

    #[test]
    fn what_others_could_read_is_refused_and_not_shown() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("token");
        write_new(&path, "s3cret").expect("written");
        let in_store = read(&path, dir.path()).expect_err("in the store");
        assert!(matches!(in_store, SecretError::InStore { .. }));
        let link = dir.path().join("link");
        symlink(&path, &link).expect("a link");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("changed");
        for file in [&path, &link] {
            let error = read(file, Path::new("/nix/store")).expect_err("readable by others");
            assert!(matches!(error, SecretError::Readable { mode: 0o640, .. }), "{error}");
            assert!(!format!("{error} {error:?}").contains("s3cret"));
        }
        assert!(matches!(read(dir.path(), Path::new("/nix/store")), Err(SecretError::NoFile { .. })));
        fs::write(&path, [0xff, 0xfe]).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("changed");
        assert!(matches!(read(&path, Path::new("/nix/store")), Err(SecretError::NoText { .. })));
    }
}
