//! What a server is shown: who this is, and headers for what stands in front of it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::RequestBuilder;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use super::answer::Head;
use super::{Action, HttpError, ServerSays, cure, expiry, is_prefixed, is_web_token};
use crate::secret::{Fingerprint, Provider, Secret, SecretError, blackened};

/// After so long a server that has refused these credentials is asked again: it may have been told to take them. Each time
/// that it refuses them again the pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(10);

/// No pause is longer: whoever has the server take them sees it asked within this time. Other credentials are tried at once.
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);

/// What a server is shown, and whether it has refused it. It outlives the opened cache, so that a server isn't asked
/// again and again with what it refused.
#[derive(Default)]
pub struct Credentials {
    proof: Option<Proof>,
    headers: Vec<(HeaderName, Header)>,
    /// For each thing that was refused: who may ask a server what it has may yet not put anything there.
    refused: Mutex<Vec<Refused>>,
}

/// How a server learns who this is.
pub enum Proof {
    /// By a token, as a bearer (RFC 6750).
    Bearer(Provider),
    /// By a user's name and password (RFC 7617).
    Basic {
        /// The name, without a colon.
        user: String,
        /// The password.
        password: Provider,
    },
    /// The same, by a secret that has both: `USER:PASSWORD`.
    Login(Provider),
}

impl Proof {
    fn provider(&self) -> &Provider {
        match self {
            Self::Bearer(provider) | Self::Basic { password: provider, .. } | Self::Login(provider) => provider,
        }
    }

    /// What it is, in words, and where it comes from.
    fn in_words(&self) -> String {
        let what = match self {
            Self::Bearer(_) => "the token",
            Self::Basic { .. } => "`user` or the password",
            Self::Login(_) => "the login",
        };
        format!("{what} from {}", self.provider().source())
    }

    /// The value of the header, and what of it must show nowhere.
    fn header(&self, secret: &Secret) -> (HeaderValue, Vec<Zeroizing<String>>) {
        let hidden = Zeroizing::new(secret.expose().to_owned());
        let basic = |login: Zeroizing<String>| {
            let encoded = Zeroizing::new(STANDARD.encode(login.as_bytes()));
            let value = secret_value(&Zeroizing::new(format!("Basic {}", *encoded)));
            let (_, password) = login.split_once(':').unwrap_or(("", &login));
            (value, vec![encoded, Zeroizing::new(password.to_owned()), login])
        };
        match self {
            Self::Bearer(_) => (secret_value(&Zeroizing::new(format!("bearer {}", *hidden))), vec![hidden]),
            Self::Basic { user, .. } => basic(Zeroizing::new(format!("{user}:{}", *hidden))),
            Self::Login(_) => basic(hidden),
        }
    }
}

/// A header's value.
pub enum Header {
    /// As it is.
    Plain(HeaderValue),
    /// A secret.
    Secret(Provider),
}

#[derive(Clone, Debug)]
struct Refused {
    action: Action,
    at: Instant,
    pause: Duration,
    fingerprints: Vec<Fingerprint>,
    why: String,
}

/// What one request shows.
pub(in crate::cache) struct Shown {
    secrets: Vec<Secret>,
    /// What must show nowhere: the secrets, and other ways of writing them.
    hidden: Vec<Zeroizing<String>>,
    headers: Vec<(HeaderName, HeaderValue)>,
    fingerprints: Vec<Fingerprint>,
}

impl Credentials {
    /// Shows who this is by that proof, and these headers.
    #[must_use]
    pub fn new(proof: Option<Proof>, headers: Vec<(HeaderName, Header)>) -> Self {
        Self { proof, headers, refused: Mutex::default() }
    }

    /// Whether anything secret is shown at all.
    #[must_use]
    pub fn has_secrets(&self) -> bool {
        self.providers().next().is_some()
    }

