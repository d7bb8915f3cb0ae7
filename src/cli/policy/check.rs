//! `storewatch policy check` and `storewatch policy schema`.

use std::io::Write;

use crate::config::{CheckUrl, Config, Defaults, PolicyFile, SCHEMA};

use super::PolicyCommandError;
use crate::cli::words::counted;

/// Says that the file is good, what it comes to, and what is odd about it.
///
/// # Errors
/// [`PolicyCommandError::Config`] with all that is wrong with it.
pub fn check(
    file: Option<&PolicyFile>,
    defaults: &Defaults,
    check_url: CheckUrl<'_>,
    out: &mut dyn Write,
) -> Result<(), PolicyCommandError> {
    let config = Config::load(file, defaults, check_url)?;
    match (file, &config.source) {
        (Some(file), None) => writeln!(out, "{}: not there: the built-in policy applies", file.path.display())?,
        (None, _) => writeln!(out, "no policy file: the built-in policy applies")?,
        (Some(file), Some(_)) => good(&file.path.display().to_string(), &config, out)?,
    }
    Ok(())
}

/// One line of praise behind the warnings.
pub(super) fn good(name: &str, config: &Config, out: &mut dyn Write) -> std::io::Result<()> {
    for warning in &config.warnings {
        writeln!(out, "{}:{}:{}: warning: {}", warning.file, warning.line, warning.column, warning.message)?;
    }
    let caches = counted(config.caches.len() as u64, "cache");
    let rules = counted(config.policy.own_rules() as u64, "rule");
    writeln!(out, "{name}: good: {caches}, {rules}")
}

/// Prints the JSON schema of the policy file.
///
/// # Errors
/// [`PolicyCommandError::Output`].
pub fn schema(out: &mut dyn Write) -> Result<(), PolicyCommandError> {
    Ok(out.write_all(SCHEMA.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::setup::check_url;

    fn run(text: Option<&str>) -> Result<String, String> {
        let dir = tempfile::tempdir().expect("a folder");
        let file = PolicyFile { path: dir.path().join("policy.toml"), named: false };
        if let Some(text) = text {
            std::fs::write(&file.path, text).expect("written");
        }
        let mut out = Vec::new();
        let defaults = Defaults { state_dir: "/state".into() };
        let checked = check(Some(&file), &defaults, &check_url, &mut out);
        let plain = |text: String| text.replace(&dir.path().display().to_string(), "DIR");
        match checked {
            Ok(()) => Ok(plain(String::from_utf8(out).expect("UTF-8"))),
            Err(err) => Err(plain(err.to_string())),
        }
    }

    #[test]
    fn what_check_says() {
        assert_eq!(run(None).as_deref(), Ok("DIR/policy.toml: not there: the built-in policy applies\n"));
        assert_eq!(run(Some("version = 1")).as_deref(), Ok("DIR/policy.toml: good: 1 cache, 0 rules\n"));
        let all = "[[rules]]\nmatch = {}\naction = \"skip\"\n";
        assert_eq!(
            run(Some(&format!("version = 1\n{all}{all}"))).as_deref(),
            Ok("DIR/policy.toml:5:1: warning: never asked, like all rules behind it: rule 1 matches everything\n\
                DIR/policy.toml: good: 1 cache, 2 rules\n")
        );
        assert_eq!(
            run(Some("version = 1\na = 1\n[limits]\nuploads = 0")).expect_err("problems"),
            "DIR/policy.toml:2:1: unknown key `a` in the policy: known are `version`, `builtin_rules`, `store`, `caches`, \
             `upstreams`, `limits`, `disk`, `rules`\n\
             DIR/policy.toml:4:11: `uploads` must be between 1 and 64"
        );
    }
}
