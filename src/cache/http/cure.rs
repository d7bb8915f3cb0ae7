//! What people can do about a server's errors: in the message itself where that is short and certain, otherwise as a hint.

use std::time::SystemTime;

use reqwest::StatusCode;

use super::{Action, HttpError, ServerSays};
use crate::times;

impl HttpError {
    /// What a person may do about it, where the error itself doesn't say.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Transport { host, .. } | Self::Stalled { host, .. } => {
                let has_proxy = has_proxy(host, |name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
                Some(unreached(host, has_proxy))
            }
            Self::AuthoritysCertificate { .. } => Some(
                "give the server a certificate of its own (CA:FALSE), and name the one that has signed it, or itself where \
                 it is self-signed, with `ca_file`",
            ),
            Self::Named { .. } => Some(
                "is that the address by which its API is reached from here, with `https` where the `url` has it? If not, set \
                 `api-endpoint` in the server's configuration to the one that is",
            ),
            Self::Status { status: 500..=599, .. } => {
                Some("the server, or what stands in front of it, is at fault; its log may say more")
            }
            Self::Secret { source } => source.hint(),
            Self::File { .. } | Self::Unusable { .. } => {
                Some("mend the file, or name another in the policy (or in NIX_SSL_CERT_FILE)")
            }
            _ => None,
        }
    }
}

/// What may stand between this host and a server that doesn't answer.
fn unreached(host: &str, has_proxy: bool) -> &'static str {
    match (has_proxy, is_encrypted(host)) {
        (false, _) => "is the server running, and are host and port in the `url` right? A firewall may stand between",
        (true, true) => {
            "is the server running, and are host and port in the `url` right? A firewall, or a proxy that HTTPS_PROXY \
             names, may stand between"
        }
        (true, false) => {
            "is the server running, and are host and port in the `url` right? A firewall, or a proxy that HTTP_PROXY \
             names, may stand between"
        }
    }
}

/// Whether a variable names a proxy for such a server.
fn has_proxy(host: &str, is_set: impl Fn(&str) -> bool) -> bool {
    let names = if is_encrypted(host) { ["HTTPS_PROXY", "https_proxy"] } else { ["HTTP_PROXY", "http_proxy"] };
    names.into_iter().chain(["ALL_PROXY", "all_proxy"]).any(is_set)
}

/// Which variable names the proxy for a server hangs on that.
fn is_encrypted(origin: &str) -> bool {
    !origin.starts_with("http://")
}

/// Why a server's certificate isn't trusted, and what people can do about that: for one that another authority has signed
/// that is another thing than for one that has expired.
pub(super) fn distrust(error: &rustls::Error) -> &'static str {
    use rustls::CertificateError::{
        Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet, NotValidYetContext, Revoked,
    };
    match error {
        rustls::Error::InvalidCertificate(Expired | ExpiredContext { .. }) => {
            "its certificate has expired: who runs the server has to renew it, unless this host's clock is wrong"
        }
        rustls::Error::InvalidCertificate(NotValidYet | NotValidYetContext { .. }) => {
            "its certificate does not hold yet: is this host's clock right?"
        }
        rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }) => {
            "its certificate is another host's: write the name that it is for into the `url`"
        }
        rustls::Error::InvalidCertificate(Revoked) => {
            "its certificate has been revoked: who runs the server has to get another"
        }
        _ => "its certificate is not trusted; where it is right, name its authority's with `ca_file`",
    }
}

/// A status in words.
pub(in crate::cache) fn reason(status: u16) -> String {
    let known = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    known.map_or_else(|| status.to_string(), |reason| format!("{status} {reason}"))
}

