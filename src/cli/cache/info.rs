//! `storewatch cache info`

use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;

use super::{CliError, Global, Setup, print};
use crate::cache::{CacheInfo, Retention};
use crate::cli::run::runtime;
use crate::cli::waiting::telling;
use crate::cli::words::bytes;
use crate::daemon::caches;

/// Ask a cache what it is, and say what Nix needs to read from it.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The cache's name in the policy.
    name: String,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// What `cache info --json` prints.
#[derive(Serialize)]
struct Described<'a> {
    name: &'a str,
    kind: &'static str,
    url: &'a str,
    #[serde(flatten)]
    info: CacheInfo,
    /// That its server signs with another key than was noted before, in words.
    another_key: Option<String>,
}

pub(super) fn run(global: &Global, args: &Args) -> Result<ExitCode, CliError> {
    let setup = Setup::read(global)?;
    let cache = setup.cache(&args.name)?;
    let runtime = runtime()?;
    let describing = caches::describe(cache, &setup.state_dir, &setup.nix);
    let described = runtime.block_on(telling(|| cache.url.clone(), describing));
    // What hangs on a dead file system is not waited for.
    runtime.shutdown_background();
    let info =
        described.map_err(|source| CliError::Cache { name: cache.name.to_string(), source: Box::new(source) })?;
    let kind = cache.place.kind();
    let another_key = caches::note_key_that_was_told(cache, &setup.state_dir, info.public_key.as_deref());
    let described = Described { name: cache.name.as_str(), kind, url: &cache.url, info, another_key };
    print(args.json, &described, |out| write(out, &described))?;
    Ok(ExitCode::SUCCESS)
}

fn write(out: &mut impl Write, described: &Described<'_>) -> io::Result<()> {
    let Described { name, kind, url, info, another_key } = described;
    writeln!(out, "{name}  {kind}  {url}")?;
    let CacheInfo { substituter, public_key, api, is_public, store_dir, priority, .. } = info;
    let mut line = |what: &str, value: String| writeln!(out, "  {what:14} {value}");
    if let Some(remark) = info.remark {
        line("note", remark.to_owned())?;
    }
    if let Some(another_key) = another_key {
        line("note", another_key.clone())?;
    }
    if let Some(substituter) = substituter {
        line("substituter", substituter.clone())?;
    }
    if let Some(api) = api {
        line("API", api.clone())?;
    }
    if let Some(directory) = &info.directory {
        line("directory", directory.path.display().to_string())?;
        line("free", format!("{} of {}", bytes(directory.free_bytes), bytes(directory.total_bytes)))?;
    }
    if let Some(public) = is_public {
        let who = if *public { "everybody: it is public" } else { "who has a token: it is private" };
        line("read by", who.to_owned())?;
    }
    if let Some(store_dir) = store_dir {
        line("store", store_dir.clone())?;
    }
    if let Some(priority) = priority {
        line("priority", priority.to_string())?;
    }
    if let Some(mass) = info.want_mass_query {
        line("mass query", if mass { "yes" } else { "no" }.to_owned())?;
    }
    if !info.upstream_key_names.is_empty() {
        line("upstream keys", info.upstream_key_names.join(", "))?;
    }
    if let Some(retention) = info.retention {
        line("keeps unread", kept(retention))?;
    }
    let Some(substituter) = substituter else { return Ok(()) };
    match public_key {
        Some(key) => writeln!(out, "\nextra-substituters = {substituter}\nextra-trusted-public-keys = {key}")?,
        None => writeln!(out, "\nextra-substituters = {substituter}\n# its public key is not known here yet")?,
    }
    if *is_public == Some(false) {
        writeln!(out, "# and a token in the file that `netrc-file` names: `machine HOST password TOKEN`")?;
    }
    Ok(())
}

fn kept(retention: Retention) -> String {
    match retention {
        Retention::ServersOwn => "as long as its server does by default".to_owned(),
        Retention::Seconds(0) => "for ever".to_owned(),
        Retention::Seconds(seconds) => indicatif::HumanDuration(std::time::Duration::from_secs(seconds)).to_string(),
    }
}
