//! `storewatch doctor`: each precondition of this host is found, good or bad, and no secret shows.

use super::{Team, in_policy};
use crate::support::port::Port;
use crate::support::{
    AtticServer, Canned, Fault, FlakyProxy, Grant, Kind, Nix, On, Said, ScratchStore, Storewatch, Visibility, expr,
    write_secret,
};
use serde_json::Value;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, SystemTime};

/// What the doctor must not have from who runs the tests.
const SURROUNDINGS: [&str; 9] = [
    "https_proxy",
    "HTTPS_PROXY",
    "http_proxy",
    "HTTP_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
    "NIX_SSL_CERT_FILE",
];

/// What the doctor said, to people and to programs.
struct Examined {
    text: String,
    json: Value,
}

impl Examined {
    #[track_caller]
    fn of(storewatch: &Storewatch<'_>) -> Self {
        Self::with(storewatch, |_| ())
    }

    #[track_caller]
    fn with(storewatch: &Storewatch<'_>, change: impl Fn(&mut Command)) -> Self {
        Self::by(|| storewatch.command(), change)
    }

    #[track_caller]
    fn by(command: impl Fn() -> Command, change: impl Fn(&mut Command)) -> Self {
        let run = |arguments: &[&str]| {
            let mut command = command();
            SURROUNDINGS.iter().for_each(|name| {
                command.env_remove(name);
            });
            change(command.args(arguments));
            Said::by(&mut command)
        };
        let (text, json) = (run(&["doctor"]), run(&["doctor", "--json"]));
        let parsed: Value = serde_json::from_str(&json.stdout).unwrap_or_else(|error| panic!("{error}: {json:?}"));
        let code = if parsed["troubles"] == 0 { 0 } else { 1 };
        assert_eq!((text.code, json.code), (Some(code), Some(code)), "{}", text.stdout);
        Self { text: text.stdout, json: parsed }
    }

    /// What was found of a thing: its grade, what was found, and the cure.
    #[track_caller]
    fn finding(&self, about: &str) -> (&str, String) {
        let findings = self.json["findings"].as_array().unwrap();
        let found = findings.iter().find(|finding| finding["about"] == about);
        let found = found.unwrap_or_else(|| panic!("nothing about {about} in {}", self.text));
        let text = |key: &str| found[key].as_str().unwrap_or_default();
        // Times differ from run to run.
        assert!(self.text.contains(&format!("{:8} {about}: ", text("grade"))), "{}", self.text);
        (text("grade"), format!("{} {}", text("found"), text("cure")))
    }

    #[track_caller]
    fn assert(&self, about: &str, grade: &str, words: &str) {
        let (found, text) = self.finding(about);
        assert!(found == grade && text.contains(words), "{about} is {found}: {text}; expected {grade}: {words}");
    }

    /// What isn't well, but for the disks, which are the machine's.
    fn not_well(&self) -> Vec<&Value> {
        let findings = self.json["findings"].as_array().unwrap().iter();
        let of_the_machine = |finding: &Value| finding["about"].as_str().unwrap().starts_with("disk of ");
        findings.filter(|finding| finding["grade"] != "ok" && !of_the_machine(finding)).collect()
    }
}

#[test]
fn where_all_is_well_it_says_so_beside_a_service_and_without_one() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let attic = AtticServer::fake();
    attic.create("team", Visibility::Private, &store);
    let storewatch = Storewatch::new(&store);
    let token_file = storewatch.policy_path().with_file_name("token");
    let token = attic.token(&Grant::all(&["team"]));
    write_secret(&token_file, &token);
    let archive = storewatch.cache_at("archive");
    storewatch.policy(&format!(
        "version = 1\n{}[caches.archive]\nurl = \"{}\"\n",
        in_policy("team", &attic.url("team"), &token_file),
        archive.url()
    ));
    let examined = Examined::of(&storewatch);
    assert_eq!(examined.not_well(), Vec::<&Value>::new(), "{}", examined.text);
    let about: Vec<&str> =
        examined.json["findings"].as_array().unwrap().iter().map(|found| found["about"].as_str().unwrap()).collect();
    let (disks, others): (Vec<&str>, Vec<&str>) = about.iter().partition(|about| about.starts_with("disk of "));
    assert!(disks.concat().contains("cache archive"), "{disks:?}");
    let expected = [
        "policy",
        "Nix database",
        "Nix daemon",
        "events",
        "state directory",
        "lock",
        "queue",
        "token of team",
        "signing key of archive",
        "cache team",
        "cache archive",
        "clock of team",
        "proxy",
    ];
    assert_eq!(others, expected);
    examined.assert("Nix database", "ok", "has a write-ahead log");
    examined.assert("Nix daemon", "ok", "none is needed");
    examined.assert("events", "ok", "ms after a file was written");
    examined.assert("lock", "ok", "nobody works the queue off");
    examined.assert("queue", "ok", "none yet");
    examined.assert("cache team", "ok", "lets us read and push");
    assert_eq!(fs::read_dir(storewatch.state_dir()).unwrap().count(), 0, "nothing is left behind");

    let mut running = storewatch.start();
    let paths = store.build(&expr::many(2)).unwrap();
    running.eventually("the paths in both", || attic.has_all("team", &paths) && archive.has_all(&paths));
    running.eventually("the queue's end", || storewatch.jobs_left().is_empty());
    let daemon = store.daemon();
    let examined = Examined::of(&storewatch);
    assert_eq!(examined.not_well(), Vec::<&Value>::new(), "{}", examined.text);
    examined.assert("lock", "ok", &format!("storewatch run, process {} works the queue off", running.pid()));
    examined.assert("queue", "ok", "4 done, 0 to do, 0 held or failed");
    examined.assert("Nix daemon", "ok", "with protocol 1.");
    examined.assert("signing key of archive", "ok", "it is to be had from ");
    assert!(!examined.text.contains(&token) && !examined.json.to_string().contains(&token));
    drop(daemon);
    let later = store.build(&expr::many(1)).unwrap();
    running.eventually("the service to go on", || attic.has_all("team", &later) && archive.has_all(&later));
    running.stop();
}

