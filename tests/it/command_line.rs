//! What people and scripts ask while the service runs and while it doesn't, and what they never get to see.

use crate::support::nix::base_name;
use crate::support::{Nix, Running, Said, ScratchStore, Storewatch, expr};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;

#[test]
fn usage_names_no_option_that_nobody_has_written() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    // Both are set in the environment, and count all the same.
    let policy = store.root().join("elsewhere.toml");
    fs::write(&policy, "version = 1\n").unwrap();
    let said = Said::by(storewatch.command().args(["status", "--json"]).env("STOREWATCH_CONFIG", &policy)).json();
    assert_eq!(said["policy_file"], policy.to_str().unwrap());
    assert_eq!(said["state_dir"], storewatch.state_dir().to_str().unwrap());
    for arguments in [&["push"][..], &["queue", "--help"], &["status", "--help"], &["queue", "list", "--state", "x"]] {
        let said = storewatch.cmd(arguments);
        let text = said.stdout + &said.stderr;
        let usage = text.lines().filter(|line| line.starts_with("Usage: "));
        assert!(usage.into_iter().all(|line| !line.contains("--state-dir") && !line.contains("--config")), "{text}");
    }
    let help = storewatch.cmd(&["status", "--help"]).ok();
    assert!(help.contains("[env: STOREWATCH_STATE_DIR]") && help.contains("[env: STOREWATCH_CONFIG]"), "{help}");
}

#[test]
fn status_and_queue_answer_with_and_without_the_service() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    // Before anything was queued.
    let before = storewatch.status();
    assert_eq!((&before["working"], &before["caches"][0]["done"]), (&Value::Null, &0.into()));
    assert!(storewatch.cmd(&["status"]).ok().contains("nobody works the queue off"));
    let none = storewatch.cmd(&["queue", "list", "--json"]);
    assert!(none.code == Some(1) && none.stderr.contains("no queue in") && none.stderr.contains("hint:"), "{none:?}");

    storewatch.policy("version = 1\n[[rules]]\nmatch = { name = \"chain-0\" }\naction = \"deny\"\n");
    let mut running = storewatch.start();
    let chain = store.query_closure(&store.build(&expr::chain(2)).unwrap()[0]);
    let path = store.build(&expr::many(1)).unwrap().remove(0);
    running
        .eventually("one done, one held", || (storewatch.jobs("done").len(), storewatch.jobs("held").len()) == (1, 1));
    let pid = running.pid();
    let other = storewatch.policy_path().with_file_name("other.toml");
    fs::write(&other, "version = 1\n").unwrap();
    let mut running = Some(running);
    for runs in [true, false] {
        let status = storewatch.status();
        let working = if runs { Value::from(format!("storewatch run, process {pid}")) } else { Value::Null };
        assert_eq!(status["working"], working);
        assert_eq!(status["store"], store.store_dir().to_str().unwrap());
        assert_eq!(status["policy_file"], storewatch.policy_path().to_str().unwrap());
        let cache = &status["caches"][0];
        let counts = ["done", "held", "pending", "uploading", "failed", "gone"].map(|state| cache[state].as_u64());
        assert_eq!(counts, [1, 1, 0, 0, 0, 0].map(Some), "{status}");
        assert_eq!(cache["substituter"], storewatch.cache().url());
        assert!(cache["bytes_sent"].as_u64() > Some(0) && cache["orphaned"] == false);
        // Whoever looks by another policy file than the service's is told so.
        for (file, in_force) in [(storewatch.policy_path(), true), (other.clone(), false)] {
            let looked = storewatch.cmd(&["status", "--json", "--config", file.to_str().unwrap()]).json();
            assert_eq!(looked["policy_in_force"], if runs { Value::from(in_force) } else { Value::Null });
            let told = storewatch.cmd(&["status", "--config", file.to_str().unwrap()]).ok();
            assert_eq!(told.contains("the running service does not go by this policy"), runs && !in_force, "{told}");
            let explained = storewatch.cmd(&["policy", "explain", &path, "--config", file.to_str().unwrap()]);
            assert_eq!(explained.stderr.contains("does not go by this policy"), runs && !in_force, "{explained:?}");
        }
        let text = storewatch.cmd(&["status"]).ok();
        for told in ["1 done", "1 held", cache["public_key"].as_str().unwrap(), &storewatch.cache().url()] {
            assert!(text.contains(told), "{told} in {text}");
        }
        // What is done is listed where it is asked for.
        assert_eq!(storewatch.jobs_left().len(), 1);
        let done = &storewatch.jobs("done")[0];
        assert_eq!((&done["path"], &done["state"]), (&base_name(&path).into(), &"done".into()));
        let listed = storewatch.cmd(&["queue", "list", &chain[1], "--json"]).json();
        assert_eq!((&listed[0]["path"], &listed[0]["state"]), (&base_name(&chain[1]).into(), &"held".into()));
        running.take().into_iter().for_each(Running::stop);
    }
    assert_eq!(storewatch.cmd(&["queue", "drop", "--state", "held"]).ok(), "1 job dropped\n");
    assert!(storewatch.jobs_left().is_empty());
}

