//! What is in force of bandwidth, shown; and saying something of it by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::run::runtime;
use super::setup::View;
use super::{CliError, Global};
use crate::config::{Config, parse_duration};
use crate::daemon::bandwidth::{in_words, paused_in_words};
use crate::daemon::conditions::{self, Found};
use crate::limit::{Bandwidth, By, ByHand, InForce, Ruling, Whose};
use crate::queue::{Paused, Queue, QueueError, StateLock, now};
use crate::times::parse_zone;

/// Longest time for which something can be said by hand: who means longer means until further notice.
const LONGEST: Duration = Duration::from_secs(52 * 7 * 24 * 60 * 60);

/// Who says something by hand, as the state directory's lock names it.
const ROLE: &str = "storewatch limit";

/// For whom something is said by hand.
#[derive(clap::Args, Debug)]
pub(super) struct WhoseArgs {
    /// Only for this cache.
    #[arg(long, value_name = "CACHE", conflicts_with = "backfill")]
    cache: Option<String>,
    /// Only for backfill.
    #[arg(long)]
    backfill: bool,
}

impl WhoseArgs {
    /// For whom; `None` where nobody is named.
    pub(super) fn named(&self) -> Option<Whose> {
        let cache = self.cache.clone().map(Whose::Cache);
        cache.or_else(|| self.backfill.then_some(Whose::Backfill))
    }

    /// Refuses the name of a cache that there isn't among these, which `whose` has.
    fn check<'n>(&self, known: impl Iterator<Item = &'n str>, whose: &str) -> Result<(), CliError> {
        let Some(name) = &self.cache else { return Ok(()) };
        let known: BTreeSet<&str> = known.collect();
        if known.contains(name.as_str()) {
            return Ok(());
        }
        let known = Vec::from_iter(known).join(", ");
        Err(CliError::Usage(format!("{whose} has no cache `{name}`; it has {}", or_none(&known))))
    }
}

/// For how long something is said by hand.
pub(super) fn parse_for(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text).map_err(|error| error.to_string())?;
    if duration.is_zero() || duration > LONGEST {
        return Err("it must be from 1s to 52w; without --for it holds until something else is said".to_owned());
    }
    Ok(duration)
}

/// When that is over, in the queue's time.
pub(super) fn until(duration: Option<Duration>) -> Option<i64> {
    Some(now().saturating_add(i64::try_from(duration?.as_millis()).unwrap_or(i64::MAX)))
}

fn or_none(names: &str) -> &str {
    if names.is_empty() { "none" } else { names }
}

/// The state directory's queue, to say something in for somebody that there is; made where there is none yet.
///
/// A policy that has a mistake is no hindrance: a service works on by the one before, and may have to be stopped at once.
pub(super) fn open_to_say(view: &View, whose: &WhoseArgs) -> Result<Queue, CliError> {
    view.check_state_is_there()?;
    let View { state_dir, config, .. } = view;
    if let Ok(config) = config {
        whose.check(config.caches.iter().map(|cache| cache.name.as_str()), "the policy")?;
    }
    let queue = open_or_make(state_dir)?;
    if config.is_err() {
        whose.check(queue.counts()?.iter().map(|cache| cache.name.as_str()), "the policy is bad, and the queue")?;
    }
    Ok(queue)
}

fn open_or_make(state_dir: &Path) -> Result<Queue, CliError> {
    match Queue::open_beside(state_dir) {
        Err(QueueError::NoQueue { .. }) => {}
        opened => return Ok(opened?),
    }
    let _lock = StateLock::acquire(state_dir, ROLE)?;
    Ok(Queue::open(state_dir)?.queue)
}

/// What is in force now, and by which clock.
pub(super) struct Now {
    pub(super) in_force: InForce,
    zone: TimeZone,
}

impl Now {
    /// Why a cache is paused, or backfill to it, with what ends that.
    pub(super) fn paused(&self, cache: &str) -> Paused {
        paused_in_words(&self.in_force, cache, &self.zone)
    }
}

