//! `storewatch policy`: check, explain and change what is uploaded.
//!
//! The functions here take plain arguments and write to what they are given; where the policy, the store and the
//! terminal come from is the caller's matter.

mod check;
mod copy;
mod diff;
mod edit;
mod explain;
mod hold;
mod newest;
mod run;

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use clap::Subcommand;

use crate::config::ConfigError;
use crate::policy::NeedsReferences;

pub use check::{check, schema};
pub use diff::diff;
pub use edit::{Edit, editor};
pub(super) use run::run;

/// Check, explain and change what is uploaded.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done with a policy.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Say whether a policy file is good, or all that is wrong with it.
    ///
    /// Nothing is uploaded, and nothing changes. A file that is not good gives the exit code 2.
    Check(CheckArgs),
    /// Say what happens to a path and which rule decided, and why each earlier rule did not match.
    ///
    /// Where the path needs something that is denied, it says what that is, and by which rule.
    Explain(ExplainArgs),
    /// Say which of the newest paths another policy file would decide otherwise.
    Diff(DiffArgs),
    /// Change the policy file in $VISUAL or $EDITOR.
    ///
    /// A copy is edited. It takes the file's place, at once and as a whole, when it is good; a running storewatch then
    /// goes by it.
    Edit,
    /// Print the JSON schema of the policy file, by which editors complete and check it.
    Schema,
}

/// Arguments of `policy check`.
#[derive(clap::Args, Debug)]
pub struct CheckArgs {
    /// The file [default: the policy file in use]
    pub file: Option<PathBuf>,
}

/// Arguments of `policy explain`.
#[derive(clap::Args, Debug)]
pub struct ExplainArgs {
    /// Store paths, anything in them, links to them, or their base names
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `policy diff`.
#[derive(clap::Args, Debug)]
pub struct DiffArgs {
    /// The policy file to compare with the one in use
    pub file: PathBuf,
    /// How many of the newest paths to ask about
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub last: usize,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Why a command on the policy failed.
#[derive(Debug, thiserror::Error)]
pub enum PolicyCommandError {
    /// The policy is not good, or can't be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A path was given whose references are not loaded: an answer would be a guess.
    #[error(transparent)]
    NeedsReferences(#[from] NeedsReferences),
    /// The file is made by NixOS or home-manager; a change would be refused, or lost with the next generation.
    #[error("`{}` lies in the Nix store, so it is made by your NixOS, nix-darwin or home-manager configuration", real.display())]
    Managed {
        /// Where the file really is.
        real: PathBuf,
    },
    /// The editor failed; the file is as it was.
    #[error("the editor `{editor}` ended with {status}")]
    Editor {
        /// The command.
        editor: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// The author gave up a policy that is not good.
    #[error("it is not good yet")]
    GivenUp,
    /// Somebody else changed the file in the meantime; replacing it would lose that.
    #[error("`{}` was changed in the meantime", file.display())]
    ChangedMeanwhile {
        /// The policy file.
        file: PathBuf,
    },
    /// The policy is as it was, for some reason of those here, and what the author wrote is kept.
    #[error("the policy is as it was, and what you wrote is in `{}`", copy.display())]
    NotTaken {
        /// The edited copy.
        copy: PathBuf,
        /// Why it was not taken.
        source: Box<Self>,
    },
    /// The system said no.
    #[error("can not {action} `{}`", path.display())]
    System {
        /// What was tried: a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What is said can't be written.
    #[error("can not write to the terminal")]
    Output(#[from] io::Error),
}

impl PolicyCommandError {
    /// What a person may do about it, where the error itself doesn't say.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Config(err) => err.hint(),
            Self::NotTaken { source, .. } => source.hint(),
            Self::Managed { .. } => Some("change the policy there and switch to the new generation"),
            Self::Editor { .. } => Some("set EDITOR to the editor that you want"),
            Self::System { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("edit it as the user that owns it, or as root")
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::setup::check_url;
    use crate::config::{Config, Defaults};
    use crate::nix::{NarHash, PathInfo, StorePath};

    pub(super) fn config(text: &str) -> Config {
        let defaults = Defaults { state_dir: "/state".into() };
        Config::parse(text, "policy.toml", &defaults, &check_url).expect("a good policy")
    }

    /// An output of 2 KiB that was built here.
    pub(super) fn path_info(name: &str) -> PathInfo {
        let path = |name: &str| StorePath::from_base_name(&format!("{}-{name}", "0".repeat(32))).expect("a path");
        PathInfo {
            id: None,
            path: path(name),
            nar_hash: NarHash([0; 32]),
            nar_size: 2048,
            registration_time: 0,
            deriver: Some(path("hello.drv")),
            ultimate: true,
            sigs: Vec::new(),
            ca: None,
            references: Some(Vec::new()),
        }
    }
}
