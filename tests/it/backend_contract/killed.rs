//! What is left when the service is killed in mid-upload, and what becomes of that at the next start.

use super::{assert_read_back, eventually_done, signing_key};
use crate::support::backend::{Backend, Program, Who};
use crate::support::{CacheDir, Fault, FlakyProxy, On, ScratchStore, Storewatch, eventually, expr};

pub fn what_a_killed_upload_left_is_gone_after_the_next_start(backend: &Backend, store: &ScratchStore) {
    let storewatch = Storewatch::new(store);
    match backend {
        Backend::File { cache, .. } => while_a_file_is_written(backend, cache, &storewatch, store),
        Backend::Program(program) => while_a_program_runs(backend, program, &storewatch, store),
        _ => while_a_server_takes(backend, &storewatch, store),
    }
}

fn while_a_server_takes(backend: &Backend, storewatch: &Storewatch<'_>, store: &ScratchStore) {
    let proxy = FlakyProxy::before(backend.port());
    storewatch.policy(&backend.policy_at(storewatch, proxy.port(), Who::Writer));
    // In the middle of a part, where large archives go in parts.
    proxy.fail(On::Puts(backend.mark_of_parts().unwrap_or("nar/")), Fault::StallAfter(1_000_000));
    let mut running = storewatch.start();
    let paths = store.build(&expr::sized(12_000_000)).unwrap();
    running.eventually("an upload that is under way", || proxy.faults() > 0);
    running.kill9();
    assert_ne!(backend.unfinished(), Some(0), "something is left");
    assert_ne!(notes(storewatch), 0, "and it is noted");
    proxy.pass();
    all_of_it_and_no_more(backend, storewatch, store, &storewatch.public_key("team"), &paths);
    assert_eq!(notes(storewatch), 0);
}

fn while_a_file_is_written(backend: &Backend, cache: &CacheDir, storewatch: &Storewatch<'_>, store: &ScratchStore) {
    let key = store.generate_key("team-1");
    let policy = backend.policy(storewatch, store, &signing_key(storewatch, &key));
    // At this level a core packs some MB a second: time enough to see it happen.
    storewatch.policy(&format!("{policy}compression_level = 19\n"));
    let mut running = storewatch.start();
    let paths = store.build(&expr::sized(12_000_000)).unwrap();
    running.eventually("an upload that is under way", || cache.largest_temporary_file() > 100_000);
    running.kill9();
    assert!(!cache.temporary_files().is_empty(), "nothing was under way any more: make the path larger");
    storewatch.policy(&policy);
    all_of_it_and_no_more(backend, storewatch, store, &key.public, &paths);
}

fn while_a_program_runs(backend: &Backend, program: &Program, storewatch: &Storewatch<'_>, store: &ScratchStore) {
    let key = store.generate_key("team-1");
    storewatch.policy(&backend.policy(storewatch, store, &signing_key(storewatch, &key)));
    program.instead("touch begun\nwhile [ -e instead ]; do sleep 0.02; done\ntouch ended\nexit 1");
    let mut running = storewatch.start();
    let paths = store.build(&expr::many(1)).unwrap();
    running.eventually("the program to run", || program.beside("begun").exists());
    running.kill9();
    program.pass();
    eventually("the program's end", || program.beside("ended").exists());
    all_of_it_and_no_more(backend, storewatch, store, &key.public, &paths);
}

pub fn an_archive_that_was_not_shown_before_the_kill_is_gone_after_the_next_start(
    backend: &Backend,
    store: &ScratchStore,
) {
    let proxy = FlakyProxy::before(backend.port());
    let storewatch = Storewatch::new(store);
    storewatch.policy(&backend.policy_at(&storewatch, proxy.port(), Who::Writer));
    proxy.fail(On::Every, Fault::StallAfter(1_000_000));
    let mut running = storewatch.start();
    // The archive of the small one is sent; its narinfo waits for those of the large ones, which hang.
    let top = store.build(&expr::lattice(3, 3_000_000)).unwrap();
    running.eventually("an archive", || proxy.faults() >= 2 && backend.archives(0) == 1);
    running.kill9();
    assert_eq!((backend.archives(0), storewatch.jobs("done").len()), (1, 0));
    proxy.pass();
    all_of_it_and_no_more(backend, &storewatch, store, &storewatch.public_key("team"), &store.query_closure(&top[0]));
}

pub fn an_archive_whose_narinfo_was_on_its_way_is_named_after_the_next_start(backend: &Backend, store: &ScratchStore) {
    let proxy = FlakyProxy::before(backend.port());
    let storewatch = Storewatch::new(store);
    storewatch.policy(&backend.policy_at(&storewatch, proxy.port(), Who::Writer));
    proxy.fail(On::Puts(".narinfo"), Fault::StallAfter(0));
    let mut running = storewatch.start();
    let paths = store.build(&expr::many(1)).unwrap();
    let queue = rusqlite::Connection::open(storewatch.state_dir().join("queue.sqlite")).unwrap();
    let expected = || queue.query_row("select count(*) from contents", [], |row| row.get::<_, u32>(0)).unwrap();
    running.eventually("the narinfo", || proxy.faults() > 0 && expected() == 1);
    running.kill9();
    assert_eq!((backend.archives(0), notes(&storewatch)), (1, 0), "nobody may delete it any more");
    proxy.pass();
    all_of_it_and_no_more(backend, &storewatch, store, &storewatch.public_key("team"), &paths);
}

/// Starts the service again, which brings all of it, and leaves nothing else.
#[track_caller]
fn all_of_it_and_no_more(
    backend: &Backend,
    storewatch: &Storewatch<'_>,
    store: &ScratchStore,
    key: &str,
    paths: &[String],
) {
    let mut running = storewatch.start();
    eventually_done(&mut running, storewatch, paths.len());
    running.eventually("the rest to be taken back", || backend.has_just(paths.len()));
    running.stop();
    assert_read_back(backend, store, key, paths);
}

/// How many uploads the state directory has notes of.
fn notes(storewatch: &Storewatch<'_>) -> usize {
    std::fs::read_dir(storewatch.state_dir().join("unfinished/team")).unwrap().count()
}
