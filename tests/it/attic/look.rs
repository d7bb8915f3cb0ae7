//! `storewatch cache`: what people see of their caches, and what stands in the way.

use super::{Team, in_policy};
use crate::support::tls::{Authority, Certificate, Clients};
use crate::support::{
    AtticServer, Canned, Fault, FlakyProxy, Grant, Kind, Nix, On, Said, ScratchStore, Storewatch, Visibility,
    each_attic, expr, write_secret,
};
use serde_json::Value;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

/// A token of the form that Attic's have, which says that it held until November 2023.
const EXPIRED: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ0ZXN0IiwiZXhwIjoxNzAwMDAwMDAwfQ.c2lnbmF0dXJl";

each_attic! {
    fn a_port_that_does_not_speak_https_is_called_that(attic: AtticServer) {
        let Some(nix) = Nix::recent() else { return };
        let store = ScratchStore::new(&nix);
        attic.create("team", Visibility::Private, &store);
        let url = format!("attic+https://127.0.0.1:{}/team", attic.port());
        let team = Team::new(&store, &url, &attic.token(&Grant::all(&["team"])));
        let (said, _) = ping(&team.storewatch, &[]);
        assert!(said.code == Some(1) && said.stdout.contains("this port does not speak https, but http"), "{said:?}");
        assert!(!said.stdout.contains("certificate") && !said.stdout.contains("cure: "), "{said:?}");
    }

    fn a_cache_whose_token_is_not_given_says_so(attic: AtticServer) {
        let Some(nix) = Nix::recent() else { return };
        let store = ScratchStore::new(&nix);
        attic.create("team", Visibility::Private, &store);
        let storewatch = Storewatch::new(&store);
        storewatch.policy(&format!("version = 1\n[caches.team]\nurl = \"{}\"\n", attic.url("team")));
        let (said, _) = ping(&storewatch, &[]);
        assert!(said.code == Some(1) && said.stdout.contains("the policy gives no `token` for it"), "{said:?}");
    }

    fn a_token_shows_what_it_may(attic: AtticServer) {
        let Some(nix) = Nix::recent() else { return };
        let store = ScratchStore::new(&nix);
        attic.create("team", Visibility::Private, &store);
        let team = Team::new(&store, &attic.url("team"), "none");
        for (token, code, reads, writes, told) in [
            (attic.token(&Grant::all(&["team"])), 0, Some(true), Some(true), "lets us read and push"),
            (attic.token(&Grant::push(&["team"])), 0, Some(false), Some(true), "push but not read, which is enough"),
            (attic.token(&Grant::pull(&["team"])), 1, Some(true), Some(false), "does not allow this"),
            ("a.wrong.token".to_owned(), 1, Some(false), Some(false), "is wrong or expired"),
            ("garbage".to_owned(), 1, Some(false), Some(false), "is no token of an Attic server's"),
            (EXPIRED.to_owned(), 1, Some(false), Some(false), "expired on 2023-11-1"),
        ] {
            team.replace_token(&token);
            let (said, json) = ping(&team.storewatch, &[]);
            assert_eq!((said.code, json[0]["reads"].as_bool(), json[0]["writes"].as_bool()), (Some(code), reads, writes));
            assert!(said.stdout.contains(told) && !said.stdout.contains(&token), "{}", said.stdout);
            let file = format!("the token from {}", team.token_file.display());
            assert!(code == 0 || said.stdout.contains(&file), "{}", said.stdout);
            assert!(json[0]["round_trip_ms"].as_f64() > Some(0.0), "{json}");
            assert!(json[0]["clock_ahead_seconds"].as_i64().unwrap().abs() <= 60, "{json}");
        }
        fs::remove_file(&team.token_file).unwrap();
        let (said, json) = ping(&team.storewatch, &["team"]);
        assert_eq!((said.code, &json[0]["writes"]), (Some(1), &Value::Null));
        assert!(said.stdout.contains(team.token_file.to_str().unwrap()) && said.stdout.contains("cure: "), "{said:?}");
    }

    fn a_key_that_is_another_than_before_is_told_and_noted(attic: AtticServer) {
        let Some(nix) = Nix::recent() else { return };
        let store = ScratchStore::new(&nix);
        attic.create("team", Visibility::Private, &store);
        let team = Team::new(&store, &attic.url("team"), &attic.token(&Grant::all(&["team"])));
        let key = attic.public_key("team");
        let noted = team.storewatch.state_dir().join("keys/team.server.public");
        // Of who only looks, none is noted first.
        team.storewatch.cmd(&["cache", "info", "team"]).ok();
        assert!(!noted.exists());
        let mut running = team.storewatch.start();
        running.eventually("the key", || team.storewatch.cache_status("team")["public_key"] == key.as_str());
        assert!(!running.log().contains("another key"), "{}", running.log());
        running.stop();
        let news = format!("its server signs with another key than before, {key} in place of ");
        let before = store.generate_key("team").public;
        let make_anew = || fs::write(&noted, &before).unwrap();
        for command in [&["cache", "info", "team"][..], &["cache", "ping"], &["doctor"]] {
            make_anew();
            assert!(team.storewatch.cmd(command).stdout.contains(&news), "{command:?}");
            assert_eq!(team.storewatch.cache_status("team")["public_key"], key.as_str());
            assert!(!team.storewatch.cmd(command).stdout.contains("another key"), "{command:?}: told once");
        }
        make_anew();
        let mut running = team.storewatch.start();
        running.eventually_logs(&news);
        running.stop();
    }

    fn a_cache_says_what_it_is(attic: AtticServer) {
        let Some(nix) = Nix::recent() else { return };
        let store = ScratchStore::new(&nix);
        attic.create("team", Visibility::Private, &store);
        let token = attic.token(&Grant::all(&["team"]));
        let team = Team::new(&store, &attic.url("team"), &token);
        let text = team.storewatch.cmd(&["cache", "info", "team"]).ok();
        let (substituter, key) = (attic.substituter("team"), attic.public_key("team"));
        let end = format!(
            "\nextra-substituters = {substituter}\nextra-trusted-public-keys = {key}\n# and a token in the file that \
             `netrc-file` names: `machine HOST password TOKEN`\n"
        );
        assert!(text.starts_with(&format!("team  attic  {}\n", attic.url("team"))) && text.ends_with(&end), "{text}");
        let store_dir = store.store_dir().display().to_string();
        for line in ["read by        who has a token: it is private", "priority       41", &format!("store          {store_dir}")] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(text.contains("keeps unread   as long as its server does by default"), "{text}");
        let json = team.storewatch.cmd(&["cache", "info", "team", "--json"]).json();
        assert_eq!((&json["public_key"], &json["is_public"], &json["retention"]), (&key.into(), &false.into(), &"servers_own".into()));
        assert!(!text.contains(&token) && !json.to_string().contains(&token));

        team.replace_token(&attic.token(&Grant::push(&["team"])));
        let text = team.storewatch.cmd(&["cache", "info", "team"]).ok();
        assert!(text.contains("the token may only push") && text.contains("# its public key is not known here"), "{text}");
        team.replace_token("a.wrong.token");
        let refused = team.storewatch.cmd(&["cache", "info", "team"]);
        assert_eq!(refused.code, Some(1));
        assert!(refused.stderr.contains("cache team: ") && refused.stderr.contains("401"), "{refused:?}");
        let unknown = team.storewatch.cmd(&["cache", "info", "taem"]);
        assert_eq!(unknown.code, Some(2));
        assert!(unknown.stderr.contains("the policy has no cache `taem`; it has team\n"), "{unknown:?}");
    }
}

