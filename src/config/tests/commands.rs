//! Programs as caches: how they are run, and which keys they have.

use std::time::Duration;

use super::{bad_v1, parse};
use crate::cache::command::Gives;
use crate::config::CommandConfig;

#[test]
fn how_a_program_is_run() {
    let text = r#"version = 1
[caches.plain]
url = "command:///opt/push"
[caches.all]
url = "command:///opt/push"
args = ["--to", ""]
gives = "nar"
answers_missing = true
timeout = "2h"
pass_environment = ["TOKEN"]
"#;
    let config = parse(text).expect("a good policy");
    let command = |name: &str| {
        let cache = config.caches.iter().find(|cache| cache.name.as_str() == name).expect("the cache");
        cache.command.clone()
    };
    assert_eq!(command("plain"), CommandConfig::default());
    let expected = CommandConfig {
        args: vec!["--to".to_owned(), String::new()],
        gives: Gives::Nar,
        answers_missing: true,
        timeout: Duration::from_secs(2 * 60 * 60),
        pass_environment: vec!["TOKEN".to_owned()],
    };
    assert_eq!(command("all"), expected);
}

#[test]
fn keys_that_make_no_sense() {
    bad_v1(
        r#"[caches.a]
url = "command:///opt/push"
signing_key = { file = "/run/secrets/key" }
token = { env = "TOKEN" }
account_key = { env = "KEY" }
[caches.b]
url = "file:///srv/b"
args = ["x"]
timeout = "1h"
[caches.c]
url = "command:///opt/push"
gives = "archive"
timeout = "8d"
pass_environment = ["TOKEN=s3cret"]
args = "x"
"#,
        &[
            "4:1: `signing_key` makes no sense here, since the program signs by itself, if it signs: leave it out",
            "5:1: `token` makes no sense here, since the program speaks to its server by itself: leave it out",
            "6:1: `account_key` makes no sense here, since it is for Azure, az://, alone: leave it out",
            "9:1: `args` makes no sense here, since it is for programs, command://, alone: leave it out",
            "10:1: `timeout` makes no sense here, since it is for programs, command://, alone: leave it out",
            "13:9: `gives` can not be `archive`: write one of `path`, `nar`",
            "14:11: `timeout` must be from 1s to 7d",
            "15:21: `pass_environment` has something else than names of variables: write letters, digits and `_`, such as \
             CACHIX_AUTH_TOKEN; what they hold comes from the service's environment",
            "16:8: `args` is a string, expected a list of strings: write `args = [\"--to\", \"team\"]`",
        ],
    );
}
