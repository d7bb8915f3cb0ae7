//! The command line: one file a subcommand, whose `Args` carry the help.

mod backfill;
mod bandwidth;
mod cache;
mod doctor;
mod error;
mod limit;
mod paths;
mod pause;
mod policy;
mod print;
mod progress;
mod push;
mod queue;
mod run;
mod setup;
mod status;
mod unpin;
mod waiting;
mod words;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

pub use self::error::CliError;
use crate::secret::leave_no_core_file;

/// Puts every path that becomes valid in the Nix store into your binary caches.
///
/// Without any configuration, `storewatch run` fills a signed binary cache directory below its state directory.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Under this the help of every command has what every command knows.
const GLOBAL: &str = "Global options";

/// What every command knows.
#[derive(Args, Debug)]
struct Global {
    /// The policy file [env: STOREWATCH_CONFIG] [default: /etc/storewatch/policy.toml as root,
    /// $XDG_CONFIG_HOME/storewatch/policy.toml otherwise]
    #[arg(long, global = true, value_name = "FILE", help_heading = GLOBAL)]
    config: Option<PathBuf>,
    /// Where the queue and generated keys are [env: STOREWATCH_STATE_DIR] [default: /var/lib/storewatch as root,
    /// $XDG_STATE_HOME/storewatch otherwise]
    #[arg(long, global = true, value_name = "DIR", help_heading = GLOBAL)]
    state_dir: Option<PathBuf>,
}

impl Global {
    /// What isn't given is taken from the environment; an empty variable says nothing. The parser doesn't do that itself: it
    /// would name these options in every usage line, as if whoever reads it had written them.
    fn or_environment(self) -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self {
            config: self.config.or_else(|| variable("STOREWATCH_CONFIG")),
            state_dir: self.state_dir.or_else(|| variable("STOREWATCH_STATE_DIR")),
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Backfill(backfill::Args),
    Push(push::Args),
    Status(status::Args),
    Queue(queue::Args),
    Limit(limit::Args),
    Pause(pause::PauseArgs),
    Resume(pause::ResumeArgs),
    Unpin(unpin::Args),
    Policy(policy::Args),
    Cache(cache::Args),
    Doctor(doctor::Args),
}

/// Parses the command line, does what it says, and gives the exit code.
#[must_use]
pub fn main() -> ExitCode {
    leave_no_core_file();
    let Cli { global, command } = Cli::parse();
    let global = global.or_environment();
    let done = match command {
        Command::Run(args) => run::run(&global, &args),
        Command::Backfill(args) => backfill::run(&global, &args),
        Command::Push(args) => push::run(&global, &args),
        Command::Status(args) => status::run(&global, &args),
        Command::Queue(args) => queue::run(&global, &args),
        Command::Limit(args) => limit::run(&global, &args),
        Command::Pause(args) => pause::pause(&global, &args),
        Command::Resume(args) => pause::resume(&global, &args),
        Command::Unpin(args) => unpin::run(&global, &args),
        Command::Policy(args) => policy::run(&global, args),
        Command::Cache(args) => cache::run(&global, &args),
        Command::Doctor(args) => doctor::run(&global, &args),
    };
    done.unwrap_or_else(|error| error.report())
}
