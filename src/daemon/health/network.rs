//! What the environment says of the way to servers: proxies, and whose certificates count.

use std::ffi::OsString;
use std::path::PathBuf;

use hyper_util::client::proxy::matcher::Matcher;

use super::Finding;
use crate::cache::CacheUrl;
use crate::cache::http::count_certificates;
use crate::config::Config;
use crate::report::one_line;

const PROXY: &str = "proxy";

/// The variables that the client honours, of which the upper-case form wins.
const PROXY_VARIABLES: [&str; 8] =
    ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"];

pub(super) fn examine(config: Option<&Config>) -> Vec<Finding> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let set: Vec<String> = PROXY_VARIABLES.iter().filter_map(|name| Some(setting(name, &variable(name)?))).collect();
    let mut findings = Vec::new();
    if set.is_empty() {
        findings.push(Finding::ok(PROXY, "no variable names one"));
    } else {
        findings.push(Finding::ok(PROXY, format!("the environment has {}", set.join(", "))));
        findings.extend(config.iter().flat_map(|config| ways(config, &Matcher::from_system())));
    }
    if let Some(file) = variable("NIX_SSL_CERT_FILE") {
        findings.push(certificates(file.into()));
    }
    findings
}

fn setting(name: &str, value: &OsString) -> String {
    let value = value.to_string_lossy();
    if name.eq_ignore_ascii_case("no_proxy") { format!("{name}={value}") } else { format!("{name}={}", plain(&value)) }
}

/// A proxy's address without user name, password, and whatever else stands beside the host.
fn plain(address: &str) -> String {
    let (scheme, rest) = match address.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), address),
    };
    // A password may have a slash in it, so what stands before the last `@` goes first.
    let host = rest.rsplit('@').next().unwrap_or_default();
    let host = host.split(['/', '?', '#']).next().unwrap_or_default();
    format!("{scheme}{host}")
}

/// By which way each cache's server is reached, as the client decides it.
fn ways(config: &Config, matcher: &Matcher) -> Vec<Finding> {
    let way = |cache: &crate::config::CacheConfig| {
        let endpoint = match &cache.place {
            CacheUrl::File { .. } | CacheUrl::Command { .. } => return None,
            CacheUrl::Bucket { bucket, .. } => bucket.likely_endpoint(),
            CacheUrl::Http { endpoint, .. } | CacheUrl::Attic { endpoint, .. } => endpoint.clone(),
        };
        let found = match matcher.intercept(&endpoint.parse().ok()?) {
            Some(proxy) if !cache.place.is_within_this_host() => {
                format!("{endpoint} is reached by way of {}", plain(&proxy.uri().to_string()))
            }
            _ => format!("{endpoint} is reached without one"),
        };
        Some(Finding::ok(format!("{PROXY} for {}", cache.name), found))
    };
    config.caches.iter().filter_map(way).collect()
}

fn certificates(file: PathBuf) -> Finding {
    let about = "certificates";
    match count_certificates(&file) {
        Ok(count) => {
            let found =
                format!("NIX_SSL_CERT_FILE={} holds {count}, which count instead of the system's", file.display());
            Finding::ok(about, found)
        }
        Err(error) => Finding::trouble(about, format!("NIX_SSL_CERT_FILE: {}", one_line(&error)))
            .cured_by("name a file with certificates in PEM, or unset it; no server is spoken to otherwise"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Defaults;

    #[test]
    fn each_server_is_reached_as_the_variables_say() {
        let text = "version = 1\n[caches.far]\nurl = \"attic+https://far.example.com/x\"\n\
                    [caches.spared]\nurl = \"attic+https://spared.example.com/x\"\n\
                    [caches.near]\nurl = \"attic+http://127.0.0.1:8080/x\"\n[caches.file]\nurl = \"file:///c\"\n";
        let check = |url: &str| CacheUrl::parse(url).map_err(|error| error.to_string());
        let defaults = Defaults { state_dir: "/state".into() };
        let config = Config::parse(text, "policy.toml", &defaults, &check).expect("a good policy");
        let proxies =
            Matcher::builder().all("http://me:s3cret@proxy.example.com:3128").no("spared.example.com").build();
        let found: Vec<String> = ways(&config, &proxies).into_iter().map(|finding| finding.found).collect();
        assert_eq!(
            found,
            [
                "https://far.example.com/ is reached by way of http://proxy.example.com:3128",
                "https://spared.example.com/ is reached without one",
                "http://127.0.0.1:8080/ is reached without one",
            ]
        );
    }

    #[test]
    fn a_proxy_is_shown_without_who_may_use_it() {
        for (address, shown) in [
            ("http://proxy.example.com:3128", "http://proxy.example.com:3128"),
            ("http://me:s3cret@proxy.example.com:3128/", "http://proxy.example.com:3128"),
            ("me:s3cret@proxy.example.com", "proxy.example.com"),
            ("socks5h://me:s3@cr/et@proxy.example.com", "socks5h://proxy.example.com"),
            ("http://proxy.example.com?token=s3cret", "http://proxy.example.com"),
            ("proxy.example.com:3128", "proxy.example.com:3128"),
        ] {
            assert_eq!(plain(address), shown);
        }
    }
}
