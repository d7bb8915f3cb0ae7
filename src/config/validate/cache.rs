//! One cache: whether its keys fit its kind, and each other.

use std::path::Path;

use toml::Spanned;

use crate::cache::{CacheUrl, Service};
use crate::config::problems::Problems;
use crate::config::raw_cache::{RawCache, RawHeader, RawSource};
use crate::config::reader::List;
use crate::config::store::StoreOptions;
use crate::config::{CacheConfig, CheckUrl, HeaderValue, HttpConfig, StoreKeyConfig};
use crate::policy::CacheName;
use crate::secret::Source;

use super::command::{self, command};
use super::compression::{self, compression};
use super::disk;
use super::source::{Secret, in_store, source};
use super::{absolute, not_empty, uploads};

/// The keys that only a cache with a server can have.
const SERVER_KEYS: [&str; 10] = [
    "token",
    "user",
    "password",
    "headers",
    "ca_file",
    "client_certificate",
    "client_key",
    "allow_unencrypted",
    "allow_self",
    "server_hostnames",
];

/// The keys of the object stores, by the scheme of the one that each is for.
const STORE_KEYS: [(&str, &str, &str); 5] = [
    ("access_key_id", "s3", "S3"),
    ("secret_access_key", "s3", "S3"),
    ("session_token", "s3", "S3"),
    ("service_account_key", "gs", "Google Cloud Storage"),
    ("account_key", "az", "Azure"),
];

/// The keys of caches with a server that an object store has no use for.
const NOT_OF_STORES: [(&str, &str); 5] = [
    ("token", SIGNED),
    ("user", SIGNED),
    ("password", SIGNED),
    ("allow_self", "since nothing that is put into a bucket comes back by itself"),
    ("server_hostnames", "since nothing that is put into a bucket comes back by itself"),
];

const SIGNED: &str = "since requests to an object store are signed: name its keys instead";

/// How the names of headers begin that object stores want to be signed, and that say what a request does.
const STORES_OWN_HEADERS: [&str; 3] = ["x-amz-", "x-goog-", "x-ms-"];

/// The keys that are about the encrypted connection.
const TLS_KEYS: [&str; 3] = ["ca_file", "client_certificate", "client_key"];

/// Headers that storewatch or its client sets itself; another value would break the request or what it means.
const OWN_HEADERS: [&str; 14] = [
    "accept",
    "accept-encoding",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];

/// Longest header value, in bytes: servers take some 8 KiB for all of them.
const LONGEST_HEADER: usize = 4096;

