//! Carrying out what was asked for, a backfill or a push, and showing how far it is.

mod waits;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::runtime::Runtime;
use tracing::Level;
use tracing::level_filters::LevelFilter;

use self::waits::{Waits, news, waits_for, what_waits};
use super::CliError;
use super::error::{NOT_ALL_DELIVERED, NOT_THROUGH};
use super::run::{LAST_THREADS, start_log};
use super::setup::Setup;
use super::words::{bytes, counted, in_words};
use crate::daemon::backfill::{self, End, Finished, Parts, Progress, Request};
use crate::queue::{Left, PassedOver, RunSummary, Undelivered, Why, now};

/// How often a line of progress is printed where no terminal is.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Does what was asked for, for so long at most, shows how far it is and what came of it, and says so by the exit code.
pub(super) fn carry_out(
    setup: Setup,
    request: Request,
    timeout: Option<Duration>,
    runtime: Runtime,
) -> Result<ExitCode, CliError> {
    let by_hand = request.by_hand;
    let finished = work_off(setup, request, timeout, runtime)?;
    summarise(&finished).map_err(|source| CliError::System { action: "print the summary", source })?;
    Ok(ExitCode::from(exit_code(&finished, by_hand)))
}

/// As [`carry_out`], and leaves it to others to say what came of it.
pub(super) fn work_off(
    setup: Setup,
    request: Request,
    timeout: Option<Duration>,
    runtime: Runtime,
) -> Result<Finished, CliError> {
    if !io::stderr().is_terminal() {
        // Progress and summary say what there is to say, short of trouble.
        start_log(LevelFilter::WARN);
    }
    let Setup { state_dir, settings, nix } = setup;
    let config = settings.config().clone();
    let mut display = Display::new(timeout.is_some());
    let parts = Parts { state_dir, config, nix, request, timeout };
    let finished = runtime.block_on(backfill::run(parts, |progress| display.show(progress)));
    display.end();
    runtime.shutdown_timeout(LAST_THREADS);
    Ok(finished?)
}

/// What has failed for good counts for more than what is only left: that needs somebody.
pub(super) fn exit_code(finished: &Finished, by_hand: bool) -> u8 {
    let RunSummary { uploaded, already_there, at_upstream, failed, held, passed_over, .. } = &finished.summary;
    // What somebody named and the policy keeps back is no success. That one cache of several is off on this host is meant to
    // be so; where all are, nothing has arrived. A backfill is asked for what those lack that take nothing otherwise.
    let refused = passed_over.iter().any(|(PassedOver { why, .. }, _)| match why {
        Why::Skipped | Why::Denied => by_hand,
        Why::Off => false,
        Why::Unclear | Why::Refused => true,
    });
    let is_left = finished.left.iter().any(|left| left.is_off);
    let all_off = (!passed_over.is_empty() || is_left) && uploaded + already_there + at_upstream == 0;
    let left_off = if by_hand { all_off } else { is_left };
    match finished.end {
        _ if failed + held > 0 || refused => NOT_ALL_DELIVERED,
        End::Through if left_off => NOT_THROUGH,
        End::Interrupted | End::TimedOut => NOT_THROUGH,
        End::Through => 0,
    }
}

/// A bar on a terminal, lines elsewhere.
struct Display {
    bar: Option<ProgressBar>,
    last_line: Option<Instant>,
    /// What that said: the same isn't said again.
    last_text: String,
    /// Which caches take nothing, and why, as it was told last.
    waiting: BTreeMap<String, Waits>,
    /// How it can be ended is told once, unless it will end by itself.
    is_end_known: bool,
    /// Whether another process works the queue off, whose log isn't this one's.
    is_beside: bool,
}

