//! The secrets that the policy names: whether each can be had from where it should come. What it is shows nowhere.

use std::path::Path;

use super::Finding;
use super::caches::is_the_services_own;
use crate::cache::CacheUrl;
use crate::config::{CacheConfig, Config, HeaderValue, NixStore};
use crate::daemon::caches::own_key_file;
use crate::nix::SecretKey;
use crate::report::one_line;
use crate::secret::{self, Provider, Secret, SecretError, Source};

pub(super) async fn examine(config: &Config, state_dir: &Path, nix: &NixStore) -> Vec<Finding> {
    let mut findings = Vec::new();
    for cache in &config.caches {
        let host = CacheUrl::parse(&cache.url).ok().and_then(|url| url.host());
        let named = cache.http.headers.iter().filter_map(|(name, value)| match value {
            HeaderValue::Secret(source) => Some((format!("header {name}"), source)),
            HeaderValue::Plain(_) => None,
        });
        let token = cache.http.token.iter().map(|source| ("token".to_owned(), source));
        let keys = &cache.store_keys;
        let keys = [
            ("key id", &keys.access_key_id),
            ("secret key", &keys.secret_access_key),
            ("session token", &keys.session_token),
            ("account key", &keys.account_key),
        ];
        let keys = keys.into_iter().filter_map(|(what, source)| Some((what.to_owned(), source.as_ref()?)));
        for (what, source) in token.chain(named).chain(keys) {
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

fn of_secret(about: String, source: &Source, secret: &Result<Secret, SecretError>) -> Finding {
    match secret {
        Ok(_) => Finding::ok(about, format!("it is to be had from {source}")),
        Err(error) if is_the_services_own(error) => Finding::warning(about, one_line(error))
            .cured_by("this is of no account where only the service gets it, as systemd gives it"),
        Err(error @ SecretError::Io { .. }) => Finding::trouble(about, one_line(error))
            .cured_by("write it there, readable for its owner only, and ask as the user that the service runs as"),
        Err(error) => Finding::trouble(about, one_line(error)),
    }
}
