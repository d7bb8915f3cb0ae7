//! The secrets that the policy names: whether each can be had from where it should come. What it is shows nowhere.

use std::path::Path;
use std::time::SystemTime;

use super::Finding;
use super::caches::is_the_services_own;
use crate::cache::CacheUrl;
use crate::cache::http::expiry;
use crate::config::{CacheConfig, Config, HeaderValue, NixStore};
use crate::daemon::caches::own_key_file;
use crate::nix::SecretKey;
use crate::report::one_line;
use crate::secret::{self, Provider, Secret, SecretError, Source};
use crate::times;

pub(super) async fn examine(config: &Config, state_dir: &Path, nix: &NixStore) -> Vec<Finding> {
    let mut findings = Vec::new();
    for cache in &config.caches {
        let host = CacheUrl::parse(&cache.url).ok().and_then(|url| url.host());
        let named = cache.http.headers.iter().filter_map(|(name, value)| match value {
            HeaderValue::Secret(source) => Some((format!("header {name}"), source)),
            HeaderValue::Plain(_) => None,
        });
        if let Some(source) = &cache.http.token {
            let secret = Provider::new(source.clone(), &nix.real, host.as_deref()).get().await;
            findings.push(of_token(format!("token of {}", cache.name), source, &secret, SystemTime::now()));
        }
        let keys = &cache.store_keys;
        let keys = [
            ("password", &cache.http.password),
            ("key id", &keys.access_key_id),
            ("secret key", &keys.secret_access_key),
            ("session token", &keys.session_token),
            ("account key", &keys.account_key),
        ];
        let keys = keys.into_iter().filter_map(|(what, source)| Some((what.to_owned(), source.as_ref()?)));
        for (what, source) in named.chain(keys) {
            let secret = Provider::new(source.clone(), &nix.real, host.as_deref()).get().await;
            findings.push(of_secret(format!("{what} of {}", cache.name), source, &secret));
        }
        let of_lines = [
            ("client key", &cache.http.client_key),
            ("key of the service account", &cache.store_keys.service_account_key),
        ];
        for (what, source) in of_lines.into_iter().filter_map(|(what, source)| Some((what, source.as_ref()?))) {
            let secret = Provider::of_lines(source.clone(), &nix.real).get().await;
            findings.push(of_secret(format!("{what} of {}", cache.name), source, &secret));
        }
        findings.extend(signing_key(cache, state_dir, nix).await);
    }
    findings
}

async fn signing_key(cache: &CacheConfig, state_dir: &Path, nix: &NixStore) -> Option<Finding> {
    let about = format!("signing key of {}", cache.name);
    if let Some(source) = &cache.signing_key {
        let secret = Provider::new(source.clone(), &nix.real, None).get().await;
        return Some(of_key(about, source, &secret));
    }
    if matches!(CacheUrl::parse(&cache.url), Ok(CacheUrl::Attic { .. } | CacheUrl::Command { .. }) | Err(_)) {
        return None;
    }
    let file = own_key_file(state_dir, cache);
    if !file.exists() {
        return Some(Finding::ok(about, "there is none yet; the first start makes it"));
    }
    let secret = secret::read(&file, &nix.real);
    Some(of_key(about, &Source::file(file), &secret))
}

fn of_key(about: String, source: &Source, secret: &Result<Secret, SecretError>) -> Finding {
    let bad = secret.as_ref().ok().and_then(|secret| SecretKey::parse(secret.expose()).err());
    match bad {
        Some(problem) => Finding::trouble(about, format!("{source} holds no signing key: {problem}"))
            .cured_by("`nix-store --generate-binary-cache-key` writes one"),
        None => of_secret(about, source, secret),
    }
}

/// A token says until when it holds. Whether it does is the server's to say, who is asked, so this is no trouble yet.
fn of_token(about: String, source: &Source, secret: &Result<Secret, SecretError>, now: SystemTime) -> Finding {
    let Some(at) = secret.as_ref().ok().and_then(|token| expiry(token.expose())) else {
        return of_secret(about, source, secret);
    };
    let date = times::here(at);
    if at > now {
        return Finding::ok(about, format!("it is to be had from {source}, and holds until {date}"));
    }
    Finding::warning(about, format!("the one from {source} expired on {date}"))
        .cured_by("write a new one there, as `atticadm make-token` makes it: it is in use within seconds")
}

fn of_secret(about: String, source: &Source, secret: &Result<Secret, SecretError>) -> Finding {
    match secret {
        Ok(_) => Finding::ok(about, format!("it is to be had from {source}")),
        Err(error) if is_the_services_own(error) => Finding::warning(about, one_line(error))
            .cured_by("this is of no account where only the service gets it, as systemd gives it"),
        Err(error) => Finding::trouble(about, one_line(error)).cured_by(error.hint()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Grade;
    use super::*;

    #[test]
    fn a_token_says_until_when_it_holds() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("token");
        // {"exp":1700000000}
        secret::write_new(&file, "e30.eyJleHAiOjE3MDAwMDAwMDB9.c2ln").expect("written");
        let token = secret::read(&file, Path::new("/nix/store"));
        let at = times::here(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        for (seconds, grade, words) in [
            (1_699_999_999, Grade::Ok, format!("holds until {at}")),
            (1_700_000_001, Grade::Warning, format!("expired on {at}")),
        ] {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            let finding = of_token("token of team".to_owned(), &Source::file(&file), &token, now);
            assert!(finding.grade == grade && finding.found.ends_with(&words), "{finding:?}");
            assert!(!format!("{finding:?}").contains("eyJleHAi"));
        }
    }
}
