//! Why the service, or a backfill, could not go on.

use std::path::PathBuf;

use crate::nix::{DatabaseError, FactsError};
use crate::queue::{LockError, QueueError};
use crate::watch::WatchError;

/// Why the service ended.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Another works here already.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The queue can't be used.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// Nothing can be learnt of the store.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// The Nix database can't be read.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// Nix gives no answer about a path.
    #[error(transparent)]
    Facts(#[from] FactsError),
    /// The queue that is worked with isn't the one that others find.
    #[error(
        "the queue in {} is not the one any more that this command has begun with: the folder was unmounted, moved or replaced; \
         run it again when the folder is back, and it goes on from there",
        dir.display()
    )]
    QueueElsewhere {
        /// The state directory.
        dir: PathBuf,
    },
    /// A part ended by a panic.
    #[error("{part} ended by a defect of storewatch")]
    Panicked {
        /// Which.
        part: &'static str,
    },
    /// The system said no.
    #[error("{action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}
