//! What is built arrives, whole and in order, and Nix reads it back.

use super::{Team, in_policy};
use crate::support::nix::base_name;
use crate::support::{
    AtticServer, Fault, FlakyProxy, Grant, Kind, Nix, On, Reader, ScratchStore, Storewatch, Visibility, each_attic,
    expr, write_secret,
};
use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

each_attic! {
    fn a_build_is_read_back_into_an_empty_store(attic: AtticServer) {
        for (nix, cache) in [(Nix::v2_8(), "older"), (Nix::recent(), "newer")] {
            let Some(nix) = nix else { continue };
            let store = ScratchStore::new(&nix);
            attic.create(cache, Visibility::Public, &store);
            let storewatch = Storewatch::new(&store);
            let token_file = storewatch.policy_path().with_file_name("token");
            write_secret(&token_file, attic.token(&Grant::all(&["older", "newer"])));
            storewatch.policy(&format!("version = 1\n{}", in_policy("team", &attic.url(cache), &token_file)));
            let mut running = storewatch.start();
            let top = store.build(&expr::lattice(12, 100_000)).unwrap();
            let closure = store.query_closure(&top[0]);
            running.eventually("the closure in the cache", || attic.has_all(cache, &closure));
            running.eventually("the queue's end", || storewatch.jobs_left().is_empty());
            attic.assert_sound(cache, &closure);

            let (url, key) = (attic.substituter(cache), attic.public_key(cache));
            let status = storewatch.cache_status("team");
            assert_eq!((&status["substituter"], &status["public_key"]), (&url.clone().into(), &key.clone().into()));
            let copied = store.read_back(&url, &key, &top).unwrap();
            let substituted = Reader::empty(&store);
            substituted.substitute(&url, &key, &top).unwrap();
            assert!(copied.all_valid(&closure) && substituted.all_valid(&closure));
            assert_eq!(copied.contents(&closure), store.contents(&closure));
            let other = store.generate_key("other-1");
            assert!(store.read_back(&url, &other.public, &top).unwrap_err().contains("signature"));
            running.stop();
        }
    }

    fn what_the_server_has_lost_goes_there_again_for_who_asks(attic: AtticServer) {
        let Some(nix) = Nix::recent() else { return };
        let store = ScratchStore::new(&nix);
        attic.create("team", Visibility::Public, &store);
        let team = Team::new(&store, &attic.url("team"), &attic.token(&Grant::all(&["team"])));
        let mut running = team.storewatch.start();
        let top = store.build(&expr::chain(3)).unwrap().remove(0);
        let closure = store.query_closure(&top);
        team.eventually_delivers(&mut running, &attic, &closure);
        let bottom = closure.iter().find(|path| store.query_closure(path).len() == 1).unwrap();
        attic.lose("team", bottom);
        let lost = Instant::now();
        // Seen there just now, it may be believed for some seconds.
        running.eventually("what is behind it", || {
            assert_eq!(team.storewatch.cmd(&["push", &top]).code, Some(0));
            attic.has("team", bottom)
        });
        assert!(lost.elapsed() < Duration::from_secs(30), "it was believed for as long as it was remembered");
        attic.assert_sound("team", &closure);
        running.stop();
    }

    fn many_references_and_many_paths(attic: AtticServer) {
        let Some(nix) = Nix::recent() else { return };
        let store = ScratchStore::new(&nix);
        attic.create("team", Visibility::Public, &store);
        let team = Team::new(&store, &attic.url("team"), &attic.token(&Grant::all(&["team"])));
        let mut running = team.storewatch.start();
        // Too many for a header to hold.
        let top = store.build(&expr::wide(150)).unwrap();
        let closure = store.query_closure(&top[0]);
        assert_eq!(closure.len(), 151);
        team.eventually_delivers(&mut running, &attic, &closure);
        assert_eq!(attic.narinfo("team", &top[0]).unwrap().references.len(), 150);
        store.read_back(&attic.substituter("team"), &attic.public_key("team"), &top).unwrap();
    }

    fn a_path_denied_in_mid_upload_never_appears(attic: AtticServer) {
        let Some(nix) = Nix::recent() else { return };
        let store = ScratchStore::new(&nix);
        attic.create("team", Visibility::Private, &store);
        let proxy = FlakyProxy::before(attic.port());
        let team = Team::new(&store, &proxy.url("team"), &attic.token(&Grant::all(&["team"])));
        let mut running = team.storewatch.start();
        proxy.fail(On::UploadsOver(1_000_000), Fault::StallAfter(100_000));
        // More than fits into what lies between: the server has not seen its end when the policy changes.
        let denied = store.build(&expr::sized(40_000_000)).unwrap().remove(0);
        running.eventually("its upload to be under way", || proxy.faults() == 1);
        let rule = "[[rules]]\nmatch = { name = \"sized\" }\naction = \"deny\"\n";
        let policy = format!("version = 1\n{}{rule}", in_policy("team", &proxy.url("team"), &team.token_file));
        team.storewatch.policy(&policy);
        running.eventually_logs("the policy has changed and is in force");
        proxy.pass();
        let paths = store.build(&expr::many(2)).unwrap();
        team.eventually_delivers(&mut running, &attic, &paths);
        assert!(!attic.has("team", &denied), "a denied path has left the host");
        running.stop();
    }

    fn a_backfill(attic: AtticServer) {
        let Some(nix) = Nix::recent() else { return };
        let store = ScratchStore::new(&nix);
        attic.create("team", Visibility::Private, &store);
        let team = Team::new(&store, &attic.url("team"), &attic.token(&Grant::all(&["team"])));
        let closure = store.query_closure(&store.build(&expr::lattice(10, 1000)).unwrap()[0]);
        for (uploaded, there) in [("10", "0"), ("0", "10")] {
            let said = team.storewatch.cmd(&["backfill"]).ok();
            let words: Vec<_> = said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
            assert!(words.iter().any(|words| words.starts_with(&["uploaded", uploaded])), "{said}");
            assert!(words.iter().any(|words| words.starts_with(&["already", "there", there])), "{said}");
        }
        attic.assert_sound("team", &closure);
    }
}

