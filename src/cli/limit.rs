//! `storewatch limit`

use std::process::ExitCode;
use std::time::Duration;

use super::bandwidth::{
    News, Shown, WhoseArgs, look, open_to_say, parse_for, say, tell, tell_if_none, until, view, write_all,
};
use super::print::print;
use super::setup::View;
use super::{CliError, Global};
use crate::cache::CacheUrl;
use crate::cache::command::Gives;
use crate::config::{BadBandwidth, CacheConfig, Config, parse_bandwidth};
use crate::limit::{Bandwidth, ByHand, Way, Whose};
use crate::queue::now;

/// Limit bandwidth by hand, or show what is in force.
///
/// It counts at once and is kept over a restart; with --for it ends by itself. It wins over all that the policy says, metered
/// connections and batteries included. Without any argument it only shows what is in force.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// How much: 5MiB/s, 100Mbit/s, `background` for what others on the line leave, or `none` for no limit.
    #[arg(value_name = "BANDWIDTH", value_parser = parse_limit, allow_hyphen_values = true)]
    bandwidth: Option<Limit>,
    #[command(flatten)]
    whose: WhoseArgs,
    /// For so long: 30m, 2h, 1d. Without it, until something else is said.
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_for, allow_hyphen_values = true, requires = "bandwidth")]
    duration: Option<Duration>,
    /// Take back the limits that were set by hand, all of them or the one that is named: the policy decides again.
    #[arg(long, conflicts_with_all = ["bandwidth", "duration"])]
    clear: bool,
    /// Print JSON, with times in milliseconds since 1970.
    #[arg(long, conflicts_with_all = ["bandwidth", "clear", "cache", "backfill"])]
    json: bool,
}

/// How much is asked for.
#[derive(Clone, Copy, Debug)]
struct Limit(Option<Bandwidth>);

fn parse_limit(text: &str) -> Result<Limit, String> {
    if text == "none" {
        return Ok(Limit(None));
    }
    match parse_bandwidth(text) {
        Ok(Bandwidth::Nothing) => Err("to send nothing at all, write `storewatch pause`".to_owned()),
        Ok(bandwidth) => Ok(Limit(Some(bandwidth))),
        Err(error @ BadBandwidth::TooLarge(_)) => Err(format!("{error}: write `none` for no limit")),
        Err(error) => Err(error.to_string()),
    }
}

pub(super) fn run(global: &Global, args: &Args) -> Result<ExitCode, CliError> {
    let whose = args.whose.named();
    match (args.bandwidth, args.clear) {
        (None, false) if whose.is_none() => show(global, args.json)?,
        (None, false) => {
            return Err(CliError::Usage("say how much, such as 5MiB/s, or `none`, or --clear".to_owned()));
        }
        (Some(Limit(bandwidth)), _) => {
            let view = View::find(global)?;
            let mut queue = open_to_say(&view, &args.whose)?;
            let whose = whose.unwrap_or(Whose::Line);
            if let (Some(_), Ok(config)) = (bandwidth, &view.config) {
                can_be_limited(&whose, bandwidth, config)?;
            }
            let is_idle = bandwidth.is_some()
                && !matches!(whose, Whose::Cache(_))
                && view.config.as_ref().is_ok_and(|config| !config.caches.iter().any(takes_of_the_line));
            queue.say_by_hand(&ByHand { whose, bandwidth, since: now(), until: until(args.duration) })?;
            tell(&view, &queue, News::Something)?;
            if is_idle {
                say(NOTHING_OVER_LINE)?;
            }
        }
        (None, true) => {
            let view = View::find(global)?;
            let mut queue = open_to_say(&view, &args.whose)?;
            let taken_back = queue.take_back_by_hand(whose.as_ref(), false)?;
            let news = tell_if_none(&taken_back, "no limit was set by hand")?;
            tell(&view, &queue, news)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Said of a limit of the line, or of backfill's share of it, that limits nothing.
const NOTHING_OVER_LINE: &str = "it limits nothing for now: the policy has no cache to which storewatch sends anything over the \
                                 line; `--cache NAME` limits what goes into a directory";

/// Whether what goes to a cache is limited together with all else on the line.
fn takes_of_the_line(cache: &CacheConfig) -> bool {
    match cache.place {
        CacheUrl::File { .. } => false,
        CacheUrl::Command { .. } => cache.command.gives != Gives::Path,
        CacheUrl::Bucket { .. } | CacheUrl::Http { .. } | CacheUrl::Attic { .. } => true,
    }
}

/// A limit that nothing would come of is refused, as in the policy.
fn can_be_limited(whose: &Whose, bandwidth: Option<Bandwidth>, config: &Config) -> Result<(), CliError> {
    let Whose::Cache(name) = whose else { return Ok(()) };
    let cache = config.caches.iter().find(|cache| cache.name.as_str() == name);
    let sends_by_itself =
        |cache: &CacheConfig| matches!(cache.place, CacheUrl::Command { .. }) && cache.command.gives == Gives::Path;
    if cache.is_some_and(sends_by_itself) {
        return Err(CliError::Usage(format!(
            "`{name}` is a program that is given paths and sends them by itself, so it can't be limited; \
             `storewatch pause --cache {name}` pauses it"
        )));
    }
    let way = config.schedule.caches.get(name).map(|cache| cache.way);
    if bandwidth == Some(Bandwidth::Background) && way != Some(Way::Server) {
        return Err(CliError::Usage(format!(
            "`{name}` is on no server to which the line could be measured, so it can't give way: say how much, such as 5MiB/s"
        )));
    }
    Ok(())
}

fn show(global: &Global, json: bool) -> Result<(), CliError> {
    let (view, queue) = view(global)?;
    view.check_state_is_there()?;
    let View { state_dir, config, .. } = view;
    let in_force = look(&config.map_err(CliError::BadPolicy)?, &state_dir, queue.as_ref())?;
    print(json, &Shown::of(&in_force, &state_dir), |out| write_all(out, &in_force))
}