/// What people can do about a status.
pub(super) fn cure(action: Action, status: u16, says: &ServerSays, host: &str) -> String {
    match (action, status) {
        _ if is_no_web_servers(action, status, says) => {
            "; an object store answers there, or the website of one: that is what Nix reads from, and uploads go by \
             `s3://BUCKET?endpoint=…` in the `url`"
                .to_owned()
        }
        (_, 400) if says.wants_encryption() => "; write `https` into the `url`".to_owned(),
        (Action::Upload | Action::Put, 413) => format!(
            "; the server or a proxy in front of {host} refuses bodies of this size: raise its limit \
             (`client_max_body_size` of nginx), then `storewatch queue retry`"
        ),
        (Action::Upload, 403) => format!("; something in front of {host} refuses this path"),
        (Action::Upload | Action::Put, 408 | 504 | 524) => format!(
            "; a proxy in front of {host} gives up on what takes long: raise its time-out, then `storewatch queue retry`"
        ),
        (_, 451) => "; who runs the server may not take this, for reasons of law: ask there, or keep the path away by a rule \
                     that denies it"
            .to_owned(),
        (Action::Upload | Action::Put, 422) => {
            "; the server's own rules keep this out, as those of a repository may: its log says which".to_owned()
        }
        (Action::Upload, 409) => "; the server has something else under that name, or is just being sent the same".to_owned(),
        (Action::Put, 409) => {
            "; the folder isn't there, and the server doesn't let it be made: make it, or let the server do so \
             (`create_full_put_path on` of nginx); or it lets no file be replaced: let it, as by `Allow redeploy` of Nexus"
                .to_owned()
        }
        (Action::Put, 404) => {
            "; the folder isn't there, and the server doesn't let it be made: make it, or let the \
                                     server do so (`create_full_put_path on` of nginx)"
                .to_owned()
        }
        // nginx says so where there is no folder, and others of much else.
        (Action::Put, 500) => "; should the folder be missing there, make it, or let the server do so \
                               (`create_full_put_path on` of nginx)"
            .to_owned(),
        (Action::Put, 405 | 501) => {
            "; the server does not take uploads there (read-only): let it, by `dav_methods PUT \
                                     DELETE MKCOL` of nginx, by `Dav On` of Apache, or by the right to deploy in that \
                                     repository"
                .to_owned()
        }
        (Action::Put, 411) => {
            "; the server wants to be told sizes beforehand, and Nix has not registered this path's".to_owned()
        }
        (Action::Put, 507) => "; make room there, or raise the quota".to_owned(),
        (_, 401 | 403) => String::new(),
        (_, 407) => {
            let variable = if is_encrypted(host) { "HTTPS_PROXY" } else { "HTTP_PROXY" };
            format!("; the proxy of this host wants credentials: give them in {variable}")
        }
        (_, 408 | 429 | 500..) => String::new(),
        // Attic names its errors.
        (Action::Configuration | Action::Missing | Action::Upload, _) if !says.is_attics() => {
            "; is it an Attic server?".to_owned()
        }
        _ => String::new(),
    }
}

/// Whether who refuses is an object store that is asked as if it were a web server: it would want other credentials, and
/// another request.
fn is_no_web_servers(action: Action, status: u16, says: &ServerSays) -> bool {
    action.is_about_files() && says.is_an_object_stores() && matches!(status, 400 | 401 | 403 | 405 | 501)
}

/// What a server was shown, in words.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown {
    /// By what the server is to learn who this is, and where that comes from: `the token from FILE`.
    pub(super) proof: Option<String>,
    /// When the token expired, as far as it says so itself.
    pub(super) expired: Option<SystemTime>,
    /// Whether the token is none that an Attic server makes.
    pub(super) is_foreign: bool,
    /// Whether the token begins with the word that goes before it.
    pub(super) is_prefixed: bool,
    /// The headers, and where the secret ones came from.
    pub(super) headers: Vec<String>,
}

