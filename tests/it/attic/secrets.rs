//! The token, given in every way there is, goes to its server and shows nowhere else.

use super::Team;
use crate::support::{
    AtticServer, Canned, Fault, FlakyProxy, Grant, Kind, Nix, On, ScratchStore, Storewatch, Visibility, expr,
    write_secret,
};
use std::fs;
use std::path::Path;

/// So many of a secret's characters in a row would be too many.
const TELLING: usize = 20;

/// Makes a test of each way of giving a token: what the policy says of it, given a file for it.
macro_rules! each_way {
    ($($name:ident: $way:expr;)+) => {$(
        #[test]
        fn $name() {
            nothing_shows(&$way);
        }
    )+};
}

each_way! {
    by_a_file: Way { named: |file| format!("{{ file = \"{file}\" }}"), written: plain, in_environment: false };
    by_a_variable: Way { named: |_| "{ env = \"TEST_TOKEN\" }".to_owned(), written: plain, in_environment: true };
    by_a_credential: Way {
        named: |_| "{ credential = \"token\" }".to_owned(), written: plain, in_environment: false
    };
    by_a_command: Way {
        named: |file| format!("{{ command = [\"cat\", \"{file}\"] }}"), written: plain, in_environment: false
    };
    by_a_netrc: Way {
        named: |file| format!("{{ netrc = \"{file}\" }}"),
        written: |token| format!("machine other.invalid password wrong\nmachine 127.0.0.1\n  password {token}\n"),
        in_environment: false
    };
}

/// A way of giving a token.
struct Way {
    /// The policy's words for it, given the file's path.
    named: fn(&str) -> String,
    /// What stands in the file.
    written: fn(&str) -> String,
    in_environment: bool,
}

fn plain(token: &str) -> String {
    token.to_owned()
}

fn nothing_shows(way: &Way) {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let mut attic = AtticServer::fake();
    attic.create("team", Visibility::Private, &store);
    let proxy = FlakyProxy::before(attic.port());
    let token = attic.token(&Grant::all(&["team"]));
    let storewatch = Storewatch::new(&store);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    write_secret(&file, (way.written)(&token));
    let named = (way.named)(&file.display().to_string());
    storewatch.policy(&format!("version = 1\n[caches.team]\nurl = \"{}\"\ntoken = {named}\n", proxy.url("team")));
    let mut running = storewatch.start_with(|command| {
        command.env("STOREWATCH_LOG", "trace").env("CREDENTIALS_DIRECTORY", folder.path());
        if way.in_environment {
            command.env("TEST_TOKEN", &token);
        }
    });
    let mut paths = store.build(&expr::many(2)).unwrap();
    running.eventually("the first paths", || attic.has_all("team", &paths));

    let mut seen = Vec::new();
    // Whoever stands between may say what it heard.
    for canned in [
        Canned::error_saying(&format!("what is 'authorization: bearer {token}'?")),
        Canned::json(&format!("{{\"missing_paths\": \"{token}\"}}")),
        Canned::json(&format!("bearer {token}")),
        Canned::redirect(&format!("http://elsewhere.invalid/?token={token}")),
    ] {
        let before = proxy.faults();
        proxy.fail(On::Every, Fault::Answer(canned));
        paths.extend(store.build(&expr::many(1)).unwrap());
        running.eventually("the answer", || proxy.faults() > before);
        running.eventually("the cache to wait", || storewatch.cache_status("team")["waiting_why"].is_string());
        seen.extend(all_that_is_said(&storewatch));
        proxy.pass();
        running.eventually("all of them", || attic.has_all("team", &paths));
    }
    attic.revoke_tokens();
    store.build(&expr::many(1)).unwrap();
    running.eventually("the cache to wait", || storewatch.cache_status("team")["waiting_why"].is_string());
    seen.extend(all_that_is_said(&storewatch));
    let proc = |name: &str| {
        let bytes = fs::read(format!("/proc/{}/{name}", running.pid())).unwrap();
        (format!("/proc/PID/{name}"), String::from_utf8_lossy(&bytes).into_owned())
    };
    seen.push(proc("cmdline"));
    if !way.in_environment {
        seen.push(proc("environ"));
    }
    seen.push(("the log".to_owned(), running.log()));
    running.stop();
    for (name, bytes) in files(&storewatch.state_dir()) {
        seen.push((name, String::from_utf8_lossy(&bytes).into_owned()));
    }
    assert!(seen.iter().any(|(_, text)| text.contains("TRACE")), "the log tells everything");
    assert_hidden(&token, &seen);
}

