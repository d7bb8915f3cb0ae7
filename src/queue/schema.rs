//! Opening the database: its tables, their versions, and what becomes of one that can't be read.

use std::cmp::Ordering;
use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OpenFlags};

use super::{Queue, QueueError, sqlite};

/// The steps from an empty database to today's schema; `PRAGMA user_version` counts those taken.
/// A step that has been released is never changed.
const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID, STRICT;

    -- A cache is its name and its URL: under another URL nothing counts as done.
    CREATE TABLE caches (
        id            INTEGER PRIMARY KEY,
        name          TEXT NOT NULL,
        url           TEXT NOT NULL,
        waiting_since INTEGER,             -- ms since 1970; set while the cache as a whole takes nothing
        waiting_why   TEXT,
        UNIQUE (name, url)
    ) STRICT;

    CREATE TABLE jobs (
        id         INTEGER PRIMARY KEY AUTOINCREMENT,  -- none is used twice: a job may be dropped while it is claimed
        path       TEXT NOT NULL,          -- base name
        cache      INTEGER NOT NULL REFERENCES caches (id),
        state      INTEGER NOT NULL,       -- JobState
        lane       INTEGER NOT NULL,       -- Lane
        needed     INTEGER NOT NULL,       -- 1: a referrer needs it, whatever the policy says of the path itself
        row        INTEGER,                -- ValidPaths.id when it was last admitted
        blockers   INTEGER NOT NULL DEFAULT 0,  -- how many rows of waits it has
        not_before INTEGER NOT NULL DEFAULT 0,  -- ms since 1970
        attempts   INTEGER NOT NULL DEFAULT 0,
        reason     TEXT,                   -- of the last failure, or why it is held
        uploaded   INTEGER,                -- done: bytes sent; NULL: the cache had it already
        changed    INTEGER NOT NULL,       -- ms since 1970
        run        INTEGER,                -- the backfill that asked for it last
        UNIQUE (path, cache)
    ) STRICT;
    CREATE INDEX jobs_claimable ON jobs (cache, lane, id) WHERE state = 0 AND blockers = 0;
    CREATE INDEX jobs_delayed ON jobs (not_before) WHERE state = 0 AND blockers = 0 AND not_before > 0;
    CREATE INDEX jobs_open ON jobs (state, cache) WHERE state <> 2;
    CREATE INDEX jobs_of_run ON jobs (run) WHERE run IS NOT NULL;

    -- A job waits for the jobs of its references.
    CREATE TABLE waits (
        job INTEGER NOT NULL,
        for INTEGER NOT NULL,
        PRIMARY KEY (job, for)
    ) WITHOUT ROWID, STRICT;
    CREATE INDEX waits_for ON waits (for);

    -- How far the Nix database has been read, and by what it would be recognised.
    CREATE TABLE cursor (
        store     TEXT PRIMARY KEY,        -- logical store directory
        row       INTEGER NOT NULL,        -- the last ValidPaths.id taken up
        path      TEXT,                    -- of that row
        time      INTEGER,                 -- registrationTime of that row
        dev       INTEGER,
        ino       INTEGER,
        rescan_to INTEGER NOT NULL         -- rows up to here are old ones, seen anew
    ) WITHOUT ROWID, STRICT;

    -- When watching began: what was registered before is for backfill.
    CREATE TABLE watched (
        store TEXT PRIMARY KEY,            -- logical store directory; empty: whichever
        since INTEGER NOT NULL             -- seconds since 1970
    ) WITHOUT ROWID, STRICT;

    -- Where the Nix daemon is asked instead: the names already taken up.
    CREATE TABLE seen (name TEXT PRIMARY KEY) WITHOUT ROWID, STRICT;

    -- Backfills: what was asked for, how far the scan is, and what it passed over.
    CREATE TABLE runs (
        id       INTEGER PRIMARY KEY,
        scope    TEXT NOT NULL,            -- JSON
        started  INTEGER NOT NULL,         -- ms since 1970
        row      INTEGER NOT NULL,         -- the last ValidPaths.id looked at
        to_row   INTEGER NOT NULL,         -- the last one to look at
        finished INTEGER                   -- ms since 1970
    ) STRICT;
    CREATE TABLE run_skips (
        run   INTEGER NOT NULL,
        rule  TEXT NOT NULL,
        count INTEGER NOT NULL,
        PRIMARY KEY (run, rule)
    ) WITHOUT ROWID, STRICT;
",
    "
    -- What the policy file said of the cache when it was last served, as a hash; NULL: not known.
    ALTER TABLE caches ADD COLUMN fingerprint TEXT;
    -- 1: claimed before that changed, so that a failure says nothing of how it is now.
    ALTER TABLE jobs ADD COLUMN outdated INTEGER NOT NULL DEFAULT 0;
