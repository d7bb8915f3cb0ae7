//! What a binary cache has beside archives and narinfos: lists of files and logs of builds, as Nix writes them.

use crate::backend_contract::eventually_done;
use crate::support::backend::{bucket_policy, fake_policy};
use crate::support::http::Question;
use crate::support::nix::base_name;
use crate::support::s3::Dialect;
use crate::support::{CacheDir, FakeS3, Garage, Nix, Said, ScratchStore, Storewatch, each_nix, expr};
use hyper::Method;
use serde_json::Value;
use std::fs;

/// A tree with a bit of everything.
const TREE: &str = r#"mkdir -p $out/bin $out/empty "$out/a b"; echo x > $out/bin/run; chmod +x $out/bin/run; : > $out/none;
    ln -s bin/run $out/link; head -c 300000 /dev/zero > $out/bin/zeros; printf 'y' > "$out/$(printf 'q"\ntab\t')""#;

/// The name of a path's list of files.
fn listing_name(path: &str) -> String {
    format!("{}.ls", &base_name(path)[..32])
}

/// What Nix itself lists of a path.
fn by_nix(store: &ScratchStore, path: &str) -> Value {
    let cache = CacheDir::at(store.root().join("by-nix"));
    let to = format!("{}?write-nar-listing=true", cache.url());
    Said::by(store.command("nix").args(["copy", "--to", &to, path])).ok();
    serde_json::from_slice(&fs::read(cache.dir().join(listing_name(path))).unwrap()).unwrap()
}

each_nix! {
    fn lists_of_files_are_nixs_own(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        let cache = storewatch.cache_at("team");
        let policy = |parameters: &str| format!("version = 1\n[caches.team]\nurl = \"{}{parameters}\"\n", cache.url());
        storewatch.policy(&policy(""));
        let mut running = storewatch.start();
        let without = store.build(&expr::script("without", TREE)).unwrap().remove(0);
        eventually_done(&mut running, &storewatch, 1);
        running.stop();
        assert!(cache.has(&without) && !cache.dir().join(listing_name(&without)).exists(), "it isn't asked for");

        storewatch.policy(&policy("?write-nar-listing=true"));
        let mut running = storewatch.start();
        let mut paths = store.build(&expr::script("tree", TREE)).unwrap();
        paths.extend(store.build(&expr::script("file", "echo x > $out")).unwrap());
        paths.extend(store.build(&expr::script("symlink", "ln -s /nowhere $out")).unwrap());
        // Larger than what is read by the thread that packs it.
        paths.extend(store.build(&expr::sized(3_000_000)).unwrap());
        let not_text = r#"mkdir $out; : > "$out/$(printf 'a\377b')""#;
        let not_text = store.build(&expr::script("not-utf-8", not_text)).unwrap().remove(0);
        running.eventually("all of them", || cache.has_all(&paths) && cache.has(&not_text));
        running.stop();
        for path in &paths {
            let ours = fs::read(cache.dir().join(listing_name(path))).unwrap();
            assert_eq!(serde_json::from_slice::<Value>(&ours).unwrap(), by_nix(&store, path), "{path}");
        }
        assert!(!cache.dir().join(listing_name(&not_text)).exists(), "there is none that JSON could hold");
        let listed = Said::by(store.command("nix").args(["store", "ls", "--recursive", "--store", &cache.url(), &paths[0]]));
        assert!(listed.ok().lines().any(|line| line.trim_start_matches('.') == "/bin/run"));
        cache.assert_sound(&[]);
        assert!(cache.temporary_files().is_empty());
    }
}

/// A build that says this, and makes something.
fn talking(name: &str, says: &str) -> String {
    expr::script(name, &format!("echo '{says}'; echo x > $out"))
}

/// The derivation that a path was built from.
fn deriver(store: &ScratchStore, path: &str) -> String {
    Said::by(store.command("nix-store").args(["--query", "--deriver", path])).ok().trim().to_owned()
}

each_nix! {
    fn nix_finds_the_logs_of_builds(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        let cache = storewatch.cache_at("team");
        let log_of = |path: &str| cache.dir().join("log").join(base_name(&deriver(&store, path)));
        let policy = |parameters: &str| format!("version = 1\n[caches.team]\nurl = \"{}{parameters}\"\n", cache.url());
        storewatch.policy(&policy(""));
        let mut running = storewatch.start();
        let without = store.build(&talking("without", "one")).unwrap().remove(0);
        eventually_done(&mut running, &storewatch, 1);
        running.stop();
        assert!(cache.has(&without) && !log_of(&without).exists(), "it isn't asked for");

        storewatch.policy(&policy("?write-build-logs=true"));
        let mut running = storewatch.start();
        let path = store.build(&talking("with", "two words")).unwrap().remove(0);
        let silent = store.build(&expr::script("silent", "echo x > $out")).unwrap().remove(0);
        let source = store.root().join("source");
        fs::write(&source, "x").unwrap();
        let source = store.add(&source);
        running.eventually("all of them", || cache.has_all(&[path.clone(), silent.clone(), source.clone()]));
        running.stop();
        assert_eq!(fs::read_to_string(log_of(&path)).unwrap(), "two words\n");
        assert_eq!(fs::read_to_string(log_of(&silent)).unwrap_or_default(), "");
        let log = Said::by(store.command("nix").args(["log", "--store", &cache.url(), &path]));
        assert_eq!(log.ok(), "two words\n");

        // What Nix itself copies is the same, in the same place.
        let theirs = CacheDir::at(store.root().join("by-nix"));
        Said::by(store.command("nix").args(["store", "copy-log", "--to", &theirs.url(), &path])).ok();
        let name = log_of(&path);
        let name = name.strip_prefix(cache.dir()).unwrap();
        assert_eq!(fs::read(theirs.dir().join(name)).unwrap(), fs::read(cache.dir().join(name)).unwrap());
        assert!(cache.temporary_files().is_empty());
    }
}

