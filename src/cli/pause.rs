//! `storewatch pause` and `storewatch resume`

use std::process::ExitCode;
use std::time::Duration;

use jiff::Timestamp;

use super::bandwidth::{News, WhoseArgs, open_to_say, parse_for, say, tell, tell_if_none, until};
use super::setup::View;
use super::{CliError, Global};
use crate::limit::{Bandwidth, ByHand, Whose};
use crate::queue::now;

/// Upload nothing until told otherwise.
///
/// Paths that become valid meanwhile are queued. What is under way is given back at once and not counted as a try. It counts
/// at once, is kept over a restart, and with --for ends by itself; `storewatch resume` ends it.
#[derive(clap::Args, Debug)]
pub(super) struct PauseArgs {
    #[command(flatten)]
    whose: WhoseArgs,
    /// For so long: 30m, 2h, 1d. Without it, until `storewatch resume`.
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_for, allow_hyphen_values = true)]
    duration: Option<Duration>,
}

/// End what `storewatch pause` began, all of it or what is named.
///
/// A pause by the policy isn't ended by it: `storewatch limit none --for 1h` goes on all the same.
#[derive(clap::Args, Debug)]
pub(super) struct ResumeArgs {
    #[command(flatten)]
    whose: WhoseArgs,
}

pub(super) fn pause(global: &Global, args: &PauseArgs) -> Result<ExitCode, CliError> {
    let view = View::find(global)?;
    let mut queue = open_to_say(&view, &args.whose)?;
    queue.say_by_hand(&ByHand {
        whose: args.whose.named().unwrap_or(Whose::Line),
        bandwidth: Some(Bandwidth::Nothing),
        since: now(),
        until: until(args.duration),
    })?;
    tell(&view, &queue, News::Something)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn resume(global: &Global, args: &ResumeArgs) -> Result<ExitCode, CliError> {
    let view = View::find(global)?;
    let mut queue = open_to_say(&view, &args.whose)?;
    let whose = args.whose.named();
    let taken_back = queue.take_back_by_hand(whose.as_ref(), true)?;
    let line_is_paused = whose.is_some() && queue.by_hand()?.iter().any(pauses_line);
    let news = match (whose, line_is_paused) {
        (Some(Whose::Cache(name)), true) => {
            say(&format!("`{name}` itself is not paused by hand, {BUT_LINE}")).map(|()| News::Something)?
        }
        (_, true) => say(&format!("backfill itself is not paused by hand, {BUT_LINE}")).map(|()| News::Something)?,
        (_, false) => tell_if_none(&taken_back, "nothing was paused by hand")?,
    };
    tell(&view, &queue, news)?;
    Ok(ExitCode::SUCCESS)
}

/// What keeps a cache or backfill paused that was resumed.
const BUT_LINE: &str = "but the whole line is: `storewatch resume` resumes all of it";

fn pauses_line(said: &ByHand) -> bool {
    said.whose == Whose::Line && said.is_pause() && said.is_in_force(Timestamp::now())
}
