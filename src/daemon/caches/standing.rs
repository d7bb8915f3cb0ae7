//! What can be said of a cache without asking it: that it is off on this host, or lacks a secret.

use std::fs;
use std::io::ErrorKind;

use tracing::info;

use crate::cache::CacheUrl;
use crate::cache::http::own_by_address;
use crate::config::{CacheConfig, Config, HeaderValue, HttpConfig, StoreKeyConfig};
use crate::queue::CacheCounts;
use crate::secret::{SecretError, Source};

/// Says which caches are off on this host.
pub fn tell_what_is_off(config: &Config) {
    for cache in &config.caches {
        if let Some(host) = own_server(cache) {
            info!(cache = %cache.name, "{}", off_by_name(&host));
        }
    }
}

/// This host's name, if that makes it the server of the cache: what is in there came from here or would come back.
#[must_use]
pub fn own_server(config: &CacheConfig) -> Option<String> {
    let has_server = matches!(config.place, CacheUrl::Attic { .. } | CacheUrl::Http { .. });
    if config.http.allow_self || !has_server {
        return None;
    }
    let full = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let short = full.split('.').next().unwrap_or(&full);
    let is_server = |name: &String| [full.as_str(), short].iter().any(|own| name.eq_ignore_ascii_case(own));
    config.http.server_hostnames.iter().any(is_server).then_some(full)
}

/// That a cache is off on the host of this name.
#[must_use]
pub fn off_by_name(host: &str) -> String {
    format!("off on this host, {host}, which is the cache's own server by `server_hostnames`")
}

/// Why a cache is off on this host, if it is: by this host's name, by the address in its URL, or by what was last noted in the
/// queue, where it was found out which address the cache's server has.
#[must_use]
pub fn why_off(config: &CacheConfig, noted: Option<&CacheCounts>) -> Option<String> {
    let noted = noted.filter(|noted| noted.is_off && !config.http.allow_self);
    let by_address = || Some(format!("off on this host: {}", noted?.waiting_why.as_deref()?));
    own_server(config).map(|host| off_by_name(&host)).or_else(by_address).or_else(|| off_by_address(config))
}

/// That a cache is off, where its URL names its server by an address which is this host's.
fn off_by_address(config: &CacheConfig) -> Option<String> {
    match &config.place {
        CacheUrl::Attic { endpoint, .. } | CacheUrl::Http { endpoint, .. } if !config.http.allow_self => {
            Some(format!("off on this host: {}", own_by_address(endpoint)?))
        }
        _ => None,
    }
}

/// What of a cache's secrets is plainly not there: a file that is missing, or empty. None is read.
#[must_use]
pub fn lacks_secret(config: &CacheConfig) -> Option<SecretError> {
    let StoreKeyConfig { access_key_id, secret_access_key, session_token, service_account_key, account_key } =
        &config.store_keys;
    let HttpConfig { token, password, client_key, .. } = &config.http;
    let headers = config.http.headers.iter().filter_map(|(_, value)| match value {
        HeaderValue::Secret(source) => Some(source),
        HeaderValue::Plain(_) => None,
    });
    let named = [token, password, client_key, access_key_id, secret_access_key, session_token, service_account_key];
    let named = named.into_iter().chain([account_key, &config.signing_key]).flatten();
    named.chain(headers).find_map(|source| {
        let Source::File { path, .. } = source else { return None };
        match fs::metadata(path) {
            Ok(file) if file.is_file() && file.len() == 0 => Some(SecretError::Empty { from: source.to_string() }),
            Err(error) if error.kind() == ErrorKind::NotFound => Some(SecretError::Missing { path: path.clone() }),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Defaults;

    #[test]
    fn a_secret_that_is_not_there_is_noticed_without_a_look_at_any() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("token");
        let defaults = Defaults { state_dir: dir.path().to_owned() };
        let text = format!(
            "version = 1\n[caches.team]\nurl = \"attic+https://h/team\"\ntoken = {{ file = \"{}\" }}",
            file.display()
        );
        let check = |url: &str| CacheUrl::parse(url).map_err(|error| error.to_string());
        let config = Config::parse(&text, "policy.toml", &defaults, &check).expect("a good policy");
        let lacks = || lacks_secret(&config.caches[0]).map(|error| error.to_string());
        assert_eq!(lacks(), Some(format!("there is no file {}", file.display())));
        fs::write(&file, "").expect("written");
        assert!(lacks().is_some_and(|error| error.ends_with("it is empty")));
        fs::write(&file, "s3cret").expect("written");
        assert_eq!(lacks(), None);
    }
}
