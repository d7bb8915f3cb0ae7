//! Programs as caches, and the examples in `docs/commands.md`.

use crate::support::backend::{documented, write_program};
use crate::support::nix::base_name;
use crate::support::{Nix, Reader, Running, ScratchStore, Storewatch, each_nix, expr};
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

/// A very old Nix noted no sizes. Where one is known, what is shorter isn't kept: its input ends so where storewatch is killed.
#[test]
fn archives_are_kept_by_their_size_where_it_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let script = documented("keep-nars", folder.path());
    for (name, size, code) in [("a", "null", 0), ("b", "3", 0), ("c", "4", 75)] {
        let facts = format!("{{\"store_path\":\"/nix/store/{name}\",\"nar_size\":{size},\"references\":[]}}\nnar");
        let mut program = std::process::Command::new(&script);
        let mut running = program.arg(folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        running.stdin.take().unwrap().write_all(facts.as_bytes()).unwrap();
        let ended = running.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(code), "{name}");
        assert_eq!(folder.path().join(format!("{name}.nar")).exists(), code == 0, "{name}");
    }
}

/// A policy whose cache is a program with these arguments, and more lines.
fn policy(program: &Path, args: &[&str], more: &str) -> String {
    format!("version = 1\n[caches.team]\nurl = \"command://{}\"\nargs = {args:?}\n{more}\n", program.display())
}

/// `PATH` with a folder in front.
fn path_with(folder: &Path) -> OsString {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let all = std::iter::once(folder.to_owned()).chain(std::env::split_paths(&paths));
    std::env::join_paths(all).unwrap()
}

/// Starts the service with a folder in front of its `PATH`.
fn start(storewatch: &Storewatch<'_>, programs: &Path) -> Running {
    storewatch.start_with(|command| {
        command.env("PATH", path_with(programs));
    })
}

each_nix! {
    fn nix_copies_what_it_is_told_to_another_store(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        let nix_program = store.command("nix");
        let bin = Path::new(nix_program.get_program()).parent().unwrap().to_owned();
        let script = documented("nix-copy", store.root());
        let other = Reader::empty(&store);
        storewatch.policy(&policy(&script, &["--to", &other.url(), "--no-check-sigs"], ""));
        let mut running = start(&storewatch, &bin);
        let top = store.build(&expr::lattice(6, 300_000)).unwrap();
        let closure = store.query_closure(&top[0]);
        running.eventually("the queue's end", || storewatch.jobs("done").len() >= closure.len());
        running.stop();
        assert!(other.all_valid(&closure));
        assert_eq!(other.contents(&closure), store.contents(&closure));
        assert_eq!(storewatch.jobs_left(), Vec::<serde_json::Value>::new());
    }
}

/// Nix's own exit code is 1 whatever has gone wrong.
#[test]
fn a_path_that_the_other_store_refuses_is_no_trouble_of_the_line() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let nix_program = store.command("nix");
    let bin = Path::new(nix_program.get_program()).parent().unwrap().to_owned();
    let script = documented("nix-copy", store.root());
    let other = Reader::empty(&store);
    let storewatch = Storewatch::new(&store);
    let give_to = |to: &str| {
        storewatch.policy(&policy(&script, &["--to", to], ""));
    };
    give_to(&other.url());
    let mut running = start(&storewatch, &bin);
    let path = store.build(&expr::many(1)).unwrap().remove(0);
    running.eventually("the refusal", || storewatch.jobs("failed").len() == 1);
    let reason = storewatch.jobs("failed")[0]["reason"].to_string();
    assert!(reason.contains("lacks a signature") || reason.contains("lacks a valid signature"), "{reason}");
    running.stop();

    give_to(&format!("unix://{}", store.root().join("nobody-listens").display()));
    let mut running = start(&storewatch, &bin);
    storewatch.cmd(&["queue", "retry", &path]).ok();
    running.eventually("the want of a server", || {
        let why = storewatch.cache_status("team")["waiting_why"].to_string();
        why.contains("can't reach what it uploads to")
    });
    assert_eq!(storewatch.jobs("failed"), Vec::<serde_json::Value>::new());
    running.stop();
}

