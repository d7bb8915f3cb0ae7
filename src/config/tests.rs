//! What people read when a policy is wrong, word for word, and what a good one comes to.

mod bandwidth;
mod commands;
mod disk;
mod manual;
mod pins;
mod servers;
mod stores;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::cache::CacheUrl;
use crate::nix::StoreDir;
use crate::secret::Source;

fn defaults() -> Defaults {
    Defaults { state_dir: "/var/lib/storewatch".into() }
}

fn check_url(url: &str) -> Result<CacheUrl, String> {
    CacheUrl::parse(url).map_err(|_| "the cache layer says no".to_owned())
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, "policy.toml", &defaults(), &check_url)
}

#[track_caller]
fn good(text: &str) -> Config {
    parse(text).unwrap_or_else(|err| panic!("{err}"))
}

/// Holds the problems against what is expected, one a line, without the file's name.
#[track_caller]
fn bad(text: &str, expected: &[&str]) {
    let err = parse(text).expect_err("a problem").to_string();
    let found: Vec<_> = err.lines().map(|line| line.strip_prefix("policy.toml:").unwrap_or(line)).collect();
    assert_eq!(found, expected, "in:\n{text}");
}

/// With the version on the first line, so that the text begins on the second.
#[track_caller]
fn bad_v1(text: &str, expected: &[&str]) {
    bad(&format!("version = 1\n{text}"), expected);
}

#[test]
fn without_a_word_there_is_a_local_cache() {
    for config in [Config::built_in(&defaults()), good("version = 1")] {
        let [cache] = config.caches.as_slice() else { panic!("one cache") };
        assert_eq!((cache.name.as_str(), cache.url.as_str()), ("local", "file:///var/lib/storewatch/cache"));
        assert_eq!(CacheUrl::parse(&cache.url).as_ref(), Ok(&cache.place));
        assert!(cache.builtin && cache.signing_key.is_none());
        assert_eq!(config.policy.caches(), std::slice::from_ref(&cache.name));
        assert_eq!((config.limits, &config.store), (Limits::default(), &StoreOptions::default()));
        assert_eq!(format!("{:?}", config.policy), format!("{:?}", good("version = 1").policy));
    }
    assert_eq!(good("version = 1\n[[rules]]\nmatch = {}\naction = \"upload\"\nto = [\"local\"]").caches.len(), 1);
}

const WHOLE: &str = r#"
        version = 0x1
        builtin_rules = false
        [store]
        dir = "/l/"
        remote = "local?root=/p"
        [caches.team]
        url = "file:///srv/team?compression=zstd"
        signing_key = { file = "/etc/key" }
        [caches.archive]
        url = "file:///srv/archive"
        [caches.attic]
        url = "attic+https://cache.example.com:8443/nix/team"
        token = { command = ["vault", "read"], timeout = "10s", lifetime = "5m" }
        headers = { x-a = "plain", x-b = { netrc = true } }
        client_certificate = "/c"
        client_key = { credential = "c" }
        allow_self = true
        server_hostnames = ["cache"]
        [upstreams]
        keys = []
        caches = ["https://cache.nixos.org"]
        remember = "1h"
        [limits]
        uploads = 64
        priority = "normal"
        bandwidth = "100 Mbit/s"
        windows = [{ days = ["mon"], from = "22:00", to = "06:00", bandwidth = 0 }]
        battery = "pause"
        [[rules]]
        name = "licensed"
        match = { name = ["cuda*", "nvidia*"], kind = "output", deriver = "*.drv", size = "1 KiB..1 GiB" }
        action = "deny"
        from = ["archive"]
        [[rules]]
        action = "upload"
        to = ["team"]
        [rules.match]
        signed_by = ["host-1", "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="]
        content_addressed = false
        built = "locally"
        kind = ["source", "output"]
        "#;

