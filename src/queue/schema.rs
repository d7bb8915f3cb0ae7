//! Opening the database: its tables, their versions, and what becomes of one that can't be read.

use std::cmp::Ordering;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::contents::Expected;
use super::migrations::MIGRATIONS;
use super::{Queue, QueueError, sqlite};

/// How long a statement waits for another process's transaction; those last milliseconds.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The write-ahead log is cut to so many bytes when it has been taken into the database: what it grows to in normal
/// operation, since SQLite takes it in after every 1000 pages.
const LOG_SIZE: i64 = 4 << 20;

/// `PRAGMA auto_vacuum`: free pages are given back when they are asked for.
pub(super) const INCREMENTAL: i64 = 2;

/// A queue that has been opened to be worked off.
pub struct Opened {
    /// The queue.
    pub queue: Queue,
    /// Where the old database went, had it to be replaced.
    pub moved_aside: Option<PathBuf>,
}

impl Queue {
    /// Opens the queue of a state directory to work it off; makes what is missing.
    ///
    /// A database that SQLite finds corrupt is moved aside, and its place taken by an empty one that a scan will fill.
    /// Blocks for as long as it takes to read all of it. Call it only under the [`StateLock`](super::StateLock).
    ///
    /// # Errors
    /// [`QueueError::StateDir`], [`QueueError::NewerSchema`], [`QueueError::Sqlite`].
    pub fn open(state_dir: &Path) -> Result<Opened, QueueError> {
        create_state_dir(state_dir)?;
        match Self::open_again(state_dir) {
            Err(QueueError::NoQueue { .. }) => {
                let queue = Self::make(&state_dir.join(Self::FILE_NAME), false)?;
                Ok(Opened { queue, moved_aside: None })
            }
            opened => opened,
        }
    }

    /// Whether a state directory has a queue, or had one that is to be replaced.
    #[must_use]
    pub fn is_at(state_dir: &Path) -> bool {
        let path = state_dir.join(Self::FILE_NAME);
        path.exists() || replacement_mark(&path).exists()
    }

    /// As [`Queue::open`], of a state directory that had a queue before: where there is none, it isn't made.
    ///
    /// # Errors
    /// [`QueueError::NoQueue`]; otherwise as for [`Queue::open`].
    pub fn open_again(state_dir: &Path) -> Result<Opened, QueueError> {
        let path = match existing(state_dir) {
            // One was moved aside, and there was no room for another yet, or the process ended before.
            Err(QueueError::NoQueue { .. }) if Self::is_at(state_dir) => {
                let queue = Self::make(&state_dir.join(Self::FILE_NAME), true)?;
                return Ok(Opened { queue, moved_aside: None });
            }
            path => path?,
        };
        let at = |source| QueueError::StateDir { dir: state_dir.to_owned(), source };
        let opened = if is_cut_to_nothing(&path) { Err(corrupt("it is empty")) } else { Self::connect(&path) };
        match opened.and_then(|queue| queue.check_integrity().map(|()| queue)) {
            Ok(queue) => {
                remove_if_there(&replacement_mark(&path)).map_err(at)?;
                Ok(Opened { queue, moved_aside: None })
            }
            Err(error) if error.is_corruption() => {
                Self::mark_as_replaced(&path)?;
                let aside = move_aside(&path).map_err(at)?;
                Ok(Opened { queue: Self::make(&path, true)?, moved_aside: Some(aside) })
            }
            Err(error) => Err(error),
        }
    }

    /// Notes that the queue which is made next replaces another, should this process end before it is there.
    pub(super) fn mark_as_replaced(path: &Path) -> Result<(), QueueError> {
        let marked = File::create(replacement_mark(path)).and_then(|_| sync_folder_of(path));
        marked.map_err(about_dir_of(path))
    }

    /// Makes a new database, which is whole and durable before it bears its name. One that replaces another says that
    /// everything is to be looked at again, from its first moment on.
    pub(super) fn make(path: &Path, replaces: bool) -> Result<Self, QueueError> {
        let new = Self::begin_new(path)?;
        let mut queue = Self::connect(&new)?;
        if replaces {
            queue.watch_everything_from_the_beginning()?;
        }
        // Closing it would do that too, but wouldn't say where it can't be done.
        let log = "PRAGMA wal_checkpoint(TRUNCATE)";
        let is_busy = queue.db.query_row(log, [], |row| row.get::<_, bool>(0)).map_err(sqlite("take in its log"))?;
        if is_busy {
            return Err(about_dir_of(path)(ErrorKind::ResourceBusy.into()));
        }
        queue.db.close().map_err(|(_, error)| sqlite("close what is new")(error))?;
        Self::put_in_place(&new, path)?;
        remove_if_there(&replacement_mark(path)).map_err(about_dir_of(path))?;
        Self::connect(path)
    }

