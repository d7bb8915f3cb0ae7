//! Why there is no secret. None of these messages has a part of one in it.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::text::LONGEST;

/// Why a secret is not taken from where it should come from.
#[derive(Clone, Debug, thiserror::Error)]
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
    #[error("{path} can be read by others (mode {mode:04o}); run `chmod 600 {path}`{}", or_meant(*unless_meant))]
    Readable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Whether the policy could say that this is meant.
        unless_meant: bool,
    },
    /// Another user could read and change it, whatever its mode says.
    #[error(
        "{path} belongs to uid {owner}, who can read and change it, and has to belong to {}; run `chown` on it{}",
        owners(rustix::process::geteuid().as_raw()),
        or_meant(*unless_meant)
    )]
    AnothersFile {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Whether the policy could say that this is meant.
        unless_meant: bool,
    },
    /// Nothing is there, or only white space. An empty token would be refused by the server, with a worse message.
    #[error("{from} gives no secret: it is empty")]
    Empty {
        /// Where it should come from.
        from: String,
    },
    /// It is no secret that storewatch could use: the wrong file, most likely.
    #[error("{from} gives no secret: it {problem}")]
    NoText {
        /// Where it should come from.
        from: String,
        /// What is wrong with it.
        problem: NoText,
    },
    /// Nothing of that name is there, or the link leads nowhere.
    #[error("there is no file {path}")]
    Missing {
        /// What was named.
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
        source: Arc<io::Error>,
    },
    /// This user may not read the file, which says nothing of the service's.
    #[error("{path} can't be read by uid {uid}, as which this was asked{owned}")]
    Denied {
        /// The file.
        path: PathBuf,
        /// The user.
        uid: u32,
        /// `; …`, whose it is, where that can be seen.
        owned: String,
    },
    /// The variable isn't set.
    #[error("the environment variable {name} is not set; a service gets it by `EnvironmentFile=`")]
    NoVariable {
        /// Its name.
        name: String,
    },
    /// systemd hands over no credentials at all.
    #[error(
        "there are no credentials for this process (CREDENTIALS_DIRECTORY is not set); write \
         `LoadCredential={name}:/FILE` into the service's unit"
    )]
    NoCredentials {
        /// The credential that was wanted.
        name: String,
    },
    /// systemd hands over others than this one.
    #[error(
        "there is no credential `{name}` for this process; write `LoadCredential={name}:/FILE` into the service's unit"
    )]
    NoCredential {
        /// The credential that was wanted.
        name: String,
    },
    /// A name that would lead out of the directory of credentials.
    #[error("`{name}` is no name for a credential")]
    BadCredentialName {
        /// The name.
        name: String,
    },
    /// The command can't be started, or not be followed.
    #[error("{action} {program}")]
    Command {
        /// The verb.
        action: &'static str,
        /// The program alone: among the arguments may be secrets.
        program: String,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The command says that it failed, so what it has written is not taken for a secret.
    #[error(
        "{program} failed ({status}); what it said may have the secret in it and is not kept: run it by hand, as the \
         service's user, to see that"
    )]
    Failed {
        /// The program alone.
        program: String,
        /// Its exit status.
        status: String,
    },
    /// The command took too long.
    #[error("{program} did not end within {} s and was killed; see why, or give it more `timeout`", timeout.as_secs())]
    TimedOut {
        /// The program alone.
        program: String,
        /// How long it had.
        timeout: Duration,
    },
    /// Only macOS has a keychain.
    #[error("there is no keychain on this system; use file, credential, command or env")]
    NoKeychain,
    /// There is no netrc file where one is looked for.
    #[error(
        "there is no netrc file: neither $NETRC nor ~/.netrc (nor, as root, /etc/nix/netrc) names one; write its path"
    )]
    NoNetrc,
    /// Whose password to look for isn't known.
    #[error("the netrc file has passwords by host, and this cache's URL has no host")]
    NoHost,
    /// The netrc file has nothing for the host.
    #[error("{path} has no password for {host}; add the line `machine {host} password TOKEN`")]
    NotInNetrc {
        /// The file.
        path: PathBuf,
        /// The host.
        host: String,
    },
    /// What lies on this host can't be read in time.
    #[error("{from} could not be read within {} s; is the server of that file system away?", after.as_secs())]
    Hangs {
        /// Where the secret should come from.
        from: String,
        /// For how long.
        after: Duration,
    },
    /// What was to read it broke off, by a defect of storewatch's, which the log has.
    #[error("what was to read {from} broke off, by a defect of storewatch: its log has more")]
    LostThread {
        /// Where the secret should come from.
        from: String,
    },
}

/// `, or …`, where the policy has a place for it.
fn or_meant(unless_meant: bool) -> &'static str {
    if unless_meant { ", or write `readable_by_others = true` in the policy if that is meant" } else { "" }
}

/// Who may own a file with a secret.
fn owners(own: u32) -> String {
    match own {
        0 => "root, or to the user that storewatch runs as, which is root here".to_owned(),
        own => format!("root, or to the user that storewatch runs as, which is uid {own} here"),
    }
}

impl SecretError {
    /// Whether it may be there for the service, though not for who asks: systemd gives it to the service alone.
    #[must_use]
    pub fn may_be_the_services_own(&self) -> bool {
        matches!(self, Self::NoVariable { .. } | Self::NoCredentials { .. } | Self::NoCredential { .. })
    }

    /// What a person may do about it, where the error itself doesn't say.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Missing { .. } => Some("write the secret there, readable for the service's user only"),
            Self::Denied { .. } => Some(
                "if that is not the user that the service runs as, ask as that one; if it is, the file has to belong to \
                 it, with mode 0600, and the folders above must let it in",
            ),
            Self::NoFile { .. } => Some(
                "name the file with the secret in it; a folder, a pipe or a device is not read (`command` can read one)",
            ),
            Self::Empty { .. } => Some("what should write it has not done so, or writes elsewhere"),
            Self::NoText { .. } => Some("is it the right one? A secret is text, and a token one line of it"),
            Self::Command { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => {
                    Some("name the program by its absolute path: a service's PATH is another than a shell's")
                }
                io::ErrorKind::PermissionDenied => Some("the service's user must be allowed to run it"),
                _ => None,
            },
            _ => None,
        }
    }
}

/// What makes a text no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoText {
    /// More than a secret can be.
    #[error("has more than {} KiB", LONGEST >> 10)]
    TooLong,
    /// Not text at all.
    #[error("is no UTF-8")]
    NotUtf8,
    /// Several lines, or control characters, which no header could carry.
    #[error("has more than one line, or control characters in it")]
    Control,
}

/// As [`io_error`], for what is only read: whether that is allowed depends on who asks.
pub(super) fn read_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SecretError {
    let path = path.to_owned();
    move |source| {
        match source.kind() {
            io::ErrorKind::PermissionDenied => {}
            io::ErrorKind::NotFound => return SecretError::Missing { path },
            _ => return io_error(action, &path)(source),
        }
        let owned = std::fs::metadata(&path).map_or(String::new(), |file| {
            format!("; it belongs to uid {} and gid {}, with mode {:04o}", file.uid(), file.gid(), file.mode() & 0o7777)
        });
        SecretError::Denied { path, uid: rustix::process::geteuid().as_raw(), owned }
    }
}

pub(super) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SecretError {
    let path = path.to_owned();
    move |source| SecretError::Io { action, path, source: Arc::new(source) }
}
