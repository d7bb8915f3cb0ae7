//! `push` and `backfill` for a cache that takes nothing: they say what they wait for, can be ended, and lose nothing.

use super::{Team, in_policy};
use crate::support::{
    AtticServer, Fault, FlakyProxy, Grant, Kind, Nix, On, ScratchStore, Visibility, each_attic, expr,
};
use rustix::process::Signal;

each_attic! {
    fn what_is_left_when_the_time_is_over_stays_queued(attic: AtticServer) {
        let Some(nix) = Nix::recent() else { return };
        let store = ScratchStore::new(&nix);
        attic.create("team", Visibility::Private, &store);
        let team = Team::without_token(&store, &attic.url("team"));
        let paths = store.build(&expr::many(2)).unwrap();
        let arguments: Vec<&str> = ["push", "--timeout", "0s"].into_iter().chain(paths.iter().map(String::as_str)).collect();
        // Alone: what was named is in the queue, however short the time.
        let alone = team.storewatch.cmd(&arguments);
        assert_eq!(alone.code, Some(4), "{alone:?}");
        assert!(alone.stdout.starts_with("the time is over with 2 paths to go; what is left stays queued"), "{alone:?}");
        assert!(alone.stdout.contains("\nstill queued     2 for team"), "{alone:?}");
        assert_eq!(team.storewatch.jobs("pending").len(), 2);

        // Beside a service that knows why: so does who waits for it, with the cure.
        let mut running = team.storewatch.start();
        let file = team.token_file.display().to_string();
        team.eventually_waits_because(&mut running, &file);
        for arguments in [&arguments[..], &["backfill", "--timeout", "0s", &paths[0]]] {
            let beside = team.storewatch.cmd(arguments);
            assert_eq!(beside.code, Some(4), "{beside:?}");
            let left = beside.stdout.lines().find(|line| line.starts_with("still queued")).unwrap_or_default();
            assert!(left.contains("for team, which takes nothing for now: ") && left.contains(&file), "{beside:?}");
            assert!(left.contains("readable for the service's user only"), "{beside:?}");
        }
        team.replace_token(&attic.token(&Grant::all(&["team"])));
        team.eventually_delivers(&mut running, &attic, &paths);
        let said = team.storewatch.cmd(&arguments[..1].iter().chain(&arguments[3..]).copied().collect::<Vec<_>>());
        assert!(said.stderr.contains("going on where the last one stopped"), "{said:?}");
        said.ok();
        running.stop();
    }

    fn what_is_waited_for_is_said_again_when_it_is_another_thing(attic: AtticServer) {
        let Some(nix) = Nix::recent() else { return };
        let store = ScratchStore::new(&nix);
        attic.create("team", Visibility::Private, &store);
        let team = Team::without_token(&store, &attic.url("team"));
        let paths = store.build(&expr::many(2)).unwrap();
        let mut push = team.storewatch.spawn(&["push", &paths[0], &paths[1]]);
        push.eventually_logs("valid credentials missing since 2");
        push.eventually_logs("Ctrl-C ends this, and so does `--timeout`");
        team.replace_token("a.wrong.token");
        push.eventually_logs("is wrong or expired");
        push.signal(Signal::INT);
        push.eventually_logs("interrupted with 2 paths to go; what is left stays queued");
        assert!(!push.log().contains("a.wrong.token"), "{}", push.log());
        assert_eq!(push.wait_exit().code(), Some(4));
        assert_eq!(team.storewatch.jobs("pending").len(), 2);

        team.replace_token(&attic.token(&Grant::all(&["team"])));
        team.storewatch.cmd(&["push", &paths[0], &paths[1]]).ok();
        assert!(attic.has_all("team", &paths));
    }
}

#[test]
fn what_is_under_way_when_the_time_is_over_is_begun_anew() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let attic = AtticServer::fake();
    attic.create("team", Visibility::Private, &store);
    let proxy = FlakyProxy::before(attic.port());
    let team = Team::new(&store, &proxy.url("team"), &attic.token(&Grant::all(&["team"])));
    let paths = store.build(&expr::sized(1_000_000)).unwrap();
    proxy.fail(On::Only(Kind::Upload), Fault::StallAfter(100_000));
    let said = team.storewatch.cmd(&["push", "--timeout", "2s", &paths[0]]);
    assert!(said.code == Some(4) && said.stdout.contains("still queued     1 for team"), "{said:?}");
    assert_eq!(team.storewatch.jobs("pending").len(), 1);
    proxy.pass();
    team.storewatch.cmd(&["push", &paths[0]]).ok();
    assert!(attic.has_all("team", &paths));
}

#[test]
fn another_cache_that_takes_nothing_is_not_waited_for() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let attic = AtticServer::fake();
    attic.create("team", Visibility::Private, &store);
    let team = Team::new(&store, &attic.url("team"), &attic.token(&Grant::all(&["team"])));
    let nowhere = team.token_file.with_file_name("nowhere");
    team.storewatch.policy(&format!(
        "version = 1\n{}{}",
        in_policy("team", &attic.url("team"), &team.token_file),
        in_policy("other", &attic.url("other"), &nowhere)
    ));
    let paths = store.build(&expr::many(1)).unwrap();
    let mut running = team.storewatch.start();
    running.eventually("the other to wait", || team.storewatch.cache_status("other")["waiting_why"].is_string());
    let said = team.storewatch.cmd(&["push", "--to", "team", &paths[0]]);
    assert!(said.code == Some(0) && !said.stderr.contains("other takes nothing"), "{said:?}");
    running.stop();
}
