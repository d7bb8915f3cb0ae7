//! What people get wrong about a cache: said clearly, and without showing what may be a secret.

use super::Team;
use crate::support::{
    AtticServer, Canned, Fault, FlakyProxy, Grant, Nix, On, ScratchStore, Storewatch, Visibility, expr, write_secret,
};

#[test]
fn a_newline_behind_the_token_does_no_harm() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let attic = AtticServer::fake();
    attic.create("team", Visibility::Private, &store);
    for end in ["", "\n", "\r\n", "\n\n"] {
        let token = attic.token(&Grant::all(&["team"]));
        let team = Team::without_token(&store, &attic.url("team"));
        write_secret(&team.token_file, format!("{token}{end}"));
        let mut running = team.storewatch.start();
        let paths = store.build(&expr::many(1)).unwrap();
        running.eventually(&format!("a path, by a token that ends in {end:?}"), || attic.has_all("team", &paths));
        running.stop();
    }
}

#[test]
fn a_file_that_holds_no_token_is_refused_until_it_does() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let attic = AtticServer::fake();
    attic.create("team", Visibility::Private, &store);
    let team = Team::without_token(&store, &attic.url("team"));
    let mut running = team.storewatch.start();
    let mut paths = Vec::new();
    for (content, reason) in
        [(&b""[..], "empty"), (b" \n", "empty"), (b"to\0ken", "control characters"), (b"\xff\xfe\x00", "UTF-8")]
    {
        write_secret(&team.token_file, content);
        paths.extend(store.build(&expr::many(1)).unwrap());
        let file = team.token_file.display().to_string();
        running.eventually(&format!("{reason:?} of {content:?}"), || {
            let why = team.waits_because();
            why.contains(&file) && why.contains(reason)
        });
    }
    // Others could read it.
    let token = attic.token(&Grant::all(&["team"]));
    std::fs::write(&team.token_file, &token).unwrap();
    set_mode(&team.token_file, 0o644);
    running.eventually("a word about who can read it", || team.waits_because().contains("others"));
    set_mode(&team.token_file, 0o600);
    team.eventually_delivers(&mut running, &attic, &paths);
    running.stop();
}

#[test]
fn a_secret_in_the_policy_is_refused_and_not_repeated() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let secret = "eyJhbGciOiJIUzI1NiJ9.0123456789";
    let cache = |url: &str, token: &str| format!("version = 1\n[caches.team]\nurl = \"{url}\"\n{token}");
    for policy in [
        cache(&format!("attic+https://{secret}@cache.example.com/team"), ""),
        cache(&format!("attic+https://user:{secret}@cache.example.com/team"), ""),
        cache(&format!("attic+https://cache.example.com/team?token={secret}"), ""),
        cache(&format!("attic+https://cache.example.com/team#{secret}"), ""),
        cache("attic+https://cache.example.com/team", &format!("token = \"{secret}\"\n")),
    ] {
        storewatch.policy(&policy);
        for command in ["check", "run"] {
            let arguments: &[&str] = if command == "run" { &["run"] } else { &["policy", "check"] };
            let said = storewatch.cmd(arguments);
            assert_eq!(said.code, Some(2), "{said:?}");
            assert!(said.stderr.contains("policy.toml:"), "{}", said.stderr);
            assert!(!said.stderr.contains("0123456789") && !said.stdout.contains("0123456789"), "{said:?}");
        }
    }
}

#[test]
fn a_token_does_not_cross_an_unencrypted_connection() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let policy = |more: &str| {
        format!(
            "version = 1\n[caches.team]\nurl = \"attic+http://cache.example.com/team\"\ntoken = {{ env = \"T\" }}\n{more}"
        )
    };
    storewatch.policy(&policy(""));
    let said = storewatch.cmd(&["policy", "check"]);
    assert!(said.code == Some(2) && said.stderr.contains("allow_unencrypted"), "{said:?}");
    storewatch.policy(&policy("allow_unencrypted = true\n"));
    storewatch.cmd(&["policy", "check"]).ok();
}

#[test]
fn a_server_that_is_not_attic() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let attic = AtticServer::fake();
    attic.create("team", Visibility::Private, &store);
    let proxy = FlakyProxy::before(attic.port());
    let team = Team::new(&store, &proxy.url("team"), &attic.token(&Grant::all(&["team"])));
    let mut running = team.storewatch.start();
    let mut paths = Vec::new();
    for canned in [Canned::page(), Canned::json("{}"), Canned::json("[1, 2"), Canned::json("null")] {
        proxy.fail(On::Every, Fault::Answer(canned));
        paths.extend(store.build(&expr::many(1)).unwrap());
        team.eventually_waits_because(&mut running, "Attic");
        assert_eq!(team.storewatch.jobs("failed").len(), 0);
    }
    proxy.pass();
    team.eventually_delivers(&mut running, &attic, &paths);
    running.stop();
}

#[test]
fn a_server_that_speaks_no_http() {
    use std::io::Write;
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let team = Team::new(&store, &format!("attic+http://127.0.0.1:{port}/team"), "a-token");
    let mut running = team.storewatch.start();
    store.build(&expr::many(1)).unwrap();
    let (mut connection, _) = listener.accept().unwrap();
    connection.write_all(b"220 mail.example.com ESMTP\r\n").unwrap();
    drop((connection, listener));
    running.eventually("a reason", || !team.waits_because().is_empty());
    assert_eq!(team.storewatch.jobs("failed").len(), 0);
    running.stop();
}

fn set_mode(file: &std::path::Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).unwrap();
}
