//! Caches with a server, and where their secrets come from.

use std::time::Duration;

use super::*;
use crate::secret::{DEFAULT_LIFETIME, DEFAULT_TIMEOUT};

/// The one cache of a policy whose lines behind the URL these are.
#[track_caller]
fn team(lines: &str) -> CacheConfig {
    good(&format!("version = 1\n[caches.team]\nurl = \"attic+https://h/team\"\n{lines}")).caches.remove(0)
}

/// What is wrong with a cache whose lines behind the URL, from the fourth on, these are.
#[track_caller]
fn bad_team(lines: &str, expected: &[&str]) {
    bad_v1(&format!("[caches.team]\nurl = \"attic+https://h/team\"\n{lines}"), expected);
}

#[test]
fn a_secret_comes_from_where_the_policy_says() {
    let env = |name: &str| Source::Env { name: name.to_owned() };
    let seconds = Duration::from_secs;
    let command = |timeout, lifetime| Source::Command { argv: vec!["vault".into(), "read".into()], timeout, lifetime };
    for (table, expected) in [
        ("{ file = \"/run/t\" }", Source::file("/run/t")),
        (
            "{ file = \"/run/t\", readable_by_others = true }",
            Source::File { path: "/run/t".into(), readable_by_others: Some(true) },
        ),
        ("{ env = \"ATTIC_TOKEN\" }", env("ATTIC_TOKEN")),
        ("{ credential = \"attic-token\" }", Source::Credential { name: "attic-token".to_owned() }),
        ("{ command = [\"vault\", \"read\"] }", command(DEFAULT_TIMEOUT, DEFAULT_LIFETIME)),
        (
            "{ command = [\"vault\", \"read\"], timeout = \"1m\", lifetime = \"1h\" }",
            command(seconds(60), seconds(3600)),
        ),
        ("{ keychain = \"attic\" }", Source::Keychain { service: "attic".to_owned(), account: None }),
        (
            "{ keychain = \"attic\", account = \"me\" }",
            Source::Keychain { service: "attic".to_owned(), account: Some("me".to_owned()) },
        ),
        ("{ netrc = true }", Source::Netrc { path: None, readable_by_others: false }),
        ("{ netrc = \"/n\" }", Source::Netrc { path: Some("/n".into()), readable_by_others: false }),
    ] {
        assert_eq!(team(&format!("token = {table}")).http.token, Some(expected), "{table}");
    }
    assert_eq!(team("").http, HttpConfig::default());
    let file = "version = 1\n[caches.a]\nurl = \"file:///a\"\nsigning_key = { env = \"KEY\" }";
    assert_eq!(good(file).caches[0].signing_key, Some(env("KEY")));
}

#[test]
fn a_secret_comes_from_one_place_and_with_what_belongs_to_it() {
    bad_team(
        r#"token = { }
headers.a = { file = "/a", env = "A" }
headers.b = { timeout = "1s" }
headers.c = { env = "C", readable_by_others = true, account = "me" }
client_certificate = "/c"
client_key = { netrc = true }"#,
        &[
            "4:9: `token` does not say where the secret comes from: write one of `file`, `env`, `credential`, `command`, \
             `keychain`, `netrc`",
            "5:28: `header a` comes from `file` already: leave out that or `env`",
            "6:13: `header b` does not say where the secret comes from: write one of `file`, `env`, `credential`, \
             `command`, `keychain`, `netrc`",
            "7:26: `readable_by_others` goes with `file` or `netrc` only: leave it out",
            "7:53: `account` goes with `keychain` only: leave it out",
            "9:24: a netrc file has passwords by host, and a client key belongs to none: take another source",
        ],
    );
    for (table, expected) in [
        ("{ file = \"t\" }", "4:18: `file` must be an absolute path: write it from the `/` on"),
        (
            "{ file = \"/nix/store/t\" }",
            "4:18: a token must not lie in the Nix store, where everybody can read it: keep it elsewhere",
        ),
        (
            "{ netrc = \"/nix/store/n\" }",
            "4:19: a token must not lie in the Nix store, where everybody can read it: keep it elsewhere",
        ),
        (
            "{ env = \"s3cret.token\" }",
            "4:17: `env` is no name of a variable: write letters, digits and `_`, such as CACHE_TOKEN",
        ),
        (
            "{ credential = \"../t\" }",
            "4:24: `credential` is no name of a credential: write what stands before the `:` in `LoadCredential=`",
        ),
        ("{ command = [] }", "4:21: `command` must begin with a program, by its absolute path or as `PATH` knows it"),
        (
            "{ command = [\"./t\"] }",
            "4:21: `command` must begin with a program, by its absolute path or as `PATH` knows it",
        ),
        (
            "{ command = \"t\" }",
            "4:21: `command` is a string, expected a list of strings: write `command = [\"vault\", \"read\", \
             \"-field=token\", \"secret/cache\"]`",
        ),
        ("{ command = [\"t\"], timeout = \"0s\" }", "4:38: `timeout` must be from 1s to 10m"),
        (
            "{ command = [\"t\"], lifetime = \"soon\" }",
            "4:39: `lifetime`: `soon` is no length of time; write for example 10s, 90m, 12h, 7d or 4w",
        ),
        ("{ keychain = \"\" }", "4:22: `keychain` is empty or has a zero byte in it: name the keychain's item"),
        ("{ netrc = false }", "4:19: `netrc = false` says nothing: leave `token` out if there is none"),
        ("{ netrc = 1 }", "4:19: `netrc` is a whole number, expected true or a file: write `netrc = true`"),
        ("{ fil = \"/t\" }", "4:11: unknown key `fil` in token: did you mean `file`?"),
    ] {
        let err = parse(&format!("version = 1\n[caches.team]\nurl = \"attic+https://h/team\"\ntoken = {table}"));
        let err = err.expect_err(table).to_string();
        let found: Vec<_> = err.lines().filter_map(|line| line.strip_prefix("policy.toml:")).collect();
        assert!(found.contains(&expected), "{table}: {found:?}");
        assert!(!err.contains("s3cret"), "{err}");
    }
}

