//! Content-addressed derivations: who reads a cache gets their outputs without building them.

use crate::support::backend::Backend;
use crate::support::write_secret;
use crate::support::{CacheDir, Nix, Reader, ScratchStore, Storewatch, each_nix, expr};

/// A store of a Nix that knows content-addressed derivations.
fn store(nix: &Nix) -> ScratchStore {
    ScratchStore::with_settings(nix, "extra-experimental-features = ca-derivations")
}

/// The realisations that a cache has, by the names of their files.
fn realisations(cache: &CacheDir) -> Vec<String> {
    let entries = std::fs::read_dir(cache.dir().join("realisations")).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

each_nix! {
    fn outputs_are_substituted_and_not_built_again(nix: Nix) {
        let store = store(&nix);
        let storewatch = Storewatch::new(&store);
        let mark = store.root().join("built");
        let expression = expr::content_addressed(&["base", "middle", "top"], &mark);
        let mut running = storewatch.start();
        let top = store.build(&expression).unwrap().remove(0);
        let closure = store.query_closure(&top);
        let built = std::fs::read_to_string(&mark).unwrap();
        assert_eq!((closure.len(), built.lines().count()), (3, 3));
        running.eventually("the queue's end", || storewatch.jobs("done").len() == closure.len());
        running.stop();
        let cache = storewatch.cache();
        // Those that refer to others are known by two derivations: with their inputs as written, and as built.
        let names = realisations(&cache);
        assert_eq!(names.len(), 5, "{names:?}");
        assert!(names.iter().all(|name| name.starts_with("sha256:") && name.ends_with("!out.doi")), "{names:?}");

        let (key, reader) = (storewatch.public_key("local"), Reader::empty(&store));
        assert_eq!(reader.build(&cache.url(), &key, &expression), Ok(vec![top.clone()]));
        assert!(reader.all_valid(&closure));
        assert_eq!(reader.contents(&closure), store.contents(&closure));
        assert_eq!(std::fs::read_to_string(&mark).unwrap(), built, "nothing was built again");
    }

    fn they_are_left_out_on_request_and_added_later(nix: Nix) {
        let store = store(&nix);
        let storewatch = Storewatch::new(&store);
        let cache = storewatch.cache_at("cache");
        let policy = |parameters: &str| format!("version = 1\n[caches.team]\nurl = \"{}{parameters}\"\n", cache.url());
        let expression = expr::content_addressed(&["alone"], &store.root().join("built"));
        let path = store.build(&expression).unwrap();
        storewatch.policy(&policy("?write-realisations=false"));
        storewatch.cmd(&["push", &path[0]]).ok();
        assert!(cache.has(&path[0]) && realisations(&cache).is_empty());
        let key = storewatch.public_key("team");
        assert!(Reader::empty(&store).build(&cache.url(), &key, &expression).is_err(), "nobody knows that it is there");
        storewatch.policy(&policy(""));
        let said = storewatch.cmd(&["push", &path[0]]).ok();
        assert!(said.contains("already there    1\n"), "{said}");
        assert_eq!(realisations(&cache).len(), 1);
        let reader = Reader::empty(&store);
        assert_eq!(reader.build(&cache.url(), &key, &expression), Ok(path));
        cache.assert_sound(&[]);
    }

    fn they_are_signed_as_nix_signs_them(nix: Nix) {
        let store = store(&nix);
        // Nix signs what it builds with the key that is the cache's, too.
        let key = store.generate_key("team-1");
        let settings = store.root().join("conf/nix.conf");
        let text = std::fs::read_to_string(&settings).unwrap();
        std::fs::write(&settings, format!("{text}secret-key-files = {}\n", key.secret.display())).unwrap();
        let storewatch = Storewatch::new(&store);
        let (cache, secret) = (storewatch.cache_at("cache"), storewatch.state_dir().with_file_name("signing"));
        write_secret(&secret, std::fs::read_to_string(&key.secret).unwrap());
        let signing_key = format!("signing_key = {{ file = \"{}\" }}", secret.display());
        storewatch.policy(&format!("version = 1\n[caches.team]\nurl = \"{}\"\n{signing_key}\n", cache.url()));
        let top = store.build(&expr::content_addressed(&["base", "top"], &store.root().join("built"))).unwrap();
        storewatch.cmd(&["push", &top[0]]).ok();
        let names = realisations(&cache);
        assert_eq!(names.len(), 3, "{names:?}");
        for name in names {
            let text = std::fs::read_to_string(cache.dir().join("realisations").join(&name)).unwrap();
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            let depends = json["dependentRealisations"].as_object().unwrap().len();
            // Nix's own and ours are one; where it depends on others, there is one without them, for Nix 2.34.
            assert_eq!(json["signatures"].as_array().unwrap().len(), 1 + depends, "{text}");
        }
    }
}

/// In buckets and on web servers they lie as in a directory, and who reads those builds nothing again.
#[test]
fn they_are_put_where_servers_are() {
    let Some(nix) = Nix::recent() else { return };
    for backend in [Backend::fake_s3, Backend::fake_s3_that_only_overwrites, Backend::garage, Backend::nginx] {
        let Some(backend) = backend() else { continue };
        let store = store(&nix);
        let storewatch = Storewatch::new(&store);
        let key = storewatch.state_dir().with_file_name("signing");
        write_secret(&key, std::fs::read_to_string(store.generate_key("team-1").secret).unwrap());
        let policy = backend.policy(&storewatch, &store, &key);
        let mark = store.root().join("built");
        let expression = expr::content_addressed(&["base", "top"], &mark);
        let top = store.build(&expression).unwrap();
        let built = std::fs::read_to_string(&mark).unwrap();
        // Left out at first, then added beside what is there.
        let without = policy.replacen("garage\"", "garage&write-realisations=false\"", 1);
        let without = without.replacen("/nix\"", "/nix?write-realisations=false\"", 1);
        assert_ne!(without, policy);
        storewatch.policy(&without);
        storewatch.cmd(&["push", &top[0]]).ok();
        let public = storewatch.public_key("team");
        let read = || Reader::empty(&store).build(&backend.substituter(), &public, &expression);
        assert!(read().is_err(), "nobody knows that it is there");
        storewatch.policy(&policy);
        for _ in 0..2 {
            let said = storewatch.cmd(&["push", &top[0]]).ok();
            assert!(said.contains("already there"), "{said}");
        }
        assert_eq!(read(), Ok(top.clone()));
        assert_eq!(std::fs::read_to_string(&mark).unwrap(), built, "nothing was built again");
        if let Backend::Web(nginx) = &backend {
            assert_eq!(realisations(&nginx.cache()).len(), 3);
        }
    }
}
