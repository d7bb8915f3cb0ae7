//! What a server answers beside what it was asked for.

use std::time::{Duration, SystemTime};

use reqwest::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, LOCATION, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use serde::Deserialize;

use super::error::address;

/// Characters of a server's message that are passed on.
const LONGEST_MESSAGE: usize = 200;

/// What a server says beside its status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerSays {
    /// Who says it, by the form in which it is said.
    pub speaker: Speaker,
    /// In its words, shortened, without secrets and what could play tricks on a terminal.
    pub message: String,
}

/// Who answers, by the form of what is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Speaker {
    /// Any server, or what stands in front of one.
    #[default]
    Unknown,
    /// An Attic server itself, which names its errors.
    Attic,
    /// An object store, or the website of one.
    ObjectStore,
}

impl ServerSays {
    /// Reads Attic's form of an error, or plain text. Of a page that a proxy made, only its title is worth telling.
    pub(super) fn read(answer: &[u8], blacken: impl Fn(&str) -> String) -> Self {
        #[derive(Deserialize)]
        struct Structured {
            #[serde(rename = "error")]
            _name: String,
            message: String,
        }
        if let Ok(Structured { message, .. }) = serde_json::from_slice(answer) {
            return Self { speaker: Speaker::Attic, message: plain(&blacken(&message)) };
        }
        let text = String::from_utf8_lossy(answer);
        // S3's form of an error, and what its websites make of that; Garage does as Amazon does.
        let is_a_stores = text.contains("<Error>") && text.contains("<Code>") || text.contains("<li>Code: ");
        let speaker = if is_a_stores { Speaker::ObjectStore } else { Speaker::Unknown };
        let text = match (text.find("<title>"), text.find("</title>")) {
            (Some(from), Some(to)) if from < to => &text[from + "<title>".len()..to],
            _ if text.trim_start().starts_with('<') => "",
            _ => &text,
        };
        Self { speaker, message: plain(&blacken(text)) }
    }
}

impl ServerSays {
    /// Whether an Attic server itself speaks, and nothing that stands in front of it.
    pub(in crate::cache) fn is_attics(&self) -> bool {
        self.speaker == Speaker::Attic
    }

    /// Whether an object store speaks, or the website of one.
    pub(super) fn is_an_object_stores(&self) -> bool {
        self.speaker == Speaker::ObjectStore
    }

    /// Whether it says that it speaks TLS at that port, and was asked without.
    pub(super) fn wants_encryption(&self) -> bool {
        wants_encryption(&self.message)
    }

    /// What it says beyond its status, which many repeat: `: …`; nothing where there is no more.
    pub(super) fn beside(&self, status: u16) -> String {
        beside(status, &self.message)
    }
}

/// Whether a server says that it speaks TLS at that port, and was asked without: in nginx's words, Apache's, or Go's.
pub(in crate::cache) fn wants_encryption(says: &str) -> bool {
    [
        "plain HTTP request was sent to HTTPS port",
        "speaking plain HTTP to an SSL-enabled server",
        "HTTP request to an HTTPS server",
    ]
    .iter()
    .any(|words| says.contains(words))
}

/// What a server says beyond its status: `: …`; nothing where there is no more.
pub(in crate::cache) fn beside(status: u16, message: &str) -> String {
    let known = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or_default();
    let rest = without(message, &status.to_string());
    // What to do comes behind it, after a semicolon.
    let rest = without(rest, known).trim_end_matches(|c: char| c == '.' || c.is_whitespace());
    if rest.is_empty() { String::new() } else { format!(": {rest}") }
}

/// A text without these words at its beginning, and what stands between them and the rest.
fn without<'t>(text: &'t str, words: &str) -> &'t str {
    let between = |c: char| c.is_whitespace() || matches!(c, ':' | '-' | '–' | '.' | ',' | ';');
    match text.get(..words.len()) {
        Some(begins) if begins.eq_ignore_ascii_case(words) => {
            let rest = &text[words.len()..];
            // `5000` doesn't begin with 500, nor `Conflicting` with `Conflict`.
            if rest.is_empty() || rest.starts_with(between) { rest.trim_start_matches(between) } else { text }
        }
        _ => text,
    }
}

