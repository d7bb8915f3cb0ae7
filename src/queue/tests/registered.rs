//! What becomes of a job that has ended when its path is seen again: with a number, or without one where the daemon is asked.

use super::*;

/// Admits path 1 as it was registered, and says whether that opened its job again.
fn seen(bench: &mut Bench, row: Option<i64>, registered: i64) -> bool {
    let wanted = [Wanted { path: path(1), row, registered, caches: vec![bench.cache] }];
    let admission = Admission::of_new(&wanted, bench.clock);
    bench.queue.admit(&admission, None).expect("admitted") == 1
}

/// Ends the job at that second.
fn end(bench: &mut Bench, second: i64, outcome: Outcome) {
    bench.clock = second * 1_000 + 500;
    let job = bench.claim_one(1);
    bench.settle(job, outcome);
}

#[test]
fn what_the_daemon_says_was_registered_anew_is_offered_anew() {
    for outcome in [UPLOADED, Outcome::Failed { reason: "407".to_owned() }] {
        let mut bench = Bench::new();
        assert!(seen(&mut bench, None, 10));
        end(&mut bench, 12, outcome);
        for registered in [10, 12] {
            assert!(!seen(&mut bench, None, registered), "it was there when it ended");
        }
        assert!(seen(&mut bench, None, 13), "it has been built again since");
    }
}

#[test]
fn names_that_were_seen_come_in_portions_until_they_are_forgotten() {
    let mut bench = Bench::new();
    let nothing = Admission::of_new(&[], 0);
    bench.queue.admit_seen(&nothing, &[3, 1, 2].map(path)).expect("noted");
    let name = |n| path(n).base_name().to_owned();
    let behind = |bench: &Bench, after: &str| bench.queue.seen_behind(after, 2).expect("listed");
    assert_eq!(behind(&bench, ""), [name(1), name(2)]);
    assert_eq!(behind(&bench, &name(2)), [name(3)]);
    assert!(behind(&bench, &name(3)).is_empty());
    bench.queue.forget_seen(&[name(2)]).expect("forgotten");
    assert_eq!(behind(&bench, ""), [name(1), name(3)]);
}

#[test]
fn another_way_to_learn_of_paths_makes_none_of_them_new() {
    let mut bench = Bench::new();
    assert!(seen(&mut bench, Some(5), 10));
    end(&mut bench, 12, UPLOADED);
    assert!(!seen(&mut bench, None, 10), "the database is closed to us now");
    assert!(!seen(&mut bench, Some(5), 10), "and open again");
    assert!(seen(&mut bench, Some(7), 10), "another number says enough, whatever time somebody has set");
    end(&mut bench, 20, UPLOADED);
    // Built again while the daemon is asked: its number isn't known then, and no news when it is.
    assert!(seen(&mut bench, None, 30));
    end(&mut bench, 32, UPLOADED);
    assert!(!seen(&mut bench, Some(9), 30));
    assert!(seen(&mut bench, Some(11), 30));
}

#[test]
fn what_was_registered_anew_before_it_was_read_is_no_news_afterwards() {
    let read = |row| Outcome::Delivered(Delivery::Uploaded { row, volume: Volume::default(), deduplicated: false });
    let mut bench = Bench::new();
    assert!(seen(&mut bench, Some(5), 10));
    // It was collected and built again while it waited; the watcher comes to that row later.
    end(&mut bench, 12, read(Some(7)));
    assert!(!seen(&mut bench, Some(7), 12));
    assert!(seen(&mut bench, Some(8), 12), "built again after it was read");
    end(&mut bench, 14, read(None));
    assert!(!seen(&mut bench, Some(8), 14));
}
