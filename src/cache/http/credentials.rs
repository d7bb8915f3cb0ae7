//! What a server is shown: a token, and headers for what stands in front of it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use reqwest::RequestBuilder;
use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use super::answer::Head;
use super::{Action, HttpError, ServerSays, cure, expiry};
use crate::secret::{Fingerprint, Provider, Secret, SecretError};

/// After so long a server that has refused these credentials is asked again: it may have been told to take them.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// What a server is shown, and whether it has refused it. It outlives the opened cache, so that a server isn't asked
/// again and again with what it refused.
#[derive(Default)]
pub struct Credentials {
    token: Option<Provider>,
    headers: Vec<(HeaderName, Header)>,
    refused: Mutex<Option<Refused>>,
}

/// A header's value.
pub enum Header {
    /// As it is.
    Plain(HeaderValue),
    /// A secret.
    Secret(Provider),
}

struct Refused {
    at: Instant,
    fingerprints: Vec<Fingerprint>,
    why: String,
}

/// What one request shows.
pub(super) struct Shown {
    secrets: Vec<Secret>,
    headers: Vec<(HeaderName, HeaderValue)>,
    fingerprints: Vec<Fingerprint>,
}

impl Credentials {
    /// Shows this token as a bearer's, and these headers.
    #[must_use]
    pub fn new(token: Option<Provider>, headers: Vec<(HeaderName, Header)>) -> Self {
        Self { token, headers, refused: Mutex::new(None) }
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
        let refused = self.lock();
        match &*refused {
            Some(refused) if refused.fingerprints == fingerprints && refused.at.elapsed() < ASK_AGAIN => {
                Err(HttpError::StillRefused { why: refused.why.clone() })
            }
            _ => Ok(()),
        }
    }

    fn providers(&self) -> impl Iterator<Item = &Provider> {
        let headers = self.headers.iter().filter_map(|(_, value)| match value {
            Header::Secret(provider) => Some(provider),
            Header::Plain(_) => None,
        });
        self.token.iter().chain(headers)
    }

    async fn fingerprints(&self) -> Vec<Fingerprint> {
        let mut fingerprints = Vec::new();
        for provider in self.providers() {
            fingerprints.push(provider.fingerprint().await);
        }
        fingerprints
    }

    pub(super) async fn shown(&self) -> Result<Shown, SecretError> {
        let (mut secrets, mut headers) = (Vec::new(), Vec::new());
        if let Some(provider) = &self.token {
            let token = provider.get().await?;
            headers.push((AUTHORIZATION, secret_value(&Zeroizing::new(format!("bearer {}", token.expose())))));
            secrets.push(token);
        }
        for (name, value) in &self.headers {
            match value {
                Header::Plain(value) => headers.push((name.clone(), value.clone())),
                Header::Secret(provider) => {
                    let secret = provider.get().await?;
                    headers.push((name.clone(), secret_value(secret.expose())));
                    secrets.push(secret);
                }
            }
        }
        let fingerprints = secrets.iter().map(Fingerprint::of).collect();
        Ok(Shown { secrets, headers, fingerprints })
    }

    /// The server took them.
    pub(super) fn accepted(&self) {
        *self.lock() = None;
    }

    /// The server refused them, and says why.
    pub(super) async fn refused(&self, shown: &Shown, why: String) {
        *self.lock() = Some(Refused { at: Instant::now(), fingerprints: shown.fingerprints.clone(), why });
        // A command may have a new one to give.
        for (provider, secret) in self.providers().zip(&shown.secrets) {
            provider.refresh(secret).await;
        }
    }

    /// What of all that a server may have refused, in words, at the end of a message.
    pub(super) fn refused_words(&self, shown: &Shown, action: Action, head: &Head, says: &ServerSays) -> String {
        let token = self.token.as_ref().map(|provider| provider.source().to_string());
        // The token is the first.
        let own_word = shown.secrets.first().filter(|_| token.is_some()).and_then(|token| expiry(token.expose()));
        let header = |(name, value): &(HeaderName, Header)| match value {
            Header::Plain(_) => format!("`{name}`"),
            Header::Secret(provider) => format!("`{name}` from {}", provider.source()),
        };
        let words = cure::Shown {
            token,
            expired: own_word.filter(|at| *at < SystemTime::now()),
            headers: self.headers.iter().map(header).collect(),
        };
        words.refused(action, head.status.as_u16(), says)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Refused>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// What a server says, without the secrets that it may repeat.
    pub(super) fn blacken(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret.expose(), "[secret]"))
    }
}