    /// Makes an empty file that will be the database.
    pub(super) fn begin_new(path: &Path) -> Result<PathBuf, QueueError> {
        let (new, at) = (named(path, ".new"), about_dir_of(path));
        for left in [new.clone(), named(&new, "-wal"), named(&new, "-shm")] {
            remove_if_there(&left).map_err(&at)?;
        }
        File::create(&new).map_err(&at)?;
        Ok(new)
    }

    /// Gives a new database its name. A log that another one of that name has left would be taken for its own, and goes.
    pub(super) fn put_in_place(new: &Path, path: &Path) -> Result<(), QueueError> {
        let at = about_dir_of(path);
        for left in [named(path, "-wal"), named(path, "-shm")] {
            remove_if_there(&left).map_err(&at)?;
        }
        File::open(new).and_then(|file| file.sync_all()).map_err(&at)?;
        fs::rename(new, path).map_err(&at)?;
        sync_folder_of(path).map_err(&at)
    }

    /// Opens the queue beside the process that works it off, or after it: to admit, or to change something by hand.
    ///
    /// # Errors
    /// [`QueueError::NoQueue`] where nothing has been queued yet; [`QueueError::OlderSchema`] before its owner has migrated it,
    /// since an older service, which may be at work on it, would not know it again; otherwise as [`Queue::open`].
    pub fn open_beside(state_dir: &Path) -> Result<Self, QueueError> {
        drop(Self::open_to_look(state_dir)?);
        Self::connect(&existing(state_dir)?).map_err(|error| name_corruption(error, state_dir))
    }

    /// Opens the queue to look at it, without changing anything.
    ///
    /// # Errors
    /// As for [`Queue::open_beside`]; [`QueueError::OlderSchema`] before the service has migrated it.
    pub fn open_to_look(state_dir: &Path) -> Result<Self, QueueError> {
        let path = existing(state_dir)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let look = || {
            let db = Connection::open_with_flags(&path, flags).map_err(sqlite("open"))?;
            db.busy_timeout(BUSY_TIMEOUT).map_err(sqlite("set its time-out"))?;
            let found = schema_version(&db).map_err(sqlite("read its schema version"))?;
            let known = MIGRATIONS.len() as i64;
            match found.cmp(&known) {
                Ordering::Greater => Err(QueueError::NewerSchema { path: path.clone(), found, known }),
                // Who makes it hasn't come to its first table yet.
                Ordering::Less if found == 0 => Err(QueueError::NoQueue { dir: state_dir.to_owned() }),
                Ordering::Less => Err(QueueError::OlderSchema { path: path.clone() }),
                Ordering::Equal => Ok(Self {
                    db,
                    files: Self::files_at(&path),
                    path: path.clone(),
                    data_version: 0,
                    expected: Expected::new(),
                }),
            }
        };
        look().map_err(|error| name_corruption(error, state_dir))
    }

    fn connect(path: &Path) -> Result<Self, QueueError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut db = Connection::open_with_flags(path, flags).map_err(sqlite("open"))?;
        db.busy_timeout(BUSY_TIMEOUT).map_err(sqlite("set its time-out"))?;
        // Otherwise a query is planned anew for each value that is bound to it, which takes longer than most of ours do.
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map_err(sqlite("keep its plans"))?;
        // Before there is anything in it, where it is new.
        db.pragma_update(None, "auto_vacuum", "incremental").map_err(sqlite("set auto_vacuum"))?;
        db.pragma_update(None, "journal_size_limit", LOG_SIZE).map_err(sqlite("limit its log"))?;
        db.pragma_update(None, "journal_mode", "wal").map_err(sqlite("switch to WAL"))?;
        db.pragma_update(None, "synchronous", "normal").map_err(sqlite("set synchronous"))?;
        migrate(&mut db, path)?;
        db.set_prepared_statement_cache_capacity(64);
        Ok(Self { db, path: path.to_owned(), data_version: 0, files: Self::files_at(path), expected: Expected::new() })
    }

    fn check_integrity(&self) -> Result<(), QueueError> {
        let verdict: String =
            self.db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(sqlite("check its integrity"))?;
        if verdict == "ok" {
            return Ok(());
        }
        Err(corrupt(&verdict))
    }

    /// A name for this state directory, unlike that of any other: 16 hexadecimal digits, drawn once.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn instance(&mut self) -> Result<String, QueueError> {
        self.db
            .execute_batch("INSERT OR IGNORE INTO meta (key, value) VALUES ('instance', lower(hex(randomblob(8))))")
            .and_then(|()| self.db.query_row("SELECT value FROM meta WHERE key = 'instance'", [], |row| row.get(0)))
            .map_err(sqlite("read its name"))
    }

    /// Whether another connection has changed the queue since the last time this was asked.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn changed_by_others(&mut self) -> Result<bool, QueueError> {
        let version = self
            .db
            .query_row("PRAGMA data_version", [], |row| row.get(0))
            .map_err(sqlite("ask whether it has changed"))?;
        Ok(std::mem::replace(&mut self.data_version, version) != version)
    }
}