pub(super) fn cache(
    raw: &RawCache,
    store: &StoreOptions,
    check_url: CheckUrl<'_>,
    problems: &mut Problems<'_>,
) -> Option<CacheConfig> {
    let uploads = raw.uploads.as_ref().and_then(|number| uploads(number, problems));
    let name = CacheName::new(raw.name.get_ref()).map_err(|err| problems.add(raw.name.span(), err.to_string())).ok();
    let secret = |raw: &Option<RawSource>, key, what, has_host, problems: &mut Problems<'_>| {
        source(&Secret { key, what, has_host }, raw.as_ref()?, store, problems)
    };
    let mut signing_key = secret(&raw.signing_key, "signing_key", "a signing key", false, problems);
    let token = secret(&raw.token, "token", "a token", true, problems);
    let password = secret(&raw.password, "password", "a password", true, problems);
    let store_key = "a key of an object store";
    let store_keys = StoreKeyConfig {
        access_key_id: secret(&raw.access_key_id, "access_key_id", store_key, false, problems),
        secret_access_key: secret(&raw.secret_access_key, "secret_access_key", store_key, false, problems),
        session_token: secret(&raw.session_token, "session_token", store_key, false, problems),
        service_account_key: secret(&raw.service_account_key, "service_account_key", store_key, false, problems),
        account_key: secret(&raw.account_key, "account_key", store_key, false, problems),
    };
    let client_key = secret(&raw.client_key, "client_key", "a client key", false, problems);
    let headers = headers(raw, store, problems);
    let mut file = |key, path: &Option<Spanned<String>>| path.as_ref().and_then(|path| absolute(key, path, problems));
    let (ca_file, client_certificate) =
        (file("ca_file", &raw.ca_file), file("client_certificate", &raw.client_certificate));
    both_or_none(raw, problems);
    one_proof(raw, problems);
    let flag = |flag: &Option<Spanned<bool>>| flag.as_ref().is_some_and(|flag| *flag.get_ref());
    let mut http = HttpConfig {
        token,
        user: raw.user.as_ref().and_then(|user| self::user(user, problems)),
        password,
        headers,
        ca_file,
        client_certificate,
        client_key,
        allow_unencrypted: flag(&raw.allow_unencrypted),
        allow_self: flag(&raw.allow_self),
        ..HttpConfig::default()
    };
    if let Some(names) = &raw.server_hostnames {
        http.server_hostnames = hostnames(names, problems);
    }
    let command = command(raw, problems);
    let max_size = raw.max_size.as_ref().and_then(|size| disk::max_size(size, problems));
    let compression = compression(raw, problems);
    let text = raw.url.as_ref()?;
    let place = match check_url(text.get_ref()) {
        Ok(place) => place,
        Err(message) => {
            problems.add(text.span(), message);
            return None;
        }
    };
    fits(raw, &place, text, &http, problems);
    compression::only_once(raw, &place, problems);
    if let Some(file) = place.layout().and_then(|layout| layout.secret_key.as_deref()) {
        signing_key = secret_key(file, raw, text, store, problems);
    }
    Some(CacheConfig {
        name: name?,
        url: place.normal(text.get_ref()),
        place,
        uploads,
        compression,
        max_size,
        signing_key,
        store_keys,
        http,
        command,
        builtin: false,
    })
}

/// The key in the file that the URL names, as Nix has it, which is as good as `signing_key`.
fn secret_key(
    file: &Path,
    raw: &RawCache,
    url: &Spanned<String>,
    store: &StoreOptions,
    problems: &mut Problems<'_>,
) -> Option<Source> {
    for (_, at) in raw.given.iter().filter(|(given, _)| *given == "signing_key") {
        problems.add(at.clone(), "`signing_key` is given although the URL has a `secret-key`: keep one of them");
    }
    if in_store(file, store) {
        let message =
            "the file of `secret-key` must not lie in the Nix store, where everybody can read it: keep it elsewhere";
        problems.add(url.span(), message);
        return None;
    }
    Some(Source::owners_file(file))
}

