//! Measuring the line to a cache that gives way: while something is sent there, small requests go beside it, and what they
//! take says how much more may be sent ([`Background`] draws the conclusion, [`Shaper`] holds to it).
//!
//! At rest nothing is asked and nothing is woken.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::trace;

use crate::cache::Cache;
use crate::limit::{Background, Rate, Shaper};
use crate::policy::CacheName;

/// So often is asked, as long as the answers come sooner: some tens of packets a second, where uploads send thousands.
const INTERVAL: Duration = Duration::from_millis(100);

/// A line on which a small request takes longer is full, or gone.
const LONGEST: Duration = Duration::from_secs(2);

/// Where nothing was sent for so long, nothing is asked any more, until something is.
const RESTS: Duration = Duration::from_secs(3);

/// What is known of the line to a cache. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub(super) struct Line(Arc<Mutex<Option<Background>>>);

/// Measures the line to a cache, as long as this is kept and something uses the cache.
pub(super) struct Measuring(#[expect(dead_code, reason = "kept for being dropped")] JoinSet<()>);

impl Measuring {
    pub(super) fn start(line: &Line, shaper: &Shaper, name: &CacheName, cache: &Arc<dyn Cache>) -> Self {
        let mut task = JoinSet::new();
        task.spawn(measure(line.clone(), shaper.clone(), name.clone(), Arc::downgrade(cache)));
        Self(task)
    }
}

async fn measure(line: Line, shaper: Shaper, name: CacheName, cache: Weak<dyn Cache>) {
    loop {
        shaper.flows_in_background(name.as_str()).await;
        let Some(cache) = cache.upgrade() else { return };
        // The first answer says how long it takes to connect, and isn't counted.
        let Some(connected) = cache.touch() else { return };
        let _ = timeout(LONGEST, connected).await;
        let mut moved = (Instant::now(), 0);
        while let Some(sent) = shaper.sent_in_background(name.as_str()) {
            let asked = Instant::now();
            if sent != moved.1 {
                moved = (asked, sent);
            } else if asked > moved.0 + RESTS {
                break;
            }
            let Some(touch) = cache.touch() else { return };
            let answered = timeout(LONGEST, touch).await == Ok(true);
            let now = Instant::now();
            let sent = shaper.sent_in_background(name.as_str()).unwrap_or(sent);
            let rate = line.answered(answered, now - asked, sent, now);
            shaper.give_way(name.as_str(), rate);
            trace!(cache = %name, answered, after = ?(now - asked), bytes_a_second = rate.per_second());
            sleep_until(asked + INTERVAL).await;
        }
    }
}

impl Line {
    /// Forgets what is known: after a suspend, the network may be another.
    pub(super) fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Notes an answer, or that there was none, and says what may be sent.
    fn answered(&self, answered: bool, delay: Duration, sent: u64, now: Instant) -> Rate {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let background = known.get_or_insert_with(|| Background::new(sent, now));
        match answered {
            true => background.answered(delay, sent, now),
            false => background.unanswered(sent, now),
        }
        background.rate()
    }
}