/// A server's text in one line, shortened, and without what could play tricks on a terminal.
pub(crate) fn plain(text: &str) -> String {
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
    words.join(" ").chars().take(LONGEST_MESSAGE).collect()
}

/// What was asked for.
pub struct Answer {
    /// One of success.
    pub status: StatusCode,
    /// As it came.
    pub content: Vec<u8>,
    /// How many bytes the file has that was asked for, of which the content may be a part or, after HEAD, nothing; as far as
    /// the server says that.
    pub size: Option<u64>,
}

/// What stands above an answer.
pub(super) struct Head {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<Duration>,
    pub(super) location: Option<String>,
    /// How many bytes the file has that was asked for, as far as that is said.
    pub(super) size: Option<u64>,
}

impl Head {
    pub(super) fn of(response: &Response) -> Self {
        let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let location = text(LOCATION).and_then(|location| response.url().join(location).ok());
        Self {
            status: response.status(),
            retry_after: text(RETRY_AFTER).and_then(|text| pause(text, SystemTime::now())),
            location: location.map(|url| address(&url)),
            size: size(response.headers()),
        }
    }
}

/// How many bytes a file has, by the head of an answer to HEAD, or to GET for all of it or a part (RFC 9110, 8.6 and 14.4).
fn size(headers: &HeaderMap) -> Option<u64> {
    // What is packed for the way is another size.
    if headers.contains_key(CONTENT_ENCODING) {
        return None;
    }
    let text = |name| headers.get(name)?.to_str().ok();
    match text(CONTENT_RANGE) {
        Some(range) => range.rsplit_once('/')?.1.trim().parse().ok(),
        None => text(CONTENT_LENGTH)?.trim().parse().ok(),
    }
}

/// `Retry-After`: seconds, or a date (RFC 9110, 10.2.3).
pub(in crate::cache) fn pause(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn what_a_server_says_of_its_status_is_said_once() {
        for (status, message, expected) in [
            (429, "429 Too Many Requests", ""),
            (429, "Too Many Requests", ""),
            (429, "429 Too Many Requests: come back at noon", ": come back at noon"),
            (429, "too many requests. come back", ": come back"),
            (413, "413 Request Entity Too Large", ": Request Entity Too Large"),
            (409, "Conflicting names", ": Conflicting names"),
            (500, "5000 errors", ": 5000 errors"),
            (599, "no", ": no"),
            (500, "", ""),
            (401, "Unauthorized.", ""),
            (403, "You may not complete this action.", ": You may not complete this action"),
        ] {
            assert_eq!(beside(status, message), expected, "{message}");
        }
    }

    #[test]
    fn the_size_of_a_file_is_that_of_all_of_it() {
        let size_of = |lines: &[(HeaderName, &'static str)]| {
            size(&lines.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect())
        };
        assert_eq!(size_of(&[(CONTENT_LENGTH, "1234")]), Some(1234));
        assert_eq!(size_of(&[(CONTENT_LENGTH, "0")]), Some(0));
        assert_eq!(size_of(&[(CONTENT_LENGTH, "1"), (CONTENT_RANGE, "bytes 0-0/1234")]), Some(1234));
        assert_eq!(size_of(&[(CONTENT_LENGTH, "1"), (CONTENT_RANGE, "bytes 0-0/*")]), None);
        assert_eq!(size_of(&[(CONTENT_LENGTH, "99"), (CONTENT_ENCODING, "gzip")]), None);
        assert_eq!(size_of(&[]), None);
    }

    #[test]
    fn who_speaks_tls_and_is_asked_without_is_told_from_others() {
        let says = |page: &str| ServerSays::read(page.as_bytes(), str::to_owned).wants_encryption();
        assert!(says("<html><head><title>400 The plain HTTP request was sent to HTTPS port</title></head></html>"));
        assert!(says("Client sent an HTTP request to an HTTPS server.\n"));
        assert!(!says("<title>400 Bad Request</title>"));
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