#[test]
fn what_is_wrong_with_a_cache_is_found_where_it_lies() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let attic = AtticServer::fake();
    attic.create("team", Visibility::Private, &store);
    let proxy = FlakyProxy::before(attic.port());
    let token = attic.token(&Grant::all(&["team"]));
    let team = Team::new(&store, &proxy.url("team"), &token);
    for (minutes, grade) in [(0, "ok"), (3, "warning"), (10, "trouble")] {
        let time = SystemTime::now() - Duration::from_secs(minutes * 60);
        proxy.fail(On::Only(Kind::CacheInfo), Fault::Answer(Canned::dated(time)));
        let examined = Examined::of(&team.storewatch);
        examined.assert("clock of team", grade, if minutes == 0 { "s apart" } else { "s behind this host's" });
        examined.assert("cache team", "ok", "lets us read and push");
    }
    proxy.pass();
    team.replace_token(&attic.token(&Grant::pull(&["team"])));
    Examined::of(&team.storewatch).assert("cache team", "trouble", "does not allow this");
    team.replace_token("a.wrong.token");
    let examined = Examined::of(&team.storewatch);
    examined.assert("token of team", "ok", team.token_file.to_str().unwrap());
    examined.assert("cache team", "trouble", "is wrong or expired");
    assert!(!examined.text.contains("a.wrong.token"), "{}", examined.text);

    fs::set_permissions(&team.token_file, Permissions::from_mode(0o640)).unwrap();
    Examined::of(&team.storewatch).assert(
        "token of team",
        "trouble",
        "can be read by others (mode 0640); run `chmod 600",
    );
    fs::remove_file(&team.token_file).unwrap();
    Examined::of(&team.storewatch).assert(
        "token of team",
        "trouble",
        "write the secret there, readable for the service's user only",
    );
    let in_store = store.store_dir().join("token");
    write_secret(&in_store, &token);
    for (source, grade, words) in [
        (format!("{{ file = \"{}\" }}", in_store.display()), "trouble", "lies in the Nix store"),
        ("{ env = \"TEST_TOKEN\" }".to_owned(), "warning", "only the service gets it"),
        ("{ credential = \"token\" }".to_owned(), "warning", "LoadCredential=token"),
        ("{ command = [\"false\"] }".to_owned(), "trouble", "false failed"),
        ("{ command = [\"storewatch-has-no-such\"] }".to_owned(), "trouble", "name the program by its absolute path"),
        ("{ command = [\"true\"] }".to_owned(), "trouble", "what should write it has not done so"),
        ("{ command = [\"printf\", \"\\\\377\"] }".to_owned(), "trouble", "is it the right one?"),
    ] {
        let url = proxy.url("team");
        team.storewatch.policy(&format!("version = 1\n[caches.team]\nurl = \"{url}\"\ntoken = {source}\n"));
        let examined = Examined::of(&team.storewatch);
        examined.assert("token of team", grade, words);
        // What is wrong with the token is told once.
        examined.assert("cache team", "warning", "without its credentials");
        assert!(!examined.text.contains(&token), "{}", examined.text);
    }
}

