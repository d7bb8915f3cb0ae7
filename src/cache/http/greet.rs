//! Whether a server is there, how quickly it answers, and what time it has.

use std::time::{Duration, Instant, SystemTime};

use reqwest::header::DATE;
use reqwest::{StatusCode, Url};

use super::answer::Head;
use super::error::origin;
use super::{ANSWERING_BRIEFLY, Action, Http, HttpError, Movement, ServerSays};

/// What came of greeting a server.
#[derive(Clone, Copy, Debug)]
pub struct Greeting {
    /// The time from the request to the answer's head.
    pub took: Duration,
    /// How many seconds the server's clock is ahead of this host's, where it says what time it is. HTTP tells no less
    /// than whole seconds.
    pub clock_ahead: Option<i64>,
}

impl Http {
    /// Asks for something and shows no credentials. Whatever the server answers, it is there; only what a proxy says in
    /// its place, or what it says when it is broken, is an error.
    ///
    /// # Errors
    /// [`HttpError`].
    pub async fn greet(&self, url: Url) -> Result<Greeting, HttpError> {
        let host = origin(&url);
        let began = Instant::now();
        let answered = self.client.get(url).timeout(ANSWERING_BRIEFLY).send().await;
        let response = answered.map_err(|source| HttpError::of_transport(Action::Greeting, host.clone(), source))?;
        let took = began.elapsed();
        let date = response.headers().get(DATE).and_then(|date| date.to_str().ok());
        let clock_ahead = date.and_then(|date| httpdate::parse_http_date(date).ok()).map(|date| ahead(date, took));
        let head = Head::of(&response);
        if head.status.is_server_error() || head.status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            return Err(HttpError::of_status(Action::Greeting, host, head, ServerSays::default()));
        }
        // Read, so that the connection serves the next one too.
        let _ = super::read_whole(response, &Movement::default()).await;
        Ok(Greeting { took, clock_ahead })
    }
}

/// Compared with the middle of the time that the request took.
fn ahead(date: SystemTime, took: Duration) -> i64 {
    let here = SystemTime::now().checked_sub(took / 2).unwrap_or(SystemTime::UNIX_EPOCH);
    let seconds = |gap: Duration| i64::try_from(gap.as_secs()).unwrap_or(i64::MAX);
    match date.duration_since(here) {
        Ok(ahead) => seconds(ahead),
        // A date has no fractions of seconds, so up to one second behind is none.
        Err(behind) => -seconds(behind.duration()),
    }
}
