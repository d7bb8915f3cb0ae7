//! Whether a body that is sent still moves. A server that takes nothing for too long is given up, and so is one that has
//! everything and doesn't answer; what isn't its fault counts for nothing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// A server that takes nothing for so long is given up. Servers write to disks and object stores while they take, and
/// some do that in bursts.
pub(in crate::cache) const TAKING: Duration = Duration::from_secs(30);

/// A server that has everything answers within this time. One that packs a large archive and passes it on to an object
/// store needs some for what it has buffered.
pub(in crate::cache) const ANSWERING: Duration = Duration::from_secs(180);

/// How far a body has been taken. Cheap to clone.
#[derive(Clone, Default)]
pub(in crate::cache) struct Movement(Arc<Mutex<Stage>>);

#[derive(Clone, Copy, Default)]
enum Stage {
    /// The next piece isn't there yet, or may not be sent yet: however long that takes, it isn't the server's fault.
    #[default]
    Held,
    /// A piece was offered then, and no more has been asked for.
    Offered(Instant),
    /// Everything was taken then.
    Whole(Instant),
}

impl Movement {
    /// The next piece is waited for.
    pub(in crate::cache) fn is_held(&self) {
        self.is(Stage::Held);
    }

    /// A piece is handed on.
    pub(in crate::cache) fn has_moved(&self) {
        self.is(Stage::Offered(Instant::now()));
    }

    /// There is no more.
    pub(in crate::cache) fn is_whole(&self) {
        self.is(Stage::Whole(Instant::now()));
    }

    /// Nobody will ask for more: what was offered last was the end.
    pub(in crate::cache) fn ends(&self) {
        let mut stage = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Stage::Offered(_) = *stage {
            *stage = Stage::Whole(Instant::now());
        }
    }

    /// Comes true when the server has done nothing for too long, where it is to answer within `answering`; says for how long.
    pub(in crate::cache) async fn stalled(&self, answering: Duration) -> Duration {
        loop {
            let (stage, now) = (*self.0.lock().unwrap_or_else(PoisonError::into_inner), Instant::now());
            let (since, limit) = match stage {
                Stage::Held => (now, TAKING),
                Stage::Offered(since) => (since, TAKING),
                Stage::Whole(since) => (since, answering),
            };
            if since + limit <= now {
                return limit;
            }
            sleep_until(since + limit).await;
        }
    }

    fn is(&self, stage: Stage) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }
}
