//! `storewatch cache list`

use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;

use super::{CliError, Global, Setup, print};
use crate::cli::words::bytes;
use crate::cli::words::takes_nothing;
use crate::config::CacheConfig;
use crate::daemon::caches;
use crate::queue::{CacheCounts, Queue, QueueError, StateLock};

/// List the caches of the policy, and whether they take paths; no cache is asked.
///
/// Files with secrets are looked at, and addresses in URLs. Whether a server's name leads to an address of this host's, and the
/// cache is therefore off, is what `run`, `push` or `backfill` found last; `cache ping` finds it out.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// What `cache list --json` prints of one cache.
#[derive(Serialize)]
struct Listed {
    kind: &'static str,
    /// `on`, `off` or `waiting`.
    state: &'static str,
    /// Why it is off on this host, in words.
    why_off: Option<String>,
    /// What of its secrets isn't there, in words.
    lacks_secret: Option<String>,
    /// This host's name, where that makes it the cache's own server.
    off_since_it_is: Option<String>,
    #[serde(flatten)]
    counts: CacheCounts,
}

pub(super) fn run(global: &Global, args: &Args) -> Result<ExitCode, CliError> {
    let setup = Setup::read(global)?;
    let counts = match Queue::open_to_look(&setup.state_dir) {
        Ok(queue) => queue.counts()?,
        Err(QueueError::NoQueue { .. }) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    // Who can't be known is taken to be at work.
    let at_work = !matches!(StateLock::holder(&setup.state_dir), Ok(None));
    let listed: Vec<Listed> = setup.config.caches.iter().map(|cache| Listed::new(cache, &counts)).collect();
    print(args.json, &listed, |out| listed.iter().try_for_each(|listed| listed.write(out, at_work)))?;
    Ok(ExitCode::SUCCESS)
}

impl Listed {
    fn new(cache: &CacheConfig, counts: &[CacheCounts]) -> Self {
        let known = counts.iter().find(|known| known.name == cache.name.as_str() && known.url == cache.url);
        let counts = known.cloned().unwrap_or_else(|| CacheCounts::none(cache.name.as_str(), &cache.url));
        let why_off = caches::why_off(cache, Some(&counts));
        let lacks_secret = caches::lacks_secret(cache).map(|lack| format!("its credentials can't be had: {lack}"));
        let state = match (&why_off, counts.waiting_why.as_ref().or(lacks_secret.as_ref())) {
            (Some(_), _) => "off",
            (None, Some(_)) => "waiting",
            (None, None) => "on",
        };
        let kind = cache.place.kind();
        Self { kind, state, why_off, lacks_secret, off_since_it_is: caches::own_server(cache), counts }
    }

    fn write(&self, out: &mut impl Write, at_work: bool) -> io::Result<()> {
        let Self { kind, state, why_off, lacks_secret, counts, .. } = self;
        writeln!(out, "{}  {kind}  {}", counts.name, counts.url)?;
        let waits = takes_nothing(counts, at_work);
        let why = why_off.as_ref().or(waits.as_ref()).or(lacks_secret.as_ref());
        writeln!(out, "  {}", why.map_or(*state, String::as_str))?;
        let waiting = counts.pending + counts.uploading;
        write!(out, "  {} done ({}), {waiting} to do", counts.done, bytes(counts.bytes_sent))?;
        for (count, what) in [(counts.held, "held"), (counts.failed, "failed")] {
            if count > 0 {
                write!(out, ", {count} {what}")?;
            }
        }
        writeln!(out)
    }
}
