//! A program of the user's as a cache: `command:///PROGRAM`. It is run for each path, is told what the path is, and brings
//! it wherever it likes. `docs/commands.md` says what the two say to each other.
//!
//! There is no moment at which such a cache has a path and doesn't show it. So the go-ahead is awaited before the program
//! is begun, and an archive's last chunk is handed over only when its hash is right; a program that reads the files by
//! itself is run only after storewatch has read and hashed them. Where storewatch itself is killed in the middle of an archive,
//! the program's input ends there and nobody kills it: `nar_size` tells it so.
//!
//! The program gets an environment of its own (`environment` says which), without the secrets that the service has. It is killed,
//! with all that it has started, when its upload is called off.
//!
//! Deliberately absent: a way to ask it for one path at a time. What it was given successfully counts as there, unless it
//! answers questions about many paths at once.

mod environment;
mod error;
mod line;
mod run;
mod usable;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;

pub use self::error::{CommandError, Verdict};
use self::line::{Answer, Kind, lacking, push_line, question};
use self::run::{Ended, run};
use self::usable::usable;
use super::{BoxFuture, Cache, CacheError, Push, Pushed, Trial};
use crate::nix::{StoreDir, StorePath};

/// So long it is believed what a program has said is there.
const ANSWERS_HOLD: Duration = Duration::from_secs(10 * 60);

/// Paths that one question is about: some 100 kB.
const ASKED_AT_ONCE: usize = 1_000;

/// What a program is given of a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gives {
    /// Where it lies.
    #[default]
    Path,
    /// Its archive, too.
    Nar,
}

/// What a cache that is a program is made of.
#[derive(Clone, Debug)]
pub struct CommandOptions {
    /// The cache's name in the policy.
    pub name: String,
    /// The program; absolute.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// What it is given of a path.
    pub gives: Gives,
    /// Whether it can say what is missing.
    pub answers_missing: bool,
    /// It is killed when it takes longer for one path.
    pub timeout: Duration,
    /// Variables of the service's environment that it gets beside the usual ones.
    pub pass_environment: Vec<String>,
    /// The logical store directory of this host.
    pub store_dir: StoreDir,
    /// Where this host's store has its files.
    pub real_store: PathBuf,
}

/// A cache that is a program.
pub struct CommandCache {
    options: CommandOptions,
}

impl CommandCache {
    /// Looks whether the program is there, and is nobody else's to change. It isn't run.
    ///
    /// # Errors
    /// [`CommandError::Unusable`].
    pub async fn open(options: CommandOptions) -> Result<Self, CacheError> {
        check(&options.program).await?;
        Ok(Self { options })
    }

    async fn ask_missing(&self, paths: &[StorePath]) -> Result<Vec<StorePath>, CacheError> {
        let Ended { program, status, output, said } = run(&self.options, question(&self.options, paths), None).await?;
        if !status.success() {
            let answer = Answer::last_of(&output).ok().flatten();
            return Err(error::of_end(&self.options, status, answer, &said).into());
        }
        lacking(&output, paths).map_err(|problem| CommandError::NotUnderstood { program, problem }.into())
    }

    async fn upload(&self, push: Push) -> Result<Pushed, CacheError> {
        let Push { info, nar, arrivals, go_ahead, .. } = push;
        // No slot is held meanwhile: what is waited for may need it.
        arrivals.await?;
        let mut reader = nar.start().await?;
        // The program is at work until it ends.
        let _slot = reader.slot();
        let reader = match self.options.gives {
            Gives::Nar => Some(reader),
            Gives::Path => {
                while reader.next().await?.is_some() {}
                None
            }
        };
        go_ahead.await?;
        let Ended { program, status, output, said } =
            run(&self.options, push_line(&self.options, &info), reader).await?;
        let answer = match Answer::last_of(&output) {
            Ok(answer) => answer,
            Err(problem) if status.success() => return Err(CommandError::NotUnderstood { program, problem }.into()),
            Err(_) => None,
        };
        let kind = answer.as_ref().and_then(|answer| answer.kind);
        match kind {
            Some(Kind::AlreadyThere) if status.success() => {
                Ok(Pushed { read: info.nar_size, sent: 0, deduplicated: true })
            }
            None | Some(Kind::Uploaded) if status.success() => {
                let sent = answer.and_then(|answer| answer.sent).unwrap_or(info.nar_size);
                Ok(Pushed { read: info.nar_size, sent, deduplicated: false })
            }
            _ => Err(error::of_end(&self.options, status, answer, &said).into()),
        }
    }
}

impl Cache for CommandCache {
    fn missing<'a>(&'a self, paths: &'a [StorePath]) -> BoxFuture<'a, Result<Vec<StorePath>, CacheError>> {
        Box::pin(async move {
            if !self.options.answers_missing {
                return Ok(paths.to_vec());
            }
            let mut missing = Vec::new();
            for some in paths.chunks(ASKED_AT_ONCE) {
                missing.extend(self.ask_missing(some).await.map_err(of_the_question)?);
            }
            Ok(missing)
        })
    }

    fn knows_what_it_has(&self) -> bool {
        self.options.answers_missing
    }

    fn answers_hold(&self) -> Duration {
        if self.options.answers_missing { ANSWERS_HOLD } else { Duration::ZERO }
    }

    fn push(self: Arc<Self>, push: Push) -> BoxFuture<'static, Result<Pushed, CacheError>> {
        Box::pin(async move { self.upload(push).await })
    }
}

fn of_the_question(error: CacheError) -> CacheError {
    match error {
        CacheError::Command(error) => CommandError::Unanswered(Box::new(error)).into(),
        other => other,
    }
}

/// Looks whether the program could be run. It isn't.
pub async fn try_out(options: &CommandOptions) -> Trial {
    let checked = check(&options.program).await;
    let there = checked.is_ok();
    Trial {
        writes: (!there).then_some(false),
        troubles: checked.err().into_iter().collect(),
        remark: there.then_some("the program is there; it is run for paths only"),
        ..Trial::default()
    }
}

/// Whether a program can be run by this user, and is nobody else's to change.
async fn check(program: &Path) -> Result<(), CacheError> {
    let path = program.to_owned();
    let checked = spawn_blocking(move || usable(&path).err()).await;
    match checked.map_err(|_| CacheError::LostThread { action: "look for the program" })? {
        None => Ok(()),
        Some(problem) => Err(CommandError::Unusable { program: program.to_owned(), problem }.into()),
    }
}

#[cfg(test)]
mod tests;
