//! What keeps a path from being collected.

use super::*;

/// 1 refers to 2, 2 to itself and 3; 4 is alone; thousands refer to 5.
fn scratch() -> Scratch {
    let scratch = Scratch::new();
    let ids: Vec<i64> = (1..=5).map(|n| scratch.add(&base(n, "p"))).collect();
    for (referrer, reference) in [(0, 1), (1, 1), (1, 2)] {
        scratch.refer(ids[referrer], ids[reference]);
    }
    scratch.nix.execute_batch("begin").expect("begun");
    for n in 1_000..3_000 {
        scratch.refer(scratch.add(&base(n, "many")), ids[4]);
    }
    scratch.nix.execute_batch("commit").expect("committed");
    scratch
}

#[test]
fn a_path_is_kept_by_a_root_above_it() {
    let scratch = scratch();
    let database = scratch.open();
    let kept = |n, root| {
        let root = store_path(&base(root, "p"));
        database.is_kept(&store_path(&base(n, "p")), |path| *path == root, &mut 0).expect("asked")
    };
    assert_eq!([1, 2, 3, 4].map(|n| kept(n, 1)), [true, true, true, false], "1 is the root");
    assert_eq!([1, 2, 3, 4].map(|n| kept(n, 2)), [false, true, true, false], "2 is");
    assert_eq!([1, 2, 3, 4].map(|n| kept(n, 4)), [false, false, false, true], "4 is");
    assert!(kept(5, 1), "what thousands refer to is taken to be kept");
    assert!(!kept(6, 1) && kept(6, 6), "what isn't valid is kept by being a root alone");
}
