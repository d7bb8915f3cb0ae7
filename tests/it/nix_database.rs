//! A Nix database with rows that make no sense, without any tables, or that is replaced while a command has it open.

use crate::support::nix::base_name;
use crate::support::{Nix, Said, ScratchStore, Storewatch, each_nix, eventually, expr};
use rusqlite::Connection;
use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Stdio};

/// Makes what Nix knows of a path's archive meaningless.
fn spoil_row(store: &ScratchStore, path: &str) {
    let database = Connection::open(store.db_path()).unwrap();
    let spoilt = database.execute("update ValidPaths set hash = 'md5:abc' where path = ?", [path]).unwrap();
    assert_eq!(spoilt, 1);
}

/// Makes a path refer to what is no store path.
fn spoil_reference(store: &ScratchStore, path: &str) {
    let database = Connection::open(store.db_path()).unwrap();
    let sql = "insert or ignore into ValidPaths (path, hash, registrationTime) values ('/elsewhere/x', 'sha256:x', 1)";
    database.execute(sql, []).unwrap();
    let sql = "insert into Refs select r.id, x.id from ValidPaths r, ValidPaths x where r.path = ? and x.path = '/elsewhere/x'";
    assert_eq!(database.execute(sql, [path]).unwrap(), 1);
}

const NO_HASH: &str = "hash: `md5:abc` is no SHA-256";
const NO_REFERENCE: &str = "a reference: path: `/elsewhere/x` is not directly in the store";

/// The first word behind the name of a line of a summary.
#[track_caller]
fn line<'s>(summary: &'s str, name: &str) -> &'s str {
    let line =
        summary.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}: {summary}"));
    line.split([' ', ',']).find(|word| !word.is_empty()).unwrap()
}

