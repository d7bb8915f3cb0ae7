//! Carrying out what was asked for, a backfill or a push, and showing how far it is.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::runtime::Runtime;
use tracing::level_filters::LevelFilter;

use super::CliError;
use super::error::NOT_ALL_DELIVERED;
use super::run::{LAST_THREADS, start_log};
use super::setup::Setup;
use super::status::bytes;
use super::words::counted;
use crate::daemon::backfill::{self, Finished, Parts, Progress, Request};
use crate::queue::{RunSummary, Undelivered};

/// How often a line of progress is printed where no terminal is.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Does what was asked for, shows how far it is and what came of it, and says so by the exit code.
pub(super) fn carry_out(setup: Setup, request: Request, runtime: Runtime) -> Result<ExitCode, CliError> {
    if !io::stderr().is_terminal() {
        // Progress and summary say what there is to say, short of trouble.
        start_log(LevelFilter::WARN);
    }
    let Setup { state_dir, settings, nix } = setup;
    let config = settings.config().clone();
    let by_hand = request.by_hand;
    let mut display = Display::new();
    let parts = Parts { state_dir, config, nix, request };
    let finished = runtime.block_on(backfill::run(parts, |progress| display.show(progress)));
    display.end();
    runtime.shutdown_timeout(LAST_THREADS);
    let finished = finished?;
    summarise(&finished).map_err(|source| CliError::System { action: "print the summary", source })?;
    let RunSummary { failed, held, skipped, .. } = &finished.summary;
    // What somebody named and the policy keeps back is no success.
    let refused = by_hand && !skipped.is_empty();
    let all = !finished.interrupted && failed + held == 0 && !refused;
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::from(NOT_ALL_DELIVERED) })
}

/// A bar on a terminal, lines elsewhere.
struct Display {
    bar: Option<ProgressBar>,
    last_line: Option<Instant>,
    /// Which caches take nothing, as it was told last.
    waiting: Vec<(String, String)>,
}

impl Display {
    fn new() -> Self {
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}");
        let bar = io::stderr().is_terminal().then(|| ProgressBar::new(0));
        if let (Some(bar), Ok(style)) = (&bar, style) {
            bar.set_style(style);
        }
        Self { bar, last_line: None, waiting: Vec::new() }
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
                if self.waiting != waiting {
                    waiting.iter().for_each(|(cache, why)| eprintln!("{cache} takes nothing for now: {why}"));
                    self.waiting = waiting.to_vec();
                }
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
