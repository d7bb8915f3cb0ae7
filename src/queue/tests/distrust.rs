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
    assert!(first.distrusted.is_some() && second.distrusted.is_none());
    bench.settle(first, Outcome::Returned);
    let again = bench.claim_one(1);
    assert!(again.distrusted.is_some(), "until it has been");
    bench.settle(again, UPLOADED);
    bench.settle(second, THERE);
    assert_eq!(bench.admit(Lane::Fresh, Ended::StartsAnew, &[1]), 1);
    assert!(bench.claim_one(1).distrusted.is_none());
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
    assert!(job.distrusted.is_some());
    bench.settle(job, UPLOADED);
    assert_eq!(bench.state(1), Some("done"));
}

#[test]
fn what_is_found_again_while_it_is_uploaded_anew_is_uploaded_anew_once_more() {
    let mut bench = Bench::new();
    bench.distrust(&[1]);
    bench.fresh(&[1]);
    let job = bench.claim_one(1);
    // Shown by an archive that is found to be damaged only now.
    bench.clock += 1;
    bench.distrust(&[1]);
    bench.settle(job, THERE);
    assert_eq!(bench.state(1), Some("pending"));
    let job = bench.claim_one(1);
    bench.settle(job, UPLOADED);
    assert_eq!(bench.state(1), Some("done"));
}

#[test]
fn what_was_never_asked_for_again_is_forgotten_by_and_by() {
    let mut bench = Bench::new();
    let days = |days: i64| days * 24 * 60 * 60 * 1000;
    bench.distrust(&[1, 2, 3]);
    bench.fresh(&[2, 3]);
    let [waits, fails] = [2, 3].map(|n| bench.claim_one(n));
    bench.settle(waits, Outcome::Returned);
    bench.clock += days(80);
    bench.settle(fails, Outcome::Failed { reason: "413".to_owned() });
    bench.clock += days(7);
    // Time goes on by a week from one tidying to the next.
    (0..14).for_each(|week| bench.tidy(week * days(7)));
    bench.fresh(&[1]);
    bench.queue.retry(&[bench.id(3)], bench.clock).expect("retried");
    let is_distrusted = bench.claim(3).into_iter().map(|job| (job.path, job.distrusted.is_some()));
    let mut is_distrusted: Vec<_> = is_distrusted.collect();
    is_distrusted.sort_unstable();
    assert_eq!(is_distrusted, [(path(1), false), (path(2), true), (path(3), true)], "a retry would mend it");
}