#[test]
fn what_stands_between_is_named_with_its_cure() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let mut attic = AtticServer::fake();
    attic.create("team", Visibility::Private, &store);
    let token = attic.token(&Grant::all(&["team"]));
    let authority = Authority::new("ours");
    let proxy = FlakyProxy::with_tls(attic.port(), authority.server(Certificate::Good, Clients::Anybody));
    let stranger = Team::new(&store, &proxy.url("team"), &token);
    let (said, json) = ping(&stranger.storewatch, &[]);
    assert!(said.code == Some(1) && said.stdout.contains("name its authority's with `ca_file`"), "{said:?}");
    assert_eq!((&json[0]["round_trip_ms"], &json[0]["writes"]), (&Value::Null, &Value::Null));

    let trusting = format!("ca_file = \"{}\"\n", authority.ca_file().display());
    let team = Team::with_keys(&store, &proxy.url("team"), &trusting);
    team.replace_token(&token);
    let (said, json) = ping(&team.storewatch, &[]);
    assert_eq!((said.code, &json[0]["state"]), (Some(0), &"ok".into()), "{said:?}");
    assert!(proxy.seen().iter().all(|seen| (seen.kind == Kind::CacheInfo) == seen.header("authorization").is_empty()));

    proxy.fail(On::Every, Fault::Answer(Canned::bad_gateway()));
    let (said, _) = ping(&team.storewatch, &[]);
    assert!(said.code == Some(1) && said.stdout.contains("502 Bad Gateway"), "{said:?}");
    proxy.fail(On::Only(Kind::CacheConfig), Fault::Answer(Canned::page()));
    let (said, _) = ping(&team.storewatch, &[]);
    assert!(said.code == Some(1) && said.stdout.contains("is it an Attic server?"), "{said:?}");
    proxy.fail(On::Only(Kind::MissingPaths), Fault::Answer(Canned::error_saying(&format!("what is {token}?"))));
    let (said, _) = ping(&team.storewatch, &[]);
    assert!(said.code == Some(1) && said.stdout.contains("what is [secret]?"), "{said:?}");

    let away = Team::new(&store, &attic.url("team"), &token);
    attic.stop();
    let (said, json) = ping(&away.storewatch, &[]);
    assert_eq!((said.code, &json[0]["state"]), (Some(1), &"trouble".into()));
    assert!(
        said.stdout.contains("onnection refused") && said.stdout.contains("cure: is the server running"),
        "{said:?}"
    );
}

