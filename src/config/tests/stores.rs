//! Object stores: which keys go with which, and where they come from.

use super::{bad, bad_v1, good, parse};
use crate::cache::Compression;
use crate::secret::Source;

#[test]
fn keys_of_object_stores() {
    let text = r#"version = 1
[caches.s3]
url = "s3://b?endpoint=https://h"
access_key_id = { env = "ID" }
secret_access_key = { file = "/run/secrets/key" }
session_token = { credential = "session" }
ca_file = "/etc/ca.pem"
[caches.gs]
url = "gs://b"
service_account_key = { file = "/run/secrets/google.json" }
[caches.az]
url = "az://c?account=a"
account_key = { file = "/run/secrets/azure" }
[caches.lan]
url = "s3://b2?endpoint=http://h:3900"
access_key_id = { env = "ID" }
secret_access_key = { env = "KEY" }
"#;
    let config = parse(text).expect("a good policy");
    let keys = |name: &str| {
        let cache = config.caches.iter().find(|cache| cache.name.as_str() == name).expect("the cache");
        cache.store_keys.clone()
    };
    assert_eq!(keys("s3").access_key_id, Some(Source::Env { name: "ID".to_owned() }));
    assert_eq!(keys("s3").secret_access_key, Some(Source::file("/run/secrets/key")));
    assert_eq!(keys("s3").session_token, Some(Source::Credential { name: "session".to_owned() }));
    assert_eq!(keys("gs").service_account_key, Some(Source::file("/run/secrets/google.json")));
    assert_eq!(keys("az").account_key, Some(Source::file("/run/secrets/azure")));
    // A key only signs; it never crosses the network itself.
    assert!(keys("lan").secret_access_key.is_some());
}

#[test]
fn keys_that_make_no_sense() {
    bad_v1(
        r#"[caches.a]
url = "s3://b"
access_key_id = { env = "ID" }
token = { env = "TOKEN" }
account_key = { env = "KEY" }
[caches.b]
url = "file:///srv/b"
secret_access_key = { env = "KEY" }
[caches.c]
url = "s3://c?endpoint=http://h"
access_key_id = { env = "ID" }
secret_access_key = { env = "KEY" }
session_token = { env = "TOKEN" }
ca_file = "/etc/ca.pem"
[caches.d]
url = "gs://d?endpoint=http://h"
[caches.e]
url = "s3://e"
access_key_id = "AKIA"
secret_access_key = { env = "KEY" }
"#,
        &[
            "4:1: `access_key_id` is of no use without `secret_access_key`: give both or none",
            "5:1: `token` makes no sense here, since requests to an object store are signed: name its keys instead: leave \
             it out",
            "6:1: `account_key` makes no sense here, since it is for Azure, az://, alone: leave it out",
            "9:1: `secret_access_key` is of no use without `access_key_id`: give both or none",
            "9:1: `secret_access_key` makes no sense here, since it is for S3, s3://, alone: leave it out",
            "11:7: the session token would cross the network unencrypted: write `https` instead of `http`, or, if \
             everybody on the way may have it, `allow_unencrypted = true`",
            "15:1: `ca_file` makes no sense here, since nothing is encrypted over http: leave it out",
            "17:7: the token that Google gives would cross the network unencrypted: write `https` instead of `http`, or, \
             if everybody on the way may have it, `allow_unencrypted = true`",
            "20:17: `access_key_id` is a string: a secret must not stand in the policy, which others may read; write \
             where it comes from, `access_key_id = { file = \"/run/secrets/s3-key-id\" }`, and take a new one if this \
             was one",
        ],
    );
}

#[test]
fn how_archives_are_packed() {
    let text = r#"version = 1
[caches.plain]
url = "file:///srv/a"
[caches.auto]
url = "s3://b"
compression = "auto"
[caches.level]
url = "gs://b?priority=30"
compression_level = 7
[caches.xz]
url = "az://c?account=a"
compression = "xz"
compression_level = 0
[caches.url]
url = "file:///srv/c?compression=auto"
"#;
    let config = parse(text).expect("a good policy");
    let found: Vec<_> = config.caches.iter().map(|cache| cache.compression).collect();
    let expected = [
        None,
        Some(Compression::AUTO),
        Some(Compression::Zstd { level: 7 }),
        Some(Compression::Xz { level: 0 }),
        // There it is the URL's.
        None,
    ];
    assert_eq!(found, expected);
    bad_v1(
        r#"[caches.a]
url = "file:///srv/a?compression=zstd"
compression = "auto"
[caches.b]
url = "file:///srv/b"
compression = "auto"
compression_level = 3
[caches.c]
url = "file:///srv/c"
compression = "zst"
[caches.d]
url = "file:///srv/d"
compression_level = 20
[caches.e]
url = "attic+https://h/team"
compression = "auto"
[caches.f]
url = "command:///opt/push"
compression_level = 3
"#,
        &[
            "4:1: `compression` is given although the URL says how archives are packed: keep one of them",
            "8:21: `compression_level` can not be 3: expected no level with compression=auto, which finds it by itself",
            "11:15: `compression` can not be `zst`: did you mean `zstd`?",
            "14:21: `compression_level` can not be 20: expected a number from 1 to 19",
            "17:1: `compression` makes no sense here, since Attic packs by itself: leave it out",
            "20:1: `compression_level` makes no sense here, since the program packs by itself, if it packs: leave it out",
        ],
    );
}

