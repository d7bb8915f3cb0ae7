//! What is built arrives, whole and in order: with its closure, signed, and never before its references.

use crate::support::{CacheDir, Nix, Reader, ScratchStore, Storewatch, each_nix, expr};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// References that take some 50 ms to pack, where what refers to them takes none.
const HEAVY: u64 = 8_000_000;

each_nix! {
    fn a_build_is_read_back_into_an_empty_store(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        let mut running = storewatch.start();
        let top = store.build(&expr::lattice(12, 100_000)).unwrap();
        let closure = store.query_closure(&top[0]);
        assert_eq!(closure.len(), 12);
        running.eventually("the closure in the cache", || storewatch.cache().has_all(&closure));

        let (url, key) = (storewatch.cache().url(), storewatch.public_key("local"));
        let copied = store.read_back(&url, &key, &top).unwrap();
        let substituted = Reader::empty(&store);
        substituted.substitute(&url, &key, &top).unwrap();
        assert!(copied.all_valid(&closure) && substituted.all_valid(&closure));
        assert_eq!(copied.contents(&closure), store.contents(&closure));
        assert_eq!(substituted.contents(&closure), store.contents(&closure));
        let other = store.generate_key("other-1");
        assert!(store.read_back(&url, &other.public, &top).unwrap_err().contains("signature"));

        running.stop();
        storewatch.cache().assert_sound(&[]);
        assert_eq!(storewatch.cache().store_paths(), closure.into_iter().collect::<BTreeSet<_>>());
        assert_eq!(storewatch.jobs_left(), Vec::<serde_json::Value>::new());
    }

    fn no_path_is_ever_there_before_its_references(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        // Once while it is built, and once with everything waiting already, so that all of it is under way at once.
        for built_before in [false, true] {
            let running = storewatch.start();
            let mut running = Some(running);
            if built_before {
                running.take().unwrap().stop();
            }
            let watched = Watched::start(storewatch.cache());
            let top = store.build(&expr::lattice(16, HEAVY)).unwrap();
            let mut running = running.unwrap_or_else(|| storewatch.start());
            running.eventually("the last path in the cache", || storewatch.cache().has(&top[0]));
            let looks = watched.end();
            assert!(looks > 10, "the cache was looked at {looks} times only");
            running.stop();
            assert!(storewatch.cache().has_all(&store.query_closure(&top[0])));
            storewatch.cache().assert_sound(&[]);
        }
    }

    fn a_failed_build_uploads_nothing(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        let mut running = storewatch.start();
        store.build(&expr::failing()).unwrap_err();
        // What comes behind it in the database arrives behind it.
        let sentinel = store.build(&expr::many(1)).unwrap();
        running.eventually("what was built later", || storewatch.cache().has(&sentinel[0]));
        running.stop();
        assert_eq!(storewatch.cache().store_paths(), sentinel.into_iter().collect::<BTreeSet<_>>());
        assert_eq!((storewatch.jobs_left().len(), storewatch.jobs("done").len()), (0, 1));
    }

    fn sources_and_substitutes_are_decided_by_the_policy(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let storewatch = Storewatch::new(&store);
        let (upstream, stranger) = (Elsewhere::new(&store, "upstream-1"), Elsewhere::new(&store, "stranger-1"));
        let from_upstream = upstream.substitute_later(&store, &expr::many(1));
        let from_stranger = stranger.substitute_later(&store, &expr::many(1));
        storewatch.policy(&format!(
            "version = 1\n[upstreams]\nkeys = [\"{}\"]\n[[rules]]\nname = \"private sources\"\n\
             match = {{ kind = \"source\", name = \"private*\" }}\naction = \"skip\"\n",
            upstream.public
        ));
        let mut running = storewatch.start();
        let add = |name: &str| {
            let file = store.root().join(name);
            std::fs::write(&file, name).unwrap();
            store.add(&file)
        };
        let (private, open) = (add("private-notes"), add("notes"));
        upstream.fetch(&store, &from_upstream);
        stranger.fetch(&store, &from_stranger);
        let sentinel = store.build(&expr::many(1)).unwrap().remove(0);
        running.eventually("what was built last", || storewatch.cache().has(&sentinel));
        running.eventually("the queue's end", || storewatch.jobs_left().is_empty());
        let expected = BTreeSet::from([open, from_stranger.clone(), sentinel]);
        assert_eq!(storewatch.cache().store_paths(), expected, "without {private} and {from_upstream}");
        for (path, rule) in [(&private, "private sources"), (&from_upstream, "signed by an upstream")] {
            let explained = storewatch.cmd(&["policy", "explain", path]).ok();
            assert!(explained.contains("skip") && explained.contains(rule), "{explained}");
        }
        // Another's signature stays with what is handed on.
        let key = &storewatch.public_key("local");
        store.read_back(&storewatch.cache().url(), key, std::slice::from_ref(&from_stranger)).unwrap();
        store.read_back(&storewatch.cache().url(), &stranger.public, &[from_stranger]).unwrap();
    }

    fn what_an_upstream_has_is_left_to_it(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let upstream = Elsewhere::new(&store, "upstream-1");
        let expression = expr::chain(2);
        let closure = store.query_closure(&store.build(&expression).unwrap()[0]);
        let (base, top) = (closure[0].clone(), closure[1].clone());
        store.copy_to(&upstream.cache.url(), &upstream.key, std::slice::from_ref(&base));
        store.delete(&[top.clone(), base.clone()]);
        upstream.fetch(&store, &base);

        let counting = Storewatch::new(&store);
        counting.policy(&format!("version = 1\n[upstreams]\nkeys = [\"{}\"]\n", upstream.public));
        let alone = Storewatch::new(&store);
        alone.policy("version = 1\n[upstreams]\nkeys = []\n");
        let (mut first, mut second) = (counting.start(), alone.start());
        assert_eq!(store.build(&expression).unwrap(), std::slice::from_ref(&top));
        first.eventually("the path in the cache beside an upstream", || counting.cache().has(&top));
        second.eventually("the path in the cache without an upstream", || alone.cache().has(&top));
        first.eventually("the queue's end", || counting.jobs_left().is_empty());
        first.stop();
        second.stop();
        assert_eq!(counting.cache().store_paths(), BTreeSet::from([top.clone()]));
        assert_eq!(counting.cache().narinfo(&top).unwrap().references, [crate::support::nix::base_name(&base)]);
        counting.cache().assert_sound(std::slice::from_ref(&base));
        assert_eq!(alone.cache().store_paths(), closure.iter().cloned().collect());
        alone.cache().assert_sound(&[]);

        // Together with its upstream the one delivers; the other does by itself.
        let reader = Reader::empty(&store);
        let keys = format!("{} {}", counting.public_key("local"), upstream.public);
        let both = format!("{} {}", counting.cache().url(), upstream.cache.url());
        reader.substitute(&both, &keys, std::slice::from_ref(&top)).unwrap();
        assert!(reader.valid(&base) && reader.valid(&top));
        let without = Reader::empty(&store);
        assert!(without.substitute(&counting.cache().url(), &keys, std::slice::from_ref(&top)).is_err());
        store.read_back(&alone.cache().url(), &alone.public_key("local"), &[top]).unwrap();
    }
}

