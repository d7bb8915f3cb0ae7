//! What is missing is brought, once, by one or by two, and as fast as it may be.

use super::{assert_read_back, eventually_done, signing_key};
use crate::support::backend::{Backend, write_random};
use crate::support::s3::Op;
use crate::support::{Running, ScratchStore, Storewatch, expr};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

pub fn a_closure_arrives_and_is_not_sent_again(backend: &Backend, store: &ScratchStore) {
    let storewatch = Storewatch::new(store);
    let key = store.generate_key("team-1");
    storewatch.policy(&backend.policy(&storewatch, store, &signing_key(&storewatch, &key)));
    let mut running = storewatch.start();
    let mut top = store.build(&expr::lattice(8, 100_000)).unwrap();
    // Three parts of an upload, and one that fits into a single request.
    top.extend(store.build(&expr::sized(12_000_000)).unwrap());
    let closure: BTreeSet<_> = top.iter().flat_map(|path| store.query_closure(path)).collect();
    eventually_done(&mut running, &storewatch, closure.len());
    running.stop();
    assert_read_back(backend, store, &key.public, &top);
    assert!(backend.has_just(closure.len()));

    let again = Storewatch::new(store);
    again.policy(&backend.policy(&again, store, &signing_key(&again, &key)));
    again.cmd(&["push", &top[0], &top[1]]).ok();
    assert!(backend.has_just(closure.len()), "what is there is not sent again");
    if let Some(fake) = backend.fake() {
        fake.assert_sound();
        let asked = fake.state().asked.clone();
        assert!(asked[&Op::Part] >= 3 && asked[&Op::Complete] == 1 && fake.state().most_in_flight <= 2, "{asked:?}");
    }
}

pub fn two_at_once_end_with_one_good_narinfo(backend: &Backend, store: &ScratchStore) {
    let hosts = [Storewatch::new(store), Storewatch::new(store)];
    let top = store.build(&expr::lattice(6, 3_000_000)).unwrap();
    let closure = store.query_closure(&top[0]);
    // Both sign with one key, so that a reader can't tell which of them it was.
    let key = store.generate_key("team-1");
    let mut pushing: Vec<Running> = Vec::new();
    for host in &hosts {
        host.policy(&backend.policy(host, store, &signing_key(host, &key)));
        pushing.push(host.spawn(&["push", &top[0]]));
    }
    for pushing in pushing {
        assert!(pushing.wait_exit().success());
    }
    assert_read_back(backend, store, &key.public, &top);
    if backend.keeps_the_first() {
        assert!(backend.has_just(closure.len()), "the second took its archives back");
    } else {
        // The last wins. The archives of the first are named by nobody, and a prune removes them.
        let archives = backend.archives(closure.len());
        assert!((closure.len()..=2 * closure.len()).contains(&archives), "{archives} archives");
        assert_eq!(backend.unfinished().unwrap_or(0), 0);
    }
    if let Some(fake) = backend.fake() {
        assert_eq!(fake.state().store_paths(), closure.iter().cloned().collect());
    }
}

pub fn a_limit_holds_for_what_is_sent(backend: &Backend, store: &ScratchStore) {
    let storewatch = Storewatch::new(store);
    let key = store.generate_key("team-1");
    let policy = backend.policy(&storewatch, store, &signing_key(&storewatch, &key));
    let source = store.root().join("random");
    write_random(&source, 1, 200_000);
    let path = store.add(&source);
    storewatch.policy(&format!("{policy}bandwidth = \"100 kB/s\"\n"));
    let began = Instant::now();
    storewatch.cmd(&["backfill", &path]).ok();
    let took = began.elapsed();
    assert!(took > Duration::from_millis(1500), "200 kB at 100 kB/s in {took:?}");
    assert_read_back(backend, store, &key.public, &[path]);
}
