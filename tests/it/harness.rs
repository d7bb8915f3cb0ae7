//! What the other tests stand on, tried by itself: real Nix builds, copies, collects and reads back.

use crate::support::{Nix, Reader, ScratchStore, each_nix, expr, wait};
use std::time::Duration;

each_nix! {
    fn a_chain_is_built_and_read_back(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let top = store.build(&expr::chain(4)).unwrap().remove(0);
        let closure = store.query_closure(&top);
        assert_eq!(closure.len(), 4);
        assert_eq!(store.query_references(&top), [closure[2].clone()]);

        let (cache, key) = (format!("file://{}/cache", store.root().display()), store.generate_key("test-1"));
        store.copy_to(&cache, &key, std::slice::from_ref(&top));
        let copied = store.read_back(&cache, &key.public, std::slice::from_ref(&top)).unwrap();
        let substituted = Reader::empty(&store);
        substituted.substitute(&cache, &key.public, std::slice::from_ref(&top)).unwrap();
        for path in &closure {
            assert!(copied.valid(path) && substituted.valid(path));
            assert_eq!(copied.content(path), store.content(path));
            assert_eq!(substituted.content(path), store.content(path));
        }
    }

    fn what_nobody_trusted_signed_is_not_read_back(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let paths = store.build(&expr::many(1)).unwrap();
        let cache = format!("file://{}/cache", store.root().display());
        store.copy_to(&cache, &store.generate_key("test-1"), &paths);
        let other = store.generate_key("other-1");
        let refused = store.read_back(&cache, &other.public, &paths).unwrap_err();
        assert!(refused.contains("signature"), "{refused}");
        let reader = Reader::empty(&store);
        assert!(reader.substitute(&cache, &other.public, &paths).is_err());
        assert!(!reader.valid(&paths[0]));
    }

    fn what_nothing_keeps_is_collected_and_comes_back_as_a_substitute(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let paths = store.build(&expr::many(3)).unwrap();
        let (cache, key) = (format!("file://{}/cache", store.root().display()), store.generate_key("test-1"));
        store.copy_to(&cache, &key, &paths);

        store.delete(&paths[..1]);
        assert!(!store.valid(&paths[0]) && store.valid(&paths[1]));
        store.keep(&paths[1..2]);
        store.gc();
        assert!(store.valid(&paths[1]) && !store.valid(&paths[2]));

        assert_eq!(ultimate(&store, &paths[1]), Some(1));
        store.substitute(&cache, &key.public, &paths[2..]).unwrap();
        assert_eq!(ultimate(&store, &paths[2]), None);
    }

    fn sources_failures_and_sizes(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let source = store.root().join("source");
        std::fs::write(&source, "text").unwrap();
        let added = store.add(&source);
        assert_eq!(store.content(&added), crate::support::nix::nar_hash(&store, &source));

        let failed = store.build(&expr::failing()).unwrap_err();
        assert!(failed.contains("failing"), "{failed}");

        let sized = store.build(&expr::sized(100_000)).unwrap();
        assert_eq!(std::fs::metadata(&sized[0]).unwrap().len(), 100_000);
    }

    fn a_daemon_builds(nix: Nix) {
        let store = ScratchStore::with_settings(&nix, "use-sqlite-wal = false");
        let daemon = store.daemon();
        let path = daemon.build(&expr::script("by-daemon", r#"x="${PATH:-}"; echo "$x" > $out"#)).unwrap().remove(0);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "/bin:/usr/bin\n");
        let socket = daemon.socket();
        drop(daemon);
        assert!(!socket.exists() && store.valid(&path));
    }
}

#[test]
fn waiting_ends_with_the_condition_or_the_deadline() {
    let mut polls = 0;
    wait::eventually("the third poll", || {
        polls += 1;
        polls == 3
    });
    assert!(!wait::within(Duration::from_millis(30), || false));
}

/// What the database says of where a path comes from.
fn ultimate(store: &ScratchStore, path: &str) -> Option<i64> {
    let database = rusqlite::Connection::open(store.db_path()).unwrap();
    database.query_row("select ultimate from ValidPaths where path = ?", [path], |row| row.get(0)).unwrap()
}