#[test]
fn a_secret_in_the_policy_itself_is_refused_and_not_repeated() {
    for lines in [
        "token = \"s3cret\"",
        "client_key = \"s3cret\"",
        "token = { env = \"s3cret-s3cret\" }",
        "token = [\"s3cret\"]",
        "url = \"attic+https://s3cret@h/team\"",
        "url = \"attic+https://h/team?token=s3cret\"",
        "url = \"attic+https://h/s3cret.\"",
        "headers.authorization = \"s3cret\"",
        "headers.x = \" s3cret\"",
        "headers.x = \"s3cret\\n\"",
        "headers.x = [\"s3cret\"]",
    ] {
        let url = if lines.starts_with("url") { "" } else { "url = \"attic+https://h/team\"\n" };
        let text = format!("version = 1\n[caches.team]\n{url}{lines}");
        let parsed = Config::parse(&text, "policy.toml", &defaults(), &|url| {
            CacheUrl::parse(url).map_err(|err| err.to_string())
        });
        let err = parsed.expect_err(lines);
        assert!(!format!("{err} {err:?}").contains("s3cret"), "{err}");
    }
    bad_team(
        "token = \"s3cret\"",
        &[
            "4:9: `token` is a string: a secret must not stand in the policy, which others may read; write where it comes \
           from, `token = { file = \"/run/secrets/token\" }`, and take a new one if this was one",
        ],
    );
    let plain = team("headers.x-key = \"s3cret\"\ntoken = { command = [\"vault\", \"s3cret\"] }");
    assert_eq!(plain.http.headers, [("x-key".to_owned(), HeaderValue::Plain("s3cret".to_owned()))]);
    assert!(!format!("{plain:?}").contains("s3cret"));
}

#[test]
fn headers_are_those_that_storewatch_leaves_to_others() {
    let cache = team("headers = { CF-Access-Client-Id = \"a b\", cf-access-client-secret = { file = \"/s\" } }");
    assert_eq!(
        cache.http.headers,
        [
            ("cf-access-client-id".to_owned(), HeaderValue::Plain("a b".to_owned())),
            ("cf-access-client-secret".to_owned(), HeaderValue::Secret(Source::file("/s"))),
        ]
    );
    bad_team(
        r#"[caches.team.headers]
Authorization = "bearer x"
Host = "h"
X-Attic-Nar-Info = { file = "/s" }
"a b" = "c"
x = "1"
X = "2"
y = """
two
lines"""
z = 1"#,
        &[
            "5:1: storewatch sets the header `authorization` itself: write `token` instead",
            "6:1: storewatch sets the header `host` itself: leave it out",
            "7:1: storewatch sets the header `x-attic-nar-info` itself: leave it out",
            "8:1: this is no name for a header: write letters, digits and `-`, such as x-name",
            "10:1: the header `x` stands here twice",
            "11:5: the header `y` can not say that: write visible ASCII characters, at most 4096, without spaces around \
             them",
            "14:5: header `z` is a whole number, expected a string or where a secret comes from: write `z = \"value\"` or \
             `z = { file = \"/run/secrets/header\" }`",
        ],
    );
}