#[test]
fn each_path_is_asked_for_and_sent_once() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let attic = AtticServer::fake();
    attic.create("team", Visibility::Private, &store);
    let team = Team::new(&store, &attic.url("team"), &attic.token(&Grant::all(&["team"])));
    let mut paths = store.build(&expr::many(40)).unwrap();
    let said = team.storewatch.cmd(&["backfill"]).ok();
    assert!(said.contains("uploaded"), "{said}");
    assert_eq!(attic.requests(Kind::Upload), 40);
    assert!(attic.requests(Kind::MissingPaths) < 40, "what waits together is asked for together");
    let mut published = attic.published("team");
    published.sort();
    paths.sort();
    assert_eq!(published, paths);
}

#[test]
fn what_an_upstream_of_the_cache_signed_stays_there() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let attic = AtticServer::fake();
    attic.create("team", Visibility::Private, &store);
    let expression = expr::chain(2);
    let closure = store.query_closure(&store.build(&expression).unwrap()[0]);
    let (upstream, key) = (format!("file://{}/upstream", store.root().display()), store.generate_key("upstream-1"));
    store.copy_to(&upstream, &key, &closure[..1]);
    store.delete(&[closure[1].clone(), closure[0].clone()]);
    store.substitute(&upstream, &key.public, &closure[..1]).unwrap();
    attic.add_upstream("team", &closure[0]);

    let keys = format!("[upstreams]\nkeys = [\"{}\"]\n", key.public);
    let team = Team::with_keys(&store, &attic.url("team"), &keys);
    team.replace_token(&attic.token(&Grant::all(&["team"])));
    let mut running = team.storewatch.start();
    store.build(&expression).unwrap();
    running.eventually("the path", || attic.has("team", &closure[1]));
    running.eventually("the queue's end", || team.storewatch.jobs_left().is_empty());
    assert_eq!(attic.published("team"), &closure[1..]);
    assert_eq!(attic.narinfo("team", &closure[1]).unwrap().references, [base_name(&closure[0])]);
}

#[test]
fn what_an_upstream_cache_has_is_not_uploaded_and_counts_as_delivered() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let (attic, mut upstream) = (AtticServer::fake(), AtticServer::fake());
    attic.create("team", Visibility::Private, &store);
    upstream.create("public", Visibility::Public, &store);
    let closure = store.query_closure(&store.build(&expr::chain(3)).unwrap()[0]);

    // The lowest is put into the upstream by another host, as it were.
    let filler = Team::new(&store, &upstream.url("public"), &upstream.token(&Grant::all(&["public"])));
    filler.storewatch.cmd(&["push", &closure[0]]).ok();
    assert!(upstream.has("public", &closure[0]));
    attic.add_upstream("team", &closure[0]);

    let keys = format!("[upstreams]\ncaches = [\"{}\"]\n", upstream.substituter("public"));
    let team = Team::with_keys(&store, &attic.url("team"), &keys);
    team.replace_token(&attic.token(&Grant::all(&["team"])));
    let said = team.storewatch.cmd(&["backfill"]).ok();
    assert!(said.contains("\nalready there    0\nupstream has it  1\n"), "{said}");
    assert_eq!(attic.published("team"), &closure[1..]);

    // Gone for good, it stops nothing: what it would deliver is then uploaded, too.
    upstream.stop();
    attic.create("other", Visibility::Private, &store);
    let other = Team::with_keys(&store, &attic.url("other"), &keys);
    other.replace_token(&attic.token(&Grant::all(&["other"])));
    let mut running = other.storewatch.start();
    other.storewatch.cmd(&["backfill"]).ok();
    assert!(attic.has_all("other", &closure));
    // Told once, however many paths there are.
    let log = running.log();
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains(" WARN ")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("an upstream cache can't be asked"), "{warnings:?}");
    running.eventually("the queue's end", || other.storewatch.jobs_left().is_empty());
    running.stop();
    let examined = other.storewatch.cmd(&["doctor"]).ok();
    let told = format!("warning  upstream {}: ", upstream.substituter("public").trim_end_matches('/').to_owned() + "/");
    assert!(examined.contains(&told) && examined.contains("onnection refused"), "{examined}");
    upstream.go_on();
    let examined = other.storewatch.cmd(&["doctor"]).ok();
    assert!(examined.contains(&told.replace("warning ", "ok      ")) && examined.contains("answers in "), "{examined}");
}