/// A `cachix` that notes what it was told, and refuses whoever has no token.
const CACHIX: &str = r#"#!/bin/sh
folder=$(dirname "$0")
[ "$1" = push ] && [ "$2" = our-cache ] && [ -e "$3" ] && [ $# -eq 3 ] || exit 2
if [ "$CACHIX_AUTH_TOKEN" != "$(cat "$folder/token")" ]; then
    echo 'You need to first run: cachix authtoken' >&2
    exit 1
fi
if [ -e "$folder/away" ]; then
    echo 'HttpExceptionRequest Request { .. } (ConnectionFailure Network.Socket.connect: does not exist)' >&2
    exit 1
fi
if [ -e "$folder/refuses" ]; then
    echo 'FailureResponse (Response {responseStatusCode = Status {statusCode = 413, statusMessage = "Too Large"}})' >&2
    exit 1
fi
echo "$3" >> "$folder/pushed"
"#;

#[test]
fn cachix_is_given_each_path_once_and_in_order() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let bin = store.root().join("bin");
    fs::create_dir(&bin).unwrap();
    write_program(&bin.join("cachix"), CACHIX);
    fs::write(bin.join("token"), "not-this-one").unwrap();
    fs::write(bin.join("away"), "").unwrap();
    let script = documented("cachix-push", store.root());
    storewatch.policy(&policy(&script, &["our-cache"], "pass_environment = [\"CACHIX_AUTH_TOKEN\"]"));
    let mut running = storewatch.start_with(|command| {
        command.env("PATH", path_with(&bin)).env("CACHIX_AUTH_TOKEN", "s3cret-token");
    });
    let top = store.build(&expr::chain(3)).unwrap().remove(0);
    let closure = store.query_closure(&top);
    let waits = |why: &str| {
        let status = storewatch.cache_status("team");
        assert_eq!(status["failed"], 0);
        status["waiting_why"].as_str().is_some_and(|told| told.contains(why))
    };
    running.eventually("the want of a token", || waits("lacks credentials, or their permission"));
    fs::write(bin.join("token"), "s3cret-token").unwrap();
    running.eventually("the want of a server", || waits("can't reach what it uploads to"));
    fs::remove_file(bin.join("away")).unwrap();
    running.eventually("the queue's end", || storewatch.jobs("done").len() == 3);
    let pushed = || fs::read_to_string(bin.join("pushed")).unwrap().lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(pushed(), closure, "each once, references first");

    // What it was given counts as there, for what refers to it too.
    let above = expr::script("above", &format!("echo {top} > $out"));
    let above = above.replace("salt =", &format!("before = builtins.storePath \"{top}\"; salt ="));
    let above = store.build(&above).unwrap().remove(0);
    assert_eq!(store.query_references(&above), std::slice::from_ref(&top));
    running.eventually("what refers to it", || storewatch.jobs("done").len() == 4);
    assert_eq!(pushed().len(), 4);
    assert_eq!(pushed()[3], above);
    fs::write(bin.join("refuses"), "").unwrap();
    let refused = store.build(&expr::many(1)).unwrap().remove(0);
    running.eventually("the refusal", || storewatch.jobs("failed").len() == 1);
    assert!(storewatch.cache_status("team")["waiting_why"].is_null());
    fs::remove_file(bin.join("refuses")).unwrap();
    storewatch.cmd(&["queue", "retry"]).ok();
    running.eventually("the queue's end", || storewatch.jobs("done").len() == 5);
    assert_eq!(pushed()[4], refused);
    assert!(!running.log().contains("s3cret-token"));
    running.stop();

    // A backfill gives it everything again, references first again.
    let backfill = storewatch
        .command()
        .arg("backfill")
        .env("PATH", path_with(&bin))
        .env("CACHIX_AUTH_TOKEN", "s3cret-token")
        .output();
    let backfill = backfill.unwrap();
    assert!(backfill.status.success(), "{backfill:?}");
    let once = [&closure[..], std::slice::from_ref(&above)].concat();
    let mut again = pushed().split_off(5);
    assert_eq!(again.len(), 5);
    again.retain(|path| *path != refused);
    assert_eq!(again, once);
}