#[test]
fn keys_fit_the_kind_of_cache_and_each_other() {
    bad_v1(
        r#"[caches.dir]
url = "file:///a"
token = { file = "/t" }
headers = {}
ca_file = "/c"
allow_unencrypted = false
allow_self = false
server_hostnames = ["a"]
[caches.team]
url = "attic+https://h/team"
signing_key = { file = "/k" }
client_certificate = "/c"
ca_file = "c"
server_hostnames = []
[caches.other]
url = "attic+https://h/other"
client_key = { file = "/c" }
server_hostnames = ["a/b"]
[caches.here]
url = "attic+http://localhost/here"
ca_file = "/c""#,
        &[
            "4:1: `token` makes no sense here, since a file:// cache has no server: leave it out",
            "5:1: `headers` makes no sense here, since a file:// cache has no server: leave it out",
            "6:1: `ca_file` makes no sense here, since a file:// cache has no server: leave it out",
            "7:1: `allow_unencrypted` makes no sense here, since a file:// cache has no server: leave it out",
            "8:1: `allow_self` makes no sense here, since a file:// cache has no server: leave it out",
            "9:1: `server_hostnames` makes no sense here, since a file:// cache has no server: leave it out",
            "12:1: `signing_key` makes no sense here, since Attic signs by itself: leave it out",
            "13:1: `client_certificate` is of no use without `client_key`: give both or none",
            "14:11: `ca_file` must be an absolute path: write it from the `/` on",
            "15:20: `server_hostnames` is an empty list: name at least one, or leave it out",
            "18:1: `client_key` is of no use without `client_certificate`: give both or none",
            "19:21: `a/b` is no host name: write letters, digits, `-` and `.`",
            "22:1: `ca_file` makes no sense here, since nothing is encrypted over http: leave it out",
        ],
    );
    let cache = team(
        "ca_file = \"/ca\"\nclient_certificate = \"/c\"\nclient_key = { file = \"/k\" }\nallow_self = true\n\
         server_hostnames = [\"Cache-1\"]",
    );
    let HttpConfig { ca_file, client_certificate, client_key, allow_self, server_hostnames, .. } = cache.http;
    assert_eq!((ca_file, client_certificate), (Some("/ca".into()), Some("/c".into())));
    assert_eq!(
        (client_key, allow_self, server_hostnames),
        (Some(Source::file("/k")), true, vec!["cache-1".to_owned()])
    );
}

#[test]
fn a_secret_crosses_no_open_line() {
    let policy = |url: &str, lines: &str| format!("version = 1\n[caches.a]\nurl = \"{url}\"\n{lines}");
    let token = "token = { file = \"/t\" }";
    let cure = "would cross the network unencrypted: write `https` instead of `http`, or, if everybody on the way may \
                have it, `allow_unencrypted = true`";
    bad(&policy("attic+http://h/t", token), &[&format!("3:7: the token {cure}")]);
    bad(&policy("attic+http://h/t", "headers.x = { env = \"X\" }"), &[&format!("3:7: a secret header {cure}")]);
    for (url, lines) in [
        ("attic+http://127.0.0.1:8080/t", token),
        ("attic+http://localhost:8080/t", token),
        ("attic+https://h/t", token),
        ("attic+http://h/t", ""),
        ("attic+http://h/t", "headers.x = \"plain\""),
        ("attic+http://h/t", "token = { file = \"/t\" }\nallow_unencrypted = true"),
    ] {
        assert_eq!(good(&policy(url, lines)).caches[0].url, url);
    }
}