#[test]
fn one_path_for_two_caches_is_read_once() {
    /// Large beside all else that is read meanwhile: libraries, policy and queue.
    const BYTES: u64 = 64_000_000;
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let (one, other) = (AtticServer::fake(), AtticServer::fake());
    let storewatch = Storewatch::new(&store);
    let mut policy = "version = 1\n".to_owned();
    for (name, attic) in [("one", &one), ("other", &other)] {
        attic.create("team", Visibility::Private, &store);
        let token_file = storewatch.policy_path().with_file_name(name);
        write_secret(&token_file, attic.token(&Grant::all(&["team"])));
        policy += &in_policy(name, &attic.url("team"), &token_file);
    }
    storewatch.policy(&policy);
    let path = store.build(&expr::sized(BYTES)).unwrap().remove(0);
    let mut running = storewatch.start();
    // Once both are open: a cache that isn't yet takes no part in a reading.
    let first = store.build(&expr::many(1)).unwrap();
    running.eventually("a first path in both", || [&one, &other].iter().all(|attic| attic.has_all("team", &first)));
    // Only what is read from files counts there, not what comes from connections.
    let io = format!("/proc/{}/io", running.pid());
    let read = || -> u64 {
        let io = fs::read_to_string(&io).unwrap();
        io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
    };
    let before = read();
    let said = storewatch.cmd(&["backfill"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    running.eventually("the queue's end", || storewatch.jobs_left().is_empty());
    let read = read() - before;
    for attic in [&one, &other] {
        assert!(attic.has("team", &path));
        assert!(attic.as_fake().received() > BYTES);
    }
    assert!(read >= BYTES, "only {read} bytes were read, so this test doesn't see how the path is read");
    assert!(read < BYTES * 3 / 2, "{read} bytes were read for a path of {BYTES}");
    running.stop();
}

#[test]
fn a_cache_that_is_away_does_not_delay_another() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let (mut away, there) = (AtticServer::fake(), AtticServer::fake());
    let storewatch = Storewatch::new(&store);
    let mut policy = "version = 1\n".to_owned();
    for (name, attic) in [("away", &away), ("there", &there)] {
        attic.create("team", Visibility::Private, &store);
        let token_file = storewatch.policy_path().with_file_name(name);
        write_secret(&token_file, attic.token(&Grant::all(&["team"])));
        policy += &in_policy(name, &attic.url("team"), &token_file);
    }
    storewatch.policy(&policy);
    away.stop();
    let mut running = storewatch.start();
    let paths = store.query_closure(&store.build(&expr::lattice(12, 100_000)).unwrap()[0]);
    running.eventually("all of them where there is a server", || there.has_all("team", &paths));
    running.eventually("only the other's jobs to be left", || {
        let left = storewatch.jobs_left();
        left.len() == paths.len() && left.iter().all(|job| job["cache"] == "away")
    });
    assert!(storewatch.cache_status("away")["waiting_why"].is_string());
    assert!(storewatch.cache_status("there")["waiting_why"].is_null());
    away.go_on();
    running.eventually("all of them in both", || away.has_all("team", &paths));
    running.eventually("the queue's end", || storewatch.jobs_left().is_empty());
    let published: BTreeSet<_> = away.published("team").into_iter().collect();
    assert_eq!(published, paths.into_iter().collect());
}

#[test]
fn a_cache_that_stalls_does_not_delay_another() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let (slow, quick) = (AtticServer::fake(), AtticServer::fake());
    let proxy = FlakyProxy::before(slow.port());
    let storewatch = Storewatch::new(&store);
    let mut policy = "version = 1\n".to_owned();
    for (name, attic, url) in [("slow", &slow, proxy.url("team")), ("quick", &quick, quick.url("team"))] {
        attic.create("team", Visibility::Private, &store);
        let token_file = storewatch.policy_path().with_file_name(name);
        write_secret(&token_file, attic.token(&Grant::all(&["team"])));
        policy += &in_policy(name, &url, &token_file);
    }
    storewatch.policy(&policy);
    let mut running = storewatch.start();
    // More of them than are read at once, and larger than what lies between reader and server.
    proxy.fail(On::Only(Kind::Upload), Fault::StallAfter(100_000));
    let paths: Vec<_> = (0..8).map(|_| store.build(&expr::sized(10_000_000)).unwrap().remove(0)).collect();
    running.eventually("all of them where nothing stalls", || quick.has_all("team", &paths));
    assert!(!running.log().contains("nothing has moved"), "they waited until the stalled ones were given up");
    assert!(slow.published("team").is_empty());
    proxy.pass();
    running.eventually("all of them in both", || slow.has_all("team", &paths));
    running.stop();
}
