//! What servers refuse, for now: who asks, that it is written, that it is so much, and what doesn't say how long it is.

use super::{assert_read_back, eventually_done, eventually_waits_because, signing_key};
use crate::support::backend::{Backend, Program, Who};
use crate::support::disk::MIB;
use crate::support::{Canned, Disk, Fault, FlakyProxy, On, ScratchStore, Storewatch, expr};

pub fn who_is_unknown_waits_to_be_known(backend: &Backend, store: &ScratchStore) {
    wrong_credentials_wait_for_good_ones(backend, store, Who::Nobody);
}

pub fn a_wrong_secret_waits_for_the_right_one(backend: &Backend, store: &ScratchStore) {
    match backend {
        Backend::Program(program) => a_program_that_lacks_credentials(backend, program, store),
        _ => wrong_credentials_wait_for_good_ones(backend, store, Who::Impostor),
    }
}

fn wrong_credentials_wait_for_good_ones(backend: &Backend, store: &ScratchStore, who: Who) {
    let storewatch = Storewatch::new(store);
    storewatch.policy(&backend.policy_at(&storewatch, backend.port(), who));
    let mut running = storewatch.start();
    let top = store.build(&expr::chain(3)).unwrap();
    let secret = backend.secret();
    eventually_waits_because(&mut running, &storewatch, backend.says_of(who));
    let said = storewatch.cmd(&["cache", "ping"]);
    assert!(said.code == Some(1) && said.stdout.contains(backend.says_of(who)), "{said:?}");
    assert!(!format!("{said:?}{}", storewatch.status()).contains(&secret), "{said:?}");
    storewatch.policy(&backend.policy_at(&storewatch, backend.port(), Who::Writer));
    eventually_done(&mut running, &storewatch, 3);
    let ping = storewatch.cmd(&["cache", "ping"]).ok();
    assert!(ping.contains("lets us read and push"), "{ping}");
    assert_eq!(storewatch.cmd(&["cache", "info", "team", "--json"]).json()["priority"], 50);
    assert!(!running.log().contains(&secret), "the secret is in the log");
    running.stop();
    assert_read_back(backend, store, &storewatch.public_key("team"), &top);
    assert!(backend.has_just(3));
}

fn a_program_that_lacks_credentials(backend: &Backend, program: &Program, store: &ScratchStore) {
    let storewatch = Storewatch::new(store);
    let key = store.generate_key("team-1");
    storewatch.policy(&backend.policy(&storewatch, store, &signing_key(&storewatch, &key)));
    program.instead("exit 77");
    let mut running = storewatch.start();
    let top = store.build(&expr::chain(2)).unwrap();
    eventually_waits_because(&mut running, &storewatch, "lacks credentials, or their permission");
    program.pass();
    eventually_done(&mut running, &storewatch, 2);
    running.stop();
    assert_read_back(backend, store, &key.public, &top);
}

pub fn who_may_only_read_waits_for_the_right_to_write(backend: &Backend, store: &ScratchStore) {
    if let Backend::File { .. } = backend {
        return a_disk_that_may_only_be_read(backend, store);
    }
    let storewatch = Storewatch::new(store);
    storewatch.policy(&backend.policy_at(&storewatch, backend.port(), Who::Reader));
    let mut running = storewatch.start();
    let top = store.build(&expr::chain(2)).unwrap();
    eventually_waits_because(&mut running, &storewatch, backend.says_of(Who::Reader));
    backend.let_the_reader_write(&storewatch);
    eventually_done(&mut running, &storewatch, 2);
    running.stop();
    assert_read_back(backend, store, &storewatch.public_key("team"), &top);
    assert!(backend.has_just(2));
}

fn a_disk_that_may_only_be_read(backend: &Backend, store: &ScratchStore) {
    let Backend::File { cache, .. } = backend else { unreachable!("it lies on a disk") };
    let Some(disk) = Disk::mount(cache.dir(), 16 * MIB) else { return };
    disk.remount("ro");
    let storewatch = Storewatch::new(store);
    let key = store.generate_key("team-1");
    storewatch.policy(&backend.policy(&storewatch, store, &signing_key(&storewatch, &key)));
    let mut running = storewatch.start();
    let top = store.build(&expr::chain(2)).unwrap();
    eventually_waits_because(&mut running, &storewatch, "Read-only file system");
    disk.remount("rw");
    eventually_done(&mut running, &storewatch, 2);
    running.stop();
    assert_read_back(backend, store, &key.public, &top);
    assert!(backend.has_just(2));
}

