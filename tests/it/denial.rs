//! What must not leave the host, or not reach a cache, doesn't; what needs it is held until it may.

use crate::support::nix::base_name;
use crate::support::{CacheDir, Nix, ScratchStore, Storewatch, each_nix, expr};
use rustix::process::Signal;
use std::collections::BTreeSet;

const DENY_BASE: &str =
    "version = 1\n[[rules]]\nname = \"licensed\"\nmatch = { name = \"chain-1\" }\naction = \"deny\"\n";

each_nix! {
    fn what_needs_a_denied_path_is_held_and_released(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        storewatch.policy(DENY_BASE);
        let mut running = storewatch.start();
        let chain = store.query_closure(&store.build(&expr::chain(4)).unwrap()[0]);
        let state = |path: &str| storewatch.states_of(path).first().map_or(String::new(), |(_, state)| state.clone());
        running.eventually("both referrers held", || state(&chain[2]) == "held" && state(&chain[3]) == "held");
        running.eventually("the path that nothing denies", || storewatch.cache().has(&chain[0]));

        assert_eq!(storewatch.cache().store_paths(), BTreeSet::from([chain[0].clone()]));
        assert_eq!(storewatch.cache().archives().len(), 1, "a denied path's archive is in the cache");
        assert_eq!(state(&chain[1]), "", "a denied path is queued");
        // What has arrived is written down soon after it.
        running.eventually("the one that arrived, done", || storewatch.cache_status("local")["done"] == 1);
        let counts = storewatch.cache_status("local");
        assert_eq!((&counts["held"], &counts["failed"]), (&2.into(), &0.into()));
        // Before anything is asked of the queue, the policy can say so.
        for (path, through) in [(2, String::new()), (3, format!(" (through {})", base_name(&chain[2])))] {
            let text = storewatch.cmd(&["policy", "explain", &chain[path]]).ok();
            let told = format!("needs {}{through}, which is denied by rule 1 \"licensed\"\n", base_name(&chain[1]));
            assert!(text.contains(&told), "{text}");
            let json = storewatch.cmd(&["policy", "explain", "--json", &chain[path]]).json();
            assert_eq!(json[0]["caches"]["local"]["held_by"]["path"], chain[1].as_str(), "{json}");
        }
        let text = storewatch.cmd(&["policy", "explain", &chain[0]]).ok();
        assert!(text.contains("upload") && !text.contains("held"), "{text}");
        let held = storewatch.cmd(&["queue", "list", "--state", "held"]).ok();
        assert!(held.contains("licensed") && held.contains(base_name(&chain[1])), "{held}");

        storewatch.policy("version = 1\n");
        running.eventually("the whole chain, once it may", || storewatch.cache().has_all(&chain));
        running.stop();
        storewatch.cache().assert_sound(&[]);
        let key = storewatch.public_key("local");
        store.read_back(&storewatch.cache().url(), &key, &chain[3..]).unwrap();
    }

    fn a_deny_is_asked_for_again_after_a_restart(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        storewatch.policy(DENY_BASE);
        let mut running = storewatch.start();
        let chain = store.query_closure(&store.build(&expr::chain(3)).unwrap()[0]);
        running.eventually("the referrer held", || storewatch.jobs("held").len() == 1);
        assert_eq!(running.log().matches(" WARN held: ").count(), 1);
        running.stop();
        // Nothing new is told of it as long as it is so.
        let mut running = storewatch.start();
        running.eventually_logs("still held: ");
        assert!(!running.log().contains(" WARN held: "));
        running.stop();
        storewatch.policy("version = 1\n");
        let mut running = storewatch.start();
        running.eventually("the whole chain, once it may", || storewatch.cache().has_all(&chain));
        running.stop();
        storewatch.cache().assert_sound(&[]);
    }
}

#[test]
fn what_a_backfill_passes_over_says_whether_it_was_denied() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let (team, public) = (storewatch.cache_at("team"), storewatch.cache_at("public"));
    storewatch.policy(&policy_for_two(&team, &public));
    let path = store.build(&expr::script("cuda-part", "echo x > $out")).unwrap().remove(0);
    let said = storewatch.cmd(&["push", "--to", "public", &path]);
    assert_eq!(said.code, Some(3), "{said:?}");
    assert!(said.stdout.contains("\ndenied           1 by rule 2\n"), "{said:?}");
    let said = storewatch.cmd(&["backfill", "--to", "public"]).ok();
    assert!(
        said.contains("\nskipped          1 by built-in rule \"derivation\"\ndenied           1 by rule 2"),
        "{said}"
    );
    let said = storewatch.cmd(&["backfill", "--dry-run", "--to", "public"]).ok();
    assert!(said.contains("would not let out 1 by rule 2\n"), "{said}");
    storewatch.cmd(&["push", &path]).ok();
    assert!(team.has(&path) && !public.has(&path));
}

