//! What can go wrong on the command line, with hints and exit codes in one place.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::cache::CacheError;
use crate::config::ConfigError;
use crate::daemon::ServiceError;
use crate::nix::DatabaseError;
use crate::queue::{AtWork, FULL, LockError, QueueError};
use crate::report::one_line;
use crate::watch::WatchError;

/// Something could not be done.
const FAILED: u8 = 1;

/// The command line or the policy file has to be changed first.
const WRONG_INPUT: u8 = 2;

/// Some paths are held back, denied, or have failed: a person has to look at them.
pub const NOT_ALL_DELIVERED: u8 = 3;

/// A backfill or a push was ended, by its time-out or by a signal, before it was through: what is left stays queued, and it
/// is enough to wait or to ask again.
pub const NOT_THROUGH: u8 = 4;

/// A cache could not be examined or cared for to the end, since it could not be asked, or didn't let it be done: that says
/// nothing of how it is, and it may be enough to try again.
const NOT_ASKED: u8 = 5;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The policy file is bad.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The policy file is bad, and something else was asked for.
    #[error(transparent)]
    BadPolicy(ConfigError),
    /// Neither an option nor the environment says where the state directory is.
    #[error("it isn't known where the state directory is")]
    NoStateDir,
    /// A service works with the state directory, and it is gone.
    #[error("the state directory {dir} is gone, with which {service} works: it was unmounted or removed", dir = dir.display())]
    StateAway {
        /// The service, as it said itself.
        service: String,
        /// The state directory.
        dir: PathBuf,
    },
    /// The Nix store isn't one that can be watched from here.
    #[error(transparent)]
    Store(#[from] crate::config::StoreError),
    /// The service ended.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The queue can't be used.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The Nix database can't be read.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// Another works with the state directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// An argument is no store path.
    #[error(transparent)]
    NoStorePath(#[from] super::paths::NoStorePath),
    /// An argument is a store path, but Nix doesn't have it.
    #[error("{0} is not valid: Nix has not registered it, or has collected it")]
    NotValid(String),
    /// Several things are wrong, each in its way.
    #[error("several things are wrong")]
    Several(Vec<Self>),
    /// A cache doesn't say what it is.
    #[error("cache {name}")]
    Cache {
        /// Its name in the policy.
        name: String,
        /// Why not.
        source: Box<CacheError>,
    },
    /// A cache can't be cared for.
    #[error("cache {name}")]
    Care {
        /// Its name in the policy.
        name: String,
        /// Why not.
        source: Box<CacheError>,
    },
    /// An argument can't be used.
    #[error("{0}")]
    Usage(String),
    /// The policy can't be edited, or can't be asked.
    #[error(transparent)]
    Policy(super::policy::PolicyCommandError),
    /// The system said no.
    #[error("{action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl CliError {
    /// All of these together.
    pub(super) fn all(mut errors: Vec<Self>) -> Result<(), Self> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Self::Several(errors)),
        }
    }

    /// The same, where it keeps the service from starting: none runs that would keep to another policy.
    pub(super) fn at_the_start(self) -> Self {
        match self {
            Self::BadPolicy(error) => Self::Config(error),
            other => other,
        }
    }

    /// Tells the user, and gives the exit code.
    #[must_use]
    pub fn report(&self) -> ExitCode {
        // The reader of a pipe has seen enough: that is no failure.
        if let Self::System { source, .. } = self
            && source.kind() == io::ErrorKind::BrokenPipe
        {
            return ExitCode::SUCCESS;
        }
        match self {
            Self::Config(problems @ ConfigError::Problems(_)) => eprintln!("{problems}"),
            Self::BadPolicy(problems @ ConfigError::Problems(_)) => {
                eprintln!(
                    "{problems}\nstorewatch: the policy is bad: mend it first; should a service be running, it keeps to the one before"
                );
            }
            Self::Several(errors) => {
                errors.iter().map(Self::report).for_each(drop);
            }
            error => eprintln!("storewatch: {}", one_line(error)),
        }
        if let Some(hint) = self.hint() {
            eprintln!("hint: {hint}");
        }
        ExitCode::from(self.exit_code())
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::BadPolicy(_) | Self::NoStorePath(_) | Self::NotValid(_) | Self::Usage(_) => {
                WRONG_INPUT
            }
            Self::Care { source, .. } if keeps_from_asking(source) => NOT_ASKED,
            // Where anything is to be changed first, that comes first; and trying again doesn't help with what else there is.
            Self::Several(errors) => {
                let codes = || errors.iter().map(Self::exit_code);
                codes().find(|code| *code == WRONG_INPUT).or(codes().min()).unwrap_or(FAILED)
            }
            _ => FAILED,
        }
    }

    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Config(error) | Self::BadPolicy(error) => error.hint(),
            Self::Policy(error) => error.hint(),
            Self::Cache { source, .. } | Self::Care { source, .. } => source.hint(),
            Self::StateAway { .. } => Some(AtWork::CURE),
            Self::NoStateDir => Some("give --state-dir, or set HOME"),
            Self::Queue(error) | Self::Service(ServiceError::Queue(error)) => error.hint(),
            Self::Lock(error) | Self::Service(ServiceError::Lock(error)) => lock_hint(error),
            Self::NoStorePath(error) => error.hint(),
            Self::Service(ServiceError::Facts(error)) => error.hint(),
            Self::Database(error)
            | Self::Service(ServiceError::Database(error) | ServiceError::Watch(WatchError::Database(error))) => {
                error.hint()
            }
            _ => None,
        }
    }
}

/// Whether it is the way to the cache, or to what else is asked of it, that is at fault, and not the cache, nor what is wanted
/// of it.
fn keeps_from_asking(error: &CacheError) -> bool {
    match error {
        CacheError::Bucket(_)
        | CacheError::InVain(_)
        | CacheError::Http(_)
        | CacheError::Io { .. }
        | CacheError::Hangs { .. }
        | CacheError::Silent { .. }
        | CacheError::OutOfSight { .. }
        | CacheError::NoRoom(_)
        | CacheError::Facts(_)
        | CacheError::LostThread { .. } => true,
        CacheError::Nar(_)
        | CacheError::Hindered(_)
        | CacheError::OtherStore { .. }
        | CacheError::Command(_)
        | CacheError::NoSuchCache { .. }
        | CacheError::OwnServer { .. }
        | CacheError::Unencrypted { .. }
        | CacheError::LargerThanCache { .. }
        | CacheError::NoCacheThere { .. }
        | CacheError::RestsTooLong { .. }
        | CacheError::NotOurs { .. }
        | CacheError::Url(_)
        | CacheError::Secret(_)
        | CacheError::Key { .. }
        | CacheError::Malformed { .. } => false,
    }
}

fn lock_hint(error: &LockError) -> Option<&'static str> {
    match error {
        LockError::Held { .. } => {
            Some("one service a state directory is enough; `storewatch status` shows how it does")
        }
        error if error.is_about_room() => Some(FULL),
        LockError::Io { .. } => Some("give a directory that you can write with --state-dir"),
    }
}
