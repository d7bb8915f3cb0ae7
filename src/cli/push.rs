//! `storewatch push`

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::backfill::{named_caches, named_paths};
use super::progress::carry_out;
use super::run::runtime;
use super::setup::Setup;
use super::{CliError, Global};
use crate::config::parse_duration;
use crate::daemon::backfill::Request;

/// Upload these paths now, with what they need, and say what became of them.
///
/// All that they need is looked for as well, to the end of their closure: a cache may have a path and have lost something
/// far behind it. They go before a backfill, and whether or not a rule skips them; what a rule denies stays here. Beside a running
/// service that does the work; alone, it is done here. A cache that takes nothing is waited for, whatever the reason;
/// Ctrl-C or --timeout ends that, and what is left stays queued. Exit code 3 says that some paths failed, are held back,
/// denied, not understood or refused by the Nix daemon, 4 that some are left, or that nothing has arrived since all caches
/// are off on this host.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Store paths, or links to them, or their base names.
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// Only to this cache, of those that the policy sends them to; may be given several times. What the policy would skip
    /// goes to all caches, or to these.
    #[arg(long, value_name = "CACHE")]
    to: Vec<String>,
    /// End after so long at most, whatever is waited for: 90s, 10m, 2h. What is left stays queued, and is listed with the
    /// reason.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, allow_hyphen_values = true)]
    timeout: Option<Duration>,
}

pub(super) fn run(global: &Global, args: &Args) -> Result<ExitCode, CliError> {
    let setup = Setup::read(global)?;
    // Somebody waits for it, so it keeps the priority that it was started with.
    let runtime = runtime()?;
    let request = Request {
        paths: runtime.block_on(named_paths(&args.paths, &setup))?,
        since: None,
        roots: false,
        to: named_caches(&args.to, &setup)?,
        by_hand: true,
        policy: setup.settings.fingerprint(),
        ..Request::default()
    };
    carry_out(setup, request, args.timeout, runtime)
}
