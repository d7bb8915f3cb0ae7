//! Trying a cache out: whether it can be reached, and whether it lets us in. No path is uploaded for it.

use std::time::Duration;

use reqwest::Url;

use super::http::{Http, HttpError, HttpOptions};
use super::{CacheError, layout, run};

/// So many greetings: the first opens a connection, and the median of the rest is what a request takes.
const GREETINGS: usize = 5;

/// A file that no cache has, to be put on trial. It lies where archives do, so that a prune removes it should it stay.
pub(super) fn trial_file() -> String {
    format!("{}/trial.{}.nar", layout::NAR_DIR, run::new_name())
}

/// What came of trying a cache out.
#[derive(Debug, Default)]
pub struct Trial {
    /// The time from a request to its answer, the median of a few; of a directory, what it takes to write a small file and
    /// remove it. `None` where nobody answers.
    pub round_trip: Option<Duration>,
    /// How many seconds the clock of its server is ahead of this host's, where it says what time it is.
    pub clock_ahead: Option<i64>,
    /// Whether it lets us read, as far as that is known.
    pub reads: Option<bool>,
    /// Whether it takes what we upload, as far as that is known.
    pub writes: Option<bool>,
    /// What stands in the way.
    pub troubles: Vec<CacheError>,
    /// The key that verifies what is served there, as its server says.
    pub public_key: Option<String>,
    /// What else a person should know.
    pub remark: Option<&'static str>,
}

impl Trial {
    /// A trial of which nothing came but this.
    #[must_use]
    pub fn failed(error: CacheError) -> Self {
        Self { troubles: vec![error], ..Self::default() }
    }

    /// A trial that came to no end, by a defect.
    #[must_use]
    pub fn lost() -> Self {
        Self::failed(CacheError::LostThread { action: "try the cache out" })
    }

    /// Greets the server, and notes how quickly it answers and what time it has.
    pub(super) async fn greet(&mut self, options: &HttpOptions, url: Url) -> Result<(), HttpError> {
        let http = Http::new(options).await?;
        let mut times = Vec::with_capacity(GREETINGS);
        for _ in 0..GREETINGS {
            let greeting = http.greet(url.clone()).await?;
            times.push(greeting.took);
            self.clock_ahead = greeting.clock_ahead;
        }
        times.sort_unstable();
        self.round_trip = Some(times[GREETINGS / 2]);
        Ok(())
    }

    /// Whether the cache takes uploads.
    #[must_use]
    pub fn went_well(&self) -> bool {
        self.troubles.is_empty()
    }
}
