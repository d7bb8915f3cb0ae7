//! `storewatch backfill`

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::runtime::Runtime;
use tracing::level_filters::LevelFilter;

use super::error::NOT_ALL_DELIVERED;
use super::paths::valid_paths;
use super::run::{LAST_THREADS, runtime, start_log};
use super::setup::Setup;
use super::status::bytes;
use super::words::counted;
use super::{CliError, Global};
use crate::config::parse_duration;
use crate::daemon::backfill::{self, Finished, Parts, Progress, Request};
use crate::policy::CacheName;
use crate::queue::{CacheId, Routes, RunSummary, Undelivered};

/// Upload what is valid already, by the same policy, behind what is fresh.
///
/// Interrupted, it goes on where it stopped when it is asked for again, unless the policy file has changed since. Beside a running service the queue is left to
/// that; alone, it is worked off here. Exit code 3 says that some paths failed or are held back.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Only these store paths (or links to them, or their base names) and what they need; all valid paths if none is given.
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Only paths registered within so long: 90m, 12h, 7d, 4w.
    #[arg(long, value_name = "AGE", value_parser = parse_duration)]
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
}

/// How often a line of progress is printed where no terminal is.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

pub(super) fn run(global: &Global, args: &Args) -> Result<ExitCode, CliError> {
    let setup = Setup::read(global)?;
    // Before there are threads: they inherit it.
    crate::daemon::set_priority(setup.config().limits.priority);
    let runtime = runtime()?;
    let request = runtime.block_on(request(args, &setup))?;
    if args.dry_run {
        return dry_run(&setup, &request, &runtime);
    }
    if !io::stderr().is_terminal() {
        // Progress and summary say what there is to say, short of trouble.
        start_log(LevelFilter::WARN);
    }
    let Setup { state_dir, settings, nix } = setup;
    let config = settings.config().clone();
    let mut display = Display::new();
    let parts = Parts { state_dir, config, nix, request };
    let finished = runtime.block_on(backfill::run(parts, |progress| display.show(progress)));
    display.end();
    runtime.shutdown_timeout(LAST_THREADS);
    let finished = finished?;
    summarise(&finished).map_err(|source| CliError::System { action: "print the summary", source })?;
    let all = !finished.interrupted && finished.summary.failed + finished.summary.held == 0;
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::from(NOT_ALL_DELIVERED) })
}

async fn request(args: &Args, setup: &Setup) -> Result<Request, CliError> {
    let known = setup.config().policy.caches();
    let to = args.to.iter().map(|name| {
        known.iter().find(|known| known.as_str() == name).cloned().ok_or_else(|| {
            let known: Vec<&str> = known.iter().map(CacheName::as_str).collect();
            CliError::Usage(format!("the policy has no cache `{name}`; it has {}", known.join(", ")))
        })
    });
    let to = to.collect::<Result<_, _>>()?;
    let paths = valid_paths(&args.paths, &setup.nix).await?.into_iter().map(|info| info.path).collect();
    Ok(Request { paths, since: args.since, roots: args.roots, to, policy: setup.settings.fingerprint() })
}

fn dry_run(setup: &Setup, request: &Request, runtime: &Runtime) -> Result<ExitCode, CliError> {
    let policy = Arc::clone(&setup.config().policy);
    // Nothing is queued, so the caches' places in the policy serve as their numbers.
    let ids = policy.caches().iter().cloned().zip((0..).map(CacheId)).collect();
    let routes = Routes { policy: Arc::clone(&policy), caches: Arc::new(ids) };
    let mut out = io::stdout().lock();
    let mut written = Ok(());
    let (mut count, mut size, mut skipped) = (0, 0, std::collections::BTreeMap::<String, u64>::new());
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
        count += batch.wanted.len() as u64;
        size += batch.nar_size;
        for (rule, paths) in &batch.skipped {
            *skipped.entry(rule.clone()).or_default() += paths;
        }
    }))?;
    let written = written.and_then(|()| {
        let (paths, size) = (counted(count, "path"), bytes(size));
        writeln!(out, "would upload {paths} of {size} where missing, with all that is needed")?;
        skipped.iter().try_for_each(|(rule, paths)| writeln!(out, "would skip {paths} by {rule}"))
    });
    written.map_err(|source| CliError::System { action: "print what would be done", source })?;
    Ok(ExitCode::SUCCESS)
}

/// A bar on a terminal, lines elsewhere.
struct Display {
    bar: Option<ProgressBar>,
    last_line: Option<Instant>,
}

impl Display {
    fn new() -> Self {
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}");
        let bar = io::stderr().is_terminal().then(|| ProgressBar::new(0));
        if let (Some(bar), Ok(style)) = (&bar, style) {
            bar.set_style(style);
        }
        Self { bar, last_line: None }
    }

    fn show(&mut self, progress: Progress) {
        match progress {
            Progress::Began { resumed, beside } => {
                if resumed {
                    self.line("going on where the last one stopped");
                }
                if let Some(beside) = beside {
                    self.line(&format!("{beside} works the queue off"));
                }
            }
            Progress::TookOver => self.line("the service has ended; going on in its place"),
            Progress::At { row, to_row, summary, waiting } => self.at(row, to_row, &summary, &waiting),
        }
    }

    fn at(&mut self, row: i64, to_row: i64, summary: &RunSummary, waiting: &[(String, String)]) {
        let RunSummary { uploaded, already_there, failed, held, open, bytes_sent, .. } = summary;
        let ended = uploaded + already_there + failed + held + summary.gone;
        let sent = bytes(*bytes_sent);
        let message =
            format!("{uploaded} uploaded ({sent}), {already_there} already there, {failed} failed, {held} held");
        match &self.bar {
            Some(bar) => {
                bar.set_length(ended + open);
                bar.set_position(ended);
                let scanning =
                    if row < to_row { format!("; read {}%", row * 100 / to_row.max(1)) } else { String::new() };
                let waiting: String =
                    waiting.iter().map(|(cache, why)| format!("\n{cache} takes nothing for now: {why}")).collect();
                bar.set_message(message + &scanning + &waiting);
            }
            None => {
                let due = self.last_line.is_none_or(|last| last.elapsed() >= LINE_INTERVAL);
                // The first look only starts the clock: a short backfill needs no lines.
                if due && self.last_line.replace(Instant::now()).is_some() {
                    eprintln!("{ended} of {}: {message}", ended + open);
                }
            }
        }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn summarise(finished: &Finished) -> io::Result<()> {
    let Finished { summary, interrupted, undelivered } = finished;
    let mut out = io::stdout().lock();
    if *interrupted {
        let paths = counted(summary.open, "path");
        writeln!(out, "interrupted with {paths} to go; the same command goes on from here")?;
    }
    writeln!(out, "uploaded       {} ({})", summary.uploaded, bytes(summary.bytes_sent))?;
    writeln!(out, "already there  {}", summary.already_there)?;
    for (rule, count) in &summary.skipped {
        writeln!(out, "skipped        {count} by {rule}")?;
    }
    if summary.gone > 0 {
        writeln!(out, "collected      {} before being uploaded", summary.gone)?;
    }
    for (what, count) in [("failed", summary.failed), ("held", summary.held)] {
        if count > 0 {
            writeln!(out, "{what:14} {count}")?;
        }
    }
    undelivered
        .iter()
        .try_for_each(|Undelivered { path, cache, reason }| writeln!(out, "  {path} -> {cache}: {reason}"))
}