/// Says in which state directory something went wrong with a file.
fn about_dir_of(path: &Path) -> impl Fn(io::Error) -> QueueError {
    let dir = path.parent().unwrap_or(path).to_owned();
    move |source| QueueError::StateDir { dir: dir.clone(), source }
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(path)).and_then(|dir| dir.sync_all())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn create_state_dir(dir: &Path) -> Result<(), QueueError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| QueueError::StateDir { dir: dir.to_owned(), source })
}

/// Where the queue's database lies, if there is one.
fn existing(state_dir: &Path) -> Result<PathBuf, QueueError> {
    let path = state_dir.join(Queue::FILE_NAME);
    match fs::metadata(&path) {
        Ok(there) if !there.is_file() => Err(QueueError::NoFile { path }),
        Ok(_) => Ok(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(QueueError::NoQueue { dir: state_dir.to_owned() }),
        Err(source) => Err(QueueError::StateDir { dir: state_dir.to_owned(), source }),
    }
}

fn name_corruption(error: QueueError, state_dir: &Path) -> QueueError {
    if error.is_corruption() { QueueError::Corrupt { path: state_dir.join(Queue::FILE_NAME) } } else { error }
}

fn schema_version(db: &Connection) -> rusqlite::Result<i64> {
    db.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Whether there are tables already, which a new database has none of.
fn has_tables(db: &Connection) -> rusqlite::Result<bool> {
    db.query_row("SELECT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0))
}

fn migrate(db: &mut Connection, path: &Path) -> Result<(), QueueError> {
    let known = MIGRATIONS.len() as i64;
    if schema_version(db).map_err(sqlite("read its schema version"))? == known {
        return Ok(());
    }
    // Another process may be at it too: the write lock first, then look again.
    let tx = db
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .map_err(sqlite("begin the migration"))?;
    let found = schema_version(&tx).map_err(sqlite("read its schema version"))?;
    if found > known {
        return Err(QueueError::NewerSchema { path: path.to_owned(), found, known });
    }
    if found == 0 && has_tables(&tx).map_err(sqlite("look for tables"))? {
        return Err(corrupt("another program's database"));
    }
    for step in &MIGRATIONS[found as usize..] {
        tx.execute_batch(step).map_err(sqlite("migrate"))?;
    }
    tx.pragma_update(None, "user_version", known).map_err(sqlite("note the schema version"))?;
    tx.commit().map_err(sqlite("commit the migration"))
}

/// SQLite takes a file without a byte for a new database, and what was in it would be missed without a word. One that bears
/// this name was whole once, so that it has been cut.
fn is_cut_to_nothing(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.len() == 0)
}

/// What file is there, by device and number.
pub(super) fn file_at(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

fn corrupt(verdict: &str) -> QueueError {
    let corrupt = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    sqlite("check its integrity")(rusqlite::Error::SqliteFailure(corrupt, Some(verdict.to_owned())))
}

/// Renames the database and what belongs to it to `queue.sqlite.corrupt-SECONDS…`.
fn move_aside(path: &Path) -> io::Result<PathBuf> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let aside = (0..)
        .map(|n| named(path, &format!(".corrupt-{}", seconds + n)))
        .find(|candidate| !candidate.exists())
        .unwrap_or_else(|| named(path, ".corrupt"));
    match fs::rename(named(path, "-wal"), named(&aside, "-wal")) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // It only says what is where in the log, and is made anew from that.
    remove_if_there(&named(path, "-shm"))?;
    fs::rename(path, &aside)?;
    Ok(aside)
}

/// There from before a queue is moved aside until another is in its place. One that is removed by hand leaves none: who does
/// that means to begin anew.
fn replacement_mark(path: &Path) -> PathBuf {
    named(path, ".replaced")
}

/// The name with something behind it.
pub(super) fn named(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
