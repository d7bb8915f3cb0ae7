//! What can go wrong between this host and a cache's server, and what that means.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::{RequestBuilder, Url};
use rustls::InvalidMessage;

use super::Action;
use super::answer::{Head, ServerSays};
use super::cure::{cure, distrust, reason};
use super::status::class_of;
use super::tls::{is_an_authoritys, tls_error, wants_certificate};
use crate::cache::Class;
use crate::secret::SecretError;

/// Why a server didn't do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The request did not get through, or the answer did not get back.
    #[error("{action} at {host}: {}", innermost(error))]
    Transport {
        /// What it was for.
        action: Action,
        /// Whose server.
        host: String,
        /// What went wrong, without the URL. Only its last cause is told: those above say that a request has failed.
        error: reqwest::Error,
    },
    /// Whoever answers there can't prove to be the server.
    #[error("{action} at {host}: {}", distrust(source))]
    Untrusted {
        /// What it was for.
        action: Action,
        /// Whose server.
        host: String,
        /// What is wrong with the certificate.
        source: rustls::Error,
    },
    /// What answers there shows an authority's certificate in place of a server's.
    #[error("{action} at {host}: its certificate is one of an authority (CA:TRUE), which can't be a server's as well")]
    AuthoritysCertificate {
        /// What it was for.
        action: Action,
        /// Whose server.
        host: String,
    },
    /// That went wrong at an address that isn't in the policy: the cache's server named it.
    #[error(
        "the server at {server} names another address for its API (by `api-endpoint` in its configuration, or made up of \
         the request where that has none)"
    )]
    Named {
        /// The server that the policy names.
        server: String,
        /// What went wrong at the other address.
        source: Box<Self>,
    },
    /// What answers there doesn't encrypt.
    #[error(
        "{action} at {host}: this port does not speak https, but http, it seems; give the port that does, or write \
         `http` in place of `https` (with a secret only where the server is on this host, or with `allow_unencrypted = true`)"
    )]
    NotEncrypted {
        /// What it was for.
        action: Action,
        /// Whose server.
        host: String,
    },
    /// The server wants to know who speaks.
    #[error(
        "{action} at {host}: it asks for a client certificate, and takes none or another; give `client_certificate` and \
         `client_key`"
    )]
    Uncertified {
        /// What it was for.
        action: Action,
        /// Whose server.
        host: String,
    },
    /// Nothing moves any more.
    #[error("{action} at {host}: nothing has moved for {} s", after.as_secs())]
    Stalled {
        /// What it was for.
        action: Action,
        /// Whose server.
        host: String,
        /// For how long.
        after: Duration,
    },
    /// The server says no.
    #[error("{action} at {host}: {}{}{}{refused}", reason(*status), says.beside(*status), cure(*action, *status, says, host))]
    Status {
        /// What it was for.
        action: Action,
        /// Whose server.
        host: String,
        /// The status.
        status: u16,
        /// What it says beside it.
        says: ServerSays,
        /// The pause that it asks for.
        retry_after: Option<Duration>,
        /// `; …`, what it was shown and refuses, if that is why.
        refused: String,
    },
    /// The server sends us elsewhere, where nothing is sent: it might take what is meant for this server alone.
    #[error(
        "{action} at {host}: it redirects to {to}, which is not followed; if the cache is there, write that into the `url`"
    )]
    Redirected {
        /// What it was for.
        action: Action,
        /// Whose server.
        host: String,
        /// Where to.
        to: String,
    },
    /// It answers, but not as such a server does.
    #[error("{action} at {host}: {problem}")]
    NotUnderstood {
        /// What it was for.
        action: Action,
        /// Whose server.
        host: String,
        /// What is wrong with the answer.
        problem: String,
    },
    /// A secret that the server is to be shown can't be had.
    #[error("its credentials can't be had")]
    Secret {
        /// Why.
        source: SecretError,
    },
    /// The server has refused these credentials a moment ago; it is not asked again before there are others.
    #[error("{why}")]
    StillRefused {
        /// What it said.
        why: String,
    },
    /// It could not be asked a moment ago, and isn't asked again so soon.
    #[error("{why}")]
    Away {
        /// Why it could not be asked.
        why: String,
    },
    /// A certificate can't be used.
    #[error("{}: {problem}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// No client can be made of what the policy says.
    #[error("make ready to speak HTTP")]
    Unusable {
        /// Why not.
        source: reqwest::Error,
    },
}

