//! `storewatch queue`

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Subcommand;

use super::bandwidth::look;
use super::setup::{View, check_state_is_there, client_state_dir};
use super::words::{again_at, counted};
use super::{CliError, Global};
use crate::cache::CacheUrl;
use crate::queue::{JobFilter, JobState, JobView, Paused, Queue, QueueError, StateLock, now};

/// Look at the queue, try jobs again, or drop them; also while the service runs.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List jobs, the latest change first; those that are done only with `--state done`.
    List {
        #[command(flatten)]
        which: Which,
        /// Print JSON, one array.
        #[arg(long)]
        json: bool,
        /// At most so many.
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Try failed and held jobs again, and at once what waits for its time, or for a cache that takes nothing for now.
    Retry {
        #[command(flatten)]
        which: Which,
    },
    /// Forget jobs, whatever their state. A path that an upload still needs comes back by itself.
    Drop {
        #[command(flatten)]
        which: Which,
        /// Drop all jobs where nothing else says which.
        #[arg(long)]
        all: bool,
    },
}

/// Which jobs.
#[derive(clap::Args, Debug)]
struct Which {
    /// Jobs whose path contains this, or is this; of several, those of any.
    #[arg(value_name = "PATH")]
    paths: Vec<String>,
    /// Only jobs for this cache. Caches that had the same name under other URLs count too; a URL names one of them.
    #[arg(long, value_name = "NAME|URL")]
    cache: Option<String>,
    /// Only jobs in this state.
    #[arg(long, value_parser = parse_state, value_name = "pending|uploading|done|held|failed|gone")]
    state: Option<JobState>,
}

fn parse_state(text: &str) -> Result<JobState, String> {
    JobState::from_name(text).ok_or_else(|| "expected pending, uploading, done, held, failed or gone".to_owned())
}

impl Which {
    /// These jobs, the latest change first; where there are several paths, those of the first come first.
    fn jobs(&self, queue: &Queue) -> Result<Vec<JobView>, QueueError> {
        let filter = |path| JobFilter { state: self.state, cache: self.cache(), path, limit: None };
        if self.paths.is_empty() {
            return queue.jobs(&filter(None));
        }
        let (mut jobs, mut seen) = (Vec::new(), BTreeSet::new());
        for path in &self.paths {
            let of_path = queue.jobs(&filter(Some(name_in(path))))?;
            jobs.extend(of_path.into_iter().filter(|job| seen.insert(job.id)));
        }
        Ok(jobs)
    }

    /// A cache's name, or its URL as the queue has it.
    fn cache(&self) -> Option<String> {
        let written = self.cache.as_ref()?;
        Some(CacheUrl::parse(written).map_or_else(|_| written.clone(), |url| url.normal(written)))
    }

    /// Refuses a path that is empty, by which all would be meant, and the name of a cache that the queue doesn't know.
    fn check(&self, queue: &Queue) -> Result<(), CliError> {
        if self.paths.iter().any(|path| path.trim_end_matches('/').is_empty()) {
            return Err(CliError::Usage("the path is empty; leave it out where all jobs are meant".to_owned()));
        }
        let Some(name) = self.cache() else { return Ok(()) };
        let caches = queue.counts()?;
        if caches.iter().any(|cache| cache.name == name || cache.url == name) {
            return Ok(());
        }
        let mut known: Vec<String> = caches.into_iter().map(|cache| cache.name).collect();
        known.dedup();
        let known = if known.is_empty() { "none yet".to_owned() } else { known.join(", ") };
        Err(CliError::Usage(format!("the queue knows no cache `{name}`; it knows {known}")))
    }

    /// Refuses a path of which the queue knows no job at all: it is misspelt, most likely.
    fn check_paths(&self, queue: &Queue) -> Result<(), CliError> {
        for path in &self.paths {
            let known = JobFilter { path: Some(name_in(path)), limit: Some(1), ..JobFilter::default() };
            if queue.jobs(&known)?.is_empty() {
                return Err(CliError::Usage(format!("the queue has no job whose path contains `{path}`, in no state")));
            }
        }
        Ok(())
    }

    fn is_everything(&self) -> bool {
        self.paths.is_empty() && self.cache.is_none() && self.state.is_none()
    }
}

/// What a path is looked for by: `/nix/store/…-hello/` means `…-hello`.
fn name_in(path: &str) -> String {
    let path = path.trim_end_matches('/');
    path.rsplit('/').next().unwrap_or(path).to_owned()
}