",
    "
    -- 1: when the job was done last, the cache had the path already. `uploaded` says what was sent at any time.
    ALTER TABLE jobs ADD COLUMN found INTEGER NOT NULL DEFAULT 0;
    UPDATE jobs SET found = 1 WHERE state = 2 AND uploaded IS NULL;
",
    "
    -- 1: that it takes nothing is meant to be so: this host is its own server. Nobody waits for its jobs.
    ALTER TABLE caches ADD COLUMN off INTEGER NOT NULL DEFAULT 0;
    -- What a backfill passed over, told apart by whether that was denied.
    ALTER TABLE run_skips RENAME TO old_run_skips;
    CREATE TABLE run_skips (
        run    INTEGER NOT NULL,
        rule   TEXT NOT NULL,
        denied INTEGER NOT NULL,
        count  INTEGER NOT NULL,
        PRIMARY KEY (run, rule, denied)
    ) WITHOUT ROWID, STRICT;
    INSERT INTO run_skips SELECT run, rule, 0, count FROM old_run_skips;
    DROP TABLE old_run_skips;
    -- `jobs.found` is 2 from now on where an upstream has the path, not the cache itself.
",
    "
    -- What caches were given, by the hash of the archive: the same content is not sent again.
    CREATE TABLE contents (
        cache       INTEGER NOT NULL REFERENCES caches (id),
        nar_hash    BLOB NOT NULL,
        url         TEXT NOT NULL,
        compression TEXT NOT NULL,
        file_hash   BLOB NOT NULL,
        file_size   INTEGER NOT NULL,
        nar_size    INTEGER NOT NULL,
        noted       INTEGER NOT NULL,      -- ms since 1970
        PRIMARY KEY (cache, nar_hash)
    ) WITHOUT ROWID, STRICT;
    CREATE INDEX contents_noted ON contents (noted);
",
    "
    -- Beside `uploaded`, and set whenever that is: bytes read for it, and bytes of the archive that needn't be sent.
    ALTER TABLE jobs ADD COLUMN read INTEGER;
    ALTER TABLE jobs ADD COLUMN saved INTEGER;
",
    "
    -- What was said by hand of bandwidth, and is kept over a restart.
    CREATE TABLE by_hand (
        whose INTEGER NOT NULL,            -- 0: of the line, 1: of backfill's share, 2: of a cache
        cache TEXT NOT NULL,               -- its name; empty where it isn't of a cache
        pause INTEGER NOT NULL,            -- 1: a pause, which stands beside a limit and hides it
        rate  INTEGER,                     -- bytes a second; NULL: no limit
        since INTEGER NOT NULL,            -- ms since 1970
        until INTEGER,                     -- ms since 1970; NULL: until it is taken back
        PRIMARY KEY (whose, cache, pause)
    ) WITHOUT ROWID, STRICT;
    -- Why nothing goes to the cache for now, or no backfill, in words; NULL: it isn't paused.
    ALTER TABLE caches ADD COLUMN paused TEXT;
    ALTER TABLE caches ADD COLUMN backfill_paused TEXT;
",
    "
    -- Ms since 1970: a cache that has asked for a pause isn't asked again before.
    ALTER TABLE caches ADD COLUMN waiting_until INTEGER;
    -- 1: somebody has asked by hand for a job of it since it takes nothing, so that it is to be tried at once.
    ALTER TABLE caches ADD COLUMN retried INTEGER NOT NULL DEFAULT 0;
    -- 1: what a path of it refers to is asked for, too, when the path is there, and so on to the end of the closure.
    ALTER TABLE runs ADD COLUMN walks INTEGER NOT NULL DEFAULT 0;
",
    "
    -- What has ended, the oldest first, to be forgotten by and by.
    CREATE INDEX jobs_ended ON jobs (state, changed) WHERE state IN (2, 4, 5);
",
    "
    -- The file systems that are watched, and how they are off.
    CREATE TABLE disks (
        place  TEXT NOT NULL UNIQUE,       -- what lies there, in words
        path   TEXT NOT NULL,
        level  TEXT NOT NULL,              -- disk::Level, by its name
        since  INTEGER NOT NULL,           -- ms since 1970
        found  TEXT NOT NULL,              -- what is free, in words
        unseen TEXT                        -- why it can't be seen; NULL: it can
    ) STRICT;
    -- 1: while the store's disk was low, the path was found to be one that a garbage collection would take.
    ALTER TABLE jobs ADD COLUMN collectable INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX jobs_collectable ON jobs (cache, id) WHERE state = 0 AND blockers = 0 AND lane = 0 AND collectable = 1;
    -- 1: done, and dropped from the cache since, which may have no more than a size.
    ALTER TABLE jobs ADD COLUMN evicted INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX jobs_evicted ON jobs (cache) WHERE evicted = 1;
