//! Against databases that the test makes itself, with Nix's own tables.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, StatementStatus, params};

use super::files::Files;
use super::*;
use crate::nix::{Derivation, Realisation};

mod kept;
mod torn;
mod unprivileged;

const HEX: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const NIX32: &str = "sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";
const PLENTY: BatchLimits = BatchLimits { rows: 1000, time: Duration::from_secs(60) };

/// `db/` of a scratch store, with the connection that plays Nix.
struct Scratch {
    dir: tempfile::TempDir,
    nix: Connection,
}

impl Scratch {
    fn new() -> Self {
        Self::with("wal", c"unix")
    }

    /// As Nix has it with `use-sqlite-wal = false`.
    fn without_wal() -> Self {
        Self::with("truncate", c"unix-dotfile")
    }

    fn with(mode: &str, locking: &std::ffi::CStr) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("db.sqlite");
        let nix = Connection::open_with_flags_and_vfs(path, OpenFlags::default(), locking).expect("a database");
        nix.pragma_update(None, "journal_mode", mode).expect("a journal mode");
        nix.execute_batch(
            "create table ValidPaths (
                id integer primary key autoincrement not null, path text unique not null, hash text not null,
                registrationTime integer not null, deriver text, narSize integer, ultimate integer, sigs text, ca text);
             create table Refs (referrer integer not null, reference integer not null, primary key (referrer, reference));",
        )
        .expect("Nix's tables");
        Self { dir, nix }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("db.sqlite")
    }

    fn open(&self) -> Database {
        Database::open(&self.path(), &StoreDir::default()).expect("a Nix database")
    }

    /// Registers a path as Nix does and gives its id.
    fn add(&self, base_name: &str) -> i64 {
        self.add_row(&format!("/nix/store/{base_name}"), HEX)
    }

    fn add_row(&self, path: &str, hash: &str) -> i64 {
        let sql = "insert into ValidPaths (path, hash, registrationTime, narSize) values (?, ?, 1700000000, 120)";
        self.nix.execute(sql, [path, hash]).expect("a row");
        self.nix.last_insert_rowid()
    }

    fn refer(&self, referrer: i64, reference: i64) {
        self.nix.execute("insert into Refs values (?, ?)", [referrer, reference]).expect("a reference");
    }
}

fn base(n: u32, name: &str) -> String {
    format!("{n:032}-{name}")
}

fn store_path(base_name: &str) -> StorePath {
    StorePath::from_base_name(base_name).expect("a store path")
}

#[test]
fn a_row_is_read_whole() {
    let scratch = Scratch::new();
    scratch
        .nix
        .execute(
            "insert into ValidPaths (path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca)
             values (?1, ?2, 1700000000, ?3, 120, 1, 'a-1:xyz=  b:abc', 'text:sha256:123')",
            params![format!("/nix/store/{}", base(1, "x")), NIX32, format!("/nix/store/{}", base(2, "x.drv")),],
        )
        .expect("a row");
    let batch = scratch.open().batch(0, &PLENTY).expect("a batch");
    let expected = PathInfo {
        id: Some(1),
        path: store_path(&base(1, "x")),
        nar_hash: super::super::NarHash::from_hex(HEX).expect("a hash"),
        nar_size: 120,
        registration_time: 1_700_000_000,
        deriver: Some(store_path(&base(2, "x.drv"))),
        ultimate: true,
        sigs: vec!["a-1:xyz=".to_owned(), "b:abc".to_owned()],
        ca: Some("text:sha256:123".to_owned()),
        references: None,
    };
    assert_eq!(batch.paths, [expected]);
    assert!(batch.complete);
}

#[test]
fn what_an_old_nix_left_out_is_none() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("db.sqlite");
    let nix = Connection::open(&path).expect("a database");
    nix.execute_batch(&format!(
        "create table ValidPaths (id integer primary key autoincrement not null, path text unique not null,
                                  hash text not null, registrationTime integer not null, deriver text, narSize integer);
         create table Refs (referrer integer not null, reference integer not null);
         insert into ValidPaths (path, hash, registrationTime, deriver) values ('/nix/store/{}', '{HEX}', 5, '');",
        base(1, "old")
    ))
    .expect("the tables of schema 7");
    let database = Database::open(&path, &StoreDir::default()).expect("a Nix database");
    let info = database.path_info(&store_path(&base(1, "old"))).expect("an answer").expect("valid");
    assert_eq!((info.nar_size, info.deriver, info.ultimate), (0, None, false));
    assert_eq!((info.sigs, info.ca, info.references), (vec![], None, Some(vec![])));
}