pub(super) fn run(global: &Global, args: &Args) -> Result<ExitCode, CliError> {
    let state_dir = client_state_dir(global)?;
    check_state_is_there(global, &state_dir)?;
    let mut queue = match &args.command {
        Command::List { .. } => Queue::open_to_look(&state_dir)?,
        Command::Retry { .. } | Command::Drop { .. } => Queue::open_beside(&state_dir)?,
    };
    let (Command::List { which, .. } | Command::Retry { which } | Command::Drop { which, .. }) = &args.command;
    which.check(&queue)?;
    let mut out = io::stdout().lock();
    let written = match &args.command {
        Command::List { which, json, limit } => {
            let mut jobs = which.jobs(&queue)?;
            if which.state.is_none() {
                jobs.retain(|job| job.state != JobState::Done.name());
            }
            jobs.truncate(limit.unwrap_or(usize::MAX));
            let config = View::find(global)?.config.ok();
            let in_use = |job: &JobView| match &config {
                Some(config) => {
                    config.caches.iter().any(|cache| cache.name.as_str() == job.cache && cache.url == job.url)
                }
                // Without a good policy it isn't known which is which.
                None => true,
            };
            if let Ok(None) = StateLock::holder(&state_dir) {
                let now = config.as_ref().map(|config| look(config, &state_dir, Some(&queue))).transpose()?;
                for job in &mut jobs {
                    let paused = now.as_ref().filter(|_| in_use(job)).map(|now| now.paused(&job.cache));
                    forget_what_was_seen(job, paused.unwrap_or_default());
                }
            }
            if *json {
                serde_json::to_writer_pretty(&mut out, &jobs).map_err(io::Error::from).and_then(|()| writeln!(out))
            } else if jobs.is_empty() {
                writeln!(out, "{}", if which.is_everything() { "the queue is empty" } else { "there is no such job" })
            } else {
                write_jobs(&mut out, &jobs, in_use)
            }
        }
        Command::Retry { which } => {
            which.check_paths(&queue)?;
            let jobs = ids(&which.jobs(&queue)?);
            let retried = in_portions(&jobs, |some| queue.retry(some, now()))?;
            let are = if retried == 1 { "is" } else { "are" };
            writeln!(out, "{} {are} tried again", counted(retried, "job"))
        }
        Command::Drop { which, all } => {
            if which.is_everything() && !all {
                let message = "say which jobs: a path, --cache, --state, or --all";
                return Err(CliError::Usage(message.to_owned()));
            }
            which.check_paths(&queue)?;
            let jobs = ids(&which.jobs(&queue)?);
            let dropped = in_portions(&jobs, |some| queue.drop_jobs(some, now()))?;
            writeln!(out, "{} dropped", counted(dropped, "job"))
        }
    };
    written.map_err(|source| CliError::System { action: "print the queue", source })?;
    Ok(ExitCode::SUCCESS)
}

/// Changes jobs in portions, so that the service never waits for long. Returns the sum.
fn in_portions(jobs: &[i64], mut change: impl FnMut(&[i64]) -> Result<u64, QueueError>) -> Result<u64, QueueError> {
    jobs.chunks(1_000).map(&mut change).sum()
}

fn ids(jobs: &[JobView]) -> Vec<i64> {
    jobs.iter().map(|job| job.id).collect()
}

/// Nobody is at work: how far an upload was, how room was, and what was paused, is said by who has ended, and may be otherwise
/// by now. What is paused is known nevertheless.
fn forget_what_was_seen(job: &mut JobView, Paused { all, backfill }: Paused) {
    job.step = (job.state == JobState::Uploading.name()).then_some("interrupted in mid-upload");
    job.backfill_waits = None;
    let of_backfill = || backfill.filter(|_| job.is_backfill).map(|why| format!("for backfill {why}"));
    job.paused = all.or_else(of_backfill).filter(|_| job.state == JobState::Pending.name());
}

