//! `storewatch status`

use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;

use super::setup::{View, nix_store};
use super::{CliError, Global};
use crate::config::{CacheConfig, Config, ConfigError, NixStore};
use crate::daemon::caches;
use crate::queue::{CacheCounts, Queue, QueueError, StateLock, now};
use crate::report::one_line;

/// Show what is queued, what is done, and what stands in the way; also while no service runs.
///
/// A policy file with problems gives the exit code 2; what can be shown without it is shown all the same.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What `status --json` prints.
#[derive(Serialize)]
struct Status {
    /// Who works the queue off, if anybody does.
    working: Option<String>,
    state_dir: String,
    policy_file: Option<String>,
    /// What is wrong with the policy file, one line each; what needs a policy is not known then.
    policy_problems: Vec<String>,
    store: Option<String>,
    caches: Vec<CacheStatus>,
}

#[derive(Serialize)]
struct CacheStatus {
    #[serde(flatten)]
    counts: CacheCounts,
    /// What Nix takes as a substituter; null where only a program knows where its paths are.
    substituter: Option<String>,
    /// What Nix takes as a trusted public key; null where this user can't know it, or where there is none yet.
    public_key: Option<String>,
    /// The policy no longer names it: its jobs wait until it does, or until they are dropped. Null without a good policy.
    orphaned: Option<bool>,
    /// This host's name, where that makes it the cache's own server: nothing goes there then.
    off_since_it_is: Option<String>,
}

pub(super) fn run(global: &Global, args: &Args) -> Result<ExitCode, CliError> {
    let View { state_dir, policy_file, config } = View::find(global)?;
    let counts = match Queue::open_to_look(&state_dir) {
        Ok(queue) => queue.counts()?,
        Err(QueueError::NoQueue { .. }) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let nix = config.as_ref().ok().map(nix_store).transpose()?;
    let caches = match config.as_ref().ok().zip(nix.as_ref()) {
        Some((config, nix)) => cache_states(counts, config, &state_dir, nix),
        None => {
            let used = counts.into_iter().filter(|counts| counts.jobs() > 0);
            used.map(|counts| CacheStatus::without_policy(counts, None)).collect()
        }
    };
    let status = Status {
        working: StateLock::holder(&state_dir),
        state_dir: state_dir.display().to_string(),
        policy_file: policy_file.filter(|file| config.is_err() || file.exists()).map(|file| file.display().to_string()),
        policy_problems: config.as_ref().err().map(problems).unwrap_or_default(),
        store: nix.map(|nix| nix.logical.as_str().to_owned()),
        caches,
    };
    let mut out = io::stdout().lock();
    let written = if args.json {
        serde_json::to_writer_pretty(&mut out, &status).map_err(io::Error::from).and_then(|()| writeln!(out))
    } else {
        write_text(&mut out, &status)
    };
    written.map_err(|source| CliError::System { action: "print the status", source })?;
    config.map(|_| ExitCode::SUCCESS).map_err(CliError::from)
}

fn problems(error: &ConfigError) -> Vec<String> {
    match error {
        ConfigError::Problems(problems) => problems.iter().map(ToString::to_string).collect(),
        error => vec![one_line(error)],
    }
}

impl CacheStatus {
    /// A cache of which nothing is known but what the queue says.
    fn without_policy(counts: CacheCounts, orphaned: Option<bool>) -> Self {
        Self {
            substituter: caches::substituter(&counts.url),
            public_key: None,
            orphaned,
            off_since_it_is: None,
            counts,
        }
    }
}

/// The caches of the policy in its order, then those that only the queue still knows.
fn cache_states(
    mut counts: Vec<CacheCounts>,
    config: &Config,
    state_dir: &std::path::Path,
    nix: &NixStore,
) -> Vec<CacheStatus> {
    let mut states = Vec::new();
    for cache in &config.caches {
        let known = counts.iter().position(|known| known.name == cache.name.as_str() && known.url == cache.url);
        let counts = known.map_or_else(|| nothing_yet(cache), |index| counts.swap_remove(index));
        states.push(CacheStatus {
            counts,
            substituter: caches::substituter(&cache.url),
            public_key: caches::public_key(cache, state_dir, nix).map(|key| key.to_string()),
            orphaned: Some(false),
            off_since_it_is: caches::own_server(cache),
        });
    }
    let busy = |counts: &CacheCounts| counts.pending + counts.uploading + counts.held + counts.failed > 0;
    states.extend(counts.into_iter().filter(busy).map(|counts| CacheStatus::without_policy(counts, Some(true))));
    states
}

fn nothing_yet(cache: &CacheConfig) -> CacheCounts {
    CacheCounts::none(cache.name.as_str(), &cache.url)
}

fn write_text(out: &mut impl Write, status: &Status) -> io::Result<()> {
    match &status.working {
        Some(working) => writeln!(out, "at work: {working}")?,
        None => writeln!(out, "nobody works the queue off; start `storewatch run`")?,
    }
    writeln!(out, "store:   {}", status.store.as_deref().unwrap_or("not known without the policy"))?;
    writeln!(out, "state:   {}", status.state_dir)?;
    let bad = if status.policy_problems.is_empty() { "" } else { " (it can't be used: what it says isn't shown)" };
    writeln!(out, "policy:  {}{bad}", status.policy_file.as_deref().unwrap_or("built in (no file)"))?;
    for CacheStatus { counts, substituter, public_key, orphaned, off_since_it_is } in &status.caches {
        writeln!(out, "\n{}  {}", counts.name, counts.url)?;
        if let Some(host) = off_since_it_is {
            writeln!(
                out,
                "  off on this host, {host}, which is the cache's own server by `server_hostnames`; what becomes valid \
                 meanwhile is left to `storewatch backfill`"
            )?;
        }
        if *orphaned == Some(true) {
            // Another cache of that name may be in use.
            let namesakes = status.caches.iter().filter(|cache| cache.counts.name == counts.name).count();
            let which = if namesakes == 1 { &counts.name } else { &counts.url };
            writeln!(
                out,
                "  the policy no longer names this cache; `storewatch queue drop --cache {which}` ends its jobs"
            )?;
        }
        if let (Some(why), Some(since)) = (&counts.waiting_why, counts.waiting_since) {
            writeln!(out, "  takes nothing for {} now: {why}", passed(since))?;
        }
        writeln!(
            out,
            "  {} done ({}), {} pending, {} uploading, {} held, {} failed, {} gone",
            counts.done,
            bytes(counts.bytes_sent),
            counts.pending,
            counts.uploading,
            counts.held,
            counts.failed,
            counts.gone
        )?;
        if counts.held + counts.failed > 0 {
            writeln!(out, "  `storewatch queue list --cache {}` says why some are held or have failed", counts.name)?;
        }
        if *orphaned == Some(false)
            && let Some(substituter) = substituter
        {
            writeln!(out, "  extra-substituters        = {substituter}")?;
        }
        if let Some(key) = public_key {
            writeln!(out, "  extra-trusted-public-keys = {key}")?;
        }
    }
    Ok(())
}

/// Bytes for people: `12.3 MiB`.
pub(super) fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

/// How much time has passed since a time of the queue's: `3 minutes`.
pub(super) fn passed(since: i64) -> String {
    let passed = u64::try_from(now() - since).unwrap_or(0);
    indicatif::HumanDuration(std::time::Duration::from_millis(passed)).to_string()
}