#[test]
fn two_caches_are_in_two_places() {
    bad_v1(
        r#"[caches.a]
url = "file:///srv/cache"
[caches.b]
url = "file:///srv/cache/?compression=none"
[caches.c]
url = "attic+https://h/team"
[caches.d]
url = "attic+https://H/team/"
[caches.e]
url = "s3://b"
[caches.f]
url = "s3://b/folder"
"#,
        &[
            "5:7: the cache `a` of line 2 is in the same place: leave one of the two out",
            "9:7: the cache `c` of line 6 is in the same place: leave one of the two out",
        ],
    );
}

#[test]
fn no_cache_lies_in_what_another_has_for_itself() {
    bad_v1(
        r#"[caches.a]
url = "s3://b?endpoint=h:1"
[caches.b]
url = "s3://b/nar?endpoint=https://h:1/&region=eu"
[caches.c]
url = "file:///srv/c/log/c"
[caches.d]
url = "file:///srv/c/"
[caches.e]
url = "https://h/nix"
[caches.f]
url = "https://H/nix/realisations/f"
"#,
        &[
            "5:7: the cache `a` of line 2 has its folder `nar` for itself, and this one would lie in it: give this one another \
             folder",
            "9:7: the cache `c` of line 6 lies in the folder `log` of this one, which this one has for itself: give one of the \
             two another folder",
            "13:7: the cache `e` of line 10 has its folder `realisations` for itself, and this one would lie in it: give this \
             one another folder",
        ],
    );
    good(
        r#"version = 1
[caches.a]
url = "s3://b"
[caches.b]
url = "s3://b/team/nar"
[caches.c]
url = "s3://b/narrow"
[caches.d]
url = "s3://other/nar"
[caches.e]
url = "s3://b/nar?endpoint=h:1"
[caches.f]
url = "attic+https://h/team"
[caches.g]
url = "attic+https://h/team/nar"
[caches.h]
url = "command:///opt/push"
[caches.i]
url = "command:///opt/push"
"#,
    );
}

#[test]
fn headers_for_a_store_are_none_of_its_own() {
    let policy = |header: &str| format!("version = 1\n[caches.a]\nurl = \"s3://b\"\nheaders = {{ {header} = \"x\" }}");
    assert_eq!(good(&policy("cf-access-client-id")).caches[0].http.headers[0].0, "cf-access-client-id");
    for (header, begin) in [("X-Amz-Meta-A", "x-amz-"), ("x-goog-a", "x-goog-"), ("x-ms-a", "x-ms-")] {
        let expected = format!(
            "4:13: headers that begin with `{begin}` are the object store's own, and have to be signed with the request: \
             leave it out"
        );
        bad(&policy(header), &[&expected]);
    }
}

#[test]
fn the_url_names_the_key_that_signs_or_the_policy_does() {
    let policy = |url: &str, line: &str| format!("version = 1\n[caches.a]\nurl = \"{url}\"\n{line}");
    for url in ["file:///c", "s3://b", "gs://b", "az://c?account=a", "https://h/nix"] {
        let url = format!("{url}{}secret-key=/run/secrets/key", if url.contains('?') { '&' } else { '?' });
        assert_eq!(
            good(&policy(&url, "")).caches[0].signing_key,
            Some(Source::owners_file("/run/secrets/key")),
            "{url}"
        );
        bad(
            &policy(&url, "signing_key = { file = \"/k\" }"),
            &["4:1: `signing_key` is given although the URL has a `secret-key`: keep one of them"],
        );
    }
    bad(
        &policy("s3://b?secret-key=/nix/store/00000000000000000000000000000000-key", ""),
        &[
            "3:7: the file of `secret-key` must not lie in the Nix store, where everybody can read it: keep it elsewhere",
        ],
    );
}