#[test]
fn batches_end_at_their_limits_and_go_on_where_they_ended() {
    let scratch = Scratch::new();
    for n in 1..=10 {
        scratch.add(&base(n, "x"));
    }
    let database = scratch.open();
    let limits = BatchLimits { rows: 4, ..PLENTY };
    let (mut after, mut sizes, mut ids) = (0, Vec::new(), Vec::new());
    loop {
        let batch = database.batch(after, &limits).expect("a batch");
        sizes.push(batch.paths.len());
        ids.extend(batch.paths.iter().filter_map(|info| info.id));
        after = batch.reached;
        if batch.complete {
            break;
        }
    }
    assert_eq!((sizes, ids), (vec![4, 4, 2], (1..=10).collect()));
    assert_eq!(database.batch(10, &PLENTY).expect("a batch").reached, 10);

    let hurried = BatchLimits { rows: 4, time: Duration::ZERO };
    let batch = database.batch(0, &hurried).expect("a batch");
    assert_eq!((batch.paths.len(), batch.reached, batch.complete), (1, 1, false), "a scan gets on without any time");
}

#[test]
fn malformed_rows_are_passed_over() {
    let scratch = Scratch::new();
    scratch.add(&base(1, "good"));
    scratch.add_row("/elsewhere/x", HEX);
    scratch.add_row(&format!("/nix/store/{}", base(3, "x")), "md5:abc");
    scratch
        .nix
        .execute("insert into ValidPaths (path, hash, registrationTime) values (x'ff', 1, 'x')", [])
        .expect("a row");
    let batch = scratch.open().batch(0, &PLENTY).expect("a batch");
    assert_eq!(batch.paths.len(), 1);
    let told: Vec<_> = batch.malformed.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "row 2 of the Nix database: path: `/elsewhere/x` is not directly in the store `/nix/store`",
            &format!("row 3 of the Nix database, {}: hash: `md5:abc` is no SHA-256", base(3, "x")),
            "row 4 of the Nix database: path: Blob, not text",
        ]
    );
    assert_eq!((batch.reached, batch.complete), (4, true));
    assert_eq!(scratch.open().row_mark(2).expect("a mark").map(|mark| mark.path).as_deref(), Some("/elsewhere/x"));
    assert!(scratch.open().row_mark(4).is_ok(), "a mark is taken of any row");
}

#[test]
fn references_are_sorted_and_complete_or_an_error() {
    let scratch = Scratch::new();
    let (c, b, a) = (scratch.add(&base(3, "c")), scratch.add(&base(2, "b")), scratch.add(&base(1, "a")));
    for reference in [c, a, b] {
        scratch.refer(a, reference);
    }
    let database = scratch.open();
    let sorted = [store_path(&base(1, "a")), store_path(&base(2, "b")), store_path(&base(3, "c"))];
    assert_eq!(database.references(a).expect("references"), sorted);
    let info = database.path_info(&sorted[0]).expect("an answer").expect("valid");
    assert_eq!(info.references.as_deref(), Some(&sorted[..]));
    assert_eq!(database.path_info(&store_path(&base(4, "d"))).expect("an answer"), None);
    assert!(database.is_valid(&sorted[1]).expect("an answer"));
    assert!(!database.is_valid(&store_path(&base(4, "d"))).expect("an answer"));

    let bad = scratch.add_row("/elsewhere/x", HEX);
    scratch.refer(a, bad);
    let error = database.path_info(&sorted[0]).expect_err("a reference is missing");
    assert!(matches!(error, DatabaseError::Malformed { .. }), "{error}");
}