#[test]
fn logs_lie_in_a_bucket_too_once_and_not_when_they_are_huge() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let fake = FakeS3::start();
    let policy = bucket_policy(&storewatch, fake.port(), fake.key());
    storewatch.policy(&policy.replace("region=garage", "region=garage&write-build-logs=true"));
    let mut running = storewatch.start();
    let two = expr::script("two", "echo said once; echo x > $out; echo y > $dev")
        .replace("name =", "outputs = [ \"out\" \"dev\" ]; name =");
    let mut paths = store.build(&format!("let two = {two}; in [ two.out two.dev ]")).unwrap();
    let huge = "head -c 17000000 /dev/zero | tr '\\0' 'x'; echo x > $out";
    let huge = store.build(&expr::script("huge", huge)).unwrap().remove(0);
    paths.push(huge.clone());
    eventually_done(&mut running, &storewatch, 3);
    running.stop();
    let log_of = |path: &str| format!("log/{}", base_name(&deriver(&store, path)));
    let state = fake.state();
    assert_eq!(state.objects[&log_of(&paths[0])].as_ref(), b"said once\n");
    assert!(!state.objects.contains_key(&log_of(&huge)), "it would have to be held in memory");
    assert_eq!(state.objects.keys().filter(|name| name.starts_with("log/")).count(), 1);
    assert_eq!(state.violations, Vec::<String>::new());
}

/// All that is legal in the name of a derivation is in that of its log's object.
#[test]
fn a_log_has_its_derivations_very_name_in_a_bucket() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let with_logs = |policy: String| policy.replace("endpoint=", "write-build-logs=true&endpoint=");
    let name = "A+b-c._?id=9";
    let path = store.build(&talking(name, "said once")).unwrap().remove(0);
    let log = format!("log/{}", base_name(&deriver(&store, &path)));
    assert!(log.ends_with("?id=9.drv"), "{log}");
    for dialect in [Dialect::S3, Dialect::Google, Dialect::Azure] {
        let (storewatch, fake) = (Storewatch::new(&store), FakeS3::start());
        fake.state().dialect = dialect;
        storewatch.policy(&with_logs(fake_policy(&storewatch, &fake, "")));
        storewatch.cmd(&["push", &path]).ok();
        let state = fake.state();
        let logs: Vec<_> = state.objects.iter().filter(|(name, _)| name.starts_with("log/")).collect();
        assert_eq!(logs.len(), 1);
        assert_eq!((logs[0].0, logs[0].1.as_ref()), (&log, &b"said once\n"[..]), "{dialect:?}");
    }
    let Some(garage) = Garage::start() else { return };
    let storewatch = Storewatch::new(&store);
    storewatch.policy(&with_logs(bucket_policy(&storewatch, garage.port(), garage.key())));
    storewatch.cmd(&["push", &path]).ok();
    let website = garage.website();
    let (_, host) = website.split_once("://").unwrap();
    let port = host.rsplit_once(':').unwrap().1.parse().unwrap();
    let question = Question::new(port, Method::GET, &format!("/{}", log.replace('?', "%3F")));
    let answer = question.host(host.to_owned()).ask().unwrap();
    assert_eq!((answer.status, answer.body.as_ref()), (200, &b"said once\n"[..]));
}

#[test]
fn lists_of_files_lie_in_a_bucket_too() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let fake = FakeS3::start();
    let policy = bucket_policy(&storewatch, fake.port(), fake.key());
    storewatch.policy(&policy.replace("region=garage", "region=garage&write-nar-listing=true"));
    let mut running = storewatch.start();
    let mut paths = store.build(&expr::script("tree", TREE)).unwrap();
    eventually_done(&mut running, &storewatch, 1);
    // The same content under another name: its archive isn't sent again, and its list is.
    paths.extend(store.build(&expr::script("same-tree", TREE)).unwrap());
    eventually_done(&mut running, &storewatch, 2);
    running.stop();
    let state = fake.state();
    for path in &paths {
        let ours: Value = serde_json::from_slice(&state.objects[&listing_name(path)]).unwrap();
        assert_eq!(ours, by_nix(&store, path), "{path}");
    }
    assert_eq!(state.objects.keys().filter(|name| name.starts_with("nar/")).count(), 1);
    assert_eq!(state.violations, Vec::<String>::new());
}
