//! Addresses of servers: what stands behind `attic+`, web servers that take what is put there, and upstream caches.
//!
//! Taken apart by the library that also the client uses, so that the host that is looked at here is the host that is
//! spoken to. No message repeats any of an address, since people put passwords and tokens into them.

use url::{Host, Url};

use super::parameters::Parameters;
use super::{CacheUrl, UrlError};

/// Longest name of a cache in Attic (`attic/src/cache.rs`, `MAX_NAME_LENGTH`).
const LONGEST_ATTIC_NAME: usize = 50;

/// `https://HOST[:PORT][/PREFIX]/CACHE`, without the `attic+` that stood in front.
pub(super) fn parse_attic(url: &str) -> Result<CacheUrl, UrlError> {
    let mut address = parse(url)?;
    let path = address.path().trim_end_matches('/').to_owned();
    let (prefix, cache) = path.rsplit_once('/').unwrap_or(("", &path));
    if cache.is_empty() {
        return Err(UrlError::NoCacheName);
    }
    if !is_attic_name(cache) {
        return Err(UrlError::BadCacheName);
    }
    let prefix = prefix.trim_end_matches('/');
    if prefix.split('/').any(is_token) {
        return Err(UrlError::Credentials);
    }
    address.set_path(&format!("{prefix}/"));
    Ok(CacheUrl::Attic { endpoint: address.into(), cache: cache.to_owned() })
}

/// `https://HOST[:PORT][/FOLDER]`, with the parameters that binary caches have in Nix.
pub(super) fn parse_http(url: &str) -> Result<CacheUrl, UrlError> {
    if url.contains('#') {
        return Err(UrlError::Fragment);
    }
    // Looked at before the parameters: a password may have a `?` in it, and messages name parameters.
    if url.contains('@') {
        return Err(UrlError::UserInfo);
    }
    let (place, mut parameters) = Parameters::split(url)?;
    let mut address = parse(place)?;
    let folder = address.path().trim_end_matches('/').to_owned();
    if folder.split('/').any(is_token) {
        return Err(UrlError::Credentials);
    }
    address.set_path(&format!("{folder}/"));
    let layout = parameters.layout();
    parameters.finish()?;
    Ok(CacheUrl::Http { endpoint: address.into(), layout })
}

/// Whether a part of a path looks like a token of Attic's, a JWT: JSON in base64 begins with `eyJ`, and there are two dots.
fn is_token(part: &str) -> bool {
    part.starts_with("eyJ") && part.matches('.').count() == 2
}

/// The address of an upstream cache, always ending in `/`.
///
/// # Errors
/// [`UrlError`], saying what to write instead.
pub fn parse_upstream(url: &str) -> Result<String, UrlError> {
    if !["http://", "https://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(UrlError::NoUpstream);
    }
    let mut address = parse(url).map_err(|err| match err {
        UrlError::Credentials | UrlError::Parameters => UrlError::NotPlain,
        other => other,
    })?;
    let path = address.path().trim_end_matches('/').to_owned();
    address.set_path(&format!("{path}/"));
    Ok(address.into())
}

/// An http or https address, in which nothing is but host, port and path.
pub(super) fn parse(url: &str) -> Result<Url, UrlError> {
    let address = Url::parse(url).map_err(UrlError::NoAddress)?;
    if !address.username().is_empty() || address.password().is_some() {
        return Err(UrlError::Credentials);
    }
    if address.query().is_some() || address.fragment().is_some() {
        return Err(UrlError::Parameters);
    }
    Ok(address)
}

/// As in Attic: `^[A-Za-z0-9][A-Za-z0-9-_+]{0,49}$`.
fn is_attic_name(name: &str) -> bool {
    name.len() <= LONGEST_ATTIC_NAME
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_+".contains(&byte))
}

/// The host of an endpoint; an IPv6 address without its brackets.
pub(super) fn host(endpoint: &str) -> Option<String> {
    let host = Url::parse(endpoint).ok()?.host()?.to_owned();
    Some(match host {
        Host::Domain(name) => name,
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) => address.to_string(),
    })
}