#[test]
fn a_whole_policy() {
    let config = good(WHOLE);
    let names: Vec<_> = config.caches.iter().map(|cache| cache.name.as_str()).collect();
    assert_eq!(names, ["team", "archive", "attic"], "in the order of the file");
    assert_eq!(config.caches[0].signing_key, Some(Source::file("/etc/key")));
    assert_eq!(config.limits, Limits { uploads: Some(64), priority: Priority::Normal });
    assert_eq!(config.store.dir, Some(StoreDir::new("/l")));
    assert_eq!(config.policy.own_rules(), 2);
    assert!(config.warnings.is_empty());
}

#[test]
fn versions() {
    bad("", &["1:1: the policy has no version: write `version = 1` as its first line"]);
    bad(
        "version = 2\n[new]\nkey = 1",
        &[
            "1:11: version 2 was made for a newer storewatch; this one knows version 1: take a newer storewatch, or write \
           the policy anew for version 1",
        ],
    );
    for version in ["0", "-1"] {
        bad(&format!("version = {version}"), &["1:11: there is no such version: write `version = 1`"]);
    }
    for (version, found) in [
        ("\"1\"", "a string"),
        ("1.0", "a number with a fraction"),
        ("[1]", "a list"),
        ("99999999999999999999", "a number that is too large"),
    ] {
        let expected = format!("1:11: the version is {found}, expected a whole number: write `version = 1`");
        bad(&format!("version = {version}"), &[&expected]);
    }
}

#[test]
fn numbers_that_are_too_large() {
    for uploads in ["99999999999999999999", "-99999999999999999999", "0xfffffffffffffffff"] {
        let expected = "2:18: `uploads` is a number that is too large: write `uploads = 4`";
        bad(&format!("version = 1\nlimits.uploads = {uploads}"), &[expected]);
    }
}

#[test]
fn rules_without_a_name_have_none() {
    for name in ["", " "] {
        let rule = format!("[[rules]]\nname = \"{name}\"\nmatch = {{}}\naction = \"skip\"");
        bad_v1(&rule, &["3:8: `name` is empty: write one, or leave it out"]);
    }
}

#[test]
fn all_problems_at_once() {
    bad(
        r#"builtin_rules = "no"
colour = "blue"
[caches.team]
ulr = "file:///srv/team"
[caches.Public]
url = "ftp://bucket"
signing_key = { file = "key" }
[limits]
uploads = 65
[[rules]]
match = { nmae = "a", size = "1 KiB" }
action = "uplod"
to = ["tema", "nowhere"]
"#,
        &[
            "1:1: the policy has no version: write `version = 1` as its first line",
            "1:17: `builtin_rules` is a string, expected true or false: write `builtin_rules = false`",
            "2:1: unknown key `colour` in the policy: known are `version`, `builtin_rules`, `store`, `caches`, \
             `upstreams`, `limits`, `disk`, `rules`",
            "3:1: [caches.team] has no `url`: write `url = \"file:///var/cache/nix\"`",
            "4:1: unknown key `ulr` in [caches.team]: did you mean `url`?",
            "5:9: `Public` is no name for a cache: 1 to 64 of a-z, 0-9, _ and - are",
            "6:7: the cache layer says no",
            "7:24: `file` must be an absolute path: write it from the `/` on",
            "9:11: `uploads` must be between 1 and 64",
            "11:11: unknown key `nmae` in match: did you mean `name`?",
            "11:30: `1 KiB` does not say how to compare: write \">= 1 KiB\", \"<= 1 KiB\", \"> 1 KiB\", \"< 1 KiB\" or \
             \"= 1 KiB\"",
            "12:10: `action` can not be `uplod`: did you mean `upload`?",
            "13:7: `to` names an unknown cache `tema`: did you mean `team`?",
            "13:15: `to` names an unknown cache `nowhere`: the caches are `team`",
        ],
    );
}

