//! Tokens that are missing, expire, are replaced, or may not do what they are for.

use super::Team;
use crate::support::{AtticServer, Grant, Nix, ScratchStore, Visibility, each_attic, expr};

each_attic! {
    fn a_token_that_holds_no_more_is_replaced(attic: AtticServer) {
        let Some(nix) = Nix::recent() else { return };
        let store = ScratchStore::new(&nix);
        // Of a private cache Attic says 401, of a public one 403.
        for (cache, visibility) in [("private", Visibility::Private), ("public", Visibility::Public)] {
            attic.create(cache, visibility, &store);
            let token = |attic: &AtticServer| attic.token(&Grant::all(&["private", "public"]));
            let team = Team::new(&store, &attic.url(cache), &token(&attic));
            let mut running = team.storewatch.start();
            let before = store.build(&expr::many(1)).unwrap();
            running.eventually("a path", || attic.has_all(cache, &before));
            attic.revoke_tokens();
            let paths = store.build(&expr::many(5)).unwrap();
            running.eventually("the reason in `status`", || is_about_credentials(&team.waits_because()));
            let said = team.storewatch.cmd(&["status"]).ok();
            let since = said.lines().find(|line| line.contains("valid credentials missing since 2"));
            assert!(since.is_some_and(is_about_credentials), "{said}");
            running.eventually_logs("valid credentials missing since 2");
            let examined = team.storewatch.cmd(&["doctor"]).stdout;
            assert!(examined.contains(": valid credentials missing since 2"), "{examined}");
            assert!(!attic.has_all(cache, &paths));
            assert_eq!(team.storewatch.jobs("failed").len(), 0);
            team.replace_token(&token(&attic));
            running.eventually("all of them", || attic.has_all(cache, &paths));
            running.eventually("the queue's end", || team.storewatch.jobs_left().is_empty());
            assert_eq!(team.waits_because(), "");
            running.stop();
        }
    }

    fn a_token_is_missing_at_first(attic: AtticServer) {
        let Some(nix) = Nix::recent() else { return };
        let store = ScratchStore::new(&nix);
        attic.create("team", Visibility::Private, &store);
        let team = Team::without_token(&store, &attic.url("team"));
        let mut running = team.storewatch.start();
        let paths = store.build(&expr::many(2)).unwrap();
        let file = team.token_file.display().to_string();
        team.eventually_waits_because(&mut running, &file);
        team.replace_token(&attic.token(&Grant::all(&["team"])));
        team.eventually_delivers(&mut running, &attic, &paths);
        running.stop();
    }

    fn a_token_that_may_only_push_is_enough(attic: AtticServer) {
        let Some(nix) = Nix::recent() else { return };
        let store = ScratchStore::new(&nix);
        attic.create("team", Visibility::Public, &store);
        let team = Team::new(&store, &attic.url("team"), &attic.token(&Grant::push(&["team"])));
        let mut running = team.storewatch.start();
        let paths = store.build(&expr::many(2)).unwrap();
        team.eventually_delivers(&mut running, &attic, &paths);
        // What the cache is can no longer be asked for, also not by who is started anew.
        attic.set_visibility("team", Visibility::Private);
        let paths = store.build(&expr::many(2)).unwrap();
        team.eventually_delivers(&mut running, &attic, &paths);
        running.stop();
        let mut running = team.storewatch.start();
        let paths = store.build(&expr::many(2)).unwrap();
        team.eventually_delivers(&mut running, &attic, &paths);
        running.stop();
    }

    fn a_token_that_may_only_pull_is_told_so(attic: AtticServer) {
        let Some(nix) = Nix::recent() else { return };
        let store = ScratchStore::new(&nix);
        attic.create("team", Visibility::Private, &store);
        let team = Team::new(&store, &attic.url("team"), &attic.token(&Grant::pull(&["team"])));
        let mut running = team.storewatch.start();
        let paths = store.build(&expr::many(2)).unwrap();
        running.eventually("the reason in `status`", || is_about_credentials(&team.waits_because()));
        team.replace_token(&attic.token(&Grant::all(&["team"])));
        team.eventually_delivers(&mut running, &attic, &paths);
        running.stop();
    }

    fn a_cache_that_is_not_there_yet(attic: AtticServer) {
        let Some(nix) = Nix::recent() else { return };
        let store = ScratchStore::new(&nix);
        // Who has rights in a cache of that name learns that there is none, others don't.
        let known = Team::new(&store, &attic.url("team"), &attic.token(&Grant::all(&["team"])));
        let unknown = Team::new(&store, &attic.url("team"), &attic.token(&Grant::all(&["other"])));
        let (mut first, mut second) = (known.storewatch.start(), unknown.storewatch.start());
        let paths = store.build(&expr::many(2)).unwrap();
        known.eventually_waits_because(&mut first, "has no cache `team`");
        second.eventually("the reason in `status`", || is_about_credentials(&unknown.waits_because()));
        let why = unknown.waits_because();
        assert!(why.contains("no such cache") || why.contains("no cache"), "401 stands for that, too: {why}");
        second.stop();
        attic.create("team", Visibility::Private, &store);
        known.eventually_delivers(&mut first, &attic, &paths);
        first.stop();
    }

    fn a_cache_of_another_store(attic: AtticServer) {
        let Some(nix) = Nix::recent() else { return };
        let (store, other) = (ScratchStore::new(&nix), ScratchStore::new(&nix));
        attic.create("team", Visibility::Private, &other);
        let team = Team::new(&store, &attic.url("team"), &attic.token(&Grant::all(&["team"])));
        let mut running = team.storewatch.start();
        let paths = store.build(&expr::many(1)).unwrap();
        let (theirs, ours) = (other.store_dir().display().to_string(), store.store_dir().display().to_string());
        running.eventually("both stores in `status`", || {
            let why = team.waits_because();
            why.contains(&theirs) && why.contains(&ours)
        });
        assert!(!attic.has("team", &paths[0]));
        running.stop();
    }
}

/// Whether a reason says that it is the token.
fn is_about_credentials(why: &str) -> bool {
    why.contains("token") || why.contains("credentials")
}
