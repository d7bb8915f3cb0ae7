//! What a scan decides by what it is told.

use super::*;
use crate::nix::DaemonError;
use crate::policy::Policy;
use crate::queue::RunId;

#[test]
fn a_database_is_another_by_the_row_where_a_backfill_was() {
    let mark = || Mark { row: 90, path: "/nix/store/x".to_owned(), time: 5 };
    let run = |mark| Run { id: RunId(1), row: 100, to_row: 200, mark, resumed: true };
    let row = |path: &str, registration_time| RowMark { path: path.to_owned(), registration_time };
    for (mark, last_id, found, is_another) in [
        (Some(mark()), 100, Some(row("/nix/store/x", 5)), false),
        (Some(mark()), 99, Some(row("/nix/store/x", 5)), true),
        (Some(mark()), 300, Some(row("/nix/store/y", 5)), true),
        (Some(mark()), 300, Some(row("/nix/store/x", 6)), true),
        // Collected.
        (Some(mark()), 300, None, false),
        (None, 300, None, false),
        (None, 99, None, true),
    ] {
        let case = format!("{mark:?}, {last_id}, {found:?}");
        assert_eq!(is_of_another_database(&run(mark), last_id, found.as_ref()), is_another, "{case}");
    }
}

#[test]
fn what_nix_refuses_to_tell_of_is_told_apart_from_what_is_not_understood() {
    let policy = Arc::new(Policy::new(Vec::new(), Vec::new(), Vec::new(), true).expect("the built-in rules"));
    let passed_over = |asked| {
        let mut decider = Decider {
            store_dir: StoreDir::default(),
            since: None,
            asked,
            routes: Routes::to(Arc::clone(&policy), BTreeMap::new()),
            batch: Batch::default(),
            passed_over: BTreeMap::new(),
        };
        let (path, why) = (StorePath::nth(1), "it has no hash".to_owned());
        decider.pass_over(&DaemonError::Malformed { path, why }.into());
        decider.pass_over(&DaemonError::Refused { verb: "ask", message: "busy".to_owned() }.into());
        let Batch { passed_over, unclear, .. } = decider.into_batch(1);
        (passed_over.into_iter().map(|(what, _)| (what.why, what.by)).collect::<Vec<_>>(), unclear.len())
    };
    let (all, unclear) = passed_over(Asked::WithAll);
    assert_eq!(all, [(Why::Refused, REFUSED.to_owned()), (Why::Unclear, UNCLEAR.to_owned())]);
    assert_eq!(unclear, 1, "asked again, it says nothing of the other");
    let (named, _) = passed_over(Asked::ByHand);
    assert!(named.iter().any(|(why, by)| *why == Why::Refused && by.contains("busy; ask again")), "{named:?}");
}