/// One job a line. Why a cache takes nothing, or is paused, is said once for all of its jobs, and so is a reason that many
/// have.
fn write_jobs(out: &mut impl Write, jobs: &[JobView], in_use: impl Fn(&JobView) -> bool) -> io::Result<()> {
    let mut waiting = BTreeMap::new();
    let mut paused = BTreeMap::new();
    let mut backfill = BTreeMap::new();
    let mut before = None;
    for job in jobs {
        write!(out, "{:9} {:12} {}", job.state, job.cache, job.path)?;
        if !in_use(job) {
            // A cache that the policy has under that name now is another.
            write!(out, "  for {}, which the policy no longer names", job.url)?;
        }
        if let Some(step) = job.step {
            write!(out, "  {step}")?;
        }
        if job.waits_for > 0 {
            write!(out, "  waits for {}", counted(job.waits_for.into(), "reference"))?;
        }
        let pending = job.state == JobState::Pending.name();
        if let (true, None, Some(again)) = (pending, &job.cache_waits, again_at(job.not_before)) {
            write!(out, "  {again}")?;
        }
        match (&job.reason, &job.cache_waits) {
            _ if job.paused.is_some() => {
                paused.insert((&job.cache, &job.url), &job.paused);
                write!(out, "  paused")?;
            }
            (_, Some(why)) => {
                waiting.insert((&job.cache, &job.url), (why, job.cache_waits_until));
                write!(out, "  its cache takes nothing")?;
            }
            (_, None) if job.backfill_waits.is_some() => {
                backfill.insert((&job.cache, &job.url), &job.backfill_waits);
                write!(out, "  backfill waits")?;
            }
            (Some(reason), None) if before == Some(reason) => write!(out, "  for the same reason")?,
            (Some(reason), None) => write!(out, "  {reason}")?,
            (None, None) => {}
        }
        before = job.reason.as_ref();
        writeln!(out)?;
    }
    for ((cache, _), (why, until)) in waiting {
        let again = until.and_then(again_at).map_or_else(String::new, |again| format!(", {again}"));
        writeln!(out, "{cache} takes nothing for now{again}: {why}")?;
    }
    for ((cache, _), why) in backfill {
        writeln!(out, "{cache} takes no backfill for now: {}", why.as_deref().unwrap_or_default())?;
    }
    for ((cache, _), why) in paused {
        writeln!(out, "{cache} is paused {}", why.as_deref().unwrap_or_default())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use jiff::tz::TimeZone;

    use super::*;
    use crate::queue::Step;
    use crate::times;

    fn job(due: i64, id: i64, state: JobState, reason: Option<&str>) -> JobView {
        JobView {
            id,
            path: format!("path-{id}"),
            cache: "team".to_owned(),
            url: "file:///team".to_owned(),
            state: state.name(),
            is_backfill: false,
            step: None,
            attempts: 1,
            not_before: due,
            waits_for: 0,
            reason: reason.map(str::to_owned),
            cache_waits: None,
            cache_waits_until: None,
            backfill_waits: None,
            paused: None,
            changed: 0,
        }
    }

    #[test]
    fn what_many_jobs_have_is_said_once_and_only_who_waits_comes_again() {
        // Whole seconds ahead, and some of a test's time.
        let due = now() + 9_500;
        let job = |id, state, reason| job(due, id, state, reason);
        let waits = |id| JobView { cache_waits: Some("away".to_owned()), ..job(id, JobState::Pending, Some("413")) };
        let jobs = [
            job(1, JobState::Failed, Some("too large")),
            job(2, JobState::Failed, Some("too large")),
            job(3, JobState::Pending, Some("disk error")),
            waits(4),
            JobView { cache_waits_until: Some(due), ..waits(5) },
            JobView { waits_for: 1, not_before: 0, ..job(6, JobState::Pending, None) },
            JobView { paused: Some("by hand".to_owned()), not_before: 0, ..job(7, JobState::Pending, None) },
            JobView { backfill_waits: Some("it is full".to_owned()), not_before: 0, ..job(8, JobState::Pending, None) },
            JobView { step: Some(Step::Waits.name()), ..job(9, JobState::Uploading, None) },
        ];
        let mut gone = [&jobs[7], &jobs[8]].map(JobView::clone);
        gone.iter_mut().for_each(|job| forget_what_was_seen(job, Paused::default()));
        assert!(gone.iter().all(|job| job.backfill_waits.is_none()), "nobody is at work");
        assert_eq!(gone.map(|job| job.step), [None, Some("interrupted in mid-upload")]);
        // What is paused now is said, whatever was when somebody worked.
        let paused = |all: Option<&str>, backfill: Option<&str>| {
            let paused = Paused { all: all.map(str::to_owned), backfill: backfill.map(str::to_owned) };
            [(&jobs[6], false), (&jobs[6], true), (&jobs[8], true)].map(|(job, is_backfill)| {
                let mut job = JobView { is_backfill, ..job.clone() };
                forget_what_was_seen(&mut job, paused.clone());
                job.paused
            })
        };
        let said = |text: &str| Some(text.to_owned());
        assert_eq!(paused(None, None), [None, None, None]);
        assert_eq!(paused(Some("x"), None), [said("x"), said("x"), None], "nothing else is under way");
        assert_eq!(paused(None, Some("x")), [None, said("for backfill x"), None]);
        let mut out = Vec::new();
        write_jobs(&mut out, &jobs, |job| job.id != 6).expect("written");
        let time = times::shown(Timestamp::from_millisecond(due).expect("a time"), &TimeZone::system());
        assert_eq!(
            String::from_utf8(out).expect("UTF-8").replace(&time, "TIME"),
            "failed    team         path-1  too large\n\
             failed    team         path-2  for the same reason\n\
             pending   team         path-3  again at TIME (in 10 s)  disk error\n\
             pending   team         path-4  its cache takes nothing\n\
             pending   team         path-5  its cache takes nothing\n\
             pending   team         path-6  for file:///team, which the policy no longer names  waits for 1 reference\n\
             pending   team         path-7  paused\n\
             pending   team         path-8  backfill waits\n\
             uploading team         path-9  waits for its turn\n\
             team takes nothing for now, again at TIME (in 10 s): away\n\
             team takes no backfill for now: it is full\n\
             team is paused by hand\n"
        );
    }
}
