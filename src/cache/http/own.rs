//! Whether a server is this host itself.

use std::net::{IpAddr, UdpSocket};

use reqwest::Url;
use tokio::net::lookup_host;

use crate::cache::CacheError;

/// Refuses an endpoint that is this host itself: everything in the cache would come back as something to upload.
///
/// # Errors
/// [`CacheError::OwnServer`].
pub async fn refuse_own(endpoint: &Url) -> Result<(), CacheError> {
    if binds_any_address() {
        return Ok(());
    }
    let host = endpoint.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = endpoint.port_or_known_default().unwrap_or(443);
    // A name that isn't known fails when the server is asked, with a better message.
    let Ok(addresses) = lookup_host((host.clone(), port)).await else { return Ok(()) };
    let own = addresses.map(|address| address.ip()).find(|address| is_own(*address));
    match own {
        Some(address) => Err(CacheError::OwnServer { host, address }),
        None => Ok(()),
    }
}

/// Why an endpoint that is named by its address is this host itself, if it is: told at once, without a name being looked up.
#[must_use]
pub fn own_by_address(endpoint: &str) -> Option<CacheError> {
    let url = Url::parse(endpoint).ok()?;
    let host = url.host_str()?.trim_matches(['[', ']']).to_owned();
    let address: IpAddr = host.parse().ok()?;
    (!binds_any_address() && is_own(address)).then_some(CacheError::OwnServer { host, address })
}

/// Whether sockets of this host may bear others' addresses, as those of fail-over proxies do (`net.ipv4.ip_nonlocal_bind`
/// of Linux): then nothing can be told by it.
fn binds_any_address() -> bool {
    ["ipv4", "ipv6"].iter().any(|version| {
        let setting = std::fs::read_to_string(format!("/proc/sys/net/{version}/ip_nonlocal_bind"));
        setting.is_ok_and(|setting| setting.trim() != "0")
    })
}

/// Whether an address, other than loopback, is one of this host's: only to those can a socket be bound.
fn is_own(address: IpAddr) -> bool {
    !address.is_loopback()
        && !address.is_unspecified()
        && !address.is_multicast()
        && UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An address of this host's, if it has one beside loopback. To connect a UDP socket sends nothing.
    fn own_address() -> Option<IpAddr> {
        let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
        socket.connect("192.0.2.1:9").ok()?;
        socket.local_addr().ok().map(|address| address.ip())
    }

    #[tokio::test]
    async fn a_host_does_not_upload_to_itself() {
        let refused = |url: String| async move {
            refuse_own(&Url::parse(&url).expect("a URL")).await.err().map(|error| error.to_string())
        };
        for other in ["http://127.0.0.1:8080/", "http://[::1]/", "https://192.0.2.1/", "https://name.invalid/"] {
            assert_eq!(refused(other.to_owned()).await, None, "{other}");
        }
        match own_address() {
            Some(own) => {
                let url = format!("http://{own}:8080/");
                let why = refused(url.clone()).await.expect("refused");
                assert_eq!(own_by_address(&url).map(|error| error.to_string()), Some(why.clone()));
                assert!(
                    own_by_address("https://192.0.2.1/").is_none() && own_by_address("https://localhost/").is_none()
                );
                assert!(why.contains("this host itself") && why.contains("allow_self"), "{why}");
            }
            None => println!("skipped: this host has no address of its own beside loopback"),
        }
    }
}
