//! `storewatch backfill`

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;

use super::paths::valid_paths;
use super::progress::carry_out;
use super::run::runtime;
use super::setup::Setup;
use super::words::bytes;
use super::words::counted;
use super::{CliError, Global};
use crate::config::parse_duration;
use crate::daemon::backfill::{self, Request};
use crate::daemon::caches::{off_by_name, own_server};
use crate::nix::StorePath;
use crate::policy::CacheName;
use crate::queue::{CacheId, PassedOver, Routes, Why};

/// Upload what is valid already, by the same policy, behind what is fresh.
///
/// Where paths are named, all that they need is looked for as well, to the end of their closure. Interrupted, it goes on
/// where it stopped when it is asked for again, unless the policy file has changed since. Beside a running service the
/// queue is left to that; alone, it is worked off here. A cache that takes nothing is waited for, whatever the reason;
/// Ctrl-C or --timeout ends that, and what is left stays queued. Exit code 3 says that some paths failed or are held back, or
/// that what Nix says of them can't be understood, 4 that some are left, also for a cache that is off on this host since its
/// server has this host's address.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Only these store paths (or links to them, or their base names) and what they need; all valid paths if none is given.
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Only paths registered within so long: 90m, 12h, 7d, 4w.
    #[arg(long, value_name = "AGE", value_parser = parse_age, allow_hyphen_values = true)]
    since: Option<Duration>,
    /// Only paths that garbage collection would keep: what profiles and other roots lead to, and what that needs.
    #[arg(long, conflicts_with = "paths")]
    roots: bool,
    /// Only to this cache, of those that the policy says; may be given several times.
    #[arg(long, value_name = "CACHE")]
    to: Vec<String>,
    /// Only say what would be uploaded.
    #[arg(long)]
    dry_run: bool,
    /// End after so long at most, whatever is waited for: 90s, 10m, 2h. What is left stays queued, and is listed with the
    /// reason.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, allow_hyphen_values = true, conflicts_with = "dry_run")]
    timeout: Option<Duration>,
}

pub(super) fn run(global: &Global, args: &Args) -> Result<ExitCode, CliError> {
    let setup = Setup::read(global)?;
    // Before there are threads: they inherit it.
    crate::daemon::set_priority(setup.config().limits.priority);
    let runtime = runtime()?;
    let request = runtime.block_on(request(args, &setup))?;
    if args.dry_run {
        return dry_run(&setup, &request, &runtime);
    }
    carry_out(setup, request, args.timeout, runtime)
}

async fn request(args: &Args, setup: &Setup) -> Result<Request, CliError> {
    Ok(Request {
        paths: named_paths(&args.paths, setup).await?,
        since: args.since,
        roots: args.roots,
        to: named_caches(&args.to, setup)?,
        by_hand: false,
        policy: setup.settings.fingerprint(),
        ..Request::default()
    })
}

/// An age that a path can have.
fn parse_age(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(Duration::ZERO) => Err("nothing is so young; write for example 90m, 12h, 7d or 4w".to_owned()),
        Ok(age) => Ok(age),
        Err(error) => Err(error.to_string()),
    }
}

/// The valid paths that arguments name.
pub(super) async fn named_paths(arguments: &[PathBuf], setup: &Setup) -> Result<Vec<StorePath>, CliError> {
    // One that can't be understood is told with all that comes of the others.
    Ok(valid_paths(arguments, &setup.nix).await?.into_iter().map(|named| named.path).collect())
}

/// The policy's caches of these names.
pub(super) fn named_caches(names: &[String], setup: &Setup) -> Result<Vec<CacheName>, CliError> {
    let known = setup.config().policy.caches();
    let off = |name: &str| {
        let cache = setup.config().caches.iter().find(|cache| cache.name.as_str() == name)?;
        own_server(cache)
    };
    if let Some((name, host)) = names.iter().find_map(|name| Some((name, off(name)?))) {
        return Err(CliError::Usage(format!(
            "`{name}` is {}; `allow_self = true` lets it upload to itself",
            off_by_name(&host)
        )));
    }
    let named = names.iter().map(|name| {
        known.iter().find(|known| known.as_str() == name).cloned().ok_or_else(|| {
            let known: Vec<&str> = known.iter().map(CacheName::as_str).collect();
            CliError::Usage(format!("the policy has no cache `{name}`; it has {}", known.join(", ")))
        })
    });
    named.collect()
}

fn dry_run(setup: &Setup, request: &Request, runtime: &Runtime) -> Result<ExitCode, CliError> {
    let policy = Arc::clone(&setup.config().policy);
    // Nothing is queued, so the caches' places in the policy serve as their numbers.
    let on =
        |name: &CacheName| setup.config().caches.iter().any(|cache| cache.name == *name && own_server(cache).is_none());
    let ids = policy.caches().iter().cloned().zip((0..).map(CacheId)).filter(|(name, _)| on(name)).collect();
    let routes = Routes::to(Arc::clone(&policy), ids);
    let mut out = io::stdout().lock();
    let mut written = Ok(());
    let (mut count, mut size, mut passed_over) = (0, 0, BTreeMap::<PassedOver, u64>::new());
    runtime.block_on(backfill::dry_run(&setup.nix, request, &routes, |batch| {
        for wanted in &batch.wanted {
            let names: Vec<&str> = wanted
                .caches
                .iter()
                .filter_map(|id| policy.caches().get(id.0 as usize))
                .map(CacheName::as_str)
                .collect();
            let line = writeln!(out, "{} -> {}", setup.nix.logical.full(&wanted.path), names.join(", "));
            written = std::mem::replace(&mut written, Ok(())).and(line);
        }
        for what in &batch.unclear {
            let line = writeln!(out, "not understood: {what}");
            written = std::mem::replace(&mut written, Ok(())).and(line);
        }
        count += batch.wanted.len() as u64;
        size += batch.nar_size;
        for (why, paths) in &batch.passed_over {
            *passed_over.entry(why.clone()).or_default() += paths;
        }
    }))?;
    let written = written.and_then(|()| {
        let (paths, size) = (counted(count, "path"), bytes(size));
        writeln!(out, "would upload {paths} of {size} where missing, with all that is needed")?;
        passed_over.iter().try_for_each(|(PassedOver { by, why }, paths)| match why {
            Why::Denied => writeln!(out, "would not let out {paths} by {by}"),
            Why::Skipped => writeln!(out, "would skip {paths} by {by}"),
            Why::Off => writeln!(out, "would leave out {paths} for {by}, off on this host"),
            Why::Unclear if request.paths.is_empty() => {
                writeln!(out, "would pass over {paths} not understood, named above")
            }
            Why::Unclear => writeln!(out, "would pass over {paths} not understood: {by}"),
            Why::Refused => writeln!(out, "would pass over {paths} that the Nix daemon refuses to tell of: {by}"),
        })
    });
    written.map_err(|source| CliError::System { action: "print what would be done", source })?;
    Ok(ExitCode::SUCCESS)
}