#[test]
fn jobs_of_a_cache_that_the_policy_no_longer_names_wait_for_it() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let (one, other) = (storewatch.cache_at("one"), storewatch.cache_at("other"));
    let policy = |name: &str, url: &str| format!("version = 1\n[caches.{name}]\nurl = \"{url}\"\n");
    let named = policy("one", &one.url());
    storewatch.policy(&named);
    one.block();
    let mut running = storewatch.start();
    let path = store.build(&expr::many(1)).unwrap().remove(0);
    running.eventually("a job that waits", || storewatch.jobs("pending").len() == 1);
    storewatch.policy(&policy("other", &other.url()));
    running.eventually_logs("the policy has changed and is in force");
    assert_eq!(storewatch.cache_status("one")["orphaned"], true);
    assert!(storewatch.cmd(&["status"]).ok().contains("queue drop --cache one"));
    let later = store.build(&expr::many(1)).unwrap();
    running.eventually("what goes to the other", || other.has_all(&later));
    one.unblock();
    let later = store.build(&expr::many(1)).unwrap();
    running.eventually("what goes to the other, once both take paths", || other.has_all(&later));
    assert!(!one.has(&path) && !other.has(&path));
    storewatch.policy(&named);
    running.eventually("what waited", || one.has(&path));
}

#[test]
fn a_cache_of_the_same_name_is_another_one_at_another_url() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let (old, new) = (storewatch.cache_at("old"), storewatch.cache_at("new"));
    let policy = |url: &str| format!("version = 1\n[caches.team]\nurl = \"{url}\"\n");
    storewatch.policy(&policy(&old.url()));
    old.block();
    let mut running = storewatch.start();
    store.build(&expr::many(1)).unwrap();
    running.eventually("a job that waits", || storewatch.jobs("pending").len() == 1);
    storewatch.policy(&policy(&new.url()));
    running.eventually_logs("the policy has changed and is in force");
    let paths = store.build(&expr::many(1)).unwrap();
    running.eventually("what goes to the new one", || new.has_all(&paths));
    running.eventually("its end", || storewatch.jobs("done").len() == 1);
    running.stop();
    let text = storewatch.cmd(&["status"]).ok();
    let drop = format!("queue drop --cache {}", old.url());
    assert!(text.contains(&format!("`storewatch queue drop --cache '{}'` ends its jobs", old.url())), "{text}");
    for (state, told) in [("pending", true), ("done", false)] {
        let listed = storewatch.cmd(&["queue", "list", "--state", state]).ok();
        let which = format!("for {}, which the policy no longer names", old.url());
        assert_eq!(listed.contains(&which), told, "{state}: {listed}");
    }
    assert_eq!(storewatch.cmd(&drop.split(' ').collect::<Vec<_>>()).ok(), "1 job dropped\n");
    assert_eq!((storewatch.jobs("pending").len(), storewatch.jobs("done").len()), (0, 1), "the other one's are kept");
    let unknown = storewatch.cmd(&["queue", "list", "--cache", "nowhere"]);
    assert!(unknown.code == Some(2) && unknown.stderr.contains("`nowhere`; it knows team\n"), "{unknown:?}");
}