/// Whether the keys go with that kind of cache, and nothing secret goes over an open line.
fn fits(raw: &RawCache, url: &CacheUrl, text: &Spanned<String>, http: &HttpConfig, problems: &mut Problems<'_>) {
    let mut senseless = |key: &str, why: &str| {
        for (_, at) in raw.given.iter().filter(|(given, _)| *given == key) {
            problems.add(at.clone(), format!("`{key}` makes no sense here, {why}: leave it out"));
        }
    };
    match url {
        CacheUrl::File { .. } => {
            SERVER_KEYS.iter().for_each(|key| senseless(key, "since a file:// cache has no server"));
        }
        CacheUrl::Bucket { bucket, .. } => {
            NOT_OF_STORES.iter().for_each(|(key, why)| senseless(key, why));
            if bucket.likely_endpoint().starts_with("http://") {
                TLS_KEYS.iter().for_each(|key| senseless(key, "since nothing is encrypted over http"));
            }
        }
        CacheUrl::Http { endpoint, .. } => {
            if endpoint.starts_with("http://") {
                TLS_KEYS.iter().for_each(|key| senseless(key, "since nothing is encrypted over http"));
            }
        }
        CacheUrl::Attic { endpoint, .. } => {
            senseless("signing_key", "since Attic signs by itself");
            compression::KEYS.iter().for_each(|key| senseless(key, "since Attic packs by itself"));
            ["user", "password"].iter().for_each(|key| senseless(key, "since Attic knows us by a `token`"));
            if endpoint.starts_with("http://") {
                TLS_KEYS.iter().for_each(|key| senseless(key, "since nothing is encrypted over http"));
            }
        }
        CacheUrl::Command { .. } => {
            senseless("signing_key", "since the program signs by itself, if it signs");
            compression::KEYS.iter().for_each(|key| senseless(key, "since the program packs by itself, if it packs"));
            SERVER_KEYS.iter().for_each(|key| senseless(key, "since the program speaks to its server by itself"));
        }
    }
    if !matches!(url, CacheUrl::File { .. }) {
        let why = match url {
            CacheUrl::Bucket { .. } => {
                "since it is for directories, file://, alone; `storewatch cache prune --max-size` does it"
            }
            _ => "since it is for directories, file://, alone",
        };
        senseless("max_size", why);
    }
    if !matches!(url, CacheUrl::Command { .. }) {
        command::KEYS.iter().for_each(|key| senseless(key, "since it is for programs, command://, alone"));
    }
    for (key, scheme, store) in STORE_KEYS {
        if url.kind() != scheme {
            senseless(key, &format!("since it is for {store}, {scheme}://, alone"));
        }
    }
    if matches!(url, CacheUrl::Bucket { .. }) {
        for (name, _) in &raw.headers {
            let lower = name.get_ref().to_ascii_lowercase();
            if let Some(begin) = STORES_OWN_HEADERS.iter().find(|begin| lower.starts_with(**begin)) {
                let message = format!(
                    "headers that begin with `{begin}` are the object store's own, and have to be signed with the request: \
                     leave it out"
                );
                problems.add(name.span(), message);
            }
        }
    }
    if matches!(url, CacheUrl::Bucket { bucket, .. } if bucket.lacks_account()) {
        let message = "the URL names no storage account: write `?account=ACCOUNT` behind it, unless \
                       AZURE_STORAGE_ACCOUNT_NAME in the service's environment names one";
        problems.warn(text.span(), message);
    }
    let header_secret = http.headers.iter().any(|(_, value)| matches!(value, HeaderValue::Secret(_)));
    // By what is given rather than what is good: one mistake mustn't hide another.
    let google = matches!(url, CacheUrl::Bucket { bucket, .. } if matches!(bucket.service, Service::Gcs { .. }));
    let secret = if raw.token.is_some() {
        Some("the token")
    } else if raw.password.is_some() {
        Some("the password")
    } else if header_secret {
        Some("a secret header")
    } else if raw.session_token.is_some() {
        Some("the session token")
    } else {
        google.then_some("the token that Google gives")
    };
    if let Some(secret) = secret
        && url.is_readable_on_the_way()
        && !http.allow_unencrypted
    {
        let message = format!(
            "{secret} would cross the network unencrypted: write `https` instead of `http`, or, if everybody on the way \
             may have it, `allow_unencrypted = true`"
        );
        problems.add(text.span(), message);
    }
}

/// A server is shown one thing by which it knows us: a token; or a user name and a password, which a netrc file has both.
fn one_proof(raw: &RawCache, problems: &mut Problems<'_>) {
    let given = |key: &str| raw.given.iter().find(|(given, _)| *given == key).map(|(_, at)| at.clone());
    let from_netrc = raw.password.as_ref().is_some_and(|source| source.netrc.is_some());
    match (given("token"), given("user"), given("password")) {
        (Some(_), _, Some(at)) => {
            problems.add(at, "`token` and `password` are two ways to say who this is: leave out one of them");
        }
        (_, Some(at), None) => problems.add(at, "`user` is of no use without `password`: give both or none"),
        (_, Some(at), Some(_)) if from_netrc => {
            problems.add(at, "the netrc file that has the password has the user's name too: leave `user` out");
        }
        (_, None, Some(at)) if !from_netrc => {
            problems.add(at, "`password` is of no use without `user`: write whose it is, `user = \"NAME\"`");
        }
        _ => {}
    }
}

