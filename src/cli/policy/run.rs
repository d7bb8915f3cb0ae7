//! Where the policies, the paths and the terminal of `storewatch policy` come from.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::hold::find_holds;
use super::newest::Newest;
use super::{Args, CheckArgs, Command, DiffArgs, Edit, ExplainArgs, PolicyCommandError};
use crate::cli::paths::{Named, valid_paths};
use crate::cli::run::runtime;
use crate::cli::setup::{self, Setup, check_url};
use crate::cli::status::{NOT_IN_FORCE, is_in_force};
use crate::cli::{CliError, Global};
use crate::config::{Config, Defaults, NixStore, PolicyFile, StoreOptions, Surroundings};
use crate::daemon::ServiceError;
use crate::daemon::caches::why_off;
use crate::nix::StorePath;
use crate::policy::{CacheName, NeedsReferences};
use crate::queue::{Queue, StateLock};
use crate::report::one_line;

pub(in crate::cli) fn run(global: &Global, args: Args) -> Result<ExitCode, CliError> {
    let mut out = io::stdout().lock();
    match args.command {
        Command::Check(args) => check(global, args, &mut out)?,
        Command::Explain(args) => explain(global, &args, &mut out)?,
        Command::Diff(args) => diff(global, args, &mut out)?,
        Command::Edit => edit(global, &mut out)?,
        Command::Schema => super::schema(&mut out)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn check(global: &Global, args: CheckArgs, out: &mut dyn Write) -> Result<(), CliError> {
    let file = args.file.map(|path| PolicyFile { path, named: true }).or_else(|| policy_file(global));
    Ok(super::check(file.as_ref(), &defaults(global)?, &check_url, out)?)
}

fn explain(global: &Global, args: &ExplainArgs, out: &mut dyn Write) -> Result<(), CliError> {
    let setup = Setup::read(global)?;
    let (policy, nix) = (&setup.config().policy, &setup.nix);
    let (asked, unclear) = runtime()?.block_on(async {
        let facts = nix.facts();
        let (mut asked, mut unclear) = (Vec::new(), Vec::new());
        for Named { info, .. } in valid_paths(&args.paths, nix).await? {
            let info = match info {
                Ok(info) => info,
                Err(error) => {
                    unclear.push(ServiceError::from(error).into());
                    continue;
                }
            };
            let look_up = async |needed: &StorePath| match facts.path_info(needed).await {
                Err(error) if error.is_of_the_path() => {
                    eprintln!("note: {} needs what can't be looked at: {}", info.path, one_line(&error));
                    Ok(None)
                }
                looked_at => looked_at.map_err(ServiceError::from).map_err(CliError::from),
            };
            let holds = find_holds(policy, &nix.logical, &info, look_up).await?;
            asked.push((info, holds));
        }
        Ok::<_, CliError>((asked, unclear))
    })?;
    let off = off_here(setup.config(), &setup.state_dir);
    if is_pending(&setup) {
        eprintln!("note: {NOT_IN_FORCE}");
    }
    super::explain::explain(policy, &nix.logical, asked, &off, args.json, out)?;
    CliError::all(unclear)
}

/// Whether a service is at work that doesn't go by the policy file as it is. The rules can be explained without knowing that.
fn is_pending(setup: &Setup) -> bool {
    let Ok(Some(working)) = StateLock::holder(&setup.state_dir) else { return false };
    let queue = Queue::open_to_look(&setup.state_dir);
    queue.and_then(|queue| is_in_force(&queue, &working, setup.settings.file())).is_ok_and(|known| known == Some(false))
}

/// Which caches are off on this host, and why.
fn off_here(config: &Config, state_dir: &Path) -> BTreeMap<CacheName, String> {
    let counts = match Queue::open_to_look(state_dir).and_then(|queue| queue.counts()) {
        Ok(counts) => counts,
        // The rules can be explained without it.
        Err(error) => {
            tracing::debug!("{}", one_line(&error));
            Vec::new()
        }
    };
    let off = config.caches.iter().filter_map(|cache| {
        let noted = counts.iter().find(|noted| noted.name == cache.name.as_str() && noted.url == cache.url);
        Some((cache.name.clone(), why_off(cache, noted)?))
    });
    off.collect()
}

fn diff(global: &Global, args: DiffArgs, out: &mut dyn Write) -> Result<(), CliError> {
    let setup = Setup::read(global)?;
    let file = PolicyFile { path: args.file, named: true };
    let other = Config::load(Some(&file), &defaults(global)?, &check_url)?;
    let Newest { infos, unclear } = Newest::read(&setup.nix, args.last)?;
    for what in unclear {
        eprintln!("note: {what}");
    }
    Ok(super::diff(setup.config(), &other, &setup.nix.logical, infos, args.json, out)?)
}

fn edit(global: &Global, out: &mut dyn Write) -> Result<(), CliError> {
    let Some(file) = policy_file(global) else {
        return Err(CliError::Usage("it isn't known where the policy file is; name it with --config".to_owned()));
    };
    let defaults = defaults(global)?;
    let name = file.path.display().to_string();
    // The policy may be too broken to say where the store is: its editing must not hang on that.
    let store = NixStore::resolve(&StoreOptions::default(), |name| std::env::var_os(name))?;
    let edit = Edit {
        file: &file.path,
        editor: &super::editor(|name| std::env::var_os(name)),
        store_dirs: &[store.real, store.logical.to_path_buf(), PathBuf::from("/nix/store")],
        check: &|text| Config::parse(text, &name, &defaults, &check_url),
        answers: &mut io::stdin().lock(),
        out,
    };
    Ok(edit.run()?)
}

fn policy_file(global: &Global) -> Option<PolicyFile> {
    let surroundings = Surroundings {
        state_dir: global.state_dir.as_deref(),
        config: global.config.as_deref(),
        root: rustix::process::geteuid().is_root(),
        env: &|name| std::env::var_os(name),
    };
    surroundings.policy_file()
}

fn defaults(global: &Global) -> Result<Defaults, CliError> {
    Ok(Defaults { state_dir: setup::state_dir(global)? })
}

impl From<NeedsReferences> for CliError {
    fn from(err: NeedsReferences) -> Self {
        PolicyCommandError::from(err).into()
    }
}

impl From<PolicyCommandError> for CliError {
    fn from(err: PolicyCommandError) -> Self {
        match err {
            PolicyCommandError::Config(err) => Self::Config(err),
            PolicyCommandError::Output(source) => Self::System { action: "write the answer", source },
            err => Self::Policy(err),
        }
    }
}
