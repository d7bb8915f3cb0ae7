//! `storewatch status`

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use super::bandwidth::{self, CacheShown, RulingShown, look, view, write_cache, write_line};
use super::print::print;
use super::setup::{View, nix_store};
use super::words::{bytes, counted, in_words, past, takes_nothing};
use super::{CliError, Global};
use crate::cache::CacheUrl;
use crate::config::{CacheConfig, Config, ConfigError, NixStore};
use crate::daemon::{SERVICE_ROLE, caches, fingerprint};
use crate::disk::{Level, Room};
use crate::queue::{AtWork, CacheCounts, DiskView, FindsNothing, Pinned, Queue, QueueError, StateLock, Volume};
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
    /// Why this user can't know who does.
    working_unknown: Option<String>,
    state_dir: String,
    policy_file: Option<String>,
    /// What is wrong with the policy file, one line each; what needs a policy is not known then.
    policy_problems: Vec<String>,
    /// Whether the service that is at work goes by the policy file as it is; null where none is, or it hasn't said so.
    policy_in_force: Option<bool>,
    store: Option<String>,
    /// What is in force for the line; null without a good policy.
    line: Option<RulingShown>,
    /// What is in force for backfill.
    backfill: Option<RulingShown>,
    /// Whether it was unmounted or removed while a service works with it, as far as can be known: what is there is none of its.
    state_dir_is_gone: bool,
    /// Whether there is no room left where the queue is, which then can't take a note of it.
    state_dir_is_full: bool,
    /// Why the service that is at work can find nothing new, and since when; null where it can, or where none is.
    finds_nothing: Option<FindsNothing>,
    /// The file systems that are watched, as long as somebody works the queue off.
    disks: Vec<DiskView>,
    /// What is pinned against the garbage collector, as far as the service has said; null where it isn't known.
    pinned: Option<Pinned>,
    /// Bytes that may be pinned; null where nothing is.
    pin_budget: Option<u64>,
    caches: Vec<CacheStatus>,
    #[serde(skip)]
    now: Option<bandwidth::Now>,
}

/// What is said of a policy file that the service hasn't taken.
pub(super) const NOT_IN_FORCE: &str = "the running service does not go by this policy, but by what it has read before: a \
                                       file that is saved is in force within seconds, and the log says why if it is not";

/// Bytes: what SQLite writes at once.
const QUEUE_PAGE: u64 = 4096;

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
    /// Why it is off on this host, in words: nothing goes there then.
    why_off: Option<String>,
    /// This host's name, where that makes it the cache's own server.
    off_since_it_is: Option<String>,
    /// How many are uploaded at once; null for one that the policy doesn't name. Of those that are `uploading` the others are
    /// the next.
    at_once: Option<usize>,
    /// Bytes that it may have at most, where the policy says so.
    max_size: Option<u64>,
    /// What is in force for it; null for one that the policy doesn't name.
    bandwidth: Option<CacheShown>,
}