#[test]
fn the_last_id_outlives_a_garbage_collection() {
    let scratch = Scratch::new();
    let database = scratch.open();
    assert_eq!(database.last_id().expect("an id"), 0);
    let id = scratch.add(&base(1, "x"));
    let mark = database.row_mark(id).expect("a mark").expect("a row");
    assert_eq!((mark.path, mark.registration_time), (format!("/nix/store/{}", base(1, "x")), 1_700_000_000));
    scratch.nix.execute("delete from ValidPaths", []).expect("a deletion");
    assert_eq!(database.last_id().expect("an id"), id);
    assert_eq!(database.row_mark(id).expect("an answer"), None);
    assert_eq!(scratch.add(&base(1, "x")), id + 1);
}

/// Invariant 4: with a connection open that has just read, Nix's checkpoint gets through the whole log.
#[test]
fn no_call_holds_up_a_checkpoint() {
    let scratch = Scratch::new();
    for n in 1..=10 {
        let id = scratch.add(&base(n, "x"));
        scratch.refer(id, 1);
    }
    let database = scratch.open();
    let one = store_path(&base(1, "x"));
    let calls: [(&str, &dyn Fn()); 6] = [
        ("batch", &|| drop(database.batch(0, &BatchLimits { rows: 2, ..PLENTY }).expect("a batch"))),
        ("path_info", &|| drop(database.path_info(&one).expect("info"))),
        ("references", &|| drop(database.references(1).expect("references"))),
        ("last_id", &|| assert!(database.last_id().expect("an id") >= 10)),
        ("row_mark", &|| drop(database.row_mark(1).expect("a mark"))),
        ("is_valid", &|| assert!(database.is_valid(&one).expect("an answer"))),
    ];
    for (n, (name, call)) in calls.iter().enumerate() {
        call();
        scratch.add(&base(100 + n as u32, "x"));
        let checkpoint = "pragma wal_checkpoint(truncate)";
        let blocked: i64 = scratch.nix.query_row(checkpoint, [], |row| row.get(0)).expect("a checkpoint");
        assert_eq!(blocked, 0, "{name} left a read transaction open");
    }
}

#[test]
fn a_query_is_planned_once_and_not_for_each_value() {
    let scratch = Scratch::new();
    let database = scratch.open();
    (0..10).for_each(|id| drop(database.references(id).expect("references")));
    let planned_anew = database.connection.ask(|connection| {
        let references = connection.prepare_cached(REFERENCES).expect("it has been used");
        (references.get_status(StatementStatus::Run), references.get_status(StatementStatus::RePrepare))
    });
    assert_eq!(planned_anew, Some((10, 0)));
}

#[test]
fn the_journal_mode_is_seen() {
    assert!(Scratch::new().open().uses_wal());
    assert!(!Scratch::without_wal().open().uses_wal());
}

#[test]
fn another_file_at_the_path_is_noticed() {
    let scratch = Scratch::new();
    let database = scratch.open();
    assert!(!database.replaced());
    let away = scratch.dir.path().join("away");
    fs::rename(scratch.path(), &away).expect("moved away");
    assert!(database.replaced());
    fs::copy(&away, scratch.path()).expect("a copy");
    assert!(database.replaced());
    assert_ne!(Files::at(&scratch.path()).expect("a file").database, database.identity());
    fs::rename(&away, scratch.path()).expect("moved back");
    assert!(!database.replaced());
}

#[test]
fn what_is_no_nix_database_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let open = |name: &str| Database::open(&dir.path().join(name), &StoreDir::default()).map(drop).expect_err("none");

    assert!(matches!(open("absent"), DatabaseError::NotFound { .. }));
    fs::write(dir.path().join("text"), "x".repeat(4096)).expect("a file");
    assert!(matches!(open("text"), DatabaseError::NotNix { .. }));
    fs::write(dir.path().join("empty"), "").expect("a file");
    assert!(matches!(open("empty"), DatabaseError::Empty { was_made: false, .. }), "Nix is making it");
    fs::write(dir.path().join("schema"), "10").expect("a file");
    assert!(matches!(open("empty"), DatabaseError::Empty { was_made: true, .. }), "Nix had made it");
    fs::create_dir(dir.path().join("folder")).expect("a folder");
    assert!(matches!(open("folder"), DatabaseError::Other { .. }));

    let other = Connection::open(dir.path().join("other")).expect("a database");
    other.execute_batch("create table ValidPaths (id integer primary key, path text)").expect("a table");
    let error = open("other").to_string();
    assert!(error.ends_with("other` is not a Nix database: it has no column `ValidPaths.hash`"), "{error}");
}

