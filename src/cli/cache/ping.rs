//! `storewatch cache ping`

use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;

use super::{CliError, Global, Setup, print};
use crate::cache::{CacheError, Trial};
use crate::cli::run::runtime;
use crate::cli::waiting::telling;
use crate::config::CacheConfig;
use crate::daemon::caches::{self, FoundKey, Unanswered};
use crate::report::one_line;

/// Find out whether caches can be reached and take what is uploaded. No path is uploaded.
///
/// An Attic server is asked for a path that nobody has, which needs the permission to push. In an object store an upload is
/// begun and taken back, or an object put on a condition that never holds. On a web server `nix-cache-info`, if it is there,
/// is put on such a condition, and another small file if it isn't; one that knows no conditions is given the content that it
/// has, or has the file deleted again. Into a directory a small file is written and removed, and a program is looked for. So
/// is the key by which a binary cache is signed. A cache that is off on this host is left out, unless it is off by the host's name only and is
/// named here. The exit code is 0 when all is well, and 1 otherwise.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The caches' names in the policy; all that are on if none is given.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// What `cache ping --json` prints of one cache.
#[derive(Serialize)]
struct Pinged<'a> {
    name: &'a str,
    url: &'a str,
    /// `ok`, `trouble` or `off`.
    state: &'static str,
    /// This host's name, where that makes it the cache's own server: it was not asked then.
    off_since_it_is: Option<String>,
    round_trip_ms: Option<f64>,
    clock_ahead_seconds: Option<i64>,
    reads: Option<bool>,
    writes: Option<bool>,
    troubles: Vec<Trouble>,
    /// What is well, in a few words.
    summary: String,
    /// That its server signs with another key than was noted before, in words.
    another_key: Option<String>,
}

#[derive(Serialize)]
struct Trouble {
    what: String,
    cure: Option<&'static str>,
}

impl From<&CacheError> for Trouble {
    fn from(error: &CacheError) -> Self {
        Self { what: one_line(error), cure: error.hint() }
    }
}

pub(super) fn run(global: &Global, args: &Args) -> Result<ExitCode, CliError> {
    let setup = Setup::read(global)?;
    let named: Vec<&CacheConfig> = if args.names.is_empty() {
        setup.config.caches.iter().collect()
    } else {
        args.names.iter().map(|name| setup.cache(name)).collect::<Result<_, _>>()?
    };
    // Who names one wants to know, whatever this host is.
    let is_off = |cache: &CacheConfig| args.names.is_empty().then(|| caches::own_server(cache)).flatten();
    let asked: Vec<&CacheConfig> = named.iter().copied().filter(|cache| is_off(cache).is_none()).collect();
    let runtime = runtime()?;
    let names: Vec<&str> = asked.iter().map(|cache| cache.name.as_str()).collect();
    let left = Unanswered::new(&names);
    let answered = |place| left.answered(place);
    let trying = async {
        let caches = caches::try_all(&asked, &setup.state_dir, &setup.nix, &setup.config.disk, answered);
        let (trials, keys) = tokio::join!(caches, find_keys(&asked, &setup));
        trials.into_iter().zip(keys)
    };
    let mut trials = runtime.block_on(telling(|| left.in_words(), trying));
    // What hangs on a dead file system is not waited for.
    runtime.shutdown_background();
    let pinged = named.iter().map(|cache| match is_off(cache) {
        Some(host) => Pinged::off(cache, host),
        None => {
            let (trial, key) = trials.next().unwrap_or_else(|| (Trial::lost(), None));
            let another_key = caches::note_key_that_was_told(cache, &setup.state_dir, trial.public_key.as_deref());
            Pinged { another_key, ..Pinged::tried(cache, &trial, key) }
        }
    });
    let pinged: Vec<Pinged<'_>> = pinged.collect();
    print(args.json, &pinged, |out| pinged.iter().try_for_each(|pinged| pinged.write(out)))?;
    Ok(if pinged.iter().all(|pinged| pinged.troubles.is_empty()) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The keys with which these caches are to be signed, in their order.
async fn find_keys(caches: &[&CacheConfig], setup: &Setup) -> Vec<Option<FoundKey>> {
    let mut keys = Vec::with_capacity(caches.len());
    for cache in caches {
        keys.push(caches::find_key(cache, &setup.state_dir, &setup.nix).await);
    }
    keys
}

impl<'a> Pinged<'a> {
    fn off(cache: &'a CacheConfig, host: String) -> Self {
        let summary = caches::off_by_name(&host);
        Self { state: "off", off_since_it_is: Some(host), summary, ..Self::new(cache, &Trial::default()) }
    }

    fn tried(cache: &'a CacheConfig, trial: &Trial, key: Option<FoundKey>) -> Self {
        match trial.troubles.as_slice() {
            [own] if own.is_own_server() => {
                let summary = format!("off on this host: {own}");
                Self { state: "off", summary, ..Self::new(cache, &Trial::default()) }
            }
            _ => Self::new(cache, trial).signed_with(key),
        }
    }

    /// Without its key nothing goes to a cache that takes everything.
    fn signed_with(mut self, key: Option<FoundKey>) -> Self {
        let Some(FoundKey::At(_, Err(error))) = key else { return self };
        match &error {
            CacheError::Secret(secret) if secret.may_be_the_services_own() => {
                let what =
                    format!("its signing key is not to be had here, but perhaps for the service: {}", one_line(secret));
                self.summary = if self.summary.is_empty() { what } else { format!("{}; {what}", self.summary) };
            }
            _ => {
                self.state = "trouble";
                self.troubles.push(Trouble::from(&error));
            }
        }
        self
    }

    fn new(cache: &'a CacheConfig, trial: &Trial) -> Self {
        Self {
            name: cache.name.as_str(),
            url: &cache.url,
            state: if trial.went_well() { "ok" } else { "trouble" },
            off_since_it_is: None,
            round_trip_ms: trial.round_trip.map(|time| time.as_secs_f64() * 1_000.0),
            clock_ahead_seconds: trial.clock_ahead,
            reads: trial.reads,
            writes: trial.writes,
            troubles: trial.troubles.iter().map(Trouble::from).collect(),
            summary: caches::summary(trial),
            another_key: None,
        }
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{:8} {}  {}", self.state, self.name, self.url)?;
        if !self.summary.is_empty() {
            writeln!(out, "         {}", self.summary)?;
        }
        if let Some(another_key) = &self.another_key {
            writeln!(out, "         {another_key}")?;
        }
        for Trouble { what, cure } in &self.troubles {
            writeln!(out, "         {what}")?;
            if let Some(cure) = cure {
                writeln!(out, "         cure: {cure}")?;
            }
        }
        Ok(())
    }
}