impl Display {
    fn new(ends_by_itself: bool) -> Self {
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}");
        let bar = io::stderr().is_terminal().then(|| ProgressBar::new(0));
        if let (Some(bar), Ok(style)) = (&bar, style) {
            bar.set_style(style);
        }
        Self {
            bar,
            last_line: None,
            last_text: String::new(),
            waiting: BTreeMap::new(),
            is_end_known: ends_by_itself,
            is_beside: false,
        }
    }

    fn show(&mut self, progress: Progress) {
        match progress {
            Progress::Began { resumed, beside } => {
                if resumed {
                    self.line("going on where the last one stopped");
                }
                if let Some(beside) = beside {
                    self.line(&format!("{beside} works the queue off"));
                    self.is_beside = true;
                }
            }
            Progress::TookOver { beside } => {
                self.line(&format!("{beside} has ended; going on in its place"));
                self.is_beside = false;
            }
            Progress::At { row, to_row, summary, left, read } => self.at(row, to_row, &summary, &left, read),
            Progress::Ending { within } => self.line(&format!(
                "ending: what is under way is finished, for {} s at most; a second signal ends it at once",
                within.as_secs()
            )),
        }
    }

    fn at(&mut self, row: i64, to_row: i64, summary: &RunSummary, left: &[Left], read: Option<u64>) {
        let RunSummary { uploaded, already_there, at_upstream, failed, held, open, .. } = summary;
        let ended = uploaded + already_there + at_upstream + failed + held + summary.gone + summary.dropped;
        let message = in_one_line(summary, read);
        self.tell_what_waits(left);
        match &self.bar {
            Some(bar) => {
                bar.set_length(ended + open);
                bar.set_position(ended);
                let scanning =
                    if row < to_row { format!("; read {}%", row * 100 / to_row.max(1)) } else { String::new() };
                let waiting: String =
                    left.iter().filter_map(|left| waits_for(left, now())).map(|waits| format!("\n{waits}")).collect();
                bar.set_message(message + &scanning + &waiting);
            }
            None => {
                let due = self.last_line.is_none_or(|last| last.elapsed() >= LINE_INTERVAL);
                // The first look only starts the clock: a short backfill needs no lines.
                if due && self.last_line.replace(Instant::now()).is_some() {
                    let text = format!("{ended} of {}: {message}", ended + open);
                    if text != self.last_text {
                        eprintln!("{text}");
                        self.last_text = text;
                    }
                }
            }
        }
    }

    /// Says it again whenever it is another reason. On a terminal it stands below the bar all the time.
    fn tell_what_waits(&mut self, left: &[Left]) {
        // Of a pause the log says nothing at this level, since nothing is wrong.
        let in_log = !self.is_beside && tracing::enabled!(Level::WARN);
        let waiting = what_waits(left, now());
        if self.bar.is_none() {
            news(&self.waiting, &waiting, in_log).iter().for_each(|line| eprintln!("{line}"));
        }
        if !waiting.is_empty() && !std::mem::replace(&mut self.is_end_known, true) {
            self.line(
                "it is waited for; Ctrl-C ends this, and so does `--timeout` by itself: what is left stays queued",
            );
        }
        self.waiting = waiting;
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

/// What has come of it so far. Of what isn't through yet it is only seen that it is read, which for a large path is all there
/// is to see for a while.
fn in_one_line(summary: &RunSummary, read: Option<u64>) -> String {
    let RunSummary { uploaded, already_there, at_upstream, failed, held, volume, .. } = summary;
    let (there, sent) = (already_there + at_upstream, bytes(volume.sent));
    let read = read.filter(|read| *read > 0).map_or_else(String::new, |read| format!("{} read, ", bytes(read)));
    format!("{uploaded} uploaded ({read}{sent} sent), {there} already there, {failed} failed, {held} held")
}

pub(super) fn summarise(finished: &Finished) -> io::Result<()> {
    write_summary(&mut io::stdout().lock(), finished)
}

fn write_summary(out: &mut impl Write, finished: &Finished) -> io::Result<()> {
    let Finished { summary, end, undelivered, left } = finished;
    let ended = match end {
        End::Through => None,
        End::Interrupted => Some("interrupted"),
        End::TimedOut => Some("the time is over"),
    };
    if let Some(ended) = ended {
        let paths = counted(summary.open, "path");
        writeln!(
            out,
            "{ended} with {paths} to go; what is left stays queued, and the same command goes on from here, as `storewatch run` does"
        )?;
    }
    let mut line = |what: &str, text: String| writeln!(out, "{what:16} {text}");
    let volume = if summary.uploaded > 0 { format!(" ({})", in_words(summary.volume)) } else { String::new() };
    line("uploaded", format!("{}{volume}", summary.uploaded))?;
    line("already there", summary.already_there.to_string())?;
    if summary.at_upstream > 0 {
        line("upstream has it", summary.at_upstream.to_string())?;
    }
    for (PassedOver { by, why }, count) in &summary.passed_over {
        match why {
            Why::Skipped => line("skipped", format!("{count} by {by}"))?,
            Why::Denied => line("denied", format!("{count} by {by}"))?,
            Why::Off => line("off here", format!("{count} for {by}, off on this host"))?,
            Why::Unclear => line("not understood", format!("{count}, {by}"))?,
            Why::Refused => line("refused by Nix", format!("{count}, {by}"))?,
        }
    }
    if summary.gone > 0 {
        line("collected", format!("{} before being uploaded", summary.gone))?;
    }
    if summary.dropped > 0 {
        let dropped = format!("{} by the `max_size` of their cache; named, they are uploaded again", summary.dropped);
        line("dropped", dropped)?;
    }
    for (what, count) in [("failed", summary.failed), ("held", summary.held)] {
        if count > 0 {
            line(what, count.to_string())?;
        }
    }
    undelivered
        .iter()
        .try_for_each(|Undelivered { path, cache, reason }| writeln!(out, "  {path} -> {cache}: {reason}"))?;
    left.iter().try_for_each(|left| {
        let whose = waits_for(left, now()).unwrap_or_else(|| left.cache.clone());
        writeln!(out, "{:16} {} for {whose}", "still queued", left.paths)
    })
}

#[cfg(test)]
mod tests {
    use super::waits::tests::left;
    use super::*;
    use crate::queue::Volume;

    #[test]
    fn bytes_move_before_a_path_is_through() {
        let summary = RunSummary { uploaded: 2, at_upstream: 3, ..RunSummary::default() };
        let told = |read| in_one_line(&summary, read);
        assert_eq!(told(Some(1536)), "2 uploaded (1.50 KiB read, 0 B sent), 3 already there, 0 failed, 0 held");
        assert_eq!(told(None), "2 uploaded (0 B sent), 3 already there, 0 failed, 0 held");
    }

    #[test]
    fn what_is_left_is_summed_up_with_its_reason_and_has_its_own_exit_code() {
        let passed_over = || {
            let by = |by: &str, why| PassedOver { by: by.to_owned(), why };
            vec![(by("rule 2", Why::Skipped), 5), (by("rule 1", Why::Denied), 1), (by("own", Why::Off), 7)]
        };
        let finished = |end, failed, left: &[Left]| Finished {
            summary: RunSummary {
                uploaded: 2,
                volume: Volume { read: 3072, sent: 1024, saved: 2048 },
                open: 6,
                failed,
                at_upstream: 3,
                dropped: 4,
                passed_over: passed_over(),
                ..RunSummary::default()
            },
            end,
            undelivered: Vec::new(),
            left: left.to_vec(),
        };
        let all = [
            left("archive", None, None),
            left("local", None, Some("disk error")),
            left("team", Some("no token"), Some("401")),
        ];
        let timed_out = finished(End::TimedOut, 0, &all);
        let mut out = Vec::new();
        write_summary(&mut out, &timed_out).expect("written");
        assert_eq!(
            String::from_utf8(out).expect("UTF-8"),
            "the time is over with 6 paths to go; what is left stays queued, and the same command goes on from here, as \
             `storewatch run` does\n\
             uploaded         2 (3.00 KiB read, 1.00 KiB sent, 2.00 KiB saved)\n\
             already there    0\n\
             upstream has it  3\n\
             skipped          5 by rule 2\n\
             denied           1 by rule 1\n\
             off here         7 for own, off on this host\n\
             dropped          4 by the `max_size` of their cache; named, they are uploaded again\n\
             still queued     2 for archive\n\
             still queued     2 for local, to be tried again: disk error\n\
             still queued     2 for team, which takes nothing for now: no token\n"
        );
        assert_eq!(exit_code(&timed_out, false), NOT_THROUGH);
        assert_eq!(exit_code(&timed_out, true), NOT_ALL_DELIVERED, "what was named is denied");
        assert_eq!(exit_code(&finished(End::Interrupted, 0, &all), false), NOT_THROUGH);
        assert_eq!(exit_code(&finished(End::TimedOut, 1, &all), false), NOT_ALL_DELIVERED, "that needs somebody");
        assert_eq!(exit_code(&finished(End::Through, 0, &[]), false), 0);
        let mut off = finished(End::Through, 0, &[]);
        off.summary.passed_over.retain(|(passed_over, _)| passed_over.why == Why::Off);
        assert_eq!([true, false].map(|by_hand| exit_code(&off, by_hand)), [0, 0], "that is meant to be so");
        (off.summary.uploaded, off.summary.at_upstream) = (0, 0);
        assert_eq!([true, false].map(|by_hand| exit_code(&off, by_hand)), [NOT_THROUGH, 0], "nothing has arrived");
        off.summary.passed_over.clear();
        assert_eq!(exit_code(&off, true), 0, "there was nothing to do");
        for why in [Why::Unclear, Why::Refused] {
            let by = "ask again".to_owned();
            off.summary.passed_over = vec![(PassedOver { by, why }, 1)];
            assert_eq!([true, false].map(|by_hand| exit_code(&off, by_hand)), [NOT_ALL_DELIVERED; 2]);
        }
        off.summary.passed_over.clear();
        off.left = vec![Left { is_off: true, ..left("own", Some("it is this host itself"), None) }];
        let both = |finished: &Finished| [true, false].map(|by_hand| exit_code(finished, by_hand));
        assert_eq!(both(&off), [NOT_THROUGH; 2], "off by its address, and nothing has arrived");
        off.summary.uploaded = 1;
        assert_eq!(both(&off), [0, NOT_THROUGH], "another cache has it, and what a backfill was asked for is left");
    }
}
