//! What a user without rights meets. As root, in a process of another user's: root may do everything.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::Scratch;
use crate::nix::{Database, StoreDir};

/// What this environment variable names is opened, and the outcome printed, by the test below in a process without rights.
const OPEN_AS_NOBODY: &str = "STOREWATCH_TEST_OPEN";

#[test]
fn opens_what_it_is_told_to() {
    if let Some(path) = std::env::var_os(OPEN_AS_NOBODY) {
        match Database::open(Path::new(&path), &StoreDir::default()).and_then(|database| database.last_id()) {
            Ok(id) => println!("outcome: last id {id}"),
            Err(error) => println!("outcome: {error:?}"),
        }
    }
}

#[test]
fn an_unprivileged_reader_is_told_apart() {
    let (nobody, Scratch { dir, nix }) = (65534, Scratch::new());
    let folder = dir.path();
    let database = folder.join("db.sqlite");
    let program = folder.join("tests");
    fs::copy(std::env::current_exe().expect("this program"), &program).expect("a copy");
    let chmod = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
    chmod(folder, 0o755);
    let outcome = || {
        let mut command = Command::new(&program);
        command.args(["--exact", "nix::database::tests::unprivileged::opens_what_it_is_told_to", "--nocapture"]);
        command.env(OPEN_AS_NOBODY, &database).current_dir("/");
        if rustix::process::geteuid().is_root() {
            command.uid(nobody).gid(nobody);
        }
        let output = command.output().expect("run as another user");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().find_map(|line| line.split_once("outcome: ")).expect(&text).1.to_owned()
    };
    assert_eq!(outcome(), "last id 0", "with the log's files there, anybody reads");

    chmod(&database, 0o000);
    let found = outcome();
    assert!(found.starts_with("Denied") && found.contains("access: File"), "{found}");
    chmod(&database, 0o644);

    chmod(&folder.join("db.sqlite-wal"), 0o000);
    let found = outcome();
    assert!(found.starts_with("Denied") && found.contains("access: WriteAheadLog"), "{found}");
    chmod(&folder.join("db.sqlite-wal"), 0o644);

    // As Nix before 2.22 leaves it when its last command ends.
    nix.close().expect("closed");
    assert!(!folder.join("db.sqlite-wal").exists());
    chmod(folder, 0o555);
    let found = outcome();
    chmod(folder, 0o755);
    assert!(found.starts_with("Denied") && found.contains("access: WriteAheadLog"), "{found}");
}