#[test]
fn wrong_types_say_what_to_write() {
    bad_v1(
        r#"
caches = 1
upstreams = []
rules = {}
limits = { uploads = "4", priority = 1 }
store = { dir = 1.5, state_dir = 1979-05-27, real_dir = true }
"#,
        &[
            "3:10: `caches` is a whole number, expected a table: write `[caches.NAME]`",
            "4:13: `upstreams` is a list, expected a table: write `[upstreams]`",
            "5:9: `rules` is a table, expected a list of tables: write `[[rules]]`",
            "6:22: `uploads` is a string, expected a whole number: write `uploads = 4`",
            "6:38: `priority` is a whole number, expected a string: write `priority = \"low\"`",
            "7:17: `dir` is a number with a fraction, expected a string: write `dir = \"/nix/store\"`",
            "7:34: `state_dir` is a date or time, expected a string: write `state_dir = \"/nix/var/nix\"`",
            "7:57: `real_dir` is true or false, expected a string: write `real_dir = \"/mnt/nix/store\"`",
        ],
    );
    bad_v1(
        "caches.team = \"file:///a\"\ncaches.two = { url = \"file:///b\", signing_key = \"/k\" }\n[[rules]]\nname = 1\n\
         match = { name = [1, \"a\"], kind = 2 }\naction = \"upload\"\nto = \"two\"",
        &[
            "2:15: [caches.team] is a string, expected a table: write `[caches.team]`",
            "3:49: `signing_key` is a string: a secret must not stand in the policy, which others may read; write where it \
             comes from, `signing_key = { file = \"/run/secrets/cache.key\" }`, and take a new one if this was one",
            "5:8: `name` is a whole number, expected a string: write `name = \"what it is for\"`",
            "6:19: `name` has a whole number in its list, expected strings only",
            "6:35: `kind` is a whole number, expected a string or a list of strings: write `kind = \"output\"`",
            "8:6: `to` is a string, expected a list of strings: write `to = [\"NAME\"]`",
        ],
    );
}

#[test]
fn rules_that_make_no_sense() {
    bad_v1(
        r#"[caches.a]
url = "file:///a"
[[rules]]
[[rules]]
match = { action = "skip" }
action = "skip"
to = ["a"]
from = ["a"]
[[rules]]
match = { name = [], kind = ["drv"], built = "here", deriver = "[x", signed_by = "" }
action = "upload"
to = []
"#,
        &[
            "4:1: [[rules]] 1 has no `match`: write `match = {}`",
            "4:1: [[rules]] 1 has no `action`: write `action = \"upload\"`",
            "6:11: unknown key `action` in match: it belongs to [[rules]]",
            "8:6: `to` goes with `action = \"upload\"` only: leave it out",
            "9:8: `from` goes with `action = \"deny\"` only: leave it out",
            "11:18: `name` is an empty list: name at least one, or leave it out",
            "11:30: `kind` can not be `drv`: write one of `derivation`, `source`, `output`",
            "11:46: `built` can not be `here`: write one of `locally`, `elsewhere`",
            "11:64: `[x` is no glob: unclosed character class; missing ']'",
            "11:82: `signed_by` is empty: name a key, or write it in full as NAME:BASE64",
            "13:6: `to` is an empty list: name at least one, or leave it out",
        ],
    );
}

#[test]
fn stores_that_make_no_sense() {
    bad_v1(
        "[store]\ndir = \"store\"\nstate_dir = \"/s\"\nremote = \"local?state=/t\"",
        &[
            "3:7: `dir` must be an absolute path: write it from the `/` on",
            "5:10: `state=` in `remote` and `state_dir` say the same: leave one out",
        ],
    );
    bad_v1(
        "[store]\nremote = \"ssh-ng://me:secret@host\"",
        &[
            "3:10: `remote`: a store of scheme `ssh-ng` is not on this host: storewatch reads the Nix database, so it must \
           run on the host that has the store",
        ],
    );
}