#[test]
fn several_caches_of_several_kinds_are_listed_and_tried() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let attic = AtticServer::fake();
    attic.create("team", Visibility::Private, &store);
    let storewatch = Storewatch::new(&store);
    let token_file = storewatch.policy_path().with_file_name("token");
    write_secret(&token_file, attic.token(&Grant::all(&["team"])));
    let (archive, later) = (storewatch.cache_at("archive"), storewatch.cache_at("later"));
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let policy = format!(
        "version = 1\n{}{}server_hostnames = [\"{host}\"]\n[caches.archive]\nurl = \"{}\"\n[caches.later]\nurl = \"{}\"\n",
        in_policy("team", &attic.url("team"), &token_file),
        in_policy("own", &attic.url("own"), &token_file),
        archive.url(),
        later.url(),
    );
    storewatch.policy(&policy);
    let archive_dir = archive.url().trim_start_matches("file://").to_owned();
    fs::create_dir_all(&archive_dir).unwrap();

    let text = storewatch.cmd(&["cache", "list"]).ok();
    let off = format!("off on this host, {host}, which is the cache's own server by `server_hostnames`");
    let expected = [
        format!("team  attic  {}\n  on\n  0 done (0 B), 0 to do\n", attic.url("team")),
        format!("own  attic  {}\n  {off}\n  0 done (0 B), 0 to do\n", attic.url("own")),
        format!("archive  file  {}\n  on\n  0 done (0 B), 0 to do\n", archive.url()),
        format!("later  file  {}\n  on\n  0 done (0 B), 0 to do\n", later.url()),
    ];
    assert_eq!(text, expected.concat());
    assert_eq!(attic.requests(Kind::CacheConfig), 0, "no cache is asked");
    let json = storewatch.cmd(&["cache", "list", "--json"]).json();
    let states: Vec<&str> = json.as_array().unwrap().iter().map(|cache| cache["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["on", "off", "on", "on"]);

    let (said, json) = ping(&storewatch, &[]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let states: Vec<&str> = json.as_array().unwrap().iter().map(|cache| cache["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["ok", "off", "ok", "ok"]);
    assert!(said.stdout.contains(&off) && said.stdout.contains("can be written; it isn't there yet"), "{said:?}");
    assert_eq!(fs::read_dir(&archive_dir).unwrap().count(), 0, "nothing is left behind");
    assert!(!fs::exists(later.url().trim_start_matches("file://")).unwrap(), "nothing is made");
    let (said, json) = ping(&storewatch, &["own"]);
    assert_eq!((said.code, json.as_array().unwrap().len()), (Some(1), 1), "named, it is asked");
    assert_eq!(ping(&storewatch, &["archive", "team"]).1[1]["name"], "team");

    let text = storewatch.cmd(&["cache", "info", "archive"]).ok();
    assert!(text.contains(&format!("directory      {archive_dir}\n")) && text.contains("free  "), "{text}");
    // A cache of another store, and a file where a directory should be.
    fs::write(format!("{archive_dir}/nix-cache-info"), "StoreDir: /gnu/store\nPriority: 30\n").unwrap();
    let (said, _) = ping(&storewatch, &["archive"]);
    assert!(said.code == Some(1) && said.stdout.contains("is a cache for the store /gnu/store"), "{said:?}");
    let json = storewatch.cmd(&["cache", "info", "archive", "--json"]).json();
    assert_eq!((&json["store_dir"], &json["priority"]), (&"/gnu/store".into(), &30.into()));
    fs::remove_dir_all(&archive_dir).unwrap();
    archive.block();
    let (said, _) = ping(&storewatch, &["archive"]);
    assert!(said.code == Some(1) && said.stdout.contains("trouble  archive"), "{said:?}");

    fs::set_permissions(&token_file, Permissions::from_mode(0o644)).unwrap();
    let (said, _) = ping(&storewatch, &["team"]);
    assert!(
        said.code == Some(1) && said.stdout.contains("can be read by others (mode 0644); run `chmod 600"),
        "{said:?}"
    );
    storewatch.policy("version = 1\nrulez = 1\n");
    for command in [&["cache", "list"][..], &["cache", "ping"], &["cache", "info", "team"]] {
        let said = storewatch.cmd(command);
        assert!(said.code == Some(2) && said.stderr.contains("policy.toml:2:1:"), "{said:?}");
        assert!(said.stderr.contains("the policy is bad: mend it first"), "{said:?}");
        let said = storewatch.cmd(&[command, &["--json"]].concat());
        let json: Value = serde_json::from_str(&said.stdout).unwrap();
        let problem = json["policy_problems"][0].as_str().unwrap();
        assert!(said.code == Some(2) && problem.contains("policy.toml:2:1: unknown key `rulez`"), "{said:?}");
    }
    let said = storewatch.cmd(&["status"]);
    assert!(said.code == Some(2) && said.stdout.contains("policy.toml is bad (1 problem): "), "{said:?}");
}

#[test]
fn a_cache_that_takes_nothing_is_listed_with_the_reason() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let attic = AtticServer::fake();
    attic.create("team", Visibility::Private, &store);
    let team = Team::new(&store, &attic.url("team"), "a.wrong.token");
    let mut running = team.storewatch.start();
    store.build(&expr::many(2)).unwrap();
    team.eventually_waits_because(&mut running, "is wrong or expired");
    running.eventually("both jobs", || team.storewatch.jobs_left().len() == 2);
    let text = team.storewatch.cmd(&["cache", "list"]).ok();
    for told in ["\n  valid credentials missing since 2", "is wrong or expired", "0 done (0 B), 2 to do\n"] {
        assert!(text.contains(told) && !text.contains("a.wrong.token"), "{told} in {text}");
    }
    let json = team.storewatch.cmd(&["cache", "list", "--json"]).json();
    assert_eq!(
        (&json[0]["state"], &json[0]["kind"], &json[0]["pending"].is_u64()),
        (&"waiting".into(), &"attic".into(), &true)
    );
    // So that nobody has to look elsewhere for what a job waits for.
    let text = team.storewatch.cmd(&["queue", "list"]).ok();
    assert_eq!(text.matches("  its cache takes nothing\n").count(), 2, "{text}");
    assert_eq!(text.matches("is wrong or expired").count(), 1, "said once: {text}");
    team.replace_token(&attic.token(&Grant::all(&["team"])));
    running.eventually("the queue's end", || team.storewatch.jobs_left().is_empty());
    assert_eq!(team.storewatch.cmd(&["queue", "list"]).ok(), "the queue is empty\n");
    assert_eq!(team.storewatch.cmd(&["queue", "list", "--state", "failed"]).ok(), "there is no such job\n");
    assert_eq!(team.storewatch.cmd(&["queue", "list", "--json"]).ok(), "[]\n");
    running.stop();
}

#[test]
fn while_a_server_leaves_us_without_an_answer_that_is_what_is_said() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    // It takes connections, and says nothing.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("attic+http://{}/team", mute.local_addr().unwrap());
    let team = Team::new(&store, &url, "a-token");
    let mut running = team.storewatch.start();
    for command in ["status", "cache list"] {
        let arguments: Vec<&str> = command.split(' ').collect();
        running.eventually(command, || {
            let said = team.storewatch.cmd(&arguments).ok();
            said.contains("  asked since 2") && said.contains("whether it takes anything, without an answer yet")
        });
    }
    // What is asked no more isn't said to be asked: the policy in force is another, and it is paused.
    team.storewatch.cmd(&["pause"]).ok();
    running.eventually_logs("bandwidth of the line: paused by hand");
    let policy = fs::read_to_string(team.storewatch.policy_path()).unwrap();
    team.storewatch.policy(&format!("{policy}\n# edited\n"));
    running.eventually("no question", || team.storewatch.cache_status("team")["asked_since"].is_null());
    team.storewatch.cmd(&["resume"]).ok();
    // As soon as it says no, that is what is said.
    drop(mute);
    running.kill9();
    let mut running = team.storewatch.start();
    team.eventually_waits_because(&mut running, "Connection refused");
    running.eventually("no question", || team.storewatch.cache_status("team")["asked_since"].is_null());
    assert!(team.storewatch.cmd(&["status"]).ok().contains("  takes nothing since 2"));
    running.stop();
}

/// What a ping says to people and to programs.
fn ping(storewatch: &Storewatch<'_>, names: &[&str]) -> (Said, Value) {
    let said = storewatch.cmd(&[&["cache", "ping"], names].concat());
    let json = storewatch.cmd(&[&["cache", "ping", "--json"], names].concat());
    assert_eq!(json.code, said.code);
    (said, serde_json::from_str(&json.stdout).unwrap())
}