/// What is in force now by this policy and what was said by hand.
pub(super) fn look(config: &Config, state_dir: &Path, queue: Option<&Queue>) -> Result<Now, CliError> {
    let zone = zone(state_dir, queue)?;
    let by_hand = queue.map(Queue::by_hand).transpose()?.unwrap_or_default();
    let schedule = &config.schedule;
    let found = match (schedule.metered, schedule.battery) {
        (None, None) => Found::default(),
        _ => runtime()?.block_on(conditions::look(schedule)),
    };
    let in_force = schedule.in_force(&by_hand, found.conditions(), &Timestamp::now().to_zoned_datetime(zone.clone()));
    Ok(Now { in_force, zone })
}

/// The time zone of who works the queue off, by whose clock windows open and close; where nobody does, this process's.
fn zone(state_dir: &Path, queue: Option<&Queue>) -> Result<TimeZone, CliError> {
    let nobody_works = matches!(StateLock::holder(state_dir), Ok(None));
    let noted = queue.filter(|_| !nobody_works).map(Queue::zone).transpose()?.flatten();
    Ok(noted.and_then(|name| parse_zone(&name)).unwrap_or_else(TimeZone::system))
}

/// Where things are, what the policy says, and the queue if there is one.
pub(super) fn view(global: &Global) -> Result<(View, Option<Queue>), CliError> {
    let view = View::find(global)?;
    let queue = match Queue::open_to_look(&view.state_dir) {
        Ok(queue) => Some(queue),
        Err(QueueError::NoQueue { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    Ok((view, queue))
}

/// What is in force, as `--json` prints it.
#[derive(Serialize)]
pub(super) struct Shown {
    /// Who works the queue off, if anybody does.
    working: Option<String>,
    /// Why this user can't know who does.
    working_unknown: Option<String>,
    line: RulingShown,
    backfill: RulingShown,
    caches: BTreeMap<String, CacheShown>,
}

/// For the line, for backfill or for a cache.
#[derive(Serialize)]
pub(super) struct RulingShown {
    /// Null without a limit and for what others leave, 0 for a pause.
    bytes_per_second: Option<u64>,
    /// Whether it is what others leave.
    background: bool,
    /// `policy`, `window`, `hand`, `metered` or `battery`.
    by: &'static str,
    /// Which window.
    window: Option<String>,
    /// Until when, in milliseconds since 1970, as far as that is known.
    until: Option<i64>,
}

#[derive(Serialize)]
pub(super) struct CacheShown {
    #[serde(flatten)]
    ruling: RulingShown,
    /// Why nothing goes there for now, be it paused itself or all.
    paused: Option<String>,
}

impl Shown {
    pub(super) fn of(now: &Now, state_dir: &Path) -> Self {
        let in_force = &now.in_force;
        let cache = |name: &String| CacheShown::of(now, name).map(|shown| (name.clone(), shown));
        let (working, working_unknown) = match StateLock::holder(state_dir) {
            Ok(working) => (working, None),
            Err(error) => (None, Some(error.to_string())),
        };
        Self {
            working,
            working_unknown,
            line: RulingShown::of(&in_force.line),
            backfill: RulingShown::of(&in_force.backfill),
            caches: in_force.caches.keys().filter_map(cache).collect(),
        }
    }
}

impl RulingShown {
    pub(super) fn of(Ruling { bandwidth, gives_way, by, until }: &Ruling) -> Self {
        let (by, window) = match by {
            By::Policy => ("policy", None),
            By::Window(window) => ("window", Some(window.to_string())),
            By::Hand => ("hand", None),
            By::Metered => ("metered", None),
            By::Battery => ("battery", None),
        };
        Self {
            bytes_per_second: bandwidth.and_then(Bandwidth::per_second),
            background: *gives_way,
            by,
            window,
            until: until.map(|until| until.as_millisecond()),
        }
    }
}

impl CacheShown {
    /// `None` for a cache that the policy doesn't name.
    pub(super) fn of(Now { in_force, zone }: &Now, name: &str) -> Option<Self> {
        let (ruling, _) = in_force.caches.get(name)?;
        let paused = paused_in_words(in_force, name, zone).all;
        Some(Self { ruling: RulingShown::of(ruling), paused })
    }
}

/// What is in force for the line and for backfill, where it is a limit or a pause, or was said by hand.
pub(super) fn write_line(out: &mut impl Write, Now { in_force, zone }: &Now) -> io::Result<()> {
    write_ruling(out, "line:    ", &in_force.line, zone)?;
    write_ruling(out, "backfill:", &in_force.backfill, zone)
}

/// The same for a cache, with why it is paused.
pub(super) fn write_cache(out: &mut impl Write, Now { in_force, zone }: &Now, name: &str) -> io::Result<()> {
    if let Some((ruling, _)) = in_force.caches.get(name).filter(|(ruling, _)| !ruling.is_pause()) {
        write_ruling(out, "  bandwidth:", ruling, zone)?;
    }
    let paused = paused_in_words(in_force, name, zone);
    match (paused.all, paused.backfill) {
        (Some(why), _) => writeln!(out, "  paused {why}"),
        (None, Some(why)) => writeln!(out, "  backfill is paused {why}"),
        (None, None) => Ok(()),
    }
}

fn write_ruling(out: &mut impl Write, whose: &str, ruling: &Ruling, zone: &TimeZone) -> io::Result<()> {
    if ruling.bandwidth.is_none() && !ruling.gives_way && ruling.by == By::Policy {
        return Ok(());
    }
    writeln!(out, "{whose} {}", in_words(ruling, zone))
}

/// All that is in force.
pub(super) fn write_all(out: &mut impl Write, Now { in_force, zone }: &Now) -> io::Result<()> {
    writeln!(out, "line:     {}", in_words(&in_force.line, zone))?;
    writeln!(out, "backfill: {}", in_words(&in_force.backfill, zone))?;
    for (name, (ruling, _)) in &in_force.caches {
        writeln!(out, "{name}: {}", in_words(ruling, zone))?;
        // Its own is said already.
        let by_all = matches!(in_force.paused(name), Some((Whose::Line, _)));
        if let Some(why) = paused_in_words(in_force, name, zone).all.filter(|_| by_all) {
            writeln!(out, "  paused {why}")?;
        }
    }
    Ok(())
}

/// Says so where nothing was taken back that was in force.
pub(super) fn tell_if_none(taken_back: &[ByHand], line: &str) -> Result<News, CliError> {
    let now = Timestamp::now();
    if taken_back.iter().any(|said| said.is_in_force(now)) {
        return Ok(News::Something);
    }
    say(line).map(|()| News::Nothing)
}

/// Whether something is in force now that wasn't before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    Something,
    Nothing,
}

pub(super) fn say(line: &str) -> Result<(), CliError> {
    writeln!(io::stdout(), "{line}").map_err(|source| CliError::System { action: "print what was done", source })
}

/// Says what is in force after something was said by hand, and for whom that counts.
pub(super) fn tell(View { state_dir, config, .. }: &View, queue: &Queue, news: News) -> Result<(), CliError> {
    let now = config.as_ref().ok().map(|config| look(config, state_dir, Some(queue))).transpose()?;
    let mut out = io::stdout().lock();
    let told = match &now {
        Some(now) => write_all(&mut out, now),
        None => writeln!(
            out,
            "noted; all that is in force can't be shown, since the policy is bad: `storewatch policy check` says why"
        ),
    };
    let told = told.and_then(|()| match StateLock::holder(state_dir) {
        Ok(None) if news == News::Something => {
            writeln!(out, "nobody works the queue off now; it counts as soon as `storewatch run` does")
        }
        // Who can't know who does says nothing of it.
        Ok(_) | Err(_) => Ok(()),
    });
    told.map_err(|source| CliError::System { action: "print what is in force", source })
}
