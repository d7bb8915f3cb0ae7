//! Secrets in files: who else could read them, and new ones.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use zeroize::Zeroizing;

use super::error::{NoText, SecretError, io_error, read_error};
use super::text::{Form, LONGEST, Secret};

/// The permission bits that let others read or change a file.
const OTHERS: u32 = 0o077;

/// The same of a credential. systemd gives it to the service's user by an access list, and then the bits of the group
/// are the list's mask: `r--r-----` without any group that could read it.
const OTHERS_OF_A_CREDENTIAL: u32 = 0o007;

/// Who may read a file that holds a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readers {
    /// Its owner alone, who is root or who this runs as: whoever else owns a file can read it, and change it.
    Owner {
        /// Whether the policy could say that others may.
        unless_meant: bool,
    },
    /// Its owner alone, whoever that is: a key that storewatch has made for its user, at which root looks.
    OwnKeys,
    /// Whom systemd lets.
    Credential,
    /// Anybody: the policy says so.
    Anybody,
}

/// Reads a secret of one line that storewatch has written, without white space around it. `real_store` is the directory in
/// which the store's files are.
///
/// # Errors
/// [`SecretError`].
pub fn read(path: &Path, real_store: &Path) -> Result<Secret, SecretError> {
    Secret::new(&contents(path, real_store, Readers::OwnKeys)?, Form::OneLine, &path.display())
}

/// What a file holds, if it may hold a secret: at most [`LONGEST`] bytes.
pub(super) fn contents(path: &Path, real_store: &Path, readers: Readers) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let (resolved, file) = open(path)?;
    if in_store(&resolved, real_store) {
        return Err(SecretError::InStore { path: resolved });
    }
    let metadata = file.metadata().map_err(io_error("look at", path))?;
    if !metadata.is_file() {
        return Err(SecretError::NoFile { path: path.to_owned() });
    }
    let mode = metadata.mode() & 0o7777;
    let unless_meant = readers == Readers::Owner { unless_meant: true };
    let others = match readers {
        Readers::Owner { .. } | Readers::OwnKeys => OTHERS,
        Readers::Credential => OTHERS_OF_A_CREDENTIAL,
        Readers::Anybody => 0,
    };
    if mode & others != 0 {
        return Err(SecretError::Readable { path: resolved, mode, unless_meant });
    }
    if matches!(readers, Readers::Owner { .. })
        && let Some(owner) = another_owner(metadata.uid(), rustix::process::geteuid().as_raw())
    {
        return Err(SecretError::AnothersFile { path: resolved, owner, unless_meant });
    }
    // As long as it can get from the start: growing would leave copies behind.
    let mut bytes = Zeroizing::new(vec![0; LONGEST + 1]);
    let read = read_up_to(file, &mut bytes).map_err(io_error("read", path))?;
    if read > LONGEST {
        return Err(SecretError::NoText { from: path.display().to_string(), problem: NoText::TooLong });
    }
    bytes.truncate(read);
    Ok(bytes)
}

/// The owner of a file, where that is neither root nor the user as whom this runs.
fn another_owner(owner: u32, own: u32) -> Option<u32> {
    (owner != 0 && owner != own).then_some(owner)
}

/// The file with all symlinks followed, and that very file opened: what was resolved is what is read.
fn open(path: &Path) -> Result<(PathBuf, File), SecretError> {
    // A pipe must not hold us up until somebody writes into it.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let open_resolved = || {
        let resolved = fs::canonicalize(path).map_err(read_error("resolve", path))?;
        let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(&resolved);
        Ok((resolved, file))
    };
    match open_resolved()? {
        (resolved, Ok(file)) => Ok((resolved, file)),
        // A link was swapped in between and what it led to is gone, as sops-nix does: then it leads elsewhere now.
        (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            let (resolved, file) = open_resolved()?;
            Ok((resolved, file.map_err(read_error("open", path))?))
        }
        (_, Err(error)) => Err(read_error("open", path)(error)),
    }
}

/// Whether a resolved path lies in the store, wherever the store's own links lead.
fn in_store(resolved: &Path, real_store: &Path) -> bool {
    let canonical = fs::canonicalize(real_store);
    [real_store, Path::new("/nix/store")]
        .into_iter()
        .chain(canonical.as_deref())
        .any(|store| resolved.starts_with(store))
}

