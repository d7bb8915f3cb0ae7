//! The policy file.

use super::{Finding, Host};
use crate::config::ConfigError;
use crate::report::one_line;

const ABOUT: &str = "policy";

pub(super) fn examine(host: &Host<'_>) -> Vec<Finding> {
    match host.config {
        Ok(config) => {
            let found = match &config.source {
                Some(file) => format!("{} is good", file.display()),
                None => "there is no file, so the built-in one applies".to_owned(),
            };
            let warnings = config.warnings.iter().map(|warning| Finding::warning(ABOUT, warning.to_string()));
            std::iter::once(Finding::ok(ABOUT, found)).chain(warnings).collect()
        }
        Err(ConfigError::Problems(problems)) => {
            let cure = "`storewatch policy edit` checks before it saves; a running service keeps to the old policy";
            problems.iter().map(|problem| Finding::trouble(ABOUT, problem.to_string()).cured_by(cure)).collect()
        }
        Err(error) => vec![Finding::trouble(ABOUT, one_line(error)).cured_by(error.hint())],
    }
}