pub(super) fn run(global: &Global, args: &Args) -> Result<ExitCode, CliError> {
    let (View { state_dir, policy_file, config, without_state }, queue) = view(global)?;
    let (counts, disks, pinned, finds_nothing) = match &queue {
        Some(queue) => (queue.counts()?, queue.disks()?, queue.pinned()?, queue.finds_nothing()?),
        None => (Vec::new(), Vec::new(), None, None),
    };
    let bandwidth = config.as_ref().ok().map(|config| look(config, &state_dir, queue.as_ref())).transpose()?;
    let nix = config.as_ref().ok().map(nix_store).transpose()?;
    let mut caches = match config.as_ref().ok().zip(nix.as_ref()) {
        Some((config, nix)) => cache_states(counts, config, &state_dir, nix),
        None => {
            let used = counts.into_iter().filter(|counts| counts.jobs() > 0);
            used.map(|counts| CacheStatus::without_policy(counts, None)).collect()
        }
    };
    for cache in &mut caches {
        // Not that of another cache which has the name now.
        let named = bandwidth.as_ref().filter(|_| cache.orphaned == Some(false));
        cache.bandwidth = named.and_then(|now| CacheShown::of(now, &cache.counts.name));
    }
    let (working, working_unknown) = match StateLock::holder(&state_dir) {
        Ok(working) => (working.or_else(|| without_state.clone()), None),
        Err(error) => (None, Some(error.to_string())),
    };
    let policy_in_force = match (&queue, &working) {
        (Some(queue), Some(working)) => is_in_force(queue, working, policy_file.as_deref())?,
        _ => None,
    };
    // What was seen before may be long past.
    let disks = if working.is_some() || working_unknown.is_some() { disks } else { Vec::new() };
    let watches = working.as_ref().map_or(working_unknown.is_some(), |working| working.starts_with(SERVICE_ROLE));
    let status = Status {
        finds_nothing: finds_nothing.filter(|_| watches),
        policy_in_force,
        working,
        working_unknown,
        state_dir_is_full: has_no_room(&state_dir),
        state_dir_is_gone: without_state.is_some(),
        state_dir: state_dir.display().to_string(),
        policy_file: policy_file.filter(|file| config.is_err() || file.exists()).map(|file| file.display().to_string()),
        policy_problems: config.as_ref().err().map(problems).unwrap_or_default(),
        store: nix.map(|nix| nix.logical.as_str().to_owned()),
        line: bandwidth.as_ref().map(|now| RulingShown::of(&now.in_force.line)),
        backfill: bandwidth.as_ref().map(|now| RulingShown::of(&now.in_force.backfill)),
        disks,
        pinned,
        pin_budget: config.as_ref().ok().and_then(|config| config.pin).map(|pin| pin.0),
        caches,
        now: bandwidth,
    };
    print(args.json, &status, |out| write_text(out, &status))?;
    config.map(|_| ExitCode::SUCCESS).map_err(CliError::BadPolicy)
}

/// Whether the file system of a directory has no room left for so much as a page of the queue.
fn has_no_room(dir: &Path) -> bool {
    Room::of(dir).is_ok_and(|Room { space, .. }| space.free < QUEUE_PAGE)
}

/// Whether who works the queue off goes by the policy file as it is, where that is a service, which says so.
pub(super) fn is_in_force(queue: &Queue, working: &str, file: Option<&Path>) -> Result<Option<bool>, QueueError> {
    if !working.starts_with(SERVICE_ROLE) {
        return Ok(None);
    }
    let bytes = file.and_then(|file| std::fs::read(file).ok());
    queue.goes_by_policy(bytes.map(|bytes| fingerprint(&bytes)).as_deref())
}

/// All that is wrong with a policy file, one line each.
pub(super) fn problems(error: &ConfigError) -> Vec<String> {
    match error {
        ConfigError::Problems(problems) => problems.iter().map(ToString::to_string).collect(),
        error => vec![one_line(error)],
    }
}

impl CacheStatus {
    /// A cache of which nothing is known but what the queue says.
    fn without_policy(counts: CacheCounts, orphaned: Option<bool>) -> Self {
        Self {
            substituter: CacheUrl::parse(&counts.url).ok().and_then(|place| place.substituter()),
            public_key: None,
            orphaned,
            why_off: None,
            off_since_it_is: None,
            at_once: None,
            max_size: None,
            bandwidth: None,
            counts,
        }
    }
}