impl Shown {
    /// What of it was refused, as the end of a message. Who names its errors is the cache's server itself and speaks of the
    /// token; it may be something in front of it otherwise, which the headers are for.
    pub(super) fn refused(&self, action: Action, status: u16, says: &ServerSays) -> String {
        let expired = self.proof.as_ref().zip(self.expired);
        match (status, &self.proof) {
            _ if is_no_web_servers(action, status, says) => String::new(),
            (401 | 403, Some(proof)) if self.is_prefixed => {
                format!("; {proof} begins with `Bearer `, which is no part of it: leave that word out")
            }
            (401 | 403, _) if let Some((proof, at)) = expired => {
                format!("; {proof} expired on {}: write a new one there", times::here(at))
            }
            (401 | 403, _) if action.is_about_files() => match self.all().as_slice() {
                [] if status == 403 && action == Action::Put => {
                    "; the server takes no uploads there (read-only), or none without credentials, and the policy gives \
                     it none"
                        .to_owned()
                }
                [] => "; it wants credentials, and the policy gives it none: neither `token`, nor `user` and `password`"
                    .to_owned(),
                all if status == 403 && action == Action::Put => {
                    let all = all.join(" or ");
                    format!("; the server takes no uploads there (read-only), or none with {all}")
                }
                all => format!("; the server refuses {}, or does not let it in there", all.join(" or ")),
            },
            (401 | 403, Some(proof)) if says.is_attics() && self.is_foreign => {
                format!(
                    "; {proof} is no token of an Attic server's, which has three parts with dots in between: \
                     `atticadm make-token` makes one"
                )
            }
            (401, Some(proof)) if says.is_attics() => {
                format!("; {proof} is wrong or expired, or there is no such cache")
            }
            (401, None) if says.is_attics() => {
                "; the policy gives no `token` for it, and the cache is private or isn't there".to_owned()
            }
            (403, Some(proof)) if says.is_attics() => {
                format!("; {proof} does not allow this, or is wrong or expired")
            }
            (403, None) if says.is_attics() => "; the policy gives no `token` for it".to_owned(),
            (403, _) if action == Action::Upload => String::new(),
            (401 | 403, _) if action != Action::Upstream => match self.all().as_slice() {
                [] => "; it wants credentials, and the policy gives it none: neither `token`, nor `headers` for what \
                       stands in front of it"
                    .to_owned(),
                all => format!("; the server, or what stands in front of it, refuses {}", all.join(" or ")),
            },
            _ => String::new(),
        }
    }

