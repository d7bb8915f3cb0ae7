//! What Nix knows of a path, asked at any time by anyone: from the database where it can be read, else from the daemon.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::spawn_blocking;

use super::{Database, DatabaseError, PathInfo, StoreDir, StorePath};

/// Asks Nix about single paths. Cheap to clone.
///
/// A database that has been replaced is noticed at the next question.
#[derive(Clone)]
pub struct StoreFacts {
    shared: Arc<Shared>,
}

struct Shared {
    db_path: PathBuf,
    store_dir: StoreDir,
    database: Mutex<Option<Database>>,
}

impl StoreFacts {
    /// Will read the database at `db_path`; opens it at the first question.
    #[must_use]
    pub fn new(db_path: PathBuf, _socket: PathBuf, store_dir: StoreDir) -> Self {
        Self { shared: Arc::new(Shared { db_path, store_dir, database: Mutex::new(None) }) }
    }

    /// The store directory whose paths these are.
    #[must_use]
    pub fn store_dir(&self) -> &StoreDir {
        &self.shared.store_dir
    }

    /// What Nix knows of a path, references included; `None` where it isn't valid.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn path_info(&self, path: &StorePath) -> Result<Option<PathInfo>, DatabaseError> {
        let (shared, path) = (Arc::clone(&self.shared), path.clone());
        let asked = spawn_blocking(move || {
            let mut database = shared.database.lock().unwrap_or_else(PoisonError::into_inner);
            if database.as_ref().is_none_or(Database::replaced) {
                *database = Some(Database::open(&shared.db_path, &shared.store_dir)?);
            }
            database.as_ref().map_or(Ok(None), |database| database.path_info(&path))
        });
        // It can only fail by a panic or by the runtime's end; then nobody reads the answer.
        asked.await.unwrap_or(Ok(None))
    }
}