/// A binary cache that others fill, by Nix itself, and sign with a key of their own.
struct Elsewhere {
    cache: CacheDir,
    key: crate::support::nix::Key,
    public: String,
}

impl Elsewhere {
    fn new(store: &ScratchStore, name: &str) -> Self {
        let (cache, key) = (CacheDir::at(store.root().join(name)), store.generate_key(name));
        Self { cache, public: key.public.clone(), key }
    }

    /// Builds a path, puts it into this cache, and takes it from the store.
    fn substitute_later(&self, store: &ScratchStore, expression: &str) -> String {
        let paths = store.build(expression).unwrap();
        store.copy_to(&self.cache.url(), &self.key, &paths);
        store.delete(&paths);
        paths[0].clone()
    }

    fn fetch(&self, store: &ScratchStore, path: &str) {
        store.substitute(&self.cache.url(), &self.public, &[path.to_owned()]).unwrap();
    }
}

/// A thread that looks again and again whether each narinfo's references have theirs.
struct Watched {
    over: std::sync::Arc<AtomicBool>,
    looking: thread::JoinHandle<u32>,
}

impl Watched {
    fn start(cache: CacheDir) -> Self {
        let over = std::sync::Arc::new(AtomicBool::new(false));
        let told = std::sync::Arc::clone(&over);
        let looking = thread::spawn(move || {
            let (mut sound, mut looks) = (BTreeSet::new(), 0);
            while !told.load(Ordering::Relaxed) {
                for narinfo in cache.narinfos() {
                    // Looked for after its referrer was seen, and nothing is ever taken away: what is missing now was
                    // missing then.
                    for reference in narinfo.references.iter().filter(|_| !sound.contains(&narinfo.store_path)) {
                        let there = cache.narinfo(reference).is_some_and(|its| cache.dir().join(its.url).exists());
                        assert!(there, "{} was there before its reference {reference}", narinfo.store_path);
                    }
                    sound.insert(narinfo.store_path);
                }
                looks += 1;
                thread::yield_now();
            }
            looks
        });
        Self { over, looking }
    }

    /// How often it has looked. Panics where it once saw a path without its references.
    fn end(self) -> u32 {
        self.over.store(true, Ordering::Relaxed);
        self.looking.join().unwrap()
    }
}
