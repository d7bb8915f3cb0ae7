//! Why a program didn't take a path, and what that means.

use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use super::CommandOptions;
use super::environment::blackened;
use super::line::{Answer, Kind};
use crate::cache::Class;
use crate::cache::http::plain;
use crate::program::Tail;

/// Exit codes as `sysexits.h` has them, where it has one.
const DATA_ERROR: i32 = 65;
const UNAVAILABLE: i32 = 69;
const TRY_AGAIN: i32 = 75;
const NO_PERMISSION: i32 = 77;
const CONFIGURATION: i32 = 78;

/// What a shell says of a program that it can't run, and of one that it doesn't find.
const NOT_RUN: RangeInclusive<i32> = 126..=127;

/// The system's number for a file that is in no format that can be run: the same on Linux and macOS.
const ENOEXEC: i32 = 8;

/// No pause that a program asks for is shorter or longer, as with servers.
const PAUSES: RangeInclusive<u64> = 1..=60 * 60;

/// Why a program didn't take a path.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It can't be run as it is.
    #[error("the program {program} can't be used: {problem}")]
    Unusable {
        /// The program.
        program: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// It could not be started, or not be spoken to.
    #[error("{action} {program}")]
    Io {
        /// The verb.
        action: &'static str,
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It took too long.
    #[error("{program} did not end within {} s and was killed; see why, or give it more `timeout`", timeout.as_secs())]
    TimedOut {
        /// The program.
        program: PathBuf,
        /// How long it had.
        timeout: Duration,
    },
    /// It wrote without end.
    #[error("{program} wrote more than {} KiB to its standard output and was killed; one line is expected there", most >> 10)]
    TooMuch {
        /// The program.
        program: PathBuf,
        /// What is read at most, in bytes.
        most: usize,
    },
    /// What it said is not what `docs/commands.md` has.
    #[error("{program} says what is not understood: {problem}")]
    NotUnderstood {
        /// The program.
        program: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// It didn't say what is missing. That is no fault of any path, however it was told.
    #[error(transparent)]
    Unanswered(Box<Self>),
    /// It says that it hasn't taken the path.
    #[error("{program} {verdict} ({status}){reason}")]
    Ended {
        /// The program.
        program: PathBuf,
        /// What it says.
        verdict: Verdict,
        /// Its exit status.
        status: String,
        /// `: …`, in its own words.
        reason: String,
    },
}

/// What a program says of a path that it didn't take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Verdict {
    /// Later, perhaps after a time that it names.
    #[error("wants to be asked again later")]
    Later {
        /// The pause that it asks for.
        after: Option<Duration>,
    },
    /// Never.
    #[error("refused the path")]
    Refused,
    /// Not before it has other credentials.
    #[error("lacks credentials, or their permission")]
    Credentials,
    /// What it speaks to is away.
    #[error("can't reach what it uploads to")]
    OutOfReach,
    /// It can't do its work as it is set up.
    #[error("can't do its work as it is set up")]
    Misconfigured,
    /// Nothing that is known.
    #[error("failed")]
    Failed,
}

/// What it means how a program has ended that didn't take what it was given.
pub(super) fn of_end(
    options: &CommandOptions,
    status: ExitStatus,
    answer: Option<Answer>,
    said: &Tail,
) -> CommandError {
    let answer = answer.unwrap_or_default();
    let after = answer.retry_after.map(|seconds| Duration::from_secs(seconds.clamp(*PAUSES.start(), *PAUSES.end())));
    // The exit code counts, and where it says nothing of its own, the line.
    let verdict = match (status.code(), answer.kind) {
        (Some(TRY_AGAIN), _) => Verdict::Later { after },
        (Some(DATA_ERROR), _) => Verdict::Refused,
        (Some(NO_PERMISSION), _) => Verdict::Credentials,
        (Some(UNAVAILABLE), _) => Verdict::OutOfReach,
        (Some(CONFIGURATION), _) => Verdict::Misconfigured,
        (Some(code), _) if NOT_RUN.contains(&code) => Verdict::Misconfigured,
        (Some(_), Some(Kind::Refused)) => Verdict::Refused,
        (Some(_), Some(Kind::Retry)) => Verdict::Later { after },
        _ => Verdict::Failed,
    };
    let blacken = |text: &str| blackened(options, text);
    let own_words = answer.reason.map(|reason| plain(&blacken(&reason)));
    let reason = match own_words.filter(|reason| !reason.is_empty()) {
        Some(reason) => format!(": {reason}"),
        None => said.explanation(blacken),
    };
    CommandError::Ended { program: options.program.clone(), verdict, status: status.to_string(), reason }
}

impl CommandError {
    /// What a person may do about it, where the error itself doesn't say.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Unusable { .. } => {
                Some("name a program in `url` that the service's user may run and only its owner changes")
            }
            Self::Ended { verdict: Verdict::Credentials, .. } => Some(
                "log its client in as the user that the service runs as, or hand a variable on by `pass_environment`",
            ),
            Self::Ended { verdict: Verdict::Misconfigured, .. } => {
                Some("run it by hand as the service's user; it gets few variables, which docs/commands.md lists")
            }
            Self::Unanswered(error) => error.hint(),
            _ => None,
        }
    }

    /// What the failure means.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Unusable { .. } => Class::CacheWaits,
            Self::Io { action: "start", source, .. } if never_starts(source) => Class::CacheWaits,
            Self::Io { .. } => Class::Transient,
            Self::Unanswered(error) => match error.class() {
                Class::Transient | Class::Doubtful | Class::Permanent => Class::Unavailable,
                other => other,
            },
            Self::TimedOut { .. } | Self::TooMuch { .. } | Self::NotUnderstood { .. } => Class::Doubtful,
            Self::Ended { verdict, .. } => match verdict {
                Verdict::Later { after: Some(after) } => Class::Throttled { after: *after },
                Verdict::Later { after: None } => Class::Transient,
                Verdict::Refused => Class::Permanent,
                Verdict::Credentials => Class::Credentials,
                Verdict::OutOfReach => Class::Unavailable,
                Verdict::Misconfigured => Class::CacheWaits,
                Verdict::Failed => Class::Doubtful,
            },
        }
    }
}

/// Whether the program as it is can never be started, whatever the path: it is gone, or its interpreter is.
fn never_starts(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
        || error.raw_os_error() == Some(ENOEXEC)
}
