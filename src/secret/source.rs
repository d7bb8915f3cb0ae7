//! Where a secret comes from, as the policy says it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// How long a command may take, where the policy doesn't say: a vault on the network answers within it, and an upload
/// that waits for one that hangs isn't held up for long.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a command's answer is good, where the policy doesn't say: short against the life of any token, long enough
/// that nobody notices the command.
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(5 * 60);

/// Where a secret comes from. It holds none; its `Debug` shows of a command the program only, since people put secrets
/// among the arguments.
#[derive(Clone, PartialEq, Eq)]
pub enum Source {
    /// A file, read again when it changes.
    File {
        /// The file; absolute.
        path: PathBuf,
        /// Whether it is taken although others on this host can read it. `None`: it isn't, and is named where nobody can say
        /// so, as on the command line.
        readable_by_others: Option<bool>,
    },
    /// A variable of this process's environment.
    Env {
        /// Its name.
        name: String,
    },
    /// A credential that systemd hands over (`LoadCredential=`): the file NAME in `$CREDENTIALS_DIRECTORY`.
    Credential {
        /// Its name.
        name: String,
    },
    /// What a command writes to its standard output.
    Command {
        /// The program, absolute or found in `PATH`, and its arguments; no shell is asked.
        argv: Vec<String>,
        /// It is killed when it takes longer.
        timeout: Duration,
        /// How long its answer is kept.
        lifetime: Duration,
    },
    /// A password of the macOS keychain.
    Keychain {
        /// The item's service.
        service: String,
        /// The item's account, where one service has several.
        account: Option<String>,
    },
    /// The password that a netrc file has for the cache's host, as Nix's `netrc-file` does.
    Netrc {
        /// The file; `None`: `$NETRC`, `~/.netrc`, or `/etc/nix/netrc` as root.
        path: Option<PathBuf>,
        /// Whether it is taken although others on this host can read it.
        readable_by_others: bool,
    },
}

impl Source {
    /// A file that only its owner can read, named where the policy could say otherwise.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::File { path: path.into(), readable_by_others: Some(false) }
    }

    /// A file that only its owner can read, whatever anybody says.
    #[must_use]
    pub fn owners_file(path: impl Into<PathBuf>) -> Self {
        Self::File { path: path.into(), readable_by_others: None }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, .. } => write!(f, "{}", path.display()),
            Self::Env { name } => write!(f, "the environment variable {name}"),
            Self::Credential { name } => write!(f, "the credential {name}"),
            Self::Command { argv, .. } => write!(f, "the command {}", argv.first().map_or("", String::as_str)),
            Self::Keychain { service, account: None } => write!(f, "the keychain item {service}"),
            Self::Keychain { service, account: Some(account) } => write!(f, "the keychain item {service} of {account}"),
            Self::Netrc { path: Some(path), .. } => write!(f, "the netrc file {}", path.display()),
            Self::Netrc { path: None, .. } => f.write_str("the netrc file"),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({self})")
    }
}
