//! What a cache shows and isn't well.

use super::*;

impl Bench {
    fn distrust(&mut self, names: &[u8]) {
        let distrust = Distrust { paths: names.iter().map(|n| path(*n)).collect(), archives: Vec::new() };
        self.queue.distrust(self.cache, &distrust, self.clock).expect("noted");
    }
}

const THERE: Outcome = Outcome::Delivered(Delivery::AlreadyThere);

#[test]
fn what_is_not_well_is_uploaded_anew_and_then_no_more() {
    let mut bench = Bench::new();
    let doubts = bench.queue.doubts().expect("asked");
    bench.distrust(&[1]);
    assert!(bench.queue.doubts().expect("asked") > doubts, "what it refers to may be gone as well");
    bench.fresh(&[1, 2]);
    let (first, second) = (bench.claim_one(1), bench.claim_one(2));
    assert!(first.anew && !second.anew);
    bench.settle(first, Outcome::Returned);
    let again = bench.claim_one(1);
    assert!(again.anew, "until it has been");
    bench.settle(again, UPLOADED);
    bench.settle(second, THERE);
    assert_eq!(bench.admit(Lane::Fresh, Ended::StartsAnew, &[1]), 1);
    assert!(!bench.claim_one(1).anew);
}

#[test]
fn what_is_under_way_when_that_is_found_is_uploaded_once_more() {
    let mut bench = Bench::new();
    bench.fresh(&[1]);
    let job = bench.claim_one(1);
    bench.distrust(&[1]);
    bench.settle(job, THERE);
    assert_eq!(bench.state(1), Some("pending"), "it was there, but not well");
    let job = bench.claim_one(1);
    assert!(job.anew);
    bench.settle(job, UPLOADED);
    assert_eq!(bench.state(1), Some("done"));
}

#[test]
fn what_was_never_asked_for_again_is_forgotten_by_and_by() {
    let mut bench = Bench::new();
    bench.distrust(&[1, 2]);
    bench.fresh(&[2]);
    bench.tidy(bench.clock + 91 * 24 * 60 * 60 * 1000);
    bench.fresh(&[1]);
    assert!(!bench.claim_one(1).anew && bench.claim_one(2).anew);
}
