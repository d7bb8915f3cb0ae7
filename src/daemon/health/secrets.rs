//! The secrets that the policy names: whether each can be had from where it should come. What it is shows nowhere.

use std::path::Path;
use std::time::SystemTime;

use super::Finding;
use crate::cache::http::{expiry, is_prefixed, is_web_token, lets_push};
use crate::cache::{CacheError, CacheUrl};
use crate::config::{CacheConfig, Config, HeaderValue, NixStore};
use crate::daemon::caches::{FoundKey, find_key};
use crate::report::one_line;
use crate::secret::{Provider, Secret, SecretError, Source};
use crate::times;

pub(super) async fn examine(config: &Config, state_dir: &Path, nix: &NixStore) -> Vec<Finding> {
    let mut findings = Vec::new();
    for cache in &config.caches {
        let host = cache.place.host();
        let named = cache.http.headers.iter().filter_map(|(name, value)| match value {
            HeaderValue::Secret(source) => Some((format!("header {name}"), source)),
            HeaderValue::Plain(_) => None,
        });
        if let Some(source) = &cache.http.token {
            let secret = Provider::new(source.clone(), &nix.real, host.as_deref()).get().await;
            let theirs = match &cache.place {
                CacheUrl::Attic { cache, .. } => Some(cache.as_str()),
                _ => None,
            };
            let about = format!("token of {}", cache.name);
            findings.push(of_token(about, source, &secret, theirs, SystemTime::now()));
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
    Some(match find_key(cache, state_dir, nix).await? {
        FoundKey::NotYet => Finding::ok(about, "there is none yet; the first start makes it"),
        FoundKey::At(source, Ok(())) => had_from(about, &source),
        FoundKey::At(_, Err(CacheError::Secret(error))) => not_had(about, &error),
        FoundKey::At(_, Err(error)) => Finding::trouble(about, one_line(&error)).cured_by(error.hint()),
    })
}

/// What a token says of itself: until when it holds, and for a cache of an Attic server's, whether it is one and lets push
/// there. Whether that is so is the server's to say, who is asked, so this is no trouble yet.
fn of_token(
    about: String,
    source: &Source,
    secret: &Result<Secret, SecretError>,
    attic: Option<&str>,
    now: SystemTime,
) -> Finding {
    const ANOTHER: &str = "write a new one there, as `atticadm make-token` makes it: it is in use within seconds";
    let Ok(token) = secret.as_ref().map(Secret::expose) else { return of_secret(about, source, secret) };
    let expiry = expiry(token).map(|at| (at, times::here(at)));
    match (expiry, attic) {
        _ if is_prefixed(token) => {
            Finding::warning(about, format!("the one from {source} begins with `Bearer `, which is no part of it"))
                .cured_by("leave that word out")
        }
        (_, Some(_)) if !is_web_token(token) => Finding::warning(
            about,
            format!(
                "the one from {source} is no token of an Attic server's, which has three parts with dots in between"
            ),
        )
        .cured_by(ANOTHER),
        (Some((at, date)), _) if at <= now => {
            Finding::warning(about, format!("the one from {source} expired on {date}")).cured_by(ANOTHER)
        }
        (_, Some(cache)) if lets_push(token, cache) == Some(false) => Finding::warning(
            about,
            format!("the one from {source} does not name the cache `{cache}` among those that it lets push to"),
        )
        .cured_by("make one by `atticadm make-token --push CACHE`, and write it there: it is in use within seconds"),
        (Some((_, date)), _) => Finding::ok(about, format!("it is to be had from {source}, and holds until {date}")),
        (None, _) => of_secret(about, source, secret),
    }
}

fn of_secret(about: String, source: &Source, secret: &Result<Secret, SecretError>) -> Finding {
    match secret {
        Ok(_) => had_from(about, source),
        Err(error) => not_had(about, error),
    }
}

fn had_from(about: String, source: &Source) -> Finding {
    Finding::ok(about, format!("it is to be had from {source}"))
}

fn not_had(about: String, error: &SecretError) -> Finding {
    if error.may_be_the_services_own() {
        return Finding::warning(about, one_line(error))
            .cured_by("this is of no account where only the service gets it, as systemd gives it");
    }
    Finding::trouble(about, one_line(error)).cured_by(error.hint())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Grade;
    use super::*;
    use crate::secret;

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
            let finding = of_token("token of team".to_owned(), &Source::file(&file), &token, Some("team"), now);
            assert!(finding.grade == grade && finding.found.ends_with(&words), "{finding:?}");
            assert!(!format!("{finding:?}").contains("eyJleHAi"));
        }
    }

    #[test]
    fn what_a_token_can_not_be_good_for_is_said_where_it_is_examined() {
        let dir = tempfile::tempdir().expect("a folder");
        // {"exp":4000000000,"https://jwt.attic.rs/v1":{"caches":{"team":{"w":1}}}}
        let good =
            "e30.eyJleHAiOjQwMDAwMDAwMDAsImh0dHBzOi8vand0LmF0dGljLnJzL3YxIjp7ImNhY2hlcyI6eyJ0ZWFtIjp7InciOjF9fX19.c2ln";
        let prefixed = format!("Bearer {good}");
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        for (number, (text, attic, grade, words)) in [
            (good, Some("team"), Grade::Ok, "holds until"),
            (good, Some("other"), Grade::Warning, "does not name the cache `other`"),
            (good, None, Grade::Ok, "holds until"),
            (&prefixed, Some("team"), Grade::Warning, "begins with `Bearer `"),
            ("not-a-token", Some("team"), Grade::Warning, "is no token of an Attic server's"),
            // What other servers take has any form.
            ("not-a-token", None, Grade::Ok, "it is to be had from"),
        ]
        .into_iter()
        .enumerate()
        {
            let file = dir.path().join(number.to_string());
            secret::write_new(&file, text).expect("written");
            let token = secret::read(&file, Path::new("/nix/store"));
            let finding = of_token("token of x".to_owned(), &Source::file(&file), &token, attic, now);
            assert!(finding.grade == grade && finding.found.contains(words), "{text} {attic:?}: {finding:?}");
            assert!(finding.grade == Grade::Ok || finding.cure.is_some(), "{finding:?}");
        }
    }
}