#[test]
fn a_program_that_fails_is_run_as_often_as_the_manual_says() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let program = store.root().join("program");
    write_program(&program, "#!/bin/sh\necho run >> \"$1\"\nexit 1\n");
    let runs = store.root().join("runs");
    storewatch.policy(&policy(&program, &[runs.to_str().unwrap()], ""));
    let mut running = storewatch.start();
    store.build(&expr::many(1)).unwrap();
    running.eventually("the failure", || storewatch.jobs("failed").len() == 1);
    running.stop();
    assert!(include_str!("../../docs/commands.md").contains("The path is tried four times and has failed then"));
    assert_eq!(fs::read_to_string(runs).unwrap().lines().count(), 4);
}

#[test]
fn a_program_that_takes_archives_gets_them_whole() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let script = documented("keep-nars", store.root());
    let nars = store.root().join("nars");
    fs::create_dir(&nars).unwrap();
    storewatch.policy(&policy(&script, &[nars.to_str().unwrap()], "gives = \"nar\"\ntimeout = \"5m\""));
    let mut running = storewatch.start();
    let mut paths = store.build(&expr::chain(2)).unwrap();
    paths.extend(store.build(&expr::sized(3_000_000)).unwrap());
    let altered = store.build(&expr::sized(2_000_000)).unwrap().remove(0);
    running.eventually("the queue's end", || storewatch.jobs("done").len() == 4);
    for path in &paths {
        let dumped = store.command("nix-store").args(["--dump", path]).output().unwrap().stdout;
        assert!(fs::read(nars.join(format!("{}.nar", base_name(path)))).unwrap() == dumped, "{path}");
    }
    running.stop();

    // What Nix has not registered so isn't handed over.
    let kept = nars.join(format!("{}.nar", base_name(&altered)));
    fs::remove_file(&kept).unwrap();
    fs::set_permissions(&altered, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&altered, vec![7; 2_000_000]).unwrap();
    fs::set_permissions(&altered, fs::Permissions::from_mode(0o444)).unwrap();
    assert_ne!(storewatch.cmd(&["push", &altered]).code, Some(0));
    let failed = storewatch.jobs("failed");
    assert!(failed[0]["reason"].as_str().unwrap().contains("has changed since Nix registered it"), "{failed:?}");
    assert!(!kept.exists());
    let begun = nars.join(format!(".{}.new", base_name(&altered)));
    assert!(fs::metadata(begun).map_or(0, |begun| begun.len()) < 2_000_000, "all of it was handed over");
}

#[test]
fn what_people_see_of_a_program() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let program = store.root().join("program");
    storewatch.policy(&policy(&program, &[], ""));
    let ping = storewatch.cmd(&["cache", "ping"]);
    assert!(ping.code == Some(1) && ping.stdout.contains("can't be used: No such file"), "{ping:?}");
    let doctor = storewatch.cmd(&["doctor"]);
    assert!(doctor.stdout.contains("can't be used") && doctor.stdout.contains("name a program in `url`"), "{doctor:?}");
    write_program(&program, "#!/bin/sh\nexit 0\n");
    let ping = storewatch.cmd(&["cache", "ping"]).ok();
    assert!(ping.contains("the program is there; it is run for paths only"), "{ping}");
    assert!(!storewatch.cmd(&["doctor"]).stdout.contains("can't be used"));
    let url = format!("command://{}", program.display());
    assert!(storewatch.cmd(&["cache", "list"]).ok().starts_with(&format!("team  command  {url}\n")));
    let info = storewatch.cmd(&["cache", "info", "team"]).ok();
    assert!(info.contains("it alone knows") && !info.contains("substituter"), "{info}");
    let status = storewatch.cache_status("team");
    assert_eq!((&status["substituter"], &status["public_key"]), (&serde_json::Value::Null, &serde_json::Value::Null));
    let paths = store.build(&expr::many(1)).unwrap();
    storewatch.cmd(&["push", &paths[0]]).ok();
    assert_eq!(storewatch.jobs("done").len(), 1);
}
