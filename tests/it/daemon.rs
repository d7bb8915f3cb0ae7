//! The client of the Nix daemon, with real daemons.

use crate::support::{Nix, ScratchStore, each_nix, expr};
use storewatch::nix::{Daemon, DaemonError, Database, PathInfo, StoreDir, StorePath};

each_nix! {
    fn it_says_of_a_path_what_the_database_says(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let (daemon, store_dir) = (store.daemon(), store_dir(&store));
        let built = daemon.build(&expr::chain(3)).unwrap().remove(0);
        let source = store.root().join("source");
        std::fs::write(&source, "text").unwrap();
        let mut paths = store.query_closure(&built);
        paths.push(store.add(&source));
        let paths: Vec<_> = paths.iter().map(|full| store_dir.parse(full).unwrap()).collect();

        let Some(mut client) = connected(&nix, &daemon.socket(), &store_dir) else { return };
        let database = Database::open(&store.db_path(), &store_dir).unwrap();
        for path in &paths {
            let from_database = database.path_info(path).unwrap().unwrap();
            let from_daemon = wait(client.path_info(path)).unwrap().unwrap();
            assert_eq!(from_daemon, PathInfo { id: None, ..from_database });
        }
        let invalid = StorePath::from_base_name(&format!("{}-not-there", "0".repeat(32))).unwrap();
        assert_eq!(wait(client.path_info(&invalid)).unwrap(), None);

        // More than fit into one request.
        let mut asked = vec![invalid.clone(); 2500];
        asked.extend(paths.iter().cloned());
        let mut valid = wait(client.valid(&asked)).unwrap();
        valid.sort();
        let mut expected = paths;
        expected.sort();
        assert_eq!(valid, expected);
        assert!(wait(client.valid(&[])).unwrap().is_empty());
    }

    fn a_temporary_root_lives_as_long_as_its_connection(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let (daemon, store_dir) = (store.daemon(), store_dir(&store));
        let path = daemon.build(&expr::many(1)).unwrap().remove(0);
        let Some(mut client) = connected(&nix, &daemon.socket(), &store_dir) else { return };
        wait(client.add_temp_root(&store_dir.parse(&path).unwrap())).unwrap();
        store.gc();
        assert!(store.valid(&path));

        drop(client);
        // The daemon notices by and by that its client is gone.
        crate::support::eventually("the end of the root", || {
            store.gc();
            !store.valid(&path)
        });
    }
}

/// A client of the daemon; none where that is too old, as it has to be with Nix 2.8.
fn connected(nix: &Nix, socket: &std::path::Path, store_dir: &StoreDir) -> Option<Daemon> {
    match wait(Daemon::connect(socket, store_dir)) {
        Err(DaemonError::TooOld { protocol }) if nix.version() < (2, 15) => {
            assert_eq!(protocol, "1.34");
            None
        }
        client => Some(client.unwrap()),
    }
}

fn store_dir(store: &ScratchStore) -> StoreDir {
    StoreDir::new(store.store_dir().to_str().unwrap())
}

/// Runs a future to its end. One runtime for all, because a connection belongs to the one that made it.
fn wait<T>(future: impl Future<Output = T>) -> T {
    use std::sync::LazyLock;
    static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| tokio::runtime::Runtime::new().unwrap());
    RUNTIME.block_on(future)
}