#[test]
fn a_header_that_is_a_secret_reaches_the_server_and_shows_nowhere() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let attic = AtticServer::fake();
    attic.create("team", Visibility::Private, &store);
    let proxy = FlakyProxy::before(attic.port());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access");
    let secret = "0123456789abcdef-0123456789abcdef-0123456789abcdef";
    write_secret(&file, secret);
    let headers = format!(
        "headers = {{ CF-Access-Client-Id = \"storewatch\", CF-Access-Client-Secret = {{ file = \"{}\" }} }}\n",
        file.display()
    );
    let team = Team::with_keys(&store, &proxy.url("team"), &headers);
    team.replace_token(&attic.token(&Grant::all(&["team"])));
    let mut running = team.storewatch.start_with(|command| {
        command.env("STOREWATCH_LOG", "trace");
    });
    let paths = store.build(&expr::many(2)).unwrap();
    team.eventually_delivers(&mut running, &attic, &paths);
    for request in proxy.seen() {
        assert_eq!(request.header("cf-access-client-id"), "storewatch", "{:?}", request.kind);
        assert_eq!(request.header("cf-access-client-secret"), secret, "{:?}", request.kind);
    }
    assert!(proxy.seen().iter().any(|request| request.kind == Kind::Upload));
    let mut seen = all_that_is_said(&team.storewatch);
    seen.push(("the log".to_owned(), running.log()));
    running.stop();
    assert_hidden(secret, &seen);
}

/// What commands say, by what was asked.
fn all_that_is_said(storewatch: &Storewatch<'_>) -> Vec<(String, String)> {
    let commands: [&[&str]; 12] = [
        &["status"],
        &["status", "--json"],
        &["queue", "list"],
        &["queue", "list", "--json"],
        &["queue", "list", "--json", "--state", "done"],
        &["policy", "check"],
        &["backfill", "--dry-run"],
        &["cache", "list"],
        &["cache", "info", "team"],
        &["cache", "ping"],
        &["cache", "ping", "--json"],
        &["doctor"],
    ];
    let said = |command: &&[&str]| {
        let said = storewatch.cmd(command);
        (command.join(" "), said.stdout + &said.stderr)
    };
    commands.iter().map(said).collect()
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.is_file() {
                found.push((path.display().to_string(), fs::read(&path).unwrap()));
            }
        }
    }
    found
}

#[track_caller]
fn assert_hidden(secret: &str, seen: &[(String, String)]) {
    for (place, text) in seen {
        for part in (0..=secret.len() - TELLING).step_by(TELLING / 2).map(|at| &secret[at..at + TELLING]) {
            let line = text.lines().find(|line| line.contains(part));
            assert_eq!(line, None, "{place} shows the secret");
        }
    }
}

/// What goes to this host must not leave it: a proxy of the environment would be given the token in clear.
#[test]
fn what_goes_to_this_host_passes_the_proxy_by() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let attic = AtticServer::fake();
    attic.create("team", Visibility::Private, &store);
    let team = Team::new(&store, &attic.url("team"), &attic.token(&Grant::all(&["team"])));
    let proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.set_nonblocking(true).unwrap();
    let address = format!("http://{}", proxy.local_addr().unwrap());
    let mut running = team.storewatch.start_with(|command| {
        command.env("http_proxy", &address).env("all_proxy", &address).env_remove("no_proxy").env_remove("NO_PROXY");
    });
    let paths = store.build(&expr::many(2)).unwrap();
    team.eventually_delivers(&mut running, &attic, &paths);
    let asked = proxy.accept().map(|_| ());
    assert_eq!(asked.map_err(|error| error.kind()), Err(std::io::ErrorKind::WouldBlock));
    running.stop();
}