fn read_up_to(mut file: File, bytes: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// What the extension of a secret's temporary name begins with; 16 digits of base 16 stand behind it.
const NEW: &str = "new-";

/// Writes a new secret to a file that only its owner can read; makes its folder. The file appears whole or not at all,
/// and one that is there is left alone.
///
/// # Errors
/// [`SecretError::Io`]; `AlreadyExists` among them.
pub fn write_new(path: &Path, secret: &str) -> Result<(), SecretError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io_error("create", folder))?;
    // Drawn, since the number of a process in a container is that of the one before it, which may have left a file. Where
    // nothing can be drawn, it has to do.
    let draw = getrandom::u64().unwrap_or_else(|_| std::process::id().into());
    let temp = path.with_extension(format!("{NEW}{draw:016x}"));
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

/// Removes the temporary names beside a secret that [`write_new`] has left where it was killed: one may be the secret's own
/// second name, which would outlive it. Only for a secret that is there: another that is just being made would be too late.
pub fn sweep(path: &Path) {
    let (Some(folder), Some(stem)) = (path.parent(), path.file_stem().and_then(OsStr::to_str)) else { return };
    let is_left = |name: &str| {
        let draw = name.strip_prefix(stem).and_then(|rest| rest.strip_prefix('.')?.strip_prefix(NEW));
        draw.is_some_and(|draw| draw.len() == 16 && draw.bytes().all(|digit| digit.is_ascii_hexdigit()))
    };
    for file in fs::read_dir(folder).into_iter().flatten().flatten() {
        if file.file_name().to_str().is_some_and(is_left) {
            // The next one tries again.
            let _ = fs::remove_file(file.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_secret_comes_back_without_its_newline() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("keys/a.secret");
        write_new(&path, "s3cret\n").expect("written");
        assert_eq!(read(&path, Path::new("/nix/store")).expect("read").expose(), "s3cret");
        assert!(matches!(write_new(&path, "other"), Err(SecretError::Io { .. })), "an existing secret is left alone");
        assert_eq!(read(&path, Path::new("/nix/store")).expect("read").expose(), "s3cret");
        assert_eq!(fs::read_dir(dir.path().join("keys")).expect("a folder").count(), 1, "no temporary file is left");
    }

    #[test]
    fn what_a_kill_has_left_beside_a_secret_is_swept_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("a.b.secret");
        write_new(&path, "s3cret").expect("written");
        fs::hard_link(&path, dir.path().join("a.b.new-0123456789abcdef")).expect("a second name");
        let others = ["a.new-0123456789abcdef", "a.b.new-0123456789abcdef.secret", "a.b.new-mine", "a.b.public"];
        others.iter().for_each(|other| fs::write(dir.path().join(other), "theirs").expect("written"));
        sweep(&path);
        let names = fs::read_dir(dir.path()).expect("a folder").flatten().map(|file| file.file_name());
        let expected = others.into_iter().chain(["a.b.secret"]).map(std::ffi::OsString::from);
        assert_eq!(names.collect::<BTreeSet<_>>(), expected.collect());
    }

    #[test]
    fn what_belongs_to_another_user_is_refused() {
        for (owner, own, another) in [(0, 0, None), (0, 7, None), (7, 7, None), (7, 0, Some(7)), (7, 8, Some(7))] {
            assert_eq!(another_owner(owner, own), another, "{owner} as {own}");
        }
        if !rustix::process::geteuid().is_root() {
            println!("skipped: only root can give a file to another user");
            return;
        }
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("token");
        write_new(&path, "s3cret").expect("written");
        std::os::unix::fs::chown(&path, Some(65534), None).expect("given away");
        let store = Path::new("/nix/store");
        let error = contents(&path, store, Readers::Owner { unless_meant: true }).expect_err("another's");
        assert!(matches!(error, SecretError::AnothersFile { owner: 65534, .. }), "{error}");
        for readers in [Readers::Anybody, Readers::OwnKeys, Readers::Credential] {
            assert!(contents(&path, store, readers).is_ok(), "{readers:?}");
        }
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
