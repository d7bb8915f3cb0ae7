//! How far it is to what hands out credentials. What crosses a network on the way there, and back, are secrets.

use std::time::Duration;

use reqwest::Url;
use url::Host;

use crate::cache::http::Action;
use crate::cache::url::is_loopback;

/// What hands out the credentials of a machine in a cloud is so near that it answers within this time, or isn't there.
pub(super) const HANDING_OUT: Duration = Duration::from_secs(5);

/// What hands them out from afar is reached over TLS, perhaps by a line that uploads fill: four round trips, and each takes a
/// second or two then.
pub(super) const HANDING_OUT_FROM_AFAR: Duration = Duration::from_secs(30);

/// The token of a web identity, in the address by which Amazon's servers, and others like them, are asked for keys.
pub(super) const WEB_IDENTITY: &str = "WebIdentityToken";

/// By this name, Google's machines find what hands out their credentials: at a link-local address.
const OF_GOOGLE: &str = "metadata.google.internal";

/// Whether credentials would cross a network for everybody to read: asked for or handed out unencrypted, and from elsewhere
/// than this host, or the link to the host that it runs on.
pub(super) fn is_in_the_open(action: Action, url: &Url) -> bool {
    // A bucket's own server may be the one that is asked.
    let is_for_keys = action == Action::Credentials || url.query_pairs().any(|(name, _)| name == WEB_IDENTITY);
    is_for_keys && url.scheme() != "https" && !is_loopback(url) && !is_on_the_link(url)
}

/// As Amazon's own tools have it: 169.254.0.0/16, and of IPv6 what Amazon's machines and link-local addresses have.
fn is_on_the_link(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name.trim_end_matches('.') == OF_GOOGLE,
        Some(Host::Ipv4(address)) => address.is_link_local(),
        Some(Host::Ipv6(address)) => address.segments()[..2] == [0xfd00, 0x0ec2] || address.is_unicast_link_local(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_cross_no_network_in_the_open() {
        for (address, is_open) in [
            ("http://169.254.169.254/latest", false),
            ("http://169.254.170.23/v1/credentials", false),
            ("http://[fd00:ec2::23]/v1/credentials", false),
            ("http://127.0.0.1:40342/", false),
            ("http://[::1]:1/", false),
            ("http://localhost/", false),
            ("http://metadata.google.internal/computeMetadata", false),
            ("https://sts.eu-central-1.amazonaws.com/", false),
            ("http://sts.example/", true),
            ("http://10.0.0.1/", true),
            ("http://[fd00:ec3::23]/", true),
            ("http://localhost.example/", true),
            ("http://metadata.google.internal.example/", true),
        ] {
            let url = Url::parse(address).expect("an address");
            assert_eq!(is_in_the_open(Action::Credentials, &url), is_open, "{address}");
            assert!(!is_in_the_open(Action::Upload, &url), "{address} holds a bucket");
        }
        let own =
            Url::parse("http://10.0.0.1/?Action=AssumeRoleWithWebIdentity&WebIdentityToken=t").expect("an address");
        assert!(is_in_the_open(Action::Upload, &own));
    }
}