#[test]
fn a_bad_policy_hides_nothing_but_what_it_says() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    storewatch
        .policy("version = 1\n[[rules]]\nname = \"licensed\"\nmatch = { name = \"chain-0\" }\naction = \"deny\"\n");
    let chain = store.query_closure(&store.build(&expr::chain(2)).unwrap()[0]);
    let path = store.build(&expr::many(1)).unwrap().remove(0);
    assert_eq!(storewatch.cmd(&["backfill"]).code, Some(3));
    assert_eq!(storewatch.status()["policy_problems"], Value::Array(Vec::new()));

    storewatch.policy("version = 1\nrulez = 1\n[limits]\nuploads = 0\n");
    let places = [2, 4].map(|line| format!("{}:{line}:", storewatch.policy_path().display()));
    let said = storewatch.cmd(&["status"]);
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(places.iter().all(|place| said.stderr.contains(place)), "{said:?}");
    for told in ["1 done", "1 held", "local  file://", &format!("state:   {}", storewatch.state_dir().display())] {
        assert!(said.stdout.contains(told), "{told} in {}", said.stdout);
    }
    assert!(!said.stdout.contains("no longer names"), "that isn't known: {}", said.stdout);
    let said = storewatch.cmd(&["status", "--json"]);
    assert_eq!(said.code, Some(2));
    let status: Value = serde_json::from_str(&said.stdout).unwrap();
    let problems = status["policy_problems"].as_array().unwrap();
    assert_eq!(problems.len(), 2);
    assert!(
        problems.iter().zip(&places).all(|(problem, place)| problem.as_str().unwrap().starts_with(place)),
        "{status}"
    );
    assert_eq!((&status["caches"][0]["done"], &status["caches"][0]["orphaned"]), (&1.into(), &Value::Null), "{status}");

    // And the queue needs none at all.
    let held = storewatch.cmd(&["queue", "list", "--state", "held"]).ok();
    assert!(held.contains(base_name(&chain[1])), "{held}");
    assert_eq!(storewatch.cmd(&["queue", "retry", "--state", "held"]).ok(), "1 job is tried again\n");
    assert_eq!(storewatch.cmd(&["queue", "drop", &path]).ok(), "1 job dropped\n");
    // A typing error.
    for verb in ["retry", "drop"] {
        let refused = storewatch.cmd(&["queue", verb, "no-such-path"]);
        assert!(
            refused.code == Some(2) && refused.stderr.contains("no job whose path contains `no-such-path`"),
            "{refused:?}"
        );
    }
    // Nor does a service begin that would keep to another policy.
    let refused = storewatch.cmd(&["run"]);
    assert!(refused.code == Some(2) && refused.stderr.contains(&places[0]), "{refused:?}");
    assert!(!refused.stderr.contains("should a service be running"), "{refused:?}");
}

