//! What goes wrong between storewatch and the server: once it is over, everything arrives, exactly once.

use super::Team;
use crate::support::attic::Tolerated;
use crate::support::{AtticServer, Canned, Fault, FlakyProxy, Grant, Kind, Nix, On, ScratchStore, Visibility, expr};
use std::collections::BTreeSet;

/// Makes a test of each fault: it happens, ends, and everything arrives.
macro_rules! each_fault {
    ($($name:ident: $on:expr, $fault:expr;)+) => {$(
        #[test]
        fn $name() {
            it_arrives_after($on, $fault);
        }
    )+};
}

each_fault! {
    connections_cut_at_once: On::Only(Kind::Upload), Fault::CutAfter(0);
    connections_cut_in_mid_body: On::UploadsOver(100_000), Fault::CutAfter(100_000);
    bodies_ended_too_early: On::UploadsOver(100_000), Fault::EndAfter(100_000);
    uploads_that_stall: On::UploadsOver(100_000), Fault::StallAfter(100_000);
    questions_that_stall: On::Only(Kind::MissingPaths), Fault::StallAfter(0);
    uploads_reset: On::Only(Kind::Upload), Fault::Reset;
    everything_reset: On::Every, Fault::Reset;
    too_many_requests: On::Every, Fault::Answer(Canned::too_many_requests(1));
    too_many_uploads: On::Only(Kind::Upload), Fault::Answer(Canned::too_many_requests(1));
    internal_errors: On::Every, Fault::Answer(Canned::internal_error());
    internal_errors_at_upload: On::Only(Kind::Upload), Fault::Answer(Canned::internal_error());
    a_bad_gateway: On::Every, Fault::Answer(Canned::bad_gateway());
    a_bad_gateway_at_upload: On::Only(Kind::Upload), Fault::Answer(Canned::bad_gateway());
    refused_by_a_proxy: On::Every, Fault::Answer(Canned::unauthorized());
    uploads_refused_by_a_proxy: On::Only(Kind::Upload), Fault::Answer(Canned::unauthorized());
    a_page_instead_of_an_upload: On::Only(Kind::Upload), Fault::Answer(Canned::page());
    a_yes_to_an_upload_that_is_not_attics: On::Only(Kind::Upload), Fault::Answer(Canned::json("{\"kind\": \"Taken\"}"));
    pages_instead_of_what_is_missing: On::Only(Kind::MissingPaths), Fault::Answer(Canned::page());
    pages_instead_of_anything: On::Only(Kind::CacheConfig), Fault::Answer(Canned::page());
    broken_json: On::Only(Kind::MissingPaths), Fault::Answer(Canned::json("{\"missing_paths\": ["));
    json_of_another_shape: On::Only(Kind::MissingPaths), Fault::Answer(Canned::json("{\"missing_paths\": {}}"));
    no_answer_in_the_answer: On::Only(Kind::MissingPaths), Fault::Answer(Canned::json("{}"));
    paths_missing_that_nobody_asked_for: On::Only(Kind::MissingPaths),
        Fault::Answer(Canned::json("{\"missing_paths\": [\"00000000000000000000000000000000\"]}"));
}

fn it_arrives_after(on: On, fault: Fault) {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let attic = AtticServer::fake();
    attic.create("team", Visibility::Private, &store);
    let proxy = FlakyProxy::before(attic.port());
    if matches!(fault, Fault::EndAfter(_)) {
        attic.tolerate(Tolerated::CutBodies);
    }
    proxy.fail(on, fault);
    let team = Team::new(&store, &proxy.url("team"), &attic.token(&Grant::all(&["team"])));
    let mut running = team.storewatch.start();
    let mut paths = store.build(&expr::many(3)).unwrap();
    paths.extend(store.build(&expr::sized(300_000)).unwrap());
    running.eventually("the fault", || proxy.faults() > 0);
    assert_eq!(team.storewatch.jobs("failed"), Vec::<serde_json::Value>::new());
    proxy.pass();
    team.eventually_delivers(&mut running, &attic, &paths);
    let published = attic.published("team");
    assert_eq!(published.len(), paths.len(), "each once");
    assert_eq!(published.into_iter().collect::<BTreeSet<_>>(), paths.into_iter().collect());
    running.stop();
}