fn user(name: &Spanned<String>, problems: &mut Problems<'_>) -> Option<String> {
    let text = name.get_ref();
    if text.is_empty() || text.contains(':') || text.contains(char::is_control) {
        let message =
            "`user` is no name that a server can be told: it is empty, or has a colon or control characters in it";
        problems.add(name.span(), message);
        return None;
    }
    Some(text.clone())
}

fn both_or_none(raw: &RawCache, problems: &mut Problems<'_>) {
    const PAIR: [(&str, &str); 5] = [
        ("client_certificate", "client_key"),
        ("client_key", "client_certificate"),
        ("access_key_id", "secret_access_key"),
        ("secret_access_key", "access_key_id"),
        ("session_token", "secret_access_key"),
    ];
    let given = |key: &str| raw.given.iter().find(|(given, _)| *given == key);
    for (one, other) in PAIR {
        if let Some((_, at)) = given(one)
            && given(other).is_none()
        {
            problems.add(at.clone(), format!("`{one}` is of no use without `{other}`: give both or none"));
        }
    }
}

fn headers(raw: &RawCache, store: &StoreOptions, problems: &mut Problems<'_>) -> Vec<(String, HeaderValue)> {
    let mut headers: Vec<(String, HeaderValue)> = Vec::new();
    for (name, value) in &raw.headers {
        let lower = name.get_ref().to_ascii_lowercase();
        if let Some(problem) = bad_name(&lower, &headers) {
            problems.add(name.span(), problem);
            continue;
        }
        let value = match value {
            RawHeader::Plain(text) => plain(&lower, text, problems).map(HeaderValue::Plain),
            RawHeader::Secret(raw) => header_secret(&lower, raw, store, problems).map(HeaderValue::Secret),
        };
        headers.extend(value.map(|value| (lower, value)));
    }
    headers
}

fn bad_name(name: &str, others: &[(String, HeaderValue)]) -> Option<String> {
    // What RFC 9110 calls a token.
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(legal) {
        return Some("this is no name for a header: write letters, digits and `-`, such as x-name".to_owned());
    }
    if name == "authorization" {
        return Some("storewatch sets the header `authorization` itself: write `token` instead".to_owned());
    }
    if OWN_HEADERS.contains(&name) || name.starts_with("x-attic-") {
        return Some(format!("storewatch sets the header `{name}` itself: leave it out"));
    }
    others.iter().any(|(other, _)| other == name).then(|| format!("the header `{name}` stands here twice"))
}

fn plain(name: &str, text: &Spanned<String>, problems: &mut Problems<'_>) -> Option<String> {
    let value = text.get_ref();
    let visible = value.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if value.is_empty() || value.trim() != value || !visible || value.len() > LONGEST_HEADER {
        let message = format!(
            "the header `{name}` can not say that: write visible ASCII characters, at most {LONGEST_HEADER}, without \
             spaces around them"
        );
        problems.add(text.span(), message);
        return None;
    }
    Some(value.clone())
}

fn header_secret(name: &str, raw: &RawSource, store: &StoreOptions, problems: &mut Problems<'_>) -> Option<Source> {
    let key = format!("header {name}");
    source(&Secret { key: &key, what: "a secret", has_host: true }, raw, store, problems)
}

fn hostnames(list: &List, problems: &mut Problems<'_>) -> Vec<String> {
    let mut names = Vec::new();
    if not_empty("server_hostnames", list, problems).is_none() {
        return names;
    }
    for name in list.get_ref() {
        let text = name.get_ref();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)) {
            problems.add(name.span(), format!("`{text}` is no host name: write letters, digits, `-` and `.`"));
        } else {
            names.push(text.to_ascii_lowercase());
        }
    }
    names
}