pub fn a_pause_that_is_asked_for_is_made_and_nothing_fails(backend: &Backend, store: &ScratchStore) {
    match backend {
        Backend::Program(program) => a_pause_that_a_program_asks_for(backend, program, store),
        _ => pauses_that_a_server_asks_for(backend, store),
    }
}

fn pauses_that_a_server_asks_for(backend: &Backend, store: &ScratchStore) {
    let proxy = FlakyProxy::before(backend.port());
    let storewatch = Storewatch::new(store);
    storewatch.policy(&backend.policy_at(&storewatch, proxy.port(), Who::Writer));
    let (canned, words) = match backend {
        Backend::Web(_) => (Canned::slow_down(1), "503"),
        _ => (Canned::slow_down_of_a_store(1), "SlowDown (503)"),
    };
    let slow_down = (canned, words);
    let too_many = (Canned::too_many_requests(1), "429");
    let small = || expr::many(1);
    let mut steps = vec![(On::Every, small(), &slow_down), (On::Puts("nar/"), small(), &slow_down)];
    steps.extend(backend.mark_of_parts().map(|part| (On::Puts(part), expr::sized(6_000_000), &slow_down)));
    steps.extend([&slow_down, &too_many].map(|how| (On::Puts(".narinfo"), small(), how)));
    let mut running = storewatch.start();
    let mut paths = Vec::new();
    for (on, expression, (canned, words)) in &steps {
        if *on == On::Puts(".narinfo") {
            assert!(backend.has_just(paths.len()), "what was refused left nothing");
        }
        let before = proxy.faults();
        proxy.fail(*on, Fault::Answer(canned.clone()));
        paths.extend(store.build(expression).unwrap());
        running.eventually("the refusal", || proxy.faults() > before);
        eventually_waits_because(&mut running, &storewatch, words);
        proxy.pass();
        eventually_done(&mut running, &storewatch, paths.len());
    }
    assert_eq!(storewatch.jobs("failed"), Vec::<serde_json::Value>::new());
    assert_eq!(running.log().matches("its content was there already").count(), 2, "archives are not sent again");
    running.stop();
    assert!(backend.has_just(paths.len()), "an archive whose narinfo was refused was named by the next try");
    assert_read_back(backend, store, &storewatch.public_key("team"), &paths);
}

fn a_pause_that_a_program_asks_for(backend: &Backend, program: &Program, store: &ScratchStore) {
    let storewatch = Storewatch::new(store);
    let key = store.generate_key("team-1");
    storewatch.policy(&backend.policy(&storewatch, store, &signing_key(&storewatch, &key)));
    program.instead(r#"echo '{"kind":"retry","reason":"it is busy","retry_after":1}'; exit 75"#);
    let mut running = storewatch.start();
    let paths = store.build(&expr::chain(3)).unwrap();
    eventually_waits_because(&mut running, &storewatch, "it is busy");
    program.pass();
    eventually_done(&mut running, &storewatch, 3);
    running.stop();
    assert_read_back(backend, store, &key.public, &paths);
}

pub fn who_wants_to_be_told_lengths_is_told(backend: &Backend, store: &ScratchStore) {
    let proxy = FlakyProxy::before(backend.port());
    let storewatch = Storewatch::new(store);
    storewatch.policy(&backend.policy_at(&storewatch, proxy.port(), Who::Writer));
    proxy.fail(On::Every, Fault::WantLength);
    let mut running = storewatch.start();
    let mut paths = store.build(&expr::chain(3)).unwrap();
    paths.extend(store.build(&expr::sized(12_000_000)).unwrap());
    eventually_done(&mut running, &storewatch, 4);
    assert!(!running.log().contains("will try again"), "{}", running.log());
    // Object stores are always told; a web server once it has said that it wants to be.
    assert_eq!(proxy.faults() > 0, matches!(backend, Backend::Web(_)));
    running.stop();
    assert_read_back(backend, store, &storewatch.public_key("team"), &paths);
    assert!(backend.has_just(4));
}
