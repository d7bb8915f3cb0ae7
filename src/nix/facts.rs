//! What Nix knows of a path, asked at any time by anyone: from the database where it can be read, else from the daemon.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::{Daemon, DaemonError, Database, DatabaseError, PathInfo, Patience, Realisation, StoreDir, StorePath};

/// Asks Nix about single paths. Cheap to clone.
///
/// A database that has been replaced is noticed at the next question, and so is a daemon that was started anew.
#[derive(Clone)]
pub struct StoreFacts {
    shared: Arc<Shared>,
    while_written: WhileWritten,
}

/// What to do while Nix writes its database for so long that a question isn't answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WhileWritten {
    /// Say so.
    Tell,
    /// Wait, one for all that stand in line behind it.
    Wait,
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
    /// What asked broke off, by a defect of storewatch's, which the log has. Keeps whoever reads it from looking for the fault
    /// at Nix.
    #[error("{verb}: what was to ask Nix broke off, by a defect of storewatch: its log has more")]
    LostThread {
        /// What was to be done.
        verb: &'static str,
    },
    /// Neither of the two is open to this user. Keeps whoever reads it from looking for the fault at the one alone.
    #[error("{database}, nor does the Nix daemon answer instead")]
    Blind {
        /// Why the database can't be read.
        database: Box<DatabaseError>,
        /// Why the daemon is of no help.
        source: DaemonError,
    },
}

impl FactsError {
    /// What a person may do about it, where the error itself doesn't say.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Database(error) => error.hint(),
            Self::Daemon(_) | Self::LostThread { .. } => None,
            Self::Blind { .. } => Some(
                "run it as root, or as a user who may read the database, or start the Nix daemon, of Nix 2.15 or newer",
            ),
        }
    }

    /// Whether it is the path's alone that was asked for: what is asked of others may well be answered.
    #[must_use]
    pub fn is_of_the_path(&self) -> bool {
        self.is_malformed() || matches!(self, Self::Daemon(DaemonError::Refused { .. }))
    }

    /// Whether Nix has an answer that can't be understood, which asking again doesn't change.
    #[must_use]
    pub fn is_malformed(&self) -> bool {
        matches!(self, Self::Database(DatabaseError::Malformed { .. }) | Self::Daemon(DaemonError::Malformed { .. }))
    }
}

impl StoreFacts {
    /// Will read the database at `db_path`, or ask the daemon at `socket` where it may not.
    #[must_use]
    pub fn new(db_path: PathBuf, socket: PathBuf, store_dir: StoreDir) -> Self {
        let (database, daemon) = (Arc::default(), Mutex::new(None));
        let shared = Arc::new(Shared { db_path, socket, store_dir, database, daemon });
        Self { shared, while_written: WhileWritten::Tell }
    }

    /// The same for who has time: a database that Nix is writing is waited for, however long that takes.
    #[must_use]
    pub fn patient(self) -> Self {
        Self { while_written: WhileWritten::Wait, ..self }
    }

    /// The same by connections of its own, and without patience: who has much to ask keeps nobody waiting, nor waits itself.
    #[must_use]
    pub fn apart(&self) -> Self {
        let Shared { db_path, socket, store_dir, .. } = &*self.shared;
        Self::new(db_path.clone(), socket.clone(), store_dir.clone())
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
        let wanted = path.clone();
        let asked = self.ask_database("ask for path info", move |open| open.path_info(&wanted)).await?;
        match asked {
            Err(database) if database.is_denied() => {
                let asked = self.ask_daemon(path).await;
                asked.map_err(|source| {
                    if source.is_out_of_reach() {
                        FactsError::Blind { database: Box::new(database), source }
                    } else {
                        source.into()
                    }
                })
            }
            answer => Ok(answer?),
        }
    }

    /// The realisations that Nix has noted of a path; `None` where it notes none. The daemon isn't asked: it knows them by
    /// their derivations only.
    ///
    /// # Errors
    /// [`FactsError`].
    pub async fn realisations(&self, path: &StorePath) -> Result<Option<Vec<Realisation>>, FactsError> {
        let wanted = path.clone();
        let asked = self.ask_database("ask for realisations", move |open| open.realisations(&wanted)).await?;
        match asked {
            Err(error) if error.is_denied() => Ok(None),
            answer => Ok(answer?),
        }
    }