#[test]
fn the_policy_is_checked_explained_compared_and_described() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    assert!(storewatch.cmd(&["policy", "check"]).ok().contains("built-in policy applies"));
    storewatch
        .policy("version = 1\n[[rules]]\nname = \"small ones\"\nmatch = { name = \"small-0\" }\naction = \"skip\"\n");
    assert!(storewatch.cmd(&["policy", "check"]).ok().contains("good: 1 cache, 1 rule"));
    let paths = store.build(&expr::many(2)).unwrap();

    let text = storewatch.cmd(&["policy", "explain", &paths[0]]).ok();
    assert!(text.contains("small ones") && text.contains("skip"), "{text}");
    let text = storewatch.cmd(&["policy", "explain", &paths[1]]).ok();
    assert!(text.contains("small ones") && text.contains("does not match") && text.contains("upload"), "{text}");
    let json = storewatch.cmd(&["policy", "explain", "--json", &paths[0], &paths[1]]).json();
    assert_eq!(json.as_array().unwrap().len(), 2, "{json}");

    let other = store.root().join("other.toml");
    fs::write(&other, "version = 1\n").unwrap();
    let other = other.to_str().unwrap();
    let text = storewatch.cmd(&["policy", "diff", other]).ok();
    assert!(text.contains(&paths[0]) && !text.contains(&paths[1]), "{text}");
    assert!(text.contains("local: skip -> upload"), "{text}");
    let json = storewatch.cmd(&["policy", "diff", "--json", other]).json();
    assert_eq!(json["changes"].as_array().unwrap().len(), 1, "{json}");

    let schema = storewatch.cmd(&["policy", "schema"]).json();
    assert!(schema["properties"]["rules"].is_object() && schema["$schema"].is_string());
}

#[test]
fn the_secret_key_is_seen_nowhere() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let key = store.generate_key("given-1");
    fs::set_permissions(&key.secret, fs::Permissions::from_mode(0o600)).unwrap();
    let given = storewatch.cache_at("given");
    let by_command = storewatch.cache_at("by-command");
    storewatch.policy(&format!(
        "version = 1\n[caches.own]\nurl = \"{}\"\n[caches.given]\nurl = \"{}\"\nsigning_key = {{ file = \"{key}\" }}\n\
         [caches.by-command]\nurl = \"{}\"\nsigning_key = {{ command = [\"cat\", \"{key}\"] }}\n",
        storewatch.cache().url(),
        given.url(),
        by_command.url(),
        key = key.secret.display()
    ));
    let mut running = storewatch.start();
    let paths = store.build(&expr::many(2)).unwrap();
    let caches = [&given, &by_command, &storewatch.cache()];
    running.eventually("the paths", || caches.iter().all(|cache| cache.has_all(&paths)));
    for (name, cache) in [("given", &given), ("by-command", &by_command)] {
        assert_eq!(storewatch.public_key(name), key.public);
        store.read_back(&cache.url(), &key.public, &paths).unwrap();
    }
    let own = storewatch.state_dir().join("keys/own.secret");
    assert_eq!(fs::metadata(&own).unwrap().permissions().mode() & 0o777, 0o600);

    let mut seen = running.log();
    seen += &fs::read_to_string(format!("/proc/{}/cmdline", running.pid())).unwrap_or_default();
    for command in [&["status"][..], &["status", "--json"], &["queue", "list", "--state", "done"], &["policy", "check"]]
    {
        let said = storewatch.cmd(command);
        seen += &(said.stdout + &said.stderr);
    }
    // A key that is none is refused without being shown.
    let broken = fs::read_to_string(&key.secret).unwrap().replacen(':', ":!", 1);
    fs::write(&key.secret, &broken).unwrap();
    running.stop();
    let mut running = storewatch.start();
    store.build(&expr::many(1)).unwrap();
    running.eventually_logs("holds no signing key");
    seen += &running.log();
    seen += &storewatch.cmd(&["status"]).ok();
    assert!(seen.contains("debug") || seen.contains("DEBUG"), "the log tells everything");
    for file in [&own, &key.secret] {
        let text = fs::read_to_string(file).unwrap();
        let secret = text.trim().split(':').nth(1).unwrap().trim_start_matches('!');
        // Any third of it would be too much.
        for at in [0, secret.len() / 3, secret.len() * 2 / 3 - 4] {
            let part = &secret[at..at + 20];
            assert!(!seen.contains(part), "a part of the key in {} is in a log or an answer", file.display());
        }
    }
}