    fn all(&self) -> Vec<String> {
        self.proof.iter().cloned().chain(self.headers.iter().map(|header| format!("the header {header}"))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Speaker;
    use super::*;

    #[test]
    fn each_trouble_has_its_own_cure() {
        use rustls::CertificateError;
        for (error, words) in [
            (CertificateError::Expired, "has to renew it"),
            (CertificateError::NotValidYet, "clock"),
            (CertificateError::NotValidForName, "into the `url`"),
            (CertificateError::Revoked, "another"),
            (CertificateError::UnknownIssuer, "`ca_file`"),
        ] {
            let told = distrust(&rustls::Error::InvalidCertificate(error.clone()));
            assert!(told.contains(words), "{error:?}: {told}");
            assert_eq!(told.contains("ca_file"), error == CertificateError::UnknownIssuer, "{told}");
        }
        let says = ServerSays::default();
        for (action, status, host, words) in [
            (Action::Put, 409, "https://h", "replaced"),
            (Action::Upload, 409, "https://h", "something else under that name"),
            (Action::Put, 422, "https://h", "own rules"),
            (Action::Upload, 422, "https://h", "own rules"),
            (Action::Put, 451, "https://h", "law"),
            (Action::Missing, 407, "https://h", "in HTTPS_PROXY"),
            (Action::Missing, 407, "http://h", "in HTTP_PROXY"),
        ] {
            let told = cure(action, status, &says, host);
            assert!(told.contains(words), "{action:?} {status}: {told}");
        }
        for (host, set, words) in [
            ("http://h", "HTTP_PROXY", "that HTTP_PROXY names"),
            ("https://h", "https_proxy", "that HTTPS_PROXY names"),
            ("https://h", "all_proxy", "that HTTPS_PROXY names"),
            ("http://h", "HTTPS_PROXY", "A firewall may"),
            ("https://h", "NO_PROXY", "A firewall may"),
        ] {
            let told = unreached(host, has_proxy(host, |name| name == set));
            assert!(told.contains(words), "{host} {set}: {told}");
        }
    }

    #[test]
    fn what_was_refused_is_named_with_where_it_comes_from() {
        let itself = ServerSays { speaker: Speaker::Attic, ..ServerSays::default() };
        let (proof, headers) = (Some("the token from /run/token".to_owned()), vec!["`x-id` from /run/id".to_owned()]);
        let nothing = Shown::default();
        let both = Shown { proof, headers, ..Shown::default() };
        let prefixed = Shown { is_prefixed: true, ..both.clone() };
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let expired = Shown { expired: Some(at), ..both.clone() };
        let asked = |shown: &Shown, status, says: &ServerSays| shown.refused(Action::Missing, status, says);
        assert_eq!(
            asked(&both, 401, &itself),
            "; the token from /run/token is wrong or expired, or there is no such cache"
        );
        assert_eq!(
            asked(&both, 403, &ServerSays::default()),
            "; the server, or what stands in front of it, refuses the token from /run/token or the header `x-id` from \
             /run/id"
        );
        assert_eq!(
            asked(&expired, 401, &itself),
            format!("; the token from /run/token expired on {}: write a new one there", times::here(at))
        );
        assert_eq!(
            asked(&prefixed, 401, &itself),
            "; the token from /run/token begins with `Bearer `, which is no part of it: leave that word out"
        );
        let foreign = Shown { is_foreign: true, ..both.clone() };
        for status in [401, 403] {
            let told = asked(&foreign, status, &itself);
            assert!(told.starts_with("; the token from /run/token is no token of an Attic server's"), "{told}");
        }
        assert!(!asked(&foreign, 403, &ServerSays::default()).contains("Attic"), "what stands in front has others");
        assert!(asked(&nothing, 401, &itself).contains("the policy gives no `token`"));
        assert!(asked(&nothing, 401, &ServerSays::default()).contains("the policy gives it none"));
        assert!(nothing.refused(Action::Put, 401, &itself).contains("neither `token`, nor `user` and `password`"));
        assert!(both.refused(Action::Look, 403, &itself).contains("refuses the token from /run/token or the header"));
        assert_eq!(asked(&both, 500, &itself), "");
        assert_eq!(both.refused(Action::Upload, 403, &ServerSays::default()), "", "one path may be disliked");
        assert_eq!(nothing.refused(Action::Upstream, 401, &ServerSays::default()), "", "it is asked as anybody may");
    }
    #[test]
    fn an_object_store_that_is_taken_for_a_web_server_is_told_as_what_it_is() {
        // As Garage's website answers to PUT, and its API to those who sign nothing.
        let website = "<title>400 Bad Request</title>\n<h1>400 Bad Request</h1>\n<ul>\n<li>Code: InvalidRequest</li>\n\
                       <li>Message: Bad request: HTTP method not supported.</li>\n</ul>";
        let api = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>AccessDenied</Code><Message>Forbidden: Garage does \
                   not support anonymous access yet</Message><Resource>/nix/nix-cache-info</Resource></Error>";
        for (action, status, answer) in [(Action::Put, 400, website), (Action::Read, 403, api), (Action::Put, 403, api)]
        {
            let says = ServerSays::read(answer.as_bytes(), str::to_owned);
            let told = cure(action, status, &says, "http://h");
            assert!(told.contains("`s3://BUCKET?endpoint=…`"), "{action:?} {status}: {told}");
            assert_eq!(Shown::default().refused(action, status, &says), "", "other credentials are of no use");
        }
        let says = ServerSays::read(website.as_bytes(), str::to_owned);
        assert!(!cure(Action::Put, 500, &says, "http://h").contains("s3://"), "it may be well again");
        let page = ServerSays::read(b"<title>400 Bad Request</title>", str::to_owned);
        assert_eq!(cure(Action::Put, 400, &page, "http://h"), "");
    }
}
