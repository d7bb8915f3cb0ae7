//! No buffer grows with what is uploaded.

use super::Team;
use crate::support::{AtticServer, Grant, Nix, ScratchStore, Visibility, expr};

/// Larger than what 32 bits count. Sparse, so that no disk is filled by it.
const HUGE: u64 = 5 << 30;

/// The most memory that the service may ever have had resident, in KiB.
const RESIDENT: u64 = 64 << 10;

#[test]
fn a_huge_path_takes_little_memory() {
    let Some(nix) = Nix::recent() else { return };
    let store = ScratchStore::new(&nix);
    let attic = AtticServer::fake();
    attic.as_fake().forget_archives();
    attic.create("team", Visibility::Private, &store);
    let team = Team::new(&store, &attic.url("team"), &attic.token(&Grant::all(&["team"])));
    let mut running = team.storewatch.start();
    let paths = store.build(&expr::script("huge", &format!("truncate -s {HUGE} $out"))).unwrap();
    let mut received = 0;
    while !attic.has_all("team", &paths) {
        // However slow the machine is: as long as more arrives, it is on its way.
        running.eventually("more of it", || attic.as_fake().received() > received || attic.has_all("team", &paths));
        received = attic.as_fake().received();
    }
    running.eventually("the queue's end", || team.storewatch.jobs_left().is_empty());
    assert!(attic.as_fake().received() > HUGE);
    let resident = running.peak();
    assert!(resident <= RESIDENT, "{resident} KiB were resident");
    running.stop();
}