#[test]
fn the_way_to_a_server_is_told_without_passwords() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let attic = AtticServer::fake();
    attic.create("near", Visibility::Private, &store);
    let storewatch = Storewatch::new(&store);
    let token_file = storewatch.policy_path().with_file_name("token");
    write_secret(&token_file, attic.token(&Grant::all(&["near"])));
    storewatch.policy(&format!(
        "version = 1\n{}{}",
        in_policy("near", &attic.url("near"), &token_file),
        in_policy("far", "attic+https://cache.invalid/far", &token_file)
    ));
    // Nobody listens there.
    let port = Port::hold();
    let shown = format!("http://127.0.0.1:{}", port.number());
    let proxy = shown.replace("http://", "http://me:s3cret@");
    let through = Examined::with(&storewatch, |command| {
        command.env("http_proxy", &proxy).env("HTTPS_PROXY", &proxy);
    });
    through.assert("proxy", "ok", &format!("HTTPS_PROXY={shown}, http_proxy={shown}"));
    through.assert("proxy for far", "ok", &format!("https://cache.invalid/ is reached by way of {shown}"));
    through.assert("cache far", "trouble", "a proxy that HTTPS_PROXY names, may stand between");
    through.assert("proxy for near", "ok", "is reached without one");
    through.assert("cache near", "ok", "lets us read and push");
    assert!(!through.text.contains("s3cret") && !through.json.to_string().contains("s3cret"), "{}", through.text);
    let missing = Examined::with(&storewatch, |command| {
        command.env("NIX_SSL_CERT_FILE", store.root().join("nowhere.pem"));
    });
    missing.assert("certificates", "trouble", "nowhere.pem");
    assert_eq!(missing.finding("cache near").0, "trouble");
}

#[test]
fn a_bad_policy_and_a_host_without_nix_are_examined_all_the_same() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    storewatch.policy("version = 1\nrulez = 1\n[limits]\nuploads = 0\n");
    let examined = Examined::of(&storewatch);
    let policy = |found: &&Value| found["about"] == "policy" && found["grade"] == "trouble";
    assert_eq!(examined.json["findings"].as_array().unwrap().iter().filter(policy).count(), 2, "{}", examined.text);
    examined.assert("policy", "trouble", "policy.toml:2:1: unknown key `rulez`");
    examined.assert("caches", "warning", "without a good policy");
    examined.assert("Nix database", "ok", "can be read");
    examined.assert("events", "ok", "one arrived");

    storewatch.policy("version = 1\n");
    let nowhere = Examined::with(&storewatch, |command| {
        command.env("NIX_STATE_DIR", store.root().join("nowhere"));
    });
    nowhere.assert("Nix database", "trouble", "is Nix installed?");
    nowhere.assert("Nix daemon", "trouble", "no Nix daemon at ");
    nowhere.assert("cache local", "ok", "can be written");
    let elsewhere = Examined::with(&storewatch, |command| {
        command.env("NIX_REMOTE", "ssh-ng://elsewhere");
    });
    elsewhere.assert("Nix store", "trouble", "NIX_REMOTE");
}

#[test]
fn who_may_not_read_the_database_is_told_what_that_means() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    fs::set_permissions(store.db_path().parent().unwrap(), Permissions::from_mode(0o700)).unwrap();
    if storewatch.command_as_nobody().is_none() {
        return;
    }
    let as_nobody = || Examined::by(|| storewatch.command_as_nobody().unwrap(), |_| ());
    let alone = as_nobody();
    alone.assert("Nix database", "trouble", "let the service run as root, or use Nix 2.15 or newer");
    alone.assert("Nix daemon", "trouble", "no Nix daemon at ");
    alone.assert("state directory", "ok", "can be written");
    let daemon = store.daemon();
    let beside = as_nobody();
    beside.assert("Nix database", "warning", "the Nix daemon is asked instead, every five to fifteen seconds");
    beside.assert("Nix daemon", "ok", "with protocol 1.");
    drop(daemon);
    let lock = storewatch.state_dir().join("lock");
    fs::write(&lock, "").unwrap();
    fs::set_permissions(&lock, Permissions::from_mode(0o600)).unwrap();
    let token_file = storewatch.policy_path().with_file_name("token");
    write_secret(&token_file, "a-token");
    storewatch.policy(&format!("version = 1\n{}", in_policy("team", "attic+https://cache.invalid/team", &token_file)));
    let as_another = as_nobody();
    as_another.assert("lock", "warning", "can't be known to this user");
    as_another.assert(
        "token of team",
        "trouble",
        "can't be read by uid 65534, as which this was asked; it belongs to uid 0",
    );
    as_another.assert("token of team", "trouble", "the file has to belong to it, with mode 0600");
    storewatch.policy("version = 1\n");
    fs::set_permissions(storewatch.state_dir(), Permissions::from_mode(0o500)).unwrap();
    let locked_out = as_nobody();
    locked_out.assert("state directory", "trouble", "ask as that user, or give another with --state-dir");
    locked_out.assert("events", "warning", "the user that the service runs as must be able to list that folder");
    locked_out.assert("cache local", "trouble", "the user that the service runs as must be able to read and write");
}