#[test]
fn a_path_denied_while_it_waits_stays_here() {
    let Some(nix) = Nix::v2_8() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    storewatch.cache().block();
    let mut running = storewatch.start();
    let chain = store.query_closure(&store.build(&expr::chain(3)).unwrap()[0]);
    running.eventually("three jobs that wait", || storewatch.jobs("pending").len() == 3);
    running.eventually_logs("the cache takes nothing for now");
    assert!(storewatch.cache_status("local")["waiting_why"].is_string());

    storewatch.policy(DENY_BASE);
    running.eventually_logs("the policy has changed and is in force");
    storewatch.cache().unblock();
    running.eventually("the referrer held", || storewatch.jobs("held").len() == 1);
    running.eventually("the end of the rest", || storewatch.jobs("pending").is_empty());
    running.eventually("the path that nothing denies", || storewatch.cache().has(&chain[0]));
    running.stop();
    assert_eq!(storewatch.cache().store_paths(), BTreeSet::from([chain[0].clone()]));
    assert_eq!(storewatch.cache().archives().len(), 1);
    assert_eq!(storewatch.states_of(&chain[1]), []);
}

#[test]
fn a_new_policy_in_mid_stream_stops_what_it_denies_and_nothing_else() {
    let Some(nix) = Nix::recent() else { return };
    for denied in [true, false] {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        let mut running = storewatch.start();
        // Large enough that the policy is read long before it is packed.
        let large = store.build(&expr::sized(150_000_000)).unwrap().remove(0);
        running.eventually("the upload's beginning", || storewatch.cache().largest_temporary_file() > 100_000);
        let name = if denied { "sized" } else { "other" };
        storewatch.policy(&format!("version = 1\n[[rules]]\nmatch = {{ name = \"{name}\" }}\naction = \"deny\"\n"));
        // Told so, it doesn't wait to see whether more is written.
        running.signal(Signal::HUP);
        running.eventually_logs("the policy has changed and is in force");
        assert!(!storewatch.cache().has(&large), "the upload was over before the policy changed: make it larger");
        let left = || storewatch.jobs_left().len();
        running.eventually("the end of the job", || left() == 0);
        assert_eq!(storewatch.cache().has(&large), !denied);
        assert!(!running.log().contains("takes nothing"), "a new policy hindered the cache");
        running.stop();
        storewatch.cache().assert_sound(&[]);
        assert_eq!(storewatch.cache().archives().len(), usize::from(!denied));
    }
}

#[test]
fn two_caches_get_what_each_is_to_have() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let (team, public) = (storewatch.cache_at("team"), storewatch.cache_at("public"));
    storewatch.policy(&policy_for_two(&team, &public));
    let mut running = storewatch.start();
    let internal = store.build(&expr::named_chain(&["internal-tool"])).unwrap().remove(0);
    // A dependency goes where its referrer goes, whatever `to` says of it.
    let routed = store.query_closure(&store.build(&expr::named_chain(&["internal-part", "product"])).unwrap()[0]);
    let licensed = store.query_closure(&store.build(&expr::named_chain(&["cuda-part", "cuda-user"])).unwrap()[0]);
    let secret = store.query_closure(&store.build(&expr::named_chain(&["secret", "secret-user"])).unwrap()[0]);
    let state = |path: &str, cache: &str| {
        let states = storewatch.states_of(path);
        states.into_iter().find(|(name, _)| name == cache).map_or("none".to_owned(), |(_, state)| state)
    };
    running.eventually("what both get", || team.has_all(&routed) && public.has_all(&routed));
    running.eventually("what one gets", || team.has(&internal) && team.has_all(&licensed));
    running.eventually("what is held", || state(&licensed[1], "public") == "held");
    running.eventually("what both hold", || ["team", "public"].iter().all(|cache| state(&secret[1], cache) == "held"));
    running.stop();

    let expected: BTreeSet<_> = routed.iter().chain(&licensed).chain([&internal]).cloned().collect();
    assert_eq!(team.store_paths(), expected);
    assert_eq!(public.store_paths(), routed.iter().cloned().collect::<BTreeSet<_>>());
    assert_eq!(state(&licensed[0], "public"), "none");
    assert_eq!(state(&internal, "public"), "none");
    team.assert_sound(&[]);
    public.assert_sound(&[]);
    assert_eq!((team.archives().len(), public.archives().len()), (5, 2));
    assert_ne!(storewatch.public_key("team"), storewatch.public_key("public"), "each cache has a key of its own");
    store.read_back(&team.url(), &storewatch.public_key("team"), &licensed).unwrap();
    store.read_back(&public.url(), &storewatch.public_key("public"), &routed).unwrap();
}

fn policy_for_two(team: &CacheDir, public: &CacheDir) -> String {
    format!(
        r#"version = 1
           [caches.team]
           url = "{}"
           [caches.public]
           url = "{}"
           [[rules]]
           match = {{ name = "secret" }}
           action = "deny"
           [[rules]]
           match = {{ name = "cuda-part" }}
           action = "deny"
           from = ["public"]
           [[rules]]
           match = {{ name = "internal-*", kind = "output" }}
           action = "upload"
           to = ["team"]
        "#,
        team.url(),
        public.url()
    )
}