",
];

/// How long a statement waits for another process's transaction; those last milliseconds.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The write-ahead log is cut to so many bytes when it has been taken into the database: what it grows to in normal
/// operation, since SQLite takes it in after every 1000 pages.
const LOG_SIZE: i64 = 4 << 20;

/// `PRAGMA auto_vacuum`: free pages are given back when they are asked for.
const INCREMENTAL: i64 = 2;

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
    /// Call it only under the [`StateLock`](super::StateLock).
    ///
    /// # Errors
    /// [`QueueError::StateDir`], [`QueueError::NewerSchema`], [`QueueError::Sqlite`].
    pub fn open(state_dir: &Path) -> Result<Opened, QueueError> {
        create_state_dir(state_dir)?;
        let path = state_dir.join(Self::FILE_NAME);
        if fs::metadata(&path).is_ok_and(|there| !there.is_file()) {
            return Err(QueueError::NoFile { path });
        }
        let opened = if is_cut_to_nothing(&path) { Err(corrupt("it is empty")) } else { Self::connect(&path) };
        match opened.and_then(|queue| queue.check_integrity().map(|()| queue)) {
            Ok(queue) => {
                queue.let_pages_be_given_back();
                Ok(Opened { queue, moved_aside: None })
            }
            Err(error) if error.is_corruption() => {
                let aside =
                    move_aside(&path).map_err(|source| QueueError::StateDir { dir: state_dir.to_owned(), source })?;
                let mut queue = Self::connect(&path)?;
                queue.watch_everything_from_the_beginning()?;
                Ok(Opened { queue, moved_aside: Some(aside) })
            }
            Err(error) => Err(error),
        }
    }

    /// Opens the queue beside the process that works it off, or after it: to admit, or to change something by hand.
    ///
    /// # Errors
    /// [`QueueError::NoQueue`] where nothing has been queued yet; otherwise as [`Queue::open`].
    pub fn open_beside(state_dir: &Path) -> Result<Self, QueueError> {
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
                Ordering::Equal => Ok(Self { db, path: path.clone(), data_version: 0 }),
            }
        };
        look().map_err(|error| name_corruption(error, state_dir))
    }

    fn connect(path: &Path) -> Result<Self, QueueError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut db = Connection::open_with_flags(path, flags).map_err(sqlite("open"))?;
        db.busy_timeout(BUSY_TIMEOUT).map_err(sqlite("set its time-out"))?;
        // Before there is anything in it, where it is new.
        db.pragma_update(None, "auto_vacuum", "incremental").map_err(sqlite("set auto_vacuum"))?;
        db.pragma_update(None, "journal_size_limit", LOG_SIZE).map_err(sqlite("limit its log"))?;
        db.pragma_update(None, "journal_mode", "wal").map_err(sqlite("switch to WAL"))?;
        db.pragma_update(None, "synchronous", "normal").map_err(sqlite("set synchronous"))?;
        migrate(&mut db, path)?;
        db.set_prepared_statement_cache_capacity(64);
        Ok(Self { db, path: path.to_owned(), data_version: 0 })
    }

    /// A database that an older storewatch made is written anew once, so that it can give free pages back. Where that can't be
    /// done now, because the disk is full or another reads there, the next start tries again.
    fn let_pages_be_given_back(&self) {
        let mode = self.db.query_row("PRAGMA auto_vacuum", [], |row| row.get::<_, i64>(0));
        if mode.is_ok_and(|mode| mode != INCREMENTAL) {
            let _ = self.db.execute_batch("VACUUM");
        }
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

/// SQLite takes a file without a byte for a new database, and what was in it would be missed without a word. It writes the
/// first page as soon as it makes the file, so one that is empty has been cut.
fn is_cut_to_nothing(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.len() == 0)
}

fn corrupt(verdict: &str) -> QueueError {
    let corrupt = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    sqlite("check its integrity")(rusqlite::Error::SqliteFailure(corrupt, Some(verdict.to_owned())))
}

/// Renames the database and what belongs to it to `queue.sqlite.corrupt-SECONDS…`.
fn move_aside(path: &Path) -> std::io::Result<PathBuf> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let named = |file: &Path, suffix: &str| {
        let mut name = file.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let aside = (0..)
        .map(|n| named(path, &format!(".corrupt-{}", seconds + n)))
        .find(|candidate| !candidate.exists())
        .unwrap_or_else(|| named(path, ".corrupt"));
    for suffix in ["-wal", "-shm"] {
        match fs::rename(named(path, suffix), named(&aside, suffix)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::rename(path, &aside)?;
    Ok(aside)
}
