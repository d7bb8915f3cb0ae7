//! The caches of others that the policy names: whether each answers.

use tokio::task::JoinSet;

use super::Finding;
use crate::cache::greet_upstream;
use crate::cache::http::{Greeting, HttpError};
use crate::config::Config;
use crate::report::one_line;

pub(super) async fn examine(config: &Config) -> Vec<Finding> {
    let mut greeting = JoinSet::new();
    for (place, url) in config.upstreams.caches.iter().cloned().enumerate() {
        greeting.spawn(async move { (place, of_upstream(&url, greet_upstream(&url).await)) });
    }
    let mut findings = greeting.join_all().await;
    findings.sort_by_key(|(place, _)| *place);
    findings.into_iter().map(|(_, finding)| finding).collect()
}

/// One that is away is no trouble: it is done without.
fn of_upstream(url: &str, greeted: Result<Greeting, HttpError>) -> Finding {
    let about = format!("upstream {url}");
    match greeted {
        Ok(greeting) => Finding::ok(about, format!("answers in {:.1} ms", greeting.took.as_secs_f64() * 1_000.0)),
        Err(error) => {
            let found = format!("{}; what it has is uploaded once it was asked three times in vain", one_line(&error));
            Finding::warning(about, found).cured_by(error.hint())
        }
    }
}