impl HttpError {
    pub(in crate::cache) fn of_transport(action: Action, host: String, source: reqwest::Error) -> Self {
        let source = source.without_url();
        match tls_error(&source) {
            Some(rustls::Error::InvalidCertificate(error)) if is_an_authoritys(&error) => {
                Self::AuthoritysCertificate { action, host }
            }
            Some(source @ rustls::Error::InvalidCertificate(_)) => Self::Untrusted { action, host, source },
            // Where the first byte of a record should be stands another, such as the H of `HTTP/1.1`.
            Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
                Self::NotEncrypted { action, host }
            }
            Some(rustls::Error::AlertReceived(alert)) if wants_certificate(alert) => Self::Uncertified { action, host },
            _ => Self::Transport { action, host, error: source },
        }
    }

    pub(super) fn of_status(action: Action, host: String, head: Head, says: ServerSays) -> Self {
        let Head { status, retry_after, location, size: _ } = head;
        if status.is_redirection() {
            return Self::Redirected { action, host, to: location.unwrap_or_else(|| "nowhere".to_owned()) };
        }
        Self::Status { action, host, status: status.as_u16(), says, retry_after, refused: String::new() }
    }

    /// The same, where it may be because of an address that this server has named, and the policy hasn't.
    pub(in crate::cache) fn named_by(self, server: &Url) -> Self {
        match self {
            Self::Transport { .. }
            | Self::Stalled { .. }
            | Self::Untrusted { .. }
            | Self::AuthoritysCertificate { .. }
            | Self::NotEncrypted { .. }
            | Self::Redirected { .. } => Self::Named { server: origin(server), source: Box::new(self) },
            other => other,
        }
    }

    /// Says what was shown and refused.
    pub(super) fn refusing(mut self, what: String) -> Self {
        if let Self::Status { refused, .. } = &mut self {
            *refused = what;
        }
        self
    }

    /// What the failure means.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Transport { .. } | Self::Stalled { .. } | Self::Away { .. } => Class::Unavailable,
            Self::NotUnderstood { action: Action::Configuration, .. } => Class::CacheWaits,
            Self::NotUnderstood { .. } => Class::Unavailable,
            Self::Named { source, .. } => source.class(),
            Self::Untrusted { .. }
            | Self::AuthoritysCertificate { .. }
            | Self::NotEncrypted { .. }
            | Self::Uncertified { .. }
            | Self::Redirected { .. }
            | Self::File { .. }
            | Self::Unusable { .. } => Class::CacheWaits,
            Self::Secret { .. } | Self::StillRefused { .. } => Class::Credentials,
            Self::Status { action, status, says, retry_after, .. } => class_of(*action, *status, says, *retry_after),
        }
    }

    /// Whether the server refuses what it was shown.
    pub(in crate::cache) fn is_about_credentials(&self) -> bool {
        self.class() == Class::Credentials
    }
}

/// What a request asks for.
pub(super) fn url_of(request: &RequestBuilder) -> Option<Url> {
    let built = request.try_clone().and_then(|request| request.build().ok())?;
    Some(built.url().clone())
}

/// Whose server that is, as people write it.
pub(super) fn host_of(url: Option<&Url>) -> String {
    url.map_or_else(|| "the server".to_owned(), origin)
}

/// `https://HOST:PORT`, without anything that could be secret.
pub(in crate::cache) fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// A server and what is asked of it, as messages call it: without a query, which may be a secret.
pub(in crate::cache) fn address(url: &Url) -> String {
    match url.path() {
        "/" => origin(url),
        path => format!("{}{path}", origin(url)),
    }
}

/// What an error comes from in the end.
fn innermost(error: &reqwest::Error) -> &(dyn Error + 'static) {
    let mut cause: &(dyn Error + 'static) = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(action: Action, status: u16, answer: &str, retry_after: Option<Duration>) -> HttpError {
        let says = ServerSays::read(answer.as_bytes(), |text| text.replace("s3cret", "[secret]"));
        HttpError::Status {
            action,
            host: "https://cache.example.com".to_owned(),
            status,
            says,
            retry_after,
            refused: String::new(),
        }
    }

    #[test]
    fn an_address_that_the_server_has_named_is_told_as_such_where_it_may_be_at_fault() {
        let server = Url::parse("https://cache.example.com/").expect("a URL");
        let stalled = HttpError::Stalled {
            action: Action::Missing,
            host: "http://localhost:8080".to_owned(),
            after: Duration::from_secs(1),
        };
        let named = stalled.named_by(&server);
        assert_eq!(named.class(), Class::Unavailable);
        let told = crate::report::one_line(&named);
        assert!(
            told.starts_with("the server at https://cache.example.com names another address for its API"),
            "{told}"
        );
        assert!(
            told.contains("`api-endpoint`") && told.contains("at http://localhost:8080: nothing has moved"),
            "{told}"
        );
        assert!(named.hint().is_some_and(|cure| cure.contains("`api-endpoint`") && !cure.contains("`url` right")));
        let refused = status(Action::Missing, 403, "", None).named_by(&server);
        assert!(matches!(refused, HttpError::Status { .. }), "the address is right");
    }

    #[test]
    fn messages_name_the_cure_and_no_secret() {
        let too_large = status(Action::Upload, 413, "<html><title>413 Too\nLarge</title>s3cret", None).to_string();
        assert!(too_large.starts_with("upload at https://cache.example.com: 413 Payload Too Large: Too Large; "));
        assert!(too_large.contains("client_max_body_size"), "{too_large}");
        let read_only = status(Action::Put, 405, "<html>", None).to_string();
        assert!(
            read_only.starts_with("upload at https://cache.example.com: 405 Method Not Allowed; the server does not")
        );
        let echo = status(Action::Missing, 400, "you sent s3cret\u{1b}[2J", None).to_string();
        assert!(echo.contains("you sent [secret] [2J"), "{echo:?}");
        let long = status(Action::Missing, 400, &"word ".repeat(1000), None).to_string();
        assert!(long.len() < 400, "{long}");
    }
}
