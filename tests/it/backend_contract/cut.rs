//! Uploads that are cut or held up in their middle.

use super::{assert_read_back, eventually_done, eventually_waits_because, signing_key};
use crate::support::backend::{Backend, Program, Who};
use crate::support::disk::MIB;
use crate::support::{Disk, Fault, FlakyProxy, On, ScratchStore, Storewatch, expr};

pub fn what_is_cut_in_the_middle_arrives_later_and_leaves_nothing(backend: &Backend, store: &ScratchStore) {
    match backend {
        Backend::File { .. } => a_disk_that_is_full_in_the_middle(backend, store),
        Backend::Program(program) => a_program_that_ends_in_the_middle(backend, program, store),
        _ => a_line_that_is_cut_in_the_middle(backend, store),
    }
}

fn a_line_that_is_cut_in_the_middle(backend: &Backend, store: &ScratchStore) {
    let proxy = FlakyProxy::before(backend.port());
    let storewatch = Storewatch::new(store);
    storewatch.policy(&backend.policy_at(&storewatch, proxy.port(), Who::Writer));
    proxy.fail(On::Every, Fault::CutAfter(1_000_000));
    let mut running = storewatch.start();
    let mut paths = store.build(&expr::sized(12_000_000)).unwrap();
    paths.extend(store.build(&expr::sized(2_000_000)).unwrap());
    running.eventually("the fault", || proxy.faults() > 2);
    proxy.pass();
    eventually_done(&mut running, &storewatch, 2);
    assert_read_back(backend, store, &storewatch.public_key("team"), &paths);
    running.eventually("the rest to be taken back", || backend.has_just(2));
    running.stop();
}

fn a_disk_that_is_full_in_the_middle(backend: &Backend, store: &ScratchStore) {
    let Backend::File { cache, .. } = backend else { unreachable!("it lies on a disk") };
    let Some(disk) = Disk::mount(cache.dir(), 16 * MIB) else { return };
    let storewatch = Storewatch::new(store);
    let key = store.generate_key("team-1");
    // It begins whatever there is room for.
    let never = "[disk]\nlow = \"0 %\"\ncritical = \"0 %\"\n";
    storewatch.policy(&(backend.policy(&storewatch, store, &signing_key(&storewatch, &key)) + never));
    let mut running = storewatch.start();
    let mut paths = store.build(&expr::many(1)).unwrap();
    eventually_done(&mut running, &storewatch, 1);
    disk.leave_free(MIB);
    paths.extend(store.build(&expr::sized(4_000_000)).unwrap());
    eventually_waits_because(&mut running, &storewatch, "No space left");
    assert_eq!((cache.store_paths().len(), cache.archives().len()), (1, 1), "nothing half is shown");
    disk.clear();
    eventually_done(&mut running, &storewatch, 2);
    running.stop();
    assert_read_back(backend, store, &key.public, &paths);
    assert!(backend.has_just(2));
}

fn a_program_that_ends_in_the_middle(backend: &Backend, program: &Program, store: &ScratchStore) {
    let storewatch = Storewatch::new(store);
    let key = store.generate_key("team-1");
    let policy = backend.policy(&storewatch, store, &signing_key(&storewatch, &key));
    storewatch.policy(&format!("{policy}gives = \"nar\"\n"));
    program.instead("rm instead\nhead -c 1000000 > begun\nkill -9 $$");
    let mut running = storewatch.start();
    let paths = store.build(&expr::sized(12_000_000)).unwrap();
    eventually_done(&mut running, &storewatch, 1);
    assert_eq!(std::fs::metadata(program.beside("begun")).unwrap().len(), 1_000_000, "it was cut in the middle");
    running.stop();
    assert_read_back(backend, store, &key.public, &paths);
    assert!(backend.has_just(1));
}

pub fn a_server_that_takes_nothing_for_a_while_gets_everything_in_the_end(backend: &Backend, store: &ScratchStore) {
    let proxy = FlakyProxy::before(backend.port());
    let storewatch = Storewatch::new(store);
    storewatch.policy(&backend.policy_at(&storewatch, proxy.port(), Who::Writer));
    proxy.fail(On::Every, Fault::StallAfter(1_000_000));
    let mut running = storewatch.start();
    let large = store.build(&expr::sized(12_000_000)).unwrap();
    running.eventually("the stall", || proxy.faults() > 0);
    // What is small goes past it meanwhile.
    let small = store.build(&expr::many(2)).unwrap();
    running.eventually("the small ones", || storewatch.jobs("done").len() == 2);
    proxy.pass();
    eventually_done(&mut running, &storewatch, 3);
    running.stop();
    assert_read_back(backend, store, &storewatch.public_key("team"), &[large, small].concat());
    assert!(backend.has_just(3), "nothing was sent twice");
}
