//! What Nix knows of a path, asked at any time by anyone: from the database where it can be read, else from the daemon.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use super::{Daemon, DaemonError, Database, DatabaseError, PathInfo, Realisation, StoreDir, StorePath};

/// Asks Nix about single paths. Cheap to clone.
///
/// A database that has been replaced is noticed at the next question, and so is a daemon that was started anew.
#[derive(Clone)]
pub struct StoreFacts {
    shared: Arc<Shared>,
}

struct Shared {
    db_path: PathBuf,
    socket: PathBuf,
    store_dir: StoreDir,
    /// Waited for without a thread: hundreds ask at the same time when a claim begins, and a thread for each, only to stand
    /// in line, would cost megabytes.
    database: Arc<Mutex<Option<Database>>>,
    daemon: Mutex<Option<Daemon>>,
}

/// Why Nix gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// The database.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The daemon, which was asked since the database can't be read.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
}

impl StoreFacts {
    /// Will read the database at `db_path`, or ask the daemon at `socket` where it may not.
    #[must_use]
    pub fn new(db_path: PathBuf, socket: PathBuf, store_dir: StoreDir) -> Self {
        let (database, daemon) = (Arc::default(), Mutex::new(None));
        Self { shared: Arc::new(Shared { db_path, socket, store_dir, database, daemon }) }
    }

    /// The store directory whose paths these are.
    #[must_use]
    pub fn store_dir(&self) -> &StoreDir {
        &self.shared.store_dir
    }

    /// What Nix knows of a path, references included; `None` where it isn't valid.
    ///
    /// # Errors
    /// [`FactsError`].
    pub async fn path_info(&self, path: &StorePath) -> Result<Option<PathInfo>, FactsError> {
        let (shared, wanted) = (Arc::clone(&self.shared), path.clone());
        let mut database = Arc::clone(&shared.database).lock_owned().await;
        let asked = spawn_blocking(move || shared.with_database(&mut database, |open| open.path_info(&wanted))).await;
        match asked {
            Ok(Err(error)) if error.is_denied() => Ok(self.ask_daemon(path).await?),
            Ok(answer) => Ok(answer?),
            // A panic in there; the database is opened anew at the next question.
            Err(_) => Err(DaemonError::Broken { verb: "ask for path info", source: None }.into()),
        }
    }

    /// The realisations that Nix has noted of a path; `None` where it notes none. The daemon isn't asked: it knows them by
    /// their derivations only.
    ///
    /// # Errors
    /// [`FactsError`].
    pub async fn realisations(&self, path: &StorePath) -> Result<Option<Vec<Realisation>>, FactsError> {
        let (shared, wanted) = (Arc::clone(&self.shared), path.clone());
        let mut database = Arc::clone(&shared.database).lock_owned().await;
        let asked =
            spawn_blocking(move || shared.with_database(&mut database, |open| open.realisations(&wanted))).await;
        match asked {
            Ok(Err(error)) if error.is_denied() => Ok(None),
            Ok(answer) => Ok(answer?),
            Err(_) => Err(DaemonError::Broken { verb: "ask for realisations", source: None }.into()),
        }
    }

    /// Of each of these paths, whether something keeps it from being collected, where `is_root` says what is a root. Only
    /// the database knows what refers to a path.
    ///
    /// # Errors
    /// [`FactsError`].
    pub async fn which_are_kept(
        &self,
        paths: Vec<StorePath>,
        is_root: impl Fn(&StorePath) -> bool + Send + 'static,
    ) -> Result<Vec<bool>, FactsError> {
        let shared = Arc::clone(&self.shared);
        let mut database = Arc::clone(&shared.database).lock_owned().await;
        let look = move || {
            shared.with_database(&mut database, |open| paths.iter().map(|path| open.is_kept(path, &is_root)).collect())
        };
        let lost = DaemonError::Broken { verb: "ask for referrers", source: None };
        Ok(spawn_blocking(look).await.map_err(|_| lost)??)
    }

    /// Asks the daemon, over a new connection where the old one is lost.
    async fn ask_daemon(&self, path: &StorePath) -> Result<Option<PathInfo>, DaemonError> {
        let mut daemon = self.shared.daemon.lock().await;
        let connection = match daemon.take().filter(|connection| !connection.is_broken()) {
            Some(connection) => connection,
            None => Daemon::connect(&self.shared.socket, &self.shared.store_dir).await?,
        };
        daemon.insert(connection).path_info(path).await
    }
}

impl Shared {
    /// Asks the database, opened anew where it isn't the one that is there.
    fn with_database<T>(
        &self,
        database: &mut Option<Database>,
        ask: impl FnOnce(&Database) -> Result<T, DatabaseError>,
    ) -> Result<T, DatabaseError> {
        let open = match database.take().filter(|open| !open.replaced()) {
            Some(open) => open,
            None => Database::open(&self.db_path, &self.store_dir)?,
        };
        ask(database.insert(open))
    }
}
