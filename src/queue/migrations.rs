//! The tables, as they came to be.

/// The steps from an empty database to today's schema; `PRAGMA user_version` counts those taken.
/// A step that has been released is never changed.
pub(super) const MIGRATIONS: &[&str] = &[
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
        started  INTEGER NOT NULL,         -- ms since 1970: its last sign of life, at a start or of its scan
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
        rate  INTEGER,                     -- bytes a second; -1: what others leave; NULL: no limit
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
    "
    -- How many of `attempts` ended with what may be the path's own fault as well as one on the way.
    ALTER TABLE jobs ADD COLUMN doubts INTEGER NOT NULL DEFAULT 0;
",
    "
    -- The row that `path` and `time` are of: the last one that was there when the cursor was set; NULL: `row` itself.
    ALTER TABLE cursor ADD COLUMN marked INTEGER;
",
    "
    -- 1: what it takes nothing for is credentials: there are none, or none that it accepts.
    ALTER TABLE caches ADD COLUMN lacks_credentials INTEGER NOT NULL DEFAULT 0;
    -- Ms since 1970: since then it is being asked whether it takes anything, and hasn't answered yet.
    ALTER TABLE caches ADD COLUMN asked_since INTEGER;
",
    "
    -- Backfills that asked for a job before the one in `jobs.run` did, and aren't through.
    CREATE TABLE shared (
        run      INTEGER NOT NULL,
        job      INTEGER NOT NULL,
        state    INTEGER,                  -- how the job ended for this one; NULL: as it is. The rest as in `jobs`
        found    INTEGER,
        uploaded INTEGER,
        read     INTEGER,
        saved    INTEGER,
        reason   TEXT,
        PRIMARY KEY (run, job)
    ) WITHOUT ROWID, STRICT;
    CREATE INDEX shared_by_job ON shared (job);
    -- What backfills have asked for, and what became of it.
    CREATE VIEW asked_for AS
        SELECT run, path, cache, state, found, uploaded, read, saved, reason, id FROM jobs WHERE run IS NOT NULL
        UNION ALL
        SELECT s.run, j.path, j.cache, coalesce(s.state, j.state),
               CASE WHEN s.state IS NULL THEN j.found ELSE s.found END,
               CASE WHEN s.state IS NULL THEN j.uploaded ELSE s.uploaded END,
               CASE WHEN s.state IS NULL THEN j.read ELSE s.read END,
               CASE WHEN s.state IS NULL THEN j.saved ELSE s.saved END,
               CASE WHEN s.state IS NULL THEN j.reason ELSE s.reason END, j.id
        FROM shared s JOIN jobs j ON j.id = s.job;
",
    "
    -- Bytes that the cache had when whoever keeps it within its size looked last, and when (ms since 1970) that was.
    ALTER TABLE caches ADD COLUMN size INTEGER;
    ALTER TABLE caches ADD COLUMN sized INTEGER;
    -- 1: that was more than it may have; 2: it can't be found out. Backfill waits there.
    ALTER TABLE caches ADD COLUMN too_large INTEGER NOT NULL DEFAULT 0;
    -- 1: it was done when backfill asked for it once more, and hasn't been looked for since.
    ALTER TABLE jobs ADD COLUMN was_done INTEGER NOT NULL DEFAULT 0;
",
    "
    -- So that who waits for a few paths doesn't look through all that is pending.
    CREATE INDEX jobs_open_of_run ON jobs (run) WHERE state IN (0, 1);
    -- The last row that was left when the scan had come to `row`: its id, path and registration time. By it the database is
    -- recognised in which rows are counted.
    ALTER TABLE runs ADD COLUMN mark INTEGER;
    ALTER TABLE runs ADD COLUMN mark_path TEXT;
    ALTER TABLE runs ADD COLUMN mark_time INTEGER;
",
    "
    -- Of what is being uploaded: how far it has come, as Step; NULL: that isn't known yet.
    ALTER TABLE jobs ADD COLUMN step INTEGER;
",
    "
    -- Paths of which a cache shows what isn't well: they are uploaded although it shows them.
    CREATE TABLE distrusted (
        path  TEXT NOT NULL,               -- base name
        cache INTEGER NOT NULL REFERENCES caches (id),
        noted INTEGER NOT NULL,            -- ms since 1970
        PRIMARY KEY (cache, path)
    ) WITHOUT ROWID, STRICT;
",
];
