//! `storewatch status`

use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;

use super::setup::Setup;
use super::{CliError, Global};
use crate::config::{CacheConfig, Config, NixStore};
use crate::daemon::caches;
use crate::queue::{CacheCounts, Queue, QueueError, StateLock, now};

/// Show what is queued, what is done, and what stands in the way; also while no service runs.
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
    store: String,
    caches: Vec<CacheStatus>,
}

#[derive(Serialize)]
struct CacheStatus {
    #[serde(flatten)]
    counts: CacheCounts,
    /// What Nix takes as a substituter.
    substituter: String,
    /// What Nix takes as a trusted public key; null where this user can't know it, or where there is none yet.
    public_key: Option<String>,
    /// The policy no longer names it: its jobs wait until it does, or until they are dropped.
    orphaned: bool,
}

pub(super) fn run(global: &Global, args: &Args) -> Result<ExitCode, CliError> {
    let setup = Setup::read_as_client(global)?;
    let counts = match Queue::open_to_look(&setup.state_dir) {
        Ok(queue) => queue.counts()?,
        Err(QueueError::NoQueue { .. }) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let status = Status {
        working: StateLock::holder(&setup.state_dir),
        state_dir: setup.state_dir.display().to_string(),
        policy_file: setup.settings.file().filter(|file| file.exists()).map(|file| file.display().to_string()),
        store: setup.nix.logical.as_str().to_owned(),
        caches: cache_states(counts, setup.config(), &setup.state_dir, &setup.nix),
    };
    let mut out = io::stdout().lock();
    let written = if args.json {
        serde_json::to_writer_pretty(&mut out, &status).map_err(io::Error::from).and_then(|()| writeln!(out))
    } else {
        write_text(&mut out, &status)
    };
    written.map_err(|source| CliError::System { action: "print the status", source })?;
    Ok(ExitCode::SUCCESS)
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
            orphaned: false,
        });
    }
    let busy = |counts: &CacheCounts| counts.pending + counts.uploading + counts.held + counts.failed > 0;
    states.extend(counts.into_iter().filter(busy).map(|counts| CacheStatus {
        substituter: caches::substituter(&counts.url),
        public_key: None,
        orphaned: true,
        counts,
    }));
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
    writeln!(out, "store:   {}", status.store)?;
    writeln!(out, "state:   {}", status.state_dir)?;
    writeln!(out, "policy:  {}", status.policy_file.as_deref().unwrap_or("built in (no file)"))?;
    for CacheStatus { counts, substituter, public_key, orphaned } in &status.caches {
        writeln!(out, "\n{}  {}", counts.name, counts.url)?;
        if *orphaned {
            writeln!(
                out,
                "  the policy no longer names this cache; `storewatch queue drop --cache {}` ends its jobs",
                counts.name
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
        if !orphaned {
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
fn passed(since: i64) -> String {
    let passed = u64::try_from(now() - since).unwrap_or(0);
    indicatif::HumanDuration(std::time::Duration::from_millis(passed)).to_string()
}
