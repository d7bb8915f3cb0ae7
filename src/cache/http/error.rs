//! What can go wrong between this host and a cache's server, and what that means.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use reqwest::header::{LOCATION, RETRY_AFTER};
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use rustls::AlertDescription;
use serde::Deserialize;

use super::cure::{cure, reason};
use crate::cache::Class;
use crate::secret::SecretError;

/// A server that asks for a pause and doesn't say how long is left alone for this time.
const UNTOLD_PAUSE: Duration = Duration::from_secs(5);

/// No pause is longer, whatever a server asks for: an hour's is taken for a mistake, and costs one request.
const LONGEST_PAUSE: Duration = Duration::from_secs(60 * 60);

/// Characters of a server's message that are passed on.
const LONGEST_MESSAGE: usize = 200;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// To learn whether it is there.
    Greeting,
    /// To learn what the cache is.
    Configuration,
    /// To learn what the cache lacks.
    Missing,
    /// To put a path there.
    Upload,
    /// To learn what an upstream cache has.
    Upstream,
}

/// Why a server didn't do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The request did not get through, or the answer did not get back.
    #[error("{action} at {host}")]
    Transport {
        /// What it was for.
        action: Action,
        /// Whose server.
        host: String,
        /// What went wrong, without the URL.
        source: reqwest::Error,
    },
    /// Whoever answers there can't prove to be the server.
    #[error(
        "{action} at {host}: its certificate is not trusted; where it is right, name its authority's with `ca_file`"
    )]
    Untrusted {
        /// What it was for.
        action: Action,
        /// Whose server.
        host: String,
        /// What is wrong with the certificate.
        source: rustls::Error,
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
    #[error("{action} at {host}: {}{says}{}", reason(*status), cure(*action, *status, host))]
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
    },
    /// The server sends us elsewhere, where nothing is sent: it might take what is meant for this server alone.
    #[error(
        "{action} at {host}: it redirects to {to}, which is not followed; if that is right, write that into the `url`"
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
    #[error("its credentials are missing")]
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
    pub(super) fn of_transport(action: Action, host: String, source: reqwest::Error) -> Self {
        let source = source.without_url();
        match tls_error(&source) {
            Some(source @ rustls::Error::InvalidCertificate(_)) => Self::Untrusted { action, host, source },
            Some(rustls::Error::AlertReceived(alert)) if wants_certificate(alert) => Self::Uncertified { action, host },
            _ => Self::Transport { action, host, source },
        }
    }

    pub(super) fn of_status(action: Action, host: String, head: Head, says: ServerSays) -> Self {
        let Head { status, retry_after, location } = head;
        if status.is_redirection() {
            return Self::Redirected { action, host, to: location.unwrap_or_else(|| "nowhere".to_owned()) };
        }
        Self::Status { action, host, status: status.as_u16(), says, retry_after }
    }

    /// What the failure means.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Transport { .. } | Self::Stalled { .. } => Class::Unavailable,
            Self::NotUnderstood { action: Action::Configuration, .. } => Class::CacheWaits,
            Self::NotUnderstood { .. } => Class::Unavailable,
            Self::Untrusted { .. }
            | Self::Uncertified { .. }
            | Self::Redirected { .. }
            | Self::File { .. }
            | Self::Unusable { .. } => Class::CacheWaits,
            Self::Secret { .. } | Self::StillRefused { .. } => Class::Credentials,
            Self::Status { action, status, says, retry_after, .. } => {
                class_of(*action == Action::Upload, *status, says, *retry_after)
            }
        }
    }

    /// Whether the server refuses what it was shown.
    pub(super) fn is_about_credentials(&self) -> bool {
        self.class() == Class::Credentials
    }
}

