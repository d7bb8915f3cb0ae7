//! What a cache has dropped doesn't come back by itself, and does when somebody asks for it.

use super::*;
use crate::nix::HashPart;

/// With three that are done, of which the first was dropped.
fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.fresh(&[1, 2, 3]);
    for job in bench.claim(9) {
        bench.settle(job, UPLOADED);
    }
    bench.queue.note_evicted(bench.cache, &[HashPart::from(&path(1))], &[]).expect("noted");
    bench
}

fn counts(bench: &Bench) -> (u64, u64, u64) {
    let counts = bench.queue.counts().expect("counted").remove(0);
    // What backfill asks for once more is pending here.
    (counts.done - counts.again, counts.dropped, counts.pending + counts.again)
}

#[test]
fn what_was_dropped_is_forgotten_together() {
    let mut bench = Bench::new();
    bench.fresh(&[1]);
    let job = bench.claim_one(1);
    bench.settle(job, UPLOADED);
    let content = |url: &str| Content {
        url: url.to_owned(),
        compression: "zstd".to_owned(),
        file_hash: crate::nix::NarHash([8; 32]),
        file_size: 60,
        nar_size: 120,
    };
    let hash = crate::nix::NarHash([7; 32]);
    bench.queue.note_content(bench.cache, &hash, &content("nar/a"), 1).expect("noted");
    let doubts = bench.queue.doubts().expect("asked");
    let gone = [HashPart::from(&path(1)), HashPart::from(&path(9))];
    bench.queue.note_evicted(bench.cache, &gone, &["nar/a".to_owned()]).expect("noted");
    assert_eq!(counts(&bench), (1, 1, 0));
    assert_eq!(bench.queue.content(bench.cache, &hash).expect("asked"), None);
    assert_eq!(bench.queue.doubts().expect("asked"), doubts + 1);
    assert!(bench.queue.delivered(bench.cache, &[path(1)]).expect("asked").is_empty());
}

#[test]
fn it_comes_back_only_when_it_is_asked_for() {
    for (ended, pending) in [
        (Ended::Stays, 0),
        (Ended::StartsAnewIfRegisteredAnew, 0),
        (Ended::StartsAnewUnlessEvicted, 2),
        (Ended::StartsAnew, 3),
    ] {
        let mut bench = bench();
        bench.admit(Lane::Backfill, ended, &[1, 2, 3]);
        assert_eq!(counts(&bench).2, pending, "{ended:?}");
        for job in bench.claim(9) {
            bench.settle(job, UPLOADED);
        }
        let dropped = u64::from(ended != Ended::StartsAnew);
        assert_eq!(counts(&bench), (3, dropped, 0), "{ended:?}");
    }
}

#[test]
fn it_comes_back_for_what_needs_it_and_when_the_cache_has_no_size() {
    let mut bench = bench();
    bench.fresh(&[4]);
    let job = bench.claim_one(4);
    assert_eq!(bench.queue.under_way(bench.cache).expect("listed"), [path(4)]);
    bench.settle(job, Outcome::WaitsFor(vec![path(1)]));
    let job = bench.claim_one(1);
    bench.settle(job, UPLOADED);
    assert_eq!(counts(&bench), (3, 0, 1));

    bench.queue.note_evicted(bench.cache, &[HashPart::from(&path(1))], &[]).expect("noted");
    bench.queue.forget_evicted(bench.cache).expect("forgotten");
    bench.admit(Lane::Backfill, Ended::StartsAnewUnlessEvicted, &[1]);
    assert_eq!(counts(&bench), (2, 0, 2));
}