#[test]
fn secrets_are_neither_taken_nor_repeated() {
    let secret = format!("me-1:{}==", "A".repeat(86));
    let err = parse(&format!("version = 1\n[upstreams]\nkeys = [\"{secret}\"]")).expect_err("a secret").to_string();
    assert!(err.starts_with("policy.toml:3:9: this is a secret key, which must not stand here"), "{err}");
    assert!(!err.contains("AAAA"));
    bad_v1(
        "[caches.a]\nurl = \"file:///a\"\nsigning_key.file = \"/nix/store/key\"\n[upstreams]\nkeys = [\"me\"]",
        &[
            "4:20: a signing key must not lie in the Nix store, where everybody can read it: keep it elsewhere",
            "6:9: public key has no name separator; expected NAME:BASE64 with the 32 bytes of an ed25519 public key, as \
             in `trusted-public-keys`",
        ],
    );
}

#[test]
fn what_is_no_toml() {
    bad(
        "version = 1\nbuiltin_rules = yes\nä = 1\n[store\n",
        &[
            "2:17: this is no TOML: string values must be quoted, expected literal string",
            "3:1: this is no TOML: invalid unquoted key, expected letters, numbers, `-`, `_`",
            "4:7: this is no TOML: unclosed table, expected `]`",
        ],
    );
    bad("version = 1\nversion = 1", &["2:1: this is no TOML: duplicate key"]);
}

#[test]
fn columns_count_characters() {
    bad_v1(
        "rules = [{ name = \"äöü\", match = {}, action = 1 }]",
        &["2:47: `action` is a whole number, expected a string: write `action = \"upload\"`"],
    );
}

#[test]
fn rules_that_are_never_asked_are_a_warning() {
    let rule = |rest: &str| format!("[[rules]]\n{rest}\n");
    let all = rule("match = {}\naction = \"skip\"");
    let some = rule("match = {}\naction = \"deny\"\nfrom = [\"local\"]");
    let config = good(&format!("version = 1\n{some}{all}{all}{all}"));
    let warnings: Vec<_> = config.warnings.iter().map(Problem::to_string).collect();
    assert_eq!(warnings, ["policy.toml:9:1: never asked, like all rules behind it: rule 2 matches everything"]);
}

#[test]
fn files() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("policy.toml");
    let load = |named| {
        let file = PolicyFile { path: path.clone(), named };
        Config::load(Some(&file), &defaults(), &check_url)
    };
    assert!(load(false).is_ok_and(|config| config.source.is_none()), "the built-in policy");
    let err = load(true).expect_err("it is missing");
    assert_eq!(err.to_string(), format!("can not read the policy `{}`", path.display()));
    assert!(err.hint().is_some());

    std::fs::write(&path, "version = 1\n# ä\n").expect("written");
    assert!(load(true).is_ok_and(|config| config.source.as_deref() == Some(path.as_path())));
    std::fs::write(&path, b"version = 1\n# \xe4\n").expect("written");
    let err = load(true).expect_err("Latin 1");
    assert_eq!(err.to_string(), format!("{}:2:3: this is no UTF-8: save the file in that encoding", path.display()));
    std::fs::write(&path, "#".repeat(5 << 20)).expect("written");
    assert!(matches!(load(false), Err(ConfigError::Io { .. })), "too large");
}

proptest! {
    // Whatever stands in the file: a configuration or a reason, and never a panic.
    #[test]
    fn a_garbled_policy_is_refused_with_a_reason(
        at: Index,
        length in 0..40_usize,
        inserted in "[a-z0-9 =.\"'{}\\[\\],#\n-]{0,6}",
    ) {
        let from = at.index(WHOLE.len());
        let to = (from + length).min(WHOLE.len());
        let garbled = format!("{}{inserted}{}", &WHOLE[..from], &WHOLE[to..]);
        match parse(&garbled) {
            Ok(config) => prop_assert!(!config.caches.is_empty()),
            Err(ConfigError::Problems(problems)) => prop_assert!(!problems.is_empty()),
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}