    /// Asks the database on a thread that may wait. Whoever waits for Nix keeps the database meanwhile: the others would find
    /// out no more.
    async fn ask_database<T: Send + 'static>(
        &self,
        verb: &'static str,
        question: impl Fn(&Database) -> Result<T, DatabaseError> + Send + Sync + 'static,
    ) -> Result<Result<T, DatabaseError>, FactsError> {
        let question = Arc::new(question);
        let mut database = Arc::clone(&self.shared.database).lock_owned().await;
        let mut patience = Patience::of_many("uploads wait");
        loop {
            let (shared, question) = (Arc::clone(&self.shared), Arc::clone(&question));
            let asked = spawn_blocking(move || {
                let answer = shared.with_database(&mut database, |open| question(open));
                (database, answer)
            });
            // A panic in there; the database is opened anew at the next question.
            let (back, answer) = asked.await.map_err(|_| FactsError::LostThread { verb })?;
            match answer {
                Err(error) if error.is_busy() && self.while_written == WhileWritten::Wait => {
                    sleep(patience.pause(&error)).await;
                    database = back;
                }
                Ok(answer) => {
                    patience.rewarded();
                    return Ok(Ok(answer));
                }
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    /// Of each of these paths, whether something keeps it from being collected, where `is_root` says what is a root: of as
    /// many as come up to so many `queries`, and of the first in any case. Only the database knows what refers to a path.
    ///
    /// # Errors
    /// [`FactsError`].
    pub async fn which_are_kept(
        &self,
        paths: Vec<StorePath>,
        is_root: impl Fn(&StorePath) -> bool + Send + 'static,
        queries: usize,
    ) -> Result<Vec<bool>, FactsError> {
        let shared = Arc::clone(&self.shared);
        let mut database = Arc::clone(&shared.database).lock_owned().await;
        let look = move || {
            shared.with_database(&mut database, |open| {
                let mut spent = 0;
                let mut judged = Vec::with_capacity(paths.len());
                for path in &paths {
                    judged.push(match open.is_kept(path, &is_root, &mut spent) {
                        // What can't be understood of what refers to it may be a root.
                        Err(DatabaseError::Malformed { .. }) => true,
                        kept => kept?,
                    });
                    if spent >= queries {
                        break;
                    }
                }
                Ok(judged)
            })
        };
        let lost = FactsError::LostThread { verb: "ask for referrers" };
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A database without a write-ahead log that Nix is writing, with the journal that says so.
    fn being_written(dir: &std::path::Path) -> rusqlite::Connection {
        let nix = rusqlite::Connection::open_with_flags_and_vfs(
            dir.join("db.sqlite"),
            rusqlite::OpenFlags::default(),
            c"unix-dotfile",
        )
        .expect("a database");
        nix.execute_batch(
            "create table ValidPaths (id integer primary key autoincrement, path text, hash text, registrationTime integer);
             create table Refs (referrer integer, reference integer);
             begin immediate",
        )
        .expect("Nix's tables");
        nix
    }

    #[tokio::test]
    async fn who_is_patient_gets_an_answer_when_nix_has_written() {
        let dir = tempfile::tempdir().expect("a folder");
        let nix = being_written(dir.path());
        let path = StorePath::from_base_name("0123456789abcdfghijklmnpqrsvwxyz-x").expect("a path");
        let facts = StoreFacts::new(dir.path().join("db.sqlite"), dir.path().join("no-socket"), StoreDir::default());
        // Longer than one question takes before it is answered with `Busy`.
        let two_questions = Duration::from_millis(2_500);
        let mut waiting = tokio::spawn(async move { facts.patient().path_info(&path).await });
        assert!(tokio::time::timeout(two_questions, &mut waiting).await.is_err(), "it is being written");
        nix.execute_batch("commit").expect("unlocked");
        assert!(waiting.await.expect("no panic").expect("an answer").is_none());
    }
}
