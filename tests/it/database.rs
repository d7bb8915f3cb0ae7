//! Reading the database while real Nix writes it.

use crate::support::{Nix, ScratchStore, each_nix, expr};
use std::collections::BTreeSet;
use std::time::Duration;
use storewatch::nix::{BatchLimits, Database, StoreDir};

const SHORT: BatchLimits = BatchLimits { rows: 100, time: Duration::from_millis(10) };

each_nix! {
    fn each_path_is_read_once_while_nix_builds(nix: Nix) {
        follow(&ScratchStore::new(&nix), true);
    }

    fn without_a_log_each_path_is_read_once_while_nix_builds(nix: Nix) {
        follow(&ScratchStore::with_settings(&nix, "use-sqlite-wal = false"), false);
    }

    fn an_id_is_not_given_again_after_a_garbage_collection(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let expression = expr::many(1);
        let path = store.build(&expression).unwrap().remove(0);
        let store_dir = store_dir(&store);
        let database = Database::open(&store.db_path(), &store_dir).unwrap();
        let id_of = |path: &str| database.path_info(&store_dir.parse(path).unwrap()).unwrap().map(|info| info.id.unwrap());
        let (first, last) = (id_of(&path).unwrap(), database.last_id().unwrap());
        store.gc();
        assert_eq!((id_of(&path), database.last_id().unwrap()), (None, last));
        store.build(&expression).unwrap();
        assert!(id_of(&path).unwrap() > first);
        assert!(!database.replaced());
    }
}

/// Reads what is new over and over while Nix builds, by a connection that is kept, and compares in the end.
fn follow(store: &ScratchStore, wal: bool) {
    let store_dir = store_dir(store);
    let database = Database::open(&store.db_path(), &store_dir).unwrap();
    assert_eq!(database.uses_wal(), wal);
    let (mut seen, mut cursor) = (Vec::new(), 0);
    std::thread::scope(|scope| {
        let builds = scope.spawn(|| (0..3).flat_map(|_| store.build(&expr::many(10)).unwrap()).collect::<Vec<_>>());
        let mut built = None;
        loop {
            let ended = builds.is_finished();
            match database.batch(cursor, &SHORT) {
                Ok(batch) => {
                    assert!(batch.malformed.is_empty(), "{:?}", batch.malformed);
                    cursor = batch.reached;
                    seen.extend(batch.paths.into_iter().map(|info| store_dir.full(&info.path)));
                    built = built.or(ended.then_some(batch.complete));
                    if built == Some(true) {
                        break;
                    }
                    built = None;
                }
                Err(error) => assert!(error.is_busy(), "{error:?}"),
            }
        }
        let built: BTreeSet<_> = builds.join().unwrap().into_iter().collect();
        let (count, seen) = (seen.len(), seen.drain(..).collect::<BTreeSet<_>>());
        assert_eq!(count, seen.len(), "a path came twice");
        assert!(built.is_subset(&seen), "a path did not come: {:?}", built.difference(&seen));
        assert_eq!(cursor, database.last_id().unwrap());
    });
}

fn store_dir(store: &ScratchStore) -> StoreDir {
    StoreDir::new(store.store_dir().to_str().unwrap())
}