/// The caches of the policy in its order, then those that only the queue still knows.
fn cache_states(mut counts: Vec<CacheCounts>, config: &Config, state_dir: &Path, nix: &NixStore) -> Vec<CacheStatus> {
    let mut states = Vec::new();
    for cache in &config.caches {
        let known = counts.iter().position(|known| known.name == cache.name.as_str() && known.url == cache.url);
        let counts = known.map_or_else(|| nothing_yet(cache), |index| counts.swap_remove(index));
        states.push(CacheStatus {
            why_off: caches::why_off(cache, Some(&counts)),
            counts,
            substituter: cache.place.substituter(),
            public_key: caches::public_key(cache, state_dir, nix).map(|key| key.to_string()),
            orphaned: Some(false),
            off_since_it_is: caches::own_server(cache),
            at_once: Some(caches::uploads_at_once(cache, config)),
            max_size: cache.max_size,
            bandwidth: None,
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
    match (&status.working, &status.working_unknown) {
        (Some(working), _) => writeln!(out, "at work: {working}")?,
        (None, Some(why)) => writeln!(out, "at work: can't be known to this user: {why}")?,
        (None, None) => writeln!(out, "nobody works the queue off; start `storewatch run`")?,
    }
    writeln!(out, "store:   {}", status.store.as_deref().unwrap_or("not known without the policy"))?;
    writeln!(out, "state:   {}", status.state_dir)?;
    if status.state_dir_is_gone {
        writeln!(
            out,
            "         is gone: it was unmounted or removed, and the service waits until it is back: {}",
            AtWork::CURE
        )?;
    }
    let is_there = status.policy_file.as_ref().is_none_or(|file| Path::new(file).exists());
    let bad = match status.policy_problems.len() as u64 {
        0 => String::new(),
        _ if !is_there => " is not there: what needs it isn't shown".to_owned(),
        count => format!(" is bad ({}): what needs it isn't shown", counted(count, "problem")),
    };
    writeln!(out, "policy:  {}{bad}", status.policy_file.as_deref().unwrap_or("built in (no file)"))?;
    if status.policy_in_force == Some(false) {
        writeln!(out, "         {NOT_IN_FORCE}")?;
    }
    if let Some(FindsNothing { since, why }) = &status.finds_nothing {
        writeln!(out, "watch:   nothing new can be found since {}: {why}", past(*since))?;
    }
    if let Some(now) = &status.now {
        write_line(out, now)?;
    }
    if status.state_dir_is_full {
        writeln!(
            out,
            "disk:    the disk of the state directory is full: nothing can be queued, nor noted as done, before there is \
             room; nothing is lost by that"
        )?;
    }
    for disk in &status.disks {
        write_disk(out, disk)?;
    }
    if let Some(text) = pins_in_words(status.pinned, status.pin_budget) {
        writeln!(out, "pins:    {text}")?;
    }
    // After a crash nobody is at it any more, whatever the queue says.
    let at_work = status.working.is_some() || status.working_unknown.is_some();
    let uploading = if at_work { "uploading" } else { "interrupted in mid-upload" };
    for cache in &status.caches {
        let CacheStatus { counts, substituter, public_key, orphaned, why_off, off_since_it_is, .. } = cache;
        let CacheStatus { at_once, max_size, .. } = cache;
        writeln!(out, "\n{}  {}", counts.name, counts.url)?;
        if let Some(why) = why_off {
            write!(out, "  {why}")?;
            // By its name it is known from the beginning, and nothing is queued.
            let left = off_since_it_is.is_some();
            writeln!(
                out,
                "{}",
                if left { "; what becomes valid meanwhile is left to `storewatch backfill`" } else { "" }
            )?;
        }
        if *orphaned == Some(true) {
            // Another cache of that name may be in use.
            let namesakes = status.caches.iter().filter(|cache| cache.counts.name == counts.name).count();
            // What a URL has in it a shell would understand otherwise.
            let which = if namesakes == 1 { counts.name.clone() } else { format!("'{}'", counts.url) };
            writeln!(
                out,
                "  the policy no longer names this cache; `storewatch queue drop --cache {which}` ends its jobs"
            )?;
        }
        // What the policy doesn't name isn't asked any more: nobody need mend that.
        if let (Some(waits), None, Some(false) | None) = (takes_nothing(counts, at_work), why_off, orphaned) {
            writeln!(out, "  {waits}")?;
        }
        if let Some(now) = status.now.as_ref().filter(|_| *orphaned == Some(false)) {
            write_cache(out, now, &counts.name)?;
        }
        writeln!(
            out,
            "  {} done, {} pending, {} {uploading}{}, {} held, {} failed, {} gone",
            counts.done,
            counts.pending,
            counts.uploading,
            of_these(*at_once, counts.uploading),
            counts.held,
            counts.failed,
            counts.gone
        )?;
        if let Some(why) = counts.backfill_waits.as_ref().filter(|_| at_work) {
            writeln!(out, "  backfill waits: {why}")?;
        }
        if counts.again > 0 {
            writeln!(out, "  {} of those done are to be looked for again, since backfill asks for them", counts.again)?;
        }
        if let Some(max_size) = max_size {
            match counts.size.zip(counts.sized) {
                Some((size, sized)) => {
                    writeln!(out, "  {} of at most {}, looked at {}", bytes(size), bytes(*max_size), past(sized))?;
                }
                None => {
                    writeln!(out, "  may have {}; the service hasn't looked yet how much it has", bytes(*max_size))?
                }
            }
        }
        if counts.dropped > 0 {
            writeln!(out, "  {} of those done were dropped again, by `max_size`", counts.dropped)?;
        }
        let volume = counts.volume();
        if volume != Volume::default() {
            writeln!(out, "  {}", in_words(volume))?;
        }
        if counts.held + counts.failed > 0 {
            writeln!(out, "  `storewatch queue list --cache {}` says why some are held or have failed", counts.name)?;
        }
        if *orphaned == Some(false)
            && let Some(substituter) = substituter
        {
            writeln!(out, "  extra-substituters        = {substituter}")?;
        }
        match public_key {
            Some(key) => writeln!(out, "  extra-trusted-public-keys = {key}")?,
            None if *orphaned == Some(false) && substituter.is_some() => {
                writeln!(out, "  # its public key is not known to this user, or not yet")?;
            }
            None => {}
        }
    }
    Ok(())
}

/// How many of those that are taken up are uploaded at once, where that isn't all of them: ` (2 at once)`.
fn of_these(at_once: Option<usize>, uploading: u64) -> String {
    let at_once = at_once.filter(|at_once| (*at_once as u64) < uploading);
    at_once.map_or_else(String::new, |at_once| format!(" ({at_once} at once)"))
}

/// What is pinned, for people; nothing where nothing is and nothing may be.
pub(super) fn pins_in_words(pinned: Option<Pinned>, budget: Option<u64>) -> Option<String> {
    let what = match pinned {
        Some(Pinned { paths: 0, .. }) if budget.is_none() => return None,
        Some(Pinned { paths, bytes: size }) => format!("{} with {}", counted(paths, "path"), bytes(size)),
        None => "not known".to_owned(),
    };
    match budget {
        Some(budget) => Some(format!("{what}, of at most {}", bytes(budget))),
        None => pinned.map(|_| format!("{what}, to be released")),
    }
}

/// A disk that isn't well; of the others there is nothing to say.
fn write_disk(out: &mut impl Write, DiskView { place, level, since, found, unseen, .. }: &DiskView) -> io::Result<()> {
    let since = past(*since);
    match unseen {
        Some(why) => writeln!(out, "disk:    that of {place} can't be seen since {since}: {why}"),
        None if level == Level::Ok.name() => Ok(()),
        None => writeln!(out, "disk:    that of {place} is {level} since {since}; then {found}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_up_and_waits_for_its_turn_is_told_from_what_is_under_way() {
        for (at_once, uploading, told) in
            [(Some(1), 30, " (1 at once)"), (Some(4), 4, ""), (Some(4), 0, ""), (None, 30, "")]
        {
            assert_eq!(of_these(at_once, uploading), told, "{at_once:?} {uploading}");
        }
    }
}