#[test]
fn what_is_too_large_for_a_proxy_fails_and_the_rest_goes_on() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let attic = AtticServer::fake();
    attic.create("team", Visibility::Private, &store);
    let proxy = FlakyProxy::before(attic.port());
    proxy.fail(On::UploadsOver(1_000_000), Fault::Answer(Canned::too_large()));
    let team = Team::new(&store, &proxy.url("team"), &attic.token(&Grant::all(&["team"])));
    let mut running = team.storewatch.start();
    let large = store.build(&expr::sized(2_000_000)).unwrap();
    let mut rest = store.build(&expr::many(5)).unwrap();
    running.eventually("the large one to have failed", || team.storewatch.jobs("failed").len() == 1);
    running.eventually("the others", || attic.has_all("team", &rest));
    let failed = team.storewatch.cmd(&["queue", "list", "--state", "failed"]).ok();
    // The setting that most have to change.
    assert!(failed.contains("413") && failed.contains("client_max_body_size"), "{failed}");
    assert!(failed.contains("its archive has 1.9 MiB, unpacked"), "{failed}");
    assert_eq!(proxy.faults(), 1, "it isn't tried again by itself");
    proxy.pass();
    team.storewatch.cmd(&["queue", "retry"]).ok();
    rest.extend(large);
    team.eventually_delivers(&mut running, &attic, &rest);
    running.stop();
}

#[test]
fn a_pause_that_the_server_asks_for_is_shown_and_ended_by_hand() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let attic = AtticServer::fake();
    attic.create("team", Visibility::Private, &store);
    let proxy = FlakyProxy::before(attic.port());
    proxy.fail(On::Every, Fault::Answer(Canned::too_many_requests(600)));
    let team = Team::new(&store, &proxy.url("team"), &attic.token(&Grant::all(&["team"])));
    let mut running = team.storewatch.start();
    let paths = store.build(&expr::many(2)).unwrap();
    running.eventually("the reason in `status`", || team.waits_because().contains("429"));
    running.eventually("both jobs", || team.storewatch.jobs_left().len() == 2);
    // Ten minutes, or up to a fifth more.
    for command in [&["status"][..], &["queue", "list"], &["cache", "list"]] {
        let said = team.storewatch.cmd(command).ok();
        assert!(
            said.matches(" min): ask").count() == 1 && said.contains("again at 2") && said.contains(" (in 1"),
            "{said}"
        );
    }
    proxy.pass();
    team.storewatch.cmd(&["queue", "retry"]).ok();
    team.eventually_delivers(&mut running, &attic, &paths);
    running.stop();
}

#[test]
fn a_redirect_never_takes_the_token_elsewhere() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let (attic, stranger) = (AtticServer::fake(), AtticServer::fake());
    attic.create("team", Visibility::Private, &store);
    stranger.create("team", Visibility::Private, &store);
    let (proxy, elsewhere) = (FlakyProxy::before(attic.port()), FlakyProxy::before(stranger.port()));
    let team = Team::new(&store, &proxy.url("team"), &attic.token(&Grant::all(&["team"])));
    // Another port, and another name for this host.
    for (number, (kind, path)) in [
        (Kind::CacheConfig, "cache-config/team"),
        (Kind::MissingPaths, "get-missing-paths"),
        (Kind::Upload, "upload-path"),
    ]
    .into_iter()
    .enumerate()
    {
        for host in ["127.0.0.1", "localhost"] {
            let to = format!("http://{host}:{}/_api/v1/{path}", elsewhere.port());
            let before = proxy.faults();
            proxy.fail(On::Only(kind), Fault::Answer(Canned::redirect(&to)));
            let mut running = team.storewatch.start();
            let paths = store.build(&expr::many(1)).unwrap();
            running.eventually("the redirect", || proxy.faults() > before);
            proxy.pass();
            // What a redirect came to at an upload may have failed for good: that is for people to judge.
            running.eventually("the end of it", || team.storewatch.jobs("pending").is_empty());
            team.storewatch.cmd(&["queue", "retry"]).ok();
            team.eventually_delivers(&mut running, &attic, &paths);
            running.stop();
        }
        let with_token = elsewhere.seen().iter().filter(|seen| !seen.header("authorization").is_empty()).count();
        assert_eq!(with_token, 0, "at the redirect of request number {number}");
    }
    assert!(stranger.published("team").is_empty());
}