/// What a status means. `uploading`: the fault may be that of one path.
fn class_of(uploading: bool, status: u16, says: &ServerSays, retry_after: Option<Duration>) -> Class {
    let of_the_path = |class| if uploading { class } else { Class::CacheWaits };
    match status {
        401 => Class::Credentials,
        // A server that knows the token says so in its own words; what stands in front of it may dislike one path.
        403 if !uploading || says.error.is_some() => Class::Credentials,
        429 => Class::Throttled { after: retry_after.unwrap_or(UNTOLD_PAUSE).min(LONGEST_PAUSE) },
        503 => match retry_after {
            Some(after) => Class::Throttled { after: after.min(LONGEST_PAUSE) },
            None => Class::Unavailable,
        },
        // A proxy that cuts a body makes the server call the request bad. A time-out may be the path's size.
        400 | 408 | 504 | 524 if uploading => Class::Doubtful,
        408 | 421 | 423 | 425 | 500..=599 => Class::Unavailable,
        404 | 407 => Class::CacheWaits,
        _ => of_the_path(Class::Permanent),
    }
}

/// What a server says beside its status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerSays {
    /// Its own name for the error, where it has one: it is then the server itself that speaks.
    pub error: Option<String>,
    /// In its words, shortened, without secrets and what could play tricks on a terminal.
    pub message: String,
}

impl ServerSays {
    /// Reads Attic's form of an error, or plain text. Of a page that a proxy made, only its title is worth telling.
    pub(super) fn read(answer: &[u8], blacken: impl Fn(&str) -> String) -> Self {
        #[derive(Deserialize)]
        struct Structured {
            error: String,
            message: String,
        }
        if let Ok(Structured { error, message }) = serde_json::from_slice(answer) {
            return Self { error: Some(plain(&blacken(&error))), message: plain(&blacken(&message)) };
        }
        let text = String::from_utf8_lossy(answer);
        let text = match (text.find("<title>"), text.find("</title>")) {
            (Some(from), Some(to)) if from < to => &text[from + "<title>".len()..to],
            _ if text.trim_start().starts_with('<') => "",
            _ => &text,
        };
        Self { error: None, message: plain(&blacken(text)) }
    }
}

impl fmt::Display for ServerSays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() { Ok(()) } else { write!(f, ": {}", self.message) }
    }
}

fn plain(text: &str) -> String {
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
    words.join(" ").chars().take(LONGEST_MESSAGE).collect()
}

/// What stands above an answer.
pub(super) struct Head {
    pub(super) status: StatusCode,
    retry_after: Option<Duration>,
    location: Option<String>,
}

impl Head {
    pub(super) fn of(response: &Response) -> Self {
        let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let location = text(LOCATION).and_then(|location| response.url().join(location).ok());
        Self {
            status: response.status(),
            retry_after: text(RETRY_AFTER).and_then(|text| pause(text, SystemTime::now())),
            location: location.map(|url| origin(&url)),
        }
    }
}

/// `Retry-After`: seconds, or a date (RFC 9110, 10.2.3).
fn pause(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or(Duration::ZERO))
}

/// Whose server a request is for, as people write it.
pub(super) fn host_of(request: &RequestBuilder) -> String {
    let built = request.try_clone().and_then(|request| request.build().ok());
    built.map_or_else(|| "the server".to_owned(), |request| origin(request.url()))
}

/// `https://HOST:PORT`, without anything that could be secret.
pub(super) fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// What went wrong with the encryption, if that was it.
fn tls_error(error: &reqwest::Error) -> Option<rustls::Error> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        // Where it is hidden in an I/O error, that doesn't show it as its source.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let found = inner.and_then(|inner| inner.downcast_ref()).or_else(|| error.downcast_ref::<rustls::Error>());
        if found.is_some() {
            return found.cloned();
        }
        cause = inner.map(|inner| inner as &(dyn Error + 'static)).or_else(|| error.source());
    }
    None
}

