//! Servers that go away, for a moment or for long: nothing is lost, nothing is sent twice, and nobody is pestered.

use super::Team;
use crate::support::{
    AtticServer, Fault, FlakyProxy, Grant, Kind, Nix, On, ScratchStore, Visibility, each_attic, expr,
};
use std::time::Duration;

/// The shortest pause before a cache that takes nothing is asked again is a second; the spread of pauses may take some
/// of it.
const PAUSE: Duration = Duration::from_millis(500);

each_attic! {
    fn restarted_in_mid_upload(attic: AtticServer) {
        let Some(nix) = Nix::recent() else { return };
        let store = ScratchStore::new(&nix);
        attic.create("team", Visibility::Private, &store);
        let proxy = FlakyProxy::before(attic.port());
        let team = Team::new(&store, &proxy.url("team"), &attic.token(&Grant::all(&["team"])));
        let mut running = team.storewatch.start();
        proxy.fail(On::Only(Kind::Upload), Fault::StallAfter(100_000));
        let paths = store.build(&expr::sized(1_000_000)).unwrap();
        running.eventually("an upload to be under way", || proxy.faults() == 1);
        attic.restart();
        proxy.pass();
        team.eventually_delivers(&mut running, &attic, &paths);
        running.stop();
    }

    fn away_while_paths_are_built(attic: AtticServer) {
        let Some(nix) = Nix::recent() else { return };
        let store = ScratchStore::new(&nix);
        attic.create("team", Visibility::Private, &store);
        let team = Team::new(&store, &attic.url("team"), &attic.token(&Grant::all(&["team"])));
        let mut running = team.storewatch.start();
        let mut paths = store.build(&expr::many(3)).unwrap();
        team.eventually_delivers(&mut running, &attic, &paths);
        attic.stop();
        paths.extend(store.query_closure(&store.build(&expr::lattice(20, 1000)).unwrap()[0]));
        team.eventually_waits_because(&mut running, "Connection refused");
        running.eventually("twenty jobs that wait", || team.storewatch.jobs("pending").len() == 20);
        // Also when it is started anew meanwhile.
        running.stop();
        let mut running = team.storewatch.start();
        paths.extend(store.build(&expr::many(3)).unwrap());
        attic.go_on();
        team.eventually_delivers(&mut running, &attic, &paths);
        running.stop();
    }
}

#[test]
fn a_server_that_is_away_is_asked_once_a_pause_however_much_waits() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let attic = AtticServer::fake();
    attic.create("team", Visibility::Private, &store);
    let proxy = FlakyProxy::before(attic.port());
    proxy.fail(On::Every, Fault::Reset);
    let team = Team::new(&store, &proxy.url("team"), &attic.token(&Grant::all(&["team"])));
    let mut running = team.storewatch.start();
    let mut paths = store.build(&expr::many(1)).unwrap();
    running.eventually("the first request", || proxy.faults() > 0);
    running.eventually("the cache to wait", || !team.waits_because().is_empty());
    let first = proxy.seen().len();
    paths.extend(store.build(&expr::many(60)).unwrap());
    running.eventually("everything in the queue", || team.storewatch.jobs("pending").len() == 61);
    running.eventually("three more tries", || proxy.seen().len() >= first + 3);
    let times: Vec<_> = proxy.seen()[first - 1..].iter().map(|seen| seen.at).collect();
    for pair in times.windows(2) {
        assert!(pair[1] - pair[0] >= PAUSE, "two tries within {:?}", pair[1] - pair[0]);
    }
    proxy.pass();
    team.eventually_delivers(&mut running, &attic, &paths);
    assert_eq!(attic.requests(Kind::Upload), 61);
    running.stop();
}

#[test]
fn killed_in_mid_upload_it_begins_again() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let attic = AtticServer::fake();
    attic.create("team", Visibility::Private, &store);
    let proxy = FlakyProxy::before(attic.port());
    let team = Team::new(&store, &proxy.url("team"), &attic.token(&Grant::all(&["team"])));
    proxy.fail(On::Only(Kind::Upload), Fault::StallAfter(100_000));
    let mut running = team.storewatch.start();
    // Larger than what sockets hold: otherwise all of it may be on its way already when nobody is left to send it.
    let paths = store.build(&expr::sized(40_000_000)).unwrap();
    running.eventually("an upload to be under way", || proxy.faults() == 1);
    running.kill9();
    proxy.pass();
    assert!(!attic.has_all("team", &paths));
    let mut running = team.storewatch.start();
    team.eventually_delivers(&mut running, &attic, &paths);
    assert_eq!(attic.published("team"), paths);
    running.stop();
}