#[test]
fn a_web_server_knows_us_by_one_thing() {
    let policy = |lines: &str| format!("version = 1\n[caches.web]\nurl = \"https://h/nix\"\n{lines}");
    let http = |lines: &str| good(&policy(lines)).caches.remove(0).http;
    let basic = http("user = \"me\"\npassword = { file = \"/p\" }\n");
    assert_eq!((basic.user.as_deref(), basic.password), (Some("me"), Some(Source::file("/p"))));
    let netrc = http("password = { netrc = true }");
    assert_eq!((netrc.user, netrc.password), (None, Some(Source::Netrc { path: None, readable_by_others: false })));
    assert_eq!(http("token = { file = \"/t\" }").token, Some(Source::file("/t")));
    assert_eq!(http(""), HttpConfig::default());
    for (lines, expected) in [
        (
            "token = { file = \"/t\" }\nuser = \"me\"\npassword = { file = \"/p\" }",
            "6:1: `token` and `password` are two ways to say who this is: leave out one of them",
        ),
        ("user = \"me\"", "4:1: `user` is of no use without `password`: give both or none"),
        (
            "password = { file = \"/p\" }",
            "4:1: `password` is of no use without `user`: write whose it is, `user = \"NAME\"`",
        ),
        (
            "user = \"me\"\npassword = { netrc = true }",
            "4:1: the netrc file that has the password has the user's name too: leave `user` out",
        ),
        (
            "user = \"m:e\"\npassword = { file = \"/p\" }",
            "4:8: `user` is no name that a server can be told: it is empty, or has a colon or control characters in it",
        ),
        (
            "user = \"me\"\npassword = \"s3cret\"",
            "5:12: `password` is a string: a secret must not stand in the policy, which others may read; write where it \
             comes from, `password = { file = \"/run/secrets/password\" }`, and take a new one if this was one",
        ),
    ] {
        bad(&policy(lines), &[expected]);
    }
    bad(
        "version = 1\n[caches.a]\nurl = \"http://h/nix\"\nuser = \"me\"\npassword = { file = \"/p\" }\nca_file = \"/c\"\n\
         [caches.b]\nurl = \"attic+https://h/team\"\nuser = \"me\"\npassword = { file = \"/p\" }\n",
        &[
            "3:7: the password would cross the network unencrypted: write `https` instead of `http`, or, if everybody on \
             the way may have it, `allow_unencrypted = true`",
            "6:1: `ca_file` makes no sense here, since nothing is encrypted over http: leave it out",
            "9:1: `user` makes no sense here, since Attic knows us by a `token`: leave it out",
            "10:1: `password` makes no sense here, since Attic knows us by a `token`: leave it out",
        ],
    );
    good("version = 1\n[caches.a]\nurl = \"http://127.0.0.1:80/nix\"\nuser = \"me\"\npassword = { file = \"/p\" }\n");
}

#[test]
fn upstreams_are_asked() {
    let config =
        good("version = 1\n[upstreams]\ncaches = [\"https://cache.nixos.org\", \"http://h/x/\"]\nremember = \"7d\"");
    let upstreams = Upstreams {
        caches: vec!["https://cache.nixos.org/".to_owned(), "http://h/x/".to_owned()],
        remember: Duration::from_secs(7 * 24 * 60 * 60),
    };
    assert_eq!(config.upstreams, upstreams);
    let none = Upstreams { caches: Vec::new(), remember: Duration::from_secs(60 * 60) };
    assert_eq!(good("version = 1").upstreams, none);
    bad_v1(
        "[upstreams]\ncaches = [\"https://h\", \"https://h/\", \"s3://b\", \"https://me:s3cret@h\"]\nremember = \"31d\"",
        &[
            "3:24: this upstream cache stands here twice",
            "3:38: this is no upstream cache: write `https://HOST`",
            "3:48: an upstream's address has host, port and path only: leave out user name, password, and what begins with \
             `?` or `#`",
            "4:12: `remember` must be from 1s to 30d",
        ],
    );
}

#[test]
fn a_cache_may_have_its_own_number_of_uploads() {
    assert_eq!(team("uploads = 9\n").uploads, Some(9));
    assert_eq!(team("").uploads, None);
    bad_team("uploads = 65\n", &["4:11: `uploads` must be between 1 and 64"]);
    bad_team("uploads = 0\n", &["4:11: `uploads` must be between 1 and 64"]);
}

#[test]
fn a_slash_at_the_end_makes_no_other_cache() {
    let url = |url: &str| good(&format!("version = 1\n[caches.a]\nurl = \"{url}\"")).caches.remove(0).url;
    assert_eq!(url("attic+https://h/team/"), url("attic+https://h/team"));
    assert_eq!(url("file:///c/?compression=none"), url("file:///c?compression=none"));
    assert_ne!(url("file:///c?compression=none"), url("file:///c"));
}
