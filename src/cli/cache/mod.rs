//! `storewatch cache`: what there is to see of the caches of the policy, and the care of those that have no server.

mod care;
mod info;
mod list;
mod ping;
mod prune;
mod sign;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use serde::Serialize;

use super::print::print;
use super::setup::{View, nix_store};
use super::status::problems;
use super::{CliError, Global};
use crate::config::{CacheConfig, Config, NixStore};

/// Look at the caches of the policy, and care for those that have no server of their own.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    List(list::Args),
    Info(info::Args),
    Ping(ping::Args),
    Verify(verify::Args),
    Prune(prune::Args),
    Sign(sign::Args),
}

pub(super) fn run(global: &Global, args: &Args) -> Result<ExitCode, CliError> {
    let (done, json) = match &args.command {
        Command::List(args) => (list::run(global, args), args.json),
        Command::Info(args) => (info::run(global, args), args.json),
        Command::Ping(args) => (ping::run(global, args), args.json),
        Command::Verify(args) => (verify::run(global, args), args.json),
        Command::Prune(args) => (prune::run(global, args), args.json),
        Command::Sign(args) => (sign::run(global, args), args.json),
    };
    if let (Err(CliError::BadPolicy(error)), true) = (&done, json) {
        print(true, &BadPolicy { policy_problems: problems(error) }, |_| Ok(()))?;
    }
    done
}

/// What is printed as JSON where there are no caches to speak of, as in `status --json`.
#[derive(Serialize)]
struct BadPolicy {
    policy_problems: Vec<String>,
}

/// Where things are and what the policy says, for those who only look.
struct Setup {
    state_dir: PathBuf,
    config: Config,
    nix: NixStore,
}

impl Setup {
    fn read(global: &Global) -> Result<Self, CliError> {
        let View { state_dir, config, .. } = View::find(global)?;
        let config = config.map_err(CliError::BadPolicy)?;
        let nix = nix_store(&config)?;
        Ok(Self { state_dir, config, nix })
    }

    /// The cache of that name.
    fn cache(&self, name: &str) -> Result<&CacheConfig, CliError> {
        let caches = &self.config.caches;
        caches.iter().find(|cache| cache.name.as_str() == name).ok_or_else(|| {
            let known: Vec<&str> = caches.iter().map(|cache| cache.name.as_str()).collect();
            CliError::Usage(format!("the policy has no cache `{name}`; it has {}", known.join(", ")))
        })
    }
}
