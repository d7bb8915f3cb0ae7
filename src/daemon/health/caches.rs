//! The caches of the policy, tried out, and the clocks of their servers.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::tz::TimeZone;

use super::{Finding, Grade};
use crate::cache::bucket::BucketError;
use crate::cache::http::HttpError;
use crate::cache::{CacheError, Class, Trial};
use crate::config::{CacheConfig, Config, NixStore};
use crate::daemon::caches::{Unanswered, note_key_that_was_told, off_by_name, own_server, summary, try_all};
use crate::queue::{CacheCounts, Queue, now};
use crate::report::one_line;
use crate::times;

/// Clocks that are further apart (seconds) will soon be too far: tokens say from when to when they hold.
const APART: u64 = 60;

/// Clocks that are further apart (seconds) make servers refuse tokens; most allow for less.
const FAR_APART: u64 = 5 * 60;

pub(super) async fn examine(config: &Config, nix: &NixStore, state_dir: &Path, step: &dyn Fn(&str)) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut on = Vec::new();
    for cache in &config.caches {
        match own_server(cache) {
            Some(host) => findings.push(of_own_server(cache, &host)),
            None => on.push(cache),
        }
    }
    let names: Vec<&str> = on.iter().map(|cache| cache.name.as_str()).collect();
    let left = Unanswered::new(&names);
    step(&left.in_words());
    let answered = |place| {
        left.answered(place);
        step(&left.in_words());
    };
    let lacking = lacking_credentials(state_dir, config);
    let trials = try_all(&on, state_dir, nix, &config.disk, answered).await;
    for (cache, trial) in on.iter().zip(&trials) {
        findings.extend(of_cache(cache, trial, lacking.get(cache.name.as_str()).copied()));
        let news = note_key_that_was_told(cache, state_dir, trial.public_key.as_deref());
        findings.extend(news.map(|news| Finding::warning(format!("key of {}", cache.name), news)));
    }
    let clocks = on.iter().zip(&trials).filter_map(|(cache, trial)| Some(of_clock(cache, trial.clock_ahead?)));
    findings.extend(clocks);
    findings
}

/// Since when (ms since 1970) who works the queue off has had no credentials that these caches accept.
fn lacking_credentials(state_dir: &Path, config: &Config) -> BTreeMap<String, i64> {
    let counts = Queue::open_to_look(state_dir).and_then(|queue| queue.counts()).unwrap_or_default();
    let named = |counts: &CacheCounts| {
        config.caches.iter().any(|cache| cache.name.as_str() == counts.name && cache.url == counts.url)
    };
    let lacking = counts.into_iter().filter(|counts| counts.lacks_credentials && named(counts));
    lacking.filter_map(|counts| Some((counts.name, counts.waiting_since?))).collect()
}

fn of_own_server(cache: &CacheConfig, host: &str) -> Finding {
    Finding::ok(format!("cache {}", cache.name), off_by_name(host))
}

fn of_cache(cache: &CacheConfig, trial: &Trial, lacking_since: Option<i64>) -> Vec<Finding> {
    let about = format!("cache {}", cache.name);
    let found = |text: String| if text.is_empty() { cache.url.clone() } else { format!("{}: {text}", cache.url) };
    let lacking = lacking_since.map_or_else(String::new, |since| {
        format!("valid credentials missing since {}; ", times::past(since, now(), &TimeZone::system()))
    });
    if trial.went_well() {
        return vec![Finding::ok(about, found(summary(trial)))];
    }
    let trouble = |error: &CacheError| match error {
        own if own.is_own_server() => Finding::ok(&about, format!("off on this host: {own}")),
        // Told where the secrets are examined.
        CacheError::Http(HttpError::Secret { .. }) => {
            Finding::warning(&about, found(format!("{lacking}not asked for more, without its credentials")))
        }
        CacheError::Bucket(error) if is_hidden(error) => Finding::warning(
            &about,
            found(format!("{lacking}not asked for more, without its keys: {}", one_line(&**error))),
        ),
        error if error.class() == Class::Credentials => {
            Finding::trouble(&about, found(format!("{lacking}{}", one_line(error)))).cured_by(error.hint())
        }
        error => Finding::trouble(&about, found(one_line(error))).cured_by(error.hint()),
    };
    trial.troubles.iter().map(trouble).collect()
}

fn is_hidden(error: &BucketError) -> bool {
    matches!(error, BucketError::Secret(source) if source.may_be_the_services_own())
}

fn of_clock(cache: &CacheConfig, ahead: i64) -> Finding {
    let about = format!("clock of {}", cache.name);
    let apart = ahead.unsigned_abs();
    let which = if ahead < 0 { "behind" } else { "ahead of" };
    let found = format!("its server's clock is {apart} s {which} this host's");
    if apart <= APART {
        return Finding::ok(about, format!("its server's clock and this host's are {apart} s apart"));
    }
    let grade = if apart <= FAR_APART { Grade::Warning } else { Grade::Trouble };
    Finding::new(grade, about, found)
        .cured_by("set the one that is wrong right, by NTP; tokens say from when to when they hold")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Defaults;

    #[test]
    fn clocks_may_be_a_minute_apart_and_must_not_be_five() {
        let config = Config::built_in(&Defaults { state_dir: "/state".into() });
        for (ahead, grade) in [
            (0, Grade::Ok),
            (-60, Grade::Ok),
            (61, Grade::Warning),
            (-300, Grade::Warning),
            (301, Grade::Trouble),
            (-86_400, Grade::Trouble),
        ] {
            assert_eq!(of_clock(&config.caches[0], ahead).grade, grade, "{ahead}");
        }
        assert_eq!(of_clock(&config.caches[0], -400).found, "its server's clock is 400 s behind this host's");
    }
}