    /// Says at once, without asking the server, if it has just refused what there is to show.
    ///
    /// # Errors
    /// [`HttpError::StillRefused`]; [`HttpError::Secret`] where a secret can't be had.
    pub async fn check(&self) -> Result<(), HttpError> {
        for provider in self.providers() {
            provider.get().await.map_err(|source| HttpError::Secret { source })?;
        }
        let fingerprints = self.fingerprints().await;
        let now = Instant::now();
        match self.lock().iter().find(|refused| refused.fingerprints == fingerprints && refused.is_fresh(now)) {
            Some(refused) => Err(HttpError::StillRefused { why: refused.why.clone() }),
            None => Ok(()),
        }
    }

    /// Somebody has mended the server: it is asked again at once, with whatever it has refused.
    pub fn forgive(&self) {
        self.lock().clear();
    }

    fn providers(&self) -> impl Iterator<Item = &Provider> {
        let headers = self.headers.iter().filter_map(|(_, value)| match value {
            Header::Secret(provider) => Some(provider),
            Header::Plain(_) => None,
        });
        self.proof.iter().map(Proof::provider).chain(headers)
    }

    async fn fingerprints(&self) -> Vec<Fingerprint> {
        let mut fingerprints = Vec::new();
        for provider in self.providers() {
            fingerprints.push(provider.fingerprint().await);
        }
        fingerprints
    }

    /// What the next request shows.
    pub(in crate::cache) async fn shown(&self) -> Result<Shown, SecretError> {
        let (mut secrets, mut headers, mut hidden) = (Vec::new(), Vec::new(), Vec::new());
        if let Some(proof) = &self.proof {
            let secret = proof.provider().get().await?;
            let (value, more) = proof.header(&secret);
            headers.push((AUTHORIZATION, value));
            hidden.extend(more);
            secrets.push(secret);
        }
        for (name, value) in &self.headers {
            match value {
                Header::Plain(value) => headers.push((name.clone(), value.clone())),
                Header::Secret(provider) => {
                    let secret = provider.get().await?;
                    headers.push((name.clone(), secret_value(secret.expose())));
                    hidden.push(Zeroizing::new(secret.expose().to_owned()));
                    secrets.push(secret);
                }
            }
        }
        let fingerprints = secrets.iter().map(Fingerprint::of).collect();
        Ok(Shown { secrets, hidden, headers, fingerprints })
    }

    /// The server took them for that. Who may put things there need not be allowed to read them.
    pub(super) fn accepted(&self, action: Action) {
        let mut refused = self.lock();
        match action {
            Action::Upload | Action::Put => refused.clear(),
            _ => refused.retain(|refused| refused.action != action),
        }
    }

    /// The server refused them for that, and says why.
    pub(super) async fn refused(&self, shown: &Shown, action: Action, why: String) {
        {
            let (mut refused, now) = (self.lock(), Instant::now());
            let before = refused.iter().position(|refused| refused.action == action).map(|at| refused.swap_remove(at));
            let same = before.filter(|before| before.fingerprints == shown.fingerprints);
            let (at, pause) = same.map_or((now, FIRST_PAUSE), |same| same.again(now));
            refused.push(Refused { action, at, pause, fingerprints: shown.fingerprints.clone(), why });
        }
        // A command may have a new one to give.
        for (provider, secret) in self.providers().zip(&shown.secrets) {
            provider.refresh(secret).await;
        }
    }