/// Whether a server's alert says that it misses a client's certificate, or takes another.
fn wants_certificate(alert: AlertDescription) -> bool {
    use AlertDescription::{
        AccessDenied, BadCertificate, CertificateExpired, CertificateRequired, CertificateRevoked, CertificateUnknown,
        UnknownCA, UnsupportedCertificate,
    };
    matches!(
        alert,
        CertificateRequired
            | BadCertificate
            | CertificateExpired
            | CertificateRevoked
            | CertificateUnknown
            | UnsupportedCertificate
            | UnknownCA
            | AccessDenied
    )
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Greeting => "greet the server",
            Self::Configuration => "ask for the cache's configuration",
            Self::Missing => "ask what is missing",
            Self::Upload => "upload",
            Self::Upstream => "ask what an upstream cache has",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(action: Action, status: u16, answer: &str, retry_after: Option<Duration>) -> HttpError {
        let says = ServerSays::read(answer.as_bytes(), |text| text.replace("s3cret", "[secret]"));
        HttpError::Status { action, host: "https://cache.example.com".to_owned(), status, says, retry_after }
    }

    #[test]
    fn every_status_means_something_for_the_path_or_for_the_cache() {
        use Action::{Configuration, Missing, Upload};
        let attic = r#"{"code":403,"error":"AccessError","message":"no"}"#;
        for (action, code, answer, expected) in [
            (Upload, 401, "", Class::Credentials),
            (Missing, 401, "", Class::Credentials),
            (Upload, 403, attic, Class::Credentials),
            (Upload, 403, "<html>", Class::Permanent),
            (Missing, 403, "<html>", Class::Credentials),
            (Upload, 413, "", Class::Permanent),
            (Upload, 400, "", Class::Doubtful),
            (Missing, 400, "", Class::CacheWaits),
            (Upload, 504, "", Class::Doubtful),
            (Missing, 504, "", Class::Unavailable),
            (Upload, 500, "", Class::Unavailable),
            (Upload, 502, "", Class::Unavailable),
            (Configuration, 404, "", Class::CacheWaits),
            (Upload, 418, "", Class::Permanent),
            (Upload, 429, "", Class::Throttled { after: UNTOLD_PAUSE }),
            (Upload, 503, "", Class::Unavailable),
        ] {
            assert_eq!(status(action, code, answer, None).class(), expected, "{action}: {code} {answer}");
        }
        let asked = status(Upload, 503, "", Some(Duration::from_secs(7))).class();
        assert_eq!(asked, Class::Throttled { after: Duration::from_secs(7) });
        let day = status(Upload, 429, "", Some(Duration::from_secs(86_400))).class();
        assert_eq!(day, Class::Throttled { after: LONGEST_PAUSE });
    }

    #[test]
    fn messages_name_the_cure_and_no_secret() {
        let too_large = status(Action::Upload, 413, "<html><title>413 Too\nLarge</title>s3cret", None).to_string();
        assert!(too_large.starts_with("upload at https://cache.example.com: 413 Payload Too Large: 413 Too Large; "));
        assert!(too_large.contains("client_max_body_size"), "{too_large}");
        let echo = status(Action::Missing, 400, "you sent s3cret\u{1b}[2J", None).to_string();
        assert!(echo.contains("you sent [secret] [2J"), "{echo:?}");
        let long = status(Action::Missing, 400, &"word ".repeat(1000), None).to_string();
        assert!(long.len() < 400, "{long}");
    }

    #[test]
    fn a_pause_is_read_in_seconds_and_as_a_date() {
        let now = httpdate::parse_http_date("Tue, 24 Nov 2026 10:00:00 GMT").expect("a date");
        assert_eq!(pause(" 120 ", now), Some(Duration::from_secs(120)));
        assert_eq!(pause("Tue, 24 Nov 2026 10:00:30 GMT", now), Some(Duration::from_secs(30)));
        assert_eq!(pause("Tue, 24 Nov 2026 09:00:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(pause("soon", now), None);
    }
}
