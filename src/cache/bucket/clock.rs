//! What time it is by a store's own clock, as each of its answers says it (`Date`, RFC 9110, 6.6.1).

use std::sync::{Mutex, PoisonError};
use std::time::{Instant, UNIX_EPOCH};

use reqwest::header::{AGE, DATE, HeaderMap};

use crate::cache::care::{self, Seconds};

/// The time that a store has said last.
#[derive(Debug, Default)]
pub(super) struct StoreClock(Mutex<Option<(Instant, Seconds)>>);

impl StoreClock {
    /// Reads it from the head of an answer.
    pub(super) fn note(&self, headers: &HeaderMap) {
        let date = headers.get(DATE).and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
        // What comes from a proxy's memory was true when it went in there.
        if let Some(date) = date.filter(|_| !headers.contains_key(AGE)) {
            let seconds = care::seconds(date.duration_since(UNIX_EPOCH).unwrap_or_default());
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), seconds));
        }
    }

    /// What time it is there, as far as that was ever said.
    pub(super) fn now(&self) -> Option<Seconds> {
        let (noted, date) = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        Some(date.saturating_add(care::seconds(noted.elapsed())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_the_stores_and_not_that_of_what_was_remembered() {
        let clock = StoreClock::default();
        let mut headers = HeaderMap::new();
        clock.note(&headers);
        assert_eq!(clock.now(), None);
        headers.insert(DATE, "Sat, 29 Feb 2020 12:00:00 GMT".parse().expect("a header"));
        headers.insert(AGE, "7".parse().expect("a header"));
        clock.note(&headers);
        assert_eq!(clock.now(), None);
        headers.remove(AGE);
        clock.note(&headers);
        assert!(clock.now().is_some_and(|now| (1_582_977_600..1_582_981_200).contains(&now)), "{clock:?}");
    }
}
