//! `storewatch run`

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::level_filters::LevelFilter;

use super::setup::{Setup, runtime_dir};
use super::{CliError, Global};
use crate::daemon::{self, Parts};
use crate::nix::close_replaced;

/// Watch the store and upload what becomes valid, until told to end.
///
/// SIGTERM and SIGINT finish what is under way and end; a second one ends at once. Nothing is lost either way. SIGHUP
/// reads the policy file again, which also happens by itself when it is saved. STOREWATCH_LOG=debug tells everything.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Listen to no file system events: the store is looked at every five seconds only.
    #[arg(long)]
    no_events: bool,
}

/// A thread that hangs in a system call must not keep the process from ending for longer; what it does is done again.
pub(super) const LAST_THREADS: Duration = Duration::from_secs(5);

/// How often a command looks whether files of the Nix database were replaced that it has open: three questions to the file
/// system.
const CLOSE_INTERVAL: Duration = Duration::from_millis(200);

pub(super) fn run(global: &Global, args: &Args) -> Result<ExitCode, CliError> {
    start_log(LevelFilter::INFO);
    let Setup { state_dir, settings, nix } = Setup::read(global).map_err(CliError::at_the_start)?;
    let priority = settings.config().limits.priority;
    daemon::set_priority(priority);
    daemon::leave_a_processor(priority);
    // Here the watcher looks whether the Nix database was replaced.
    let runtime = threads()?;
    let parts = Parts { state_dir, runtime_dir: runtime_dir(global), settings, nix, events: !args.no_events };
    let ended = runtime.block_on(daemon::run(parts));
    runtime.shutdown_timeout(LAST_THREADS);
    ended?;
    Ok(ExitCode::SUCCESS)
}

/// Threads for a command that may ask Nix's database. Files of it that are replaced are let go meanwhile, also while it stands
/// still, since an archive is read or nobody reads what it prints: otherwise no other command of Nix's would get in.
pub(super) fn runtime() -> Result<Runtime, CliError> {
    let runtime = threads()?;
    runtime.spawn(async {
        loop {
            sleep(CLOSE_INTERVAL).await;
            // It waits for whoever is just asking.
            let _ = spawn_blocking(close_replaced).await;
        }
    });
    Ok(runtime)
}

/// Two threads: nothing here computes on them, that is done by threads of its own.
fn threads() -> Result<Runtime, CliError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|source| CliError::System { action: "start threads", source })
}

/// Log lines go to standard error; `STOREWATCH_LOG` says which, otherwise those of `level` and above.
pub(super) fn start_log(level: LevelFilter) {
    // The Nix daemon's client logs every argument of every call at info.
    let quiet = "nix_daemon=warn";
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(level.into())
        .with_env_var("STOREWATCH_LOG")
        .from_env_lossy();
    let filter = match quiet.parse() {
        Ok(directive) => filter.add_directive(directive),
        Err(_) => filter,
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal());
    // A log that is there already serves as well.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        let _ = log.without_time().try_init();
    } else {
        let _ = log.try_init();
    }
}