    /// What of all that a server may have refused, in words, at the end of a message.
    pub(super) fn refused_words(&self, shown: &Shown, action: Action, head: &Head, says: &ServerSays) -> String {
        // The proof is the first of the secrets, and a token may say until when it holds.
        let token = shown.secrets.first().filter(|_| matches!(self.proof, Some(Proof::Bearer(_))));
        let own_word = token.and_then(|token| expiry(token.expose()));
        let header = |(name, value): &(HeaderName, Header)| match value {
            Header::Plain(_) => format!("`{name}`"),
            Header::Secret(provider) => format!("`{name}` from {}", provider.source()),
        };
        let words = cure::Shown {
            proof: self.proof.as_ref().map(Proof::in_words),
            expired: own_word.filter(|at| *at < SystemTime::now()),
            is_foreign: token.is_some_and(|token| !is_web_token(token.expose())),
            is_prefixed: token.is_some_and(|token| is_prefixed(token.expose())),
            headers: self.headers.iter().map(header).collect(),
        };
        words.refused(action, head.status.as_u16(), says)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Refused>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Refused {
    /// Whether the server isn't asked again yet.
    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < self.pause
    }

    /// From when on, and for how long it isn't asked, now that it has refused the same again.
    fn again(&self, now: Instant) -> (Instant, Duration) {
        // Many requests at once are refused together: that is one refusal.
        if self.is_fresh(now) { (self.at, self.pause) } else { (now, (self.pause * 2).min(LONGEST_PAUSE)) }
    }
}

/// A header that no log shows. A secret has no control characters, so that it always is one.
fn secret_value(text: &str) -> HeaderValue {
    let mut value = HeaderValue::from_bytes(text.as_bytes()).unwrap_or(HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

impl Shown {
    /// Puts everything into a request.
    pub(super) fn dress(&self, mut request: RequestBuilder) -> RequestBuilder {
        for (name, value) in &self.headers {
            request = request.header(name, value.clone());
        }
        request
    }

    /// Puts everything into the head of a request.
    pub(in crate::cache) fn dress_head(&self, head: &mut HeaderMap) {
        head.extend(self.headers.iter().cloned());
    }

    /// What must show nowhere.
    pub(in crate::cache) fn hidden(&self) -> impl Iterator<Item = &str> {
        self.hidden.iter().map(|hidden| hidden.as_str())
    }

    /// What a server says, without the secrets that it may repeat.
    pub(super) fn blacken(&self, text: &str) -> String {
        blackened(text, self.hidden())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::secret::{Source, write_new};

    #[test]
    fn who_is_refused_again_and_again_asks_less_and_less_often() {
        let start = Instant::now();
        let mut refused = Refused {
            action: Action::Upload,
            at: start,
            pause: FIRST_PAUSE,
            fingerprints: Vec::new(),
            why: String::new(),
        };
        let (mut now, mut asked) = (start, 0);
        while now < start + LONGEST_PAUSE * 10 {
            let at_once = refused.again(now + FIRST_PAUSE / 2);
            assert_eq!(at_once, (refused.at, refused.pause), "what is refused together is refused once");
            now = refused.at + refused.pause;
            assert!(!refused.is_fresh(now) && refused.is_fresh(now - Duration::from_millis(1)));
            (refused.at, refused.pause) = refused.again(now);
            asked += 1;
        }
        assert_eq!(refused.pause, LONGEST_PAUSE);
        assert!((10..=16).contains(&asked), "{asked}");
    }

    #[test]
    fn a_token_is_told_from_a_header() {
        for (token, prefixed) in
            [("Bearer abc", true), ("bearer abc", true), ("abc", false), ("bearer", false), ("", false)]
        {
            assert_eq!(is_prefixed(token), prefixed, "{token}");
        }
    }

    #[tokio::test]
    async fn another_secret_is_tried_at_once_and_what_is_read_says_nothing_of_what_is_written() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("token");
        let write = |token: &str| {
            let _ = std::fs::remove_file(&file);
            write_new(&file, token).expect("written");
        };
        write("first");
        let provider = || Provider::new(Source::file(file.clone()), Path::new("/nix/store"), None);
        let credentials = Credentials::new(Some(Proof::Bearer(provider())), Vec::new());
        let refuse = async || {
            let shown = credentials.shown().await.expect("a token");
            credentials.refused(&shown, Action::Upload, "no".to_owned()).await;
        };
        refuse().await;
        assert!(credentials.check().await.is_err());
        credentials.accepted(Action::Configuration);
        assert!(credentials.check().await.is_err(), "it may be read, and still not be written");
        credentials.accepted(Action::Upload);
        assert!(credentials.check().await.is_ok());
        refuse().await;
        credentials.forgive();
        assert!(credentials.check().await.is_ok(), "the server may have been mended");
        refuse().await;
        write("second");
        // A provider of its own, which hasn't kept the first one.
        let anew = || Credentials {
            refused: Mutex::new(credentials.lock().clone()),
            ..Credentials::new(Some(Proof::Bearer(provider())), Vec::new())
        };
        assert!(anew().check().await.is_ok(), "another one");
        write("first");
        assert!(anew().check().await.is_err(), "the same again");
    }
}