#[test]
fn a_newer_schema_is_refused() {
    let scratch = Scratch::new();
    let schema = scratch.dir.path().join("schema");
    fs::write(&schema, "10").expect("a file");
    scratch.open();
    fs::write(&schema, "11\n").expect("a file");
    let error = Database::open(&scratch.path(), &StoreDir::default()).map(drop).expect_err("too new");
    assert!(matches!(error, DatabaseError::NewerSchema { found: 11, known: 10, .. }), "{error}");
}

/// Nix's tables for realisations, up to 2.34 and from 2.35 on.
const REALISATIONS: &str = "
    create table Realisations (id integer primary key autoincrement not null, drvPath text not null,
        outputName text not null, outputPath integer not null, signatures text);
    create table RealisationsRefs (referrer integer not null, realisationReference integer);";
const BUILD_TRACE: &str = "
    create table BuildTraceV3 (id integer primary key autoincrement not null, drvPath text not null,
        outputName text not null, outputPath text not null, signatures text);";

#[test]
fn realisations_are_found_in_whichever_table_nix_has_made() {
    let scratch = Scratch::new();
    let (one, two) = ("0".repeat(32) + "-one", "1".repeat(32) + "-two");
    let path = |name: &str| StorePath::from_base_name(name).expect("a legal name");
    let (first, second) = (scratch.add(&one), scratch.add(&two));
    let database = scratch.open();
    assert_eq!(database.realisations(&path(&two)).expect("asked"), None, "no table, no realisation");

    // Made while the database is open, as by the first Nix with `ca-derivations`.
    scratch.nix.execute_batch(REALISATIONS).expect("made");
    assert_eq!(database.realisations(&path(&two)).expect("asked"), Some(Vec::new()));
    let insert = "insert into Realisations (drvPath, outputName, outputPath, signatures) values (?1, ?2, ?3, ?4)";
    for (hash, output, id, signatures) in [
        ("sha256:aa", "out", first, None),
        ("sha256:bb", "dev", second, Some("k-1:c2ln k-2:c2ln")),
        ("sha256:../..", "out", second, Some("")),
    ] {
        scratch.nix.execute(insert, params![hash, output, id, signatures]).expect("inserted");
    }
    scratch.nix.execute_batch("insert into RealisationsRefs values (2, 1)").expect("inserted");
    let depends_on = [("sha256:aa!out".to_owned(), path(&one))].into();
    let by_hash = Realisation {
        derivation: Derivation::Hash { hash: "sha256:bb".to_owned(), depends_on },
        output: "dev".to_owned(),
        out_path: path(&two),
        signatures: vec!["k-1:c2ln".to_owned(), "k-2:c2ln".to_owned()],
    };
    assert_eq!(database.realisations(&path(&two)).expect("asked"), Some(vec![by_hash.clone()]), "no file elsewhere");

    scratch.nix.execute_batch(BUILD_TRACE).expect("made");
    let insert = "insert into BuildTraceV3 (drvPath, outputName, outputPath, signatures) values (?1, ?2, ?3, ?4)";
    let derivation = "2".repeat(32) + "-two.drv";
    for (derivation, out_path) in [(derivation.as_str(), &two), (derivation.as_str(), &one), ("../../x", &two)] {
        scratch
            .nix
            .execute(insert, params![derivation, "out", format!("/nix/store/{out_path}"), ""])
            .expect("inserted");
    }
    let by_path = Realisation {
        derivation: Derivation::Path(path(&derivation)),
        output: "out".to_owned(),
        out_path: path(&two),
        signatures: Vec::new(),
    };
    assert_eq!(database.realisations(&path(&two)).expect("asked"), Some(vec![by_hash, by_path]));
}