/// Whether what is sent to an endpoint can be read on the way: not encrypted, and not within this host. An endpoint that
/// can't be understood counts as one.
pub(super) fn is_readable_on_the_way(endpoint: &str) -> bool {
    let Ok(address) = Url::parse(endpoint) else { return true };
    address.scheme() != "https" && !is_loopback(&address)
}

/// Whether a server is reached within this host.
pub(in crate::cache) fn is_loopback(address: &Url) -> bool {
    match address.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cache::{Compression, Layout};

    fn attic(url: &str) -> (String, String) {
        match CacheUrl::parse(url) {
            Ok(CacheUrl::Attic { endpoint, cache }) => (endpoint, cache),
            other => panic!("{url}: {other:?}"),
        }
    }

    #[test]
    fn endpoint_and_cache_are_told_apart() {
        for (url, endpoint, cache) in [
            ("attic+https://cache.example.com/team", "https://cache.example.com/", "team"),
            ("attic+https://cache.example.com/team/", "https://cache.example.com/", "team"),
            (
                "attic+https://Cache.Example.com:8443/nix/attic/team",
                "https://cache.example.com:8443/nix/attic/",
                "team",
            ),
            ("attic+https://h:443/me+shared", "https://h/", "me+shared"),
            ("attic+http://127.0.0.1:8080/Plan9_x", "http://127.0.0.1:8080/", "Plan9_x"),
            ("attic+http://[::1]:8080/t", "http://[::1]:8080/", "t"),
        ] {
            assert_eq!(attic(url), (endpoint.to_owned(), cache.to_owned()), "{url}");
        }
        let longest = "a".repeat(50);
        assert_eq!(attic(&format!("attic+https://h/{longest}")).1, longest);
    }

    #[test]
    fn bad_addresses_say_what_to_write_and_repeat_nothing() {
        for (url, expected) in [
            ("attic+https://s3cret@h/team", UrlError::Credentials),
            ("attic+https://me:s3cret@h/team", UrlError::Credentials),
            ("attic+https://:s3cret@h/team", UrlError::Credentials),
            ("attic+https://h/team?token=s3cret", UrlError::Parameters),
            ("attic+https://h/eyJhbGci.eyJleHA.c2ln/team", UrlError::Credentials),
            ("attic+https://h/team?s3cret", UrlError::Parameters),
            ("attic+https://h/team#s3cret", UrlError::Parameters),
            ("attic+https://h", UrlError::NoCacheName),
            ("attic+https://h/", UrlError::NoCacheName),
            ("attic+https://h/-s3cret", UrlError::BadCacheName),
            ("attic+https://h/s3cret.x", UrlError::BadCacheName),
            ("attic+https://h/s3cret%20x", UrlError::BadCacheName),
            ("attic+https://h/x/ä-s3cret", UrlError::BadCacheName),
            ("attic://h/s3cret", UrlError::Unknown),
            ("attic+ftp://h/s3cret", UrlError::Unknown),
        ] {
            let error = CacheUrl::parse(url).expect_err(url);
            assert_eq!(error, expected, "{url}");
            assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
        }
        assert_eq!(CacheUrl::parse(&format!("attic+https://h/{}", "a".repeat(51))), Err(UrlError::BadCacheName));
        let message = |url| CacheUrl::parse(url).expect_err(url).to_string();
        assert_eq!(message("attic+https:///"), "this is no address of a server (empty host); write `https://HOST`");
        assert_eq!(
            message("attic+https://h:s3cret/x"),
            "this is no address of a server (invalid port number); write `https://HOST`"
        );
    }

    #[test]
    fn a_folder_of_a_web_server_has_nixs_parameters() {
        let parsed = |url: &str| match CacheUrl::parse(url) {
            Ok(CacheUrl::Http { endpoint, layout }) => (endpoint, layout),
            other => panic!("{url}: {other:?}"),
        };
        for (url, endpoint) in [
            ("https://cache.example.com", "https://cache.example.com/"),
            ("https://Cache.Example.com:8443/nix/team/", "https://cache.example.com:8443/nix/team/"),
            ("http://[::1]:8080/a%20b?priority=30", "http://[::1]:8080/a%20b/"),
        ] {
            assert_eq!(parsed(url).0, endpoint, "{url}");
        }
        let (_, layout) = parsed("https://h/?compression=none&write-nar-listing=true&want-mass-query=false&priority=7");
        let expected = Layout {
            compression: Some(Compression::None),
            priority: 7,
            want_mass_query: false,
            write_nar_listing: true,
            ..Layout::default()
        };
        assert_eq!(layout, expected);
        for (url, expected) in [
            ("https://s3cret@h/nix", UrlError::UserInfo),
            ("https://me:s3cret@h/nix", UrlError::UserInfo),
            ("https://me:1?s3cret@h/nix", UrlError::UserInfo),
            ("https://h/nix#s3cret", UrlError::Fragment),
            ("https://h/nix?priority=1#s3cret", UrlError::Fragment),
        ] {
            let error = CacheUrl::parse(url).expect_err(url);
            assert_eq!(error, expected, "{url}");
            assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
        }
        let message = |url| CacheUrl::parse(url).expect_err(url).to_string();
        assert!(message("https://h/?token=s3cret").starts_with("unknown parameter `token`; known are compression"));
        assert!(!message("https://h/?token=s3cret").contains("s3cret"));
        assert_eq!(message("https://"), "this is no address of a server (empty host); write `https://HOST`");
    }

    #[test]
    fn upstreams_are_plain_addresses() {
        let good = |url| parse_upstream(url).expect(url);
        assert_eq!(good("https://cache.nixos.org"), "https://cache.nixos.org/");
        assert_eq!(good("https://cache.nixos.org/"), "https://cache.nixos.org/");
        assert_eq!(good("http://h:8080/a/b//"), "http://h:8080/a/b/");
        for (url, expected) in [
            ("s3://bucket", UrlError::NoUpstream),
            ("cache.nixos.org", UrlError::NoUpstream),
            ("https://me:s3cret@h", UrlError::NotPlain),
            ("https://h?priority=1", UrlError::NotPlain),
        ] {
            assert_eq!(parse_upstream(url), Err(expected), "{url}");
        }
    }

    #[test]
    fn only_loopback_may_go_without_encryption() {
        let readable = |url: &str| CacheUrl::parse(url).expect(url).is_readable_on_the_way();
        for url in
            ["https://h/t", "http://localhost/t", "http://127.0.0.1:1/t", "http://127.9.9.9/t", "http://[::1]:1/t"]
        {
            assert!(!readable(&format!("attic+{url}")), "{url}");
        }
        for url in [
            "http://h/t",
            "http://localhost.example.com/t",
            "http://10.0.0.1/t",
            "http://128.0.0.1/t",
            "http://[::2]/t",
        ] {
            assert!(readable(&format!("attic+{url}")), "{url}");
        }
        assert!(readable("http://h/nix") && !readable("https://h/nix") && !readable("http://127.0.0.1:1/nix"));
        // Written so that a careless reader takes it for this host.
        assert!(readable("attic+http://127.0.0.1.example.com/t"));
        assert!(!CacheUrl::parse("file:///srv/cache").expect("a URL").is_readable_on_the_way());
        let host = |url| CacheUrl::parse(url).expect("a URL").host();
        assert_eq!(host("attic+https://h:1/t").as_deref(), Some("h"));
        assert_eq!(host("attic+https://[::1]:1/t").as_deref(), Some("::1"));
        assert_eq!(host("file:///srv/cache"), None);
    }

    proptest! {
        // Whatever stands behind the scheme: an endpoint that ends in `/` and has no user in it, or a reason.
        #[test]
        fn an_endpoint_has_nothing_but_its_place(rest in "[a-z@:/?#%\\[\\]\\\\.0-9 ä-]{0,40}") {
            match CacheUrl::parse(&format!("attic+https://{rest}")) {
                Ok(CacheUrl::Attic { endpoint, cache }) => {
                    prop_assert!(endpoint.starts_with("https://") && endpoint.ends_with('/'));
                    let address = Url::parse(&endpoint).expect("an address");
                    prop_assert!(address.username().is_empty() && address.password().is_none());
                    prop_assert!(address.query().is_none() && address.fragment().is_none() && address.has_host());
                    prop_assert!(is_attic_name(&cache));
                }
                Ok(other) => prop_assert!(false, "{other:?}"),
                Err(error) => prop_assert!(!error.to_string().is_empty()),
            }
        }
    }
}
