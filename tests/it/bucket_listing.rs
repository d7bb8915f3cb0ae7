//! What is missing in a bucket, found by listing it where that is cheaper than to ask for each path.

use crate::support::backend::bucket_policy;
use crate::support::nix::base_name;
use crate::support::s3::{Op, Trouble};
use crate::support::{FakeS3, Nix, ScratchStore, Storewatch, expr};
use std::collections::BTreeMap;

const THERE: usize = 1_500;

/// A backfill of a store whose paths are in the bucket, but for three. Returns what was asked.
fn backfill(fake: &FakeS3, folder: &str) -> Option<BTreeMap<Op, u64>> {
    let nix = Nix::recent()?;
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    let policy = bucket_policy(&storewatch, fake.port(), fake.key());
    storewatch.policy(&policy.replace("?endpoint", &format!("/{folder}?endpoint")));
    let built = store.query_closure(&store.build(&expr::chain(3)).unwrap()[0]);
    for name in store.register_bare(THERE) {
        fake.state().objects.insert(format!("{folder}{}.narinfo", &name[..32]), "there".into());
    }
    // What must not be paged through.
    for number in 0..THERE {
        fake.state().objects.insert(format!("{folder}log/{number}.drv"), "there".into());
    }
    let said = storewatch.cmd(&["backfill"]).ok();
    let count = |what: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(what)).unwrap_or_else(|| panic!("{what}: {said}"));
        line.split_whitespace().next().unwrap().replace(',', "").parse::<usize>().unwrap()
    };
    assert_eq!((count("uploaded"), count("already there")), (3, THERE), "{said}");
    let state = fake.state();
    assert!(built.iter().all(|path| {
        let hash = &base_name(path)[..32];
        state.objects.contains_key(&format!("{folder}{hash}.narinfo"))
    }));
    Some(state.asked.clone())
}

#[test]
fn a_backfill_of_what_is_there_lists_the_bucket() {
    let fake = FakeS3::start();
    let Some(asked) = backfill(&fake, "") else { return };
    assert_eq!(asked[&Op::List], 33, "a page to reckon by, and each section: {asked:?}");
    assert!(asked[&Op::Head] < 500, "{asked:?}");
}

/// What isn't there is not asked for either, one by one: a page shows that a bucket is all but empty.
#[test]
fn a_backfill_into_an_empty_bucket_takes_one_page() {
    let Some(nix) = Nix::recent() else { return };
    let fake = FakeS3::start();
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    storewatch.policy(&bucket_policy(&storewatch, fake.port(), fake.key()));
    let built = store.build(&expr::many(40)).unwrap();
    storewatch.cmd(&["backfill"]).ok();
    let state = fake.state();
    assert!(built.len() >= 40);
    assert!(built.iter().all(|path| state.objects.contains_key(&format!("{}.narinfo", &base_name(path)[..32]))));
    assert_eq!(state.asked[&Op::List], 1, "{:?}", state.asked);
    assert!(state.asked.get(&Op::Head).is_none_or(|asked| *asked < 20), "{:?}", state.asked);
}

#[test]
fn all_pages_are_read_below_a_prefix_too() {
    let fake = FakeS3::start();
    fake.state().page = Some(25);
    let Some(asked) = backfill(&fake, "team/") else { return };
    assert!(asked[&Op::List] > 64, "some 47 paths in each section: {asked:?}");
    assert!(asked[&Op::Head] < 1_300, "{asked:?}");
}

#[test]
fn a_bucket_that_is_too_large_for_the_question_is_not_listed() {
    let fake = FakeS3::start();
    // A page gets as far as one of a bucket with forty times as many paths would.
    fake.state().page = Some(1);
    let Some(asked) = backfill(&fake, "") else { return };
    assert_eq!(asked[&Op::List], 1, "{asked:?}");
    assert!(asked[&Op::Head] >= THERE as u64, "{asked:?}");
}

#[test]
fn where_listing_is_forbidden_each_path_is_asked_for() {
    let fake = FakeS3::start();
    fake.fail(&[Op::List], Trouble::Code(403, "AccessDenied"));
    let Some(asked) = backfill(&fake, "") else { return };
    assert_eq!(asked[&Op::List], 1, "{asked:?}");
    assert!(asked[&Op::Head] >= THERE as u64, "{asked:?}");
}

#[test]
fn what_has_gone_since_it_was_listed_goes_there_again_for_who_names_what_needs_it() {
    let Some(nix) = Nix::recent() else { return };
    let fake = FakeS3::start();
    let store = ScratchStore::new(&nix);
    let storewatch = Storewatch::new(&store);
    storewatch.policy(&bucket_policy(&storewatch, fake.port(), fake.key()));
    let top = store.build(&expr::chain(3)).unwrap().remove(0);
    for name in store.register_bare(THERE) {
        fake.state().objects.insert(format!("{}.narinfo", &name[..32]), "there".into());
    }
    storewatch.cmd(&["backfill"]).ok();
    // Now all of it is in the listing that the service makes.
    let mut running = storewatch.start();
    fake.state().asked.clear();
    storewatch.cmd(&["backfill"]).ok();
    assert!(fake.state().asked[&Op::List] > 0);
    let closure = store.query_closure(&top);
    let bottom = closure.iter().find(|path| store.query_closure(path).len() == 1).unwrap();
    let narinfo = format!("{}.narinfo", &base_name(bottom)[..32]);
    fake.state().delete(&narinfo);
    // Seen there just now, it may be believed for some seconds.
    running.eventually("what is behind it", || {
        assert_eq!(storewatch.cmd(&["push", &top]).code, Some(0));
        fake.state().objects.contains_key(&narinfo)
    });
    running.stop();
}
