//! One connection to the Nix daemon and what it roots, and when another is to take its place.

use std::collections::HashSet;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::debug;

use super::{LONGEST_LEFT, MOST_LEFT, PATIENCE};
use crate::nix::{Daemon, DaemonError, StorePath};
use crate::report::one_line;

/// A connection and what it roots.
pub(super) struct Connection {
    /// `None` while it is asked, and once it is lost.
    daemon: Option<Daemon>,
    /// What is being asked. Kept beyond our patience: who drops it closes the connection, and all of its roots are gone.
    call: Option<Call>,
    rooted: HashSet<StorePath>,
    since: Instant,
}

type Call = Pin<Box<dyn Future<Output = (Daemon, StorePath, Result<(), DaemonError>)> + Send>>;

/// Why a path isn't rooted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotRooted {
    /// The daemon says so, of this path.
    Refused,
    /// It hasn't answered yet. What was rooted before still is.
    Late,
    /// The connection is lost, and all roots with it.
    Lost,
}

impl Connection {
    pub(super) fn new(daemon: Daemon) -> Self {
        Self { daemon: Some(daemon), call: None, rooted: HashSet::new(), since: Instant::now() }
    }

    pub(super) fn roots(&self, path: &StorePath) -> bool {
        self.rooted.contains(path)
    }

    /// Whether it hasn't answered yet.
    pub(super) fn is_busy(&self) -> bool {
        self.call.is_some()
    }

    /// What is to become of it, while so many paths are held.
    pub(super) fn renewal(&self, held: usize) -> Renewal {
        renewal(held, self.rooted.len(), self.since.elapsed())
    }

    /// Roots a path; to be called while it isn't busy. Waits for no longer than `PATIENCE`.
    pub(super) async fn root(&mut self, path: &StorePath) -> Result<(), NotRooted> {
        let Some(daemon) = self.daemon.take() else { return Err(NotRooted::Lost) };
        self.call = Some(Box::pin(add_root(daemon, path.clone())));
        timeout(PATIENCE, self.answer()).await.unwrap_or(Err(NotRooted::Late))
    }

    /// The answer to what was asked last; never, if it has been given. May be dropped at any time.
    pub(super) async fn answer(&mut self) -> Result<(), NotRooted> {
        let Some(call) = &mut self.call else { return std::future::pending().await };
        let (daemon, path, answer) = call.await;
        self.call = None;
        match answer {
            Err(error) if error.is_broken() => Err(NotRooted::Lost),
            Err(error) => {
                debug!(%path, "{}", one_line(&error));
                self.daemon = Some(daemon);
                Err(NotRooted::Refused)
            }
            Ok(()) => {
                self.rooted.insert(path);
                self.daemon = Some(daemon);
                Ok(())
            }
        }
    }
}

async fn add_root(mut daemon: Daemon, path: StorePath) -> (Daemon, StorePath, Result<(), DaemonError>) {
    let answer = daemon.add_temp_root(&path).await;
    (daemon, path, answer)
}

/// What is to become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Renewal {
    /// It stays.
    NotYet,
    /// Another takes its place, with what is still held.
    Due,
    /// The same, but it is closed first: no other was to be had beside it.
    Overdue,
    /// None is needed for now.
    Closed,
}

/// What is to become of a connection of this age that roots so many paths, `held` of which are still under way.
fn renewal(held: usize, rooted: usize, age: Duration) -> Renewal {
    match (held, rooted.saturating_sub(held)) {
        (0, _) => Renewal::Closed,
        (_, 0) => Renewal::NotYet,
        (_, left) if left >= 2 * MOST_LEFT => Renewal::Overdue,
        (_, left) if left >= MOST_LEFT || age >= LONGEST_LEFT => Renewal::Due,
        _ => Renewal::NotYet,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_renewed_when_it_keeps_too_much_or_for_too_long() {
        let (now, old) = (Duration::ZERO, LONGEST_LEFT);
        for (held, rooted, age, expected) in [
            (0, 0, now, Renewal::Closed),
            (0, 1, now, Renewal::Closed),
            (3, 3, 2 * old, Renewal::NotYet),
            (1, 2, now, Renewal::NotYet),
            (1, 2, old, Renewal::Due),
            (5, 4 + MOST_LEFT, now, Renewal::NotYet),
            (5, 5 + MOST_LEFT, now, Renewal::Due),
            (5, 5 + 2 * MOST_LEFT, now, Renewal::Overdue),
            (0, 2 * MOST_LEFT, old, Renewal::Closed),
            // Noted, and not rooted yet.
            (7, 2, old, Renewal::NotYet),
        ] {
            assert_eq!(renewal(held, rooted, age), expected, "{held} held of {rooted}, {age:?}");
        }
    }
}