each_nix! {
    fn what_makes_no_sense_is_said_of_its_path_and_the_others_go_on(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        let paths = store.build(&expr::many(4)).unwrap();
        store.keep(&paths);
        spoil_row(&store, &paths[0]);
        spoil_reference(&store, &paths[1]);
        let named = |command: &[&'static str]| {
            let arguments: Vec<&str> = command.iter().copied().chain(paths[..3].iter().map(String::as_str)).collect();
            storewatch.cmd(&arguments)
        };

        let said = named(&["policy", "explain"]);
        assert_eq!(said.code, Some(1), "{said:?}");
        for (path, why) in [(&paths[0], NO_HASH), (&paths[1], NO_REFERENCE)] {
            assert!(said.stderr.contains(&format!("storewatch: Nix database, {path}: {why}")), "{said:?}");
        }
        assert!(said.stderr.contains("hint: ") && said.stdout.contains(&format!("{}\n  output", paths[2])), "{said:?}");

        let other = storewatch.state_dir().join("other.toml");
        fs::write(&other, "version = 1\n[[rules]]\nmatch = {}\naction = \"skip\"\n").unwrap();
        let said = storewatch.cmd(&["policy", "diff", other.to_str().unwrap()]);
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(!said.stdout.contains(&paths[0]), "{said:?}");
        assert!(paths[1..].iter().all(|path| said.stdout.contains(&format!("{path}\n  local: upload -> skip"))), "{said:?}");
        assert!(said.stderr.contains(&format!("{}: {NO_HASH}", base_name(&paths[0]))), "{said:?}");
        let unsigned = format!("note: no signature of {} counts, since its references can't be understood: ", paths[1]);
        assert!(said.stderr.contains(&unsigned), "{said:?}");

        let said = storewatch.cmd(&["backfill", "--dry-run"]).ok();
        assert!(said.contains("not understood: row ") && said.contains(NO_HASH), "{said}");
        assert!(said.contains("would pass over 2 not understood, named above"), "{said}");
        let said = named(&["backfill", "--dry-run"]).ok();
        for (path, why) in [(&paths[0], NO_HASH), (&paths[1], NO_REFERENCE)] {
            assert!(said.contains(&format!("would pass over 1 not understood: Nix database, {path}: {why}")), "{said}");
        }

        let said = named(&["push"]);
        assert_eq!(said.code, Some(3), "{said:?}");
        assert_eq!(line(&said.stdout, "uploaded"), "1", "{said:?}");
        for (path, why) in [(&paths[0], NO_HASH), (&paths[1], NO_REFERENCE)] {
            assert!(said.stdout.contains(&format!("not understood   1, Nix database, {path}: {why}")), "{said:?}");
        }
        assert!(storewatch.cache().has(&paths[2]) && !storewatch.cache().has(&paths[3]));

        // What only its references make unfit is queued, since no rule asks for these, and fails by itself.
        for command in [&["backfill", "--roots"][..], &["backfill"]] {
            let said = storewatch.cmd(command);
            assert_eq!(said.code, Some(3), "{said:?}");
            assert_eq!([line(&said.stdout, "already there"), line(&said.stdout, "failed")][1], "1", "{said:?}");
            let failed = format!("  {} -> local: Nix database, {}: {NO_REFERENCE}", base_name(&paths[1]), paths[1]);
            assert!(said.stdout.contains(&failed) && said.stdout.contains("from a backup"), "{said:?}");
            assert!(storewatch.cache().has(&paths[3]));
        }
        let mut running = storewatch.start();
        let built = store.build(&expr::many(2)).unwrap();
        running.eventually("what is built afterwards", || storewatch.cache().has_all(&built));
        running.stop();
        storewatch.cache().assert_sound(&[]);
    }

    fn what_needs_a_path_that_makes_no_sense_is_held(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        let chain = store.query_closure(&store.build(&expr::chain(2)).unwrap()[0]);
        spoil_row(&store, &chain[0]);
        let said = storewatch.cmd(&["policy", "explain", &chain[1]]);
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(said.stderr.contains(&format!("needs what can't be looked at: Nix database, {}", chain[0])), "{said:?}");
        let said = storewatch.cmd(&["push", &chain[1]]);
        assert_eq!(said.code, Some(3), "{said:?}");
        assert!(said.stdout.contains(&format!("-> local: needs {}: Nix database, ", base_name(&chain[0]))), "{said:?}");
        assert!(storewatch.cache().store_paths().is_empty());
    }

    fn a_repair_goes_on_past_a_path_that_makes_no_sense(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        let paths = store.build(&expr::many(2)).unwrap();
        storewatch.cmd(&["backfill"]).ok();
        for path in &paths {
            fs::remove_file(storewatch.cache().dir().join(storewatch.cache().narinfo(path).unwrap().url)).unwrap();
        }
        spoil_row(&store, &paths[0]);
        let said = storewatch.cmd(&["cache", "verify", "local", "--repair"]);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.stdout.contains(&format!("{}: Nix database, {}: {NO_HASH}", base_name(&paths[0]), paths[0])), "{said:?}");
        assert_eq!(line(&said.stdout, "uploaded"), "1", "{said:?}");
        assert!(storewatch.cache().dir().join(storewatch.cache().narinfo(&paths[1]).unwrap().url).exists());
        assert!(storewatch.cache().has(&paths[0]), "its narinfo is taken away, and nothing comes in its place");
    }

    fn a_database_without_tables_is_not_called_missing(nix: Nix) {
        for was_made in [false, true] {
            let store = ScratchStore::new(&nix);
            let storewatch = Storewatch::new(&store);
            let path = store.build(&expr::many(1)).unwrap().remove(0);
            let folder = store.db_path().parent().unwrap().to_owned();
            for file in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
                if !(was_made && file.ends_with("schema")) {
                    fs::remove_file(&file).unwrap();
                }
            }
            fs::write(store.db_path(), "").unwrap();
            let (what, cure) = match was_made {
                true => ("Nix had made it, as the file `schema` beside it says, so it was truncated", "from a backup of Nix's state"),
                false => ("Nix has not made its tables yet, or it was truncated", "such as `nix-store --init`"),
            };
            let told = format!("the Nix database `{}` is empty: {what}", store.db_path().display());
            let other = storewatch.state_dir().join("other.toml");
            fs::write(&other, "version = 1\n").unwrap();
            for command in [
                &["policy", "explain", &path][..],
                &["policy", "diff", other.to_str().unwrap()],
                &["backfill"],
                &["backfill", &path],
                &["backfill", "--dry-run"],
                &["push", &path],
            ] {
                let said = storewatch.cmd(command);
                assert_eq!(said.code, Some(1), "{command:?} {said:?}");
                assert!(said.stderr.contains(&format!("storewatch: {told}")), "{command:?} {said:?}");
                assert!(said.stderr.contains("hint: ") && said.stderr.contains(cure), "{command:?} {said:?}");
            }
            let doctor = storewatch.cmd(&["doctor"]).stdout;
            assert!(doctor.contains(&told) && doctor.contains(cure), "{doctor}");
            let mut running = storewatch.run();
            running.eventually_logs(&format!("nothing new can be found for now: {told}"));
            running.eventually_logs(" started ");
            if !was_made {
                // As it was told.
                Said::by(store.command("nix-store").arg("--init")).ok();
                let built = store.build(&expr::many(2)).unwrap();
                running.eventually("what is built afterwards", || storewatch.cache().has_all(&built));
            }
            running.stop();
        }
    }

    fn a_command_that_stands_still_lets_go_of_a_database_that_is_replaced(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        // More than goes into a pipe that nobody reads.
        store.register_bare(5_000);
        let mut standing = Standing::start(&storewatch, &["backfill", "--dry-run"]);
        standing.begins();
        eventually("it has the database open", || standing.has_open(&store));
        let copy = store.db_path().with_extension("new");
        fs::copy(store.db_path(), &copy).unwrap();
        fs::rename(&copy, store.db_path()).unwrap();
        eventually("it is closed", || !standing.has_open(&store));
        drop(standing);

        let other = storewatch.state_dir().join("other.toml");
        fs::write(&other, "version = 1\n[[rules]]\nmatch = {}\naction = \"skip\"\n").unwrap();
        let mut standing = Standing::start(&storewatch, &["policy", "diff", "--last", "5000", other.to_str().unwrap()]);
        standing.begins();
        assert!(!standing.has_open(&store), "it has all that it needs of it");
    }
}

/// A command whose output is read up to its first byte only.
struct Standing(Child);

impl Standing {
    fn start(storewatch: &Storewatch<'_>, arguments: &[&str]) -> Self {
        let mut command = storewatch.command();
        Self(command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// Waits until it has begun to print.
    fn begins(&mut self) {
        self.0.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    }

    /// Whether it has files of the database open.
    fn has_open(&self, store: &ScratchStore) -> bool {
        let open = fs::read_dir(format!("/proc/{}/fd", self.0.id())).unwrap();
        let names: Vec<PathBuf> = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()).collect();
        assert!(!names.is_empty(), "it has ended");
        let folder = store.db_path().parent().unwrap().canonicalize().unwrap();
        names.iter().any(|name| name.starts_with(&folder))
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_is_no_database_of_nixs_is_said_before_it_is_watched() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    fs::write(store.db_path(), "nonsense ".repeat(2000)).unwrap();
    let said = storewatch.cmd(&["run"]);
    assert!(said.code == Some(1) && said.stderr.contains("is not a Nix database"), "{said:?}");
    assert!(!said.stderr.contains(" started "), "{said:?}");
}
