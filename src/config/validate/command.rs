//! A cache that is a program: how it is run.

use std::time::Duration;

use crate::cache::command::Gives;
use crate::config::CommandConfig;
use crate::config::problems::Problems;
use crate::config::raw_cache::RawCache;
use crate::config::reader::List;

use super::{duration, word};

/// The keys that only a program can have.
pub(super) const KEYS: [&str; 5] = ["args", "gives", "answers_missing", "timeout", "pass_environment"];

/// The words for what a program is given.
const GIVES: [(&str, Gives); 2] = [("path", Gives::Path), ("nar", Gives::Nar)];

/// A program that takes longer for one path hangs.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 60 * 60);

pub(super) fn command(raw: &RawCache, problems: &mut Problems<'_>) -> CommandConfig {
    let mut command = CommandConfig::default();
    if let Some(args) = &raw.args {
        command.args = arguments(args, problems);
    }
    if let Some(gives) = &raw.gives {
        command.gives = word("gives", gives, &GIVES, problems).unwrap_or_default();
    }
    command.answers_missing = raw.answers_missing.as_ref().is_some_and(|flag| *flag.get_ref());
    if let Some(timeout) = &raw.timeout {
        let range = Duration::from_secs(1)..=LONGEST;
        command.timeout = duration("timeout", timeout, range, "1s to 7d", problems).unwrap_or(command.timeout);
    }
    if let Some(names) = &raw.pass_environment {
        command.pass_environment = variables(names, problems);
    }
    command
}

fn arguments(list: &List, problems: &mut Problems<'_>) -> Vec<String> {
    for word in list.get_ref().iter().filter(|word| word.get_ref().contains('\0')) {
        problems.add(word.span(), "`args` has a zero byte in it, which no program can be given");
    }
    list.get_ref().iter().map(|word| word.get_ref().clone()).collect()
}

/// The text is not repeated: it may be what the variable holds, put in the wrong place.
fn variables(list: &List, problems: &mut Problems<'_>) -> Vec<String> {
    for name in list.get_ref() {
        let text = name.get_ref();
        let legal = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if text.is_empty() || !legal || text.starts_with(|first: char| first.is_ascii_digit()) {
            let message = "`pass_environment` has something else than names of variables: write letters, digits and `_`, \
                           such as CACHIX_AUTH_TOKEN; what they hold comes from the service's environment";
            problems.add(name.span(), message);
        }
    }
    list.get_ref().iter().map(|name| name.get_ref().clone()).collect()
}
