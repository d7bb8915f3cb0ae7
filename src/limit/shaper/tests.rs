use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::limit::Background;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

fn rates(line: u64, backfill: u64, caches: &[(&str, u64)]) -> Rates {
    let caches = caches.iter().filter_map(|(name, rate)| Some(((*name).to_owned(), Rate::new(*rate)?))).collect();
    Rates { line: Rate::new(line), backfill: Rate::new(backfill), caches, background: BTreeMap::new() }
}

/// Sends without end, and counts.
fn flood(tap: Tap) -> Arc<AtomicU64> {
    let sent = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&sent);
    tokio::spawn(async move {
        loop {
            let piece = tap.piece().min(LARGEST_PIECE);
            tap.take(piece).await;
            counter.fetch_add(piece as u64, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    });
    sent
}

/// Lets so much time pass in small steps, in which everybody gets as far as it can.
async fn pass(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn assert_near(found: u64, wanted: u64, per_cent: u64, what: &str) {
    assert!(found.abs_diff(wanted) * 100 <= wanted * per_cent, "{what}: {found} where {wanted} were to be sent");
}

#[tokio::test(start_paused = true)]
async fn a_limit_looks_like_one_over_half_a_second_and_is_one_over_ten() {
    for rate in [256 * KIB, MIB, 10 * MIB, 100 * MIB] {
        for uploads in [1, 8] {
            let shaper = Shaper::default();
            shaper.set(&rates(rate, 0, &[]));
            let sent: Vec<_> = (0..uploads).map(|_| flood(shaper.tap("team", Lane::Fresh, true))).collect();
            let total = || sent.iter().map(|sent| sent.load(Ordering::Relaxed)).sum::<u64>();
            let mut before = 0;
            for _ in 0..20 {
                pass(Duration::from_millis(500)).await;
                assert_near(total() - before, rate / 2, 10, &format!("{rate} with {uploads} in 500 ms"));
                before = total();
            }
            assert_near(total(), rate * 10, 2, &format!("{rate} with {uploads} in 10 s"));
            for own in &sent {
                assert_near(own.load(Ordering::Relaxed), rate * 10 / uploads, 5, "an even share");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_not_used_is_not_made_up_for() {
    let shaper = Shaper::default();
    shaper.set(&rates(MIB, 0, &[]));
    pass(Duration::from_secs(60)).await;
    let sent = flood(shaper.tap("team", Lane::Fresh, true));
    pass(Duration::from_millis(500)).await;
    assert_near(sent.load(Ordering::Relaxed), MIB / 2, 10, "after a minute of silence");
}

#[tokio::test(start_paused = true)]
async fn backfill_takes_what_fresh_work_leaves_and_never_more_than_its_share() {
    let shaper = Shaper::default();
    shaper.set(&rates(MIB, 256 * KIB, &[]));
    let backfill = flood(shaper.tap("team", Lane::Backfill, true));
    pass(Duration::from_secs(4)).await;
    assert_near(backfill.load(Ordering::Relaxed), MIB, 5, "backfill alone");
    let before = backfill.load(Ordering::Relaxed);
    let fresh = flood(shaper.tap("team", Lane::Fresh, true));
    pass(Duration::from_secs(4)).await;
    assert_near(fresh.load(Ordering::Relaxed), 4 * MIB, 5, "fresh work beside it");
    assert!(backfill.load(Ordering::Relaxed) - before < 64 * KIB, "backfill was not held back");
}

#[tokio::test(start_paused = true)]
async fn each_cache_has_its_own_bucket_below_that_of_the_line() {
    let shaper = Shaper::default();
    shaper.set(&rates(MIB, 0, &[("slow", 128 * KIB)]));
    let slow = flood(shaper.tap("slow", Lane::Fresh, true));
    let fast = flood(shaper.tap("fast", Lane::Fresh, true));
    let disk = flood(shaper.tap("slow", Lane::Fresh, false));
    pass(Duration::from_secs(8)).await;
    let (slow, fast, disk) = [slow, fast, disk].map(|sent| sent.load(Ordering::Relaxed)).into();
    assert_near(slow + disk, MIB, 5, "the slow one");
    assert_near(slow + fast, 8 * MIB, 5, "the line");
    assert!(disk > 0, "nothing came to the disk");
}

#[tokio::test(start_paused = true)]
async fn other_rates_count_at_once_and_who_gave_up_takes_nothing() {
    let shaper = Shaper::default();
    shaper.set(&rates(1, 0, &[]));
    let tap = shaper.tap("team", Lane::Fresh, true);
    tap.take(KIB as usize).await;
    let given_up = tokio::time::timeout(Duration::from_secs(1), tap.take(KIB as usize)).await;
    assert!(given_up.is_err(), "a byte a second let more through");
    let sent = flood(tap.clone());
    shaper.set(&rates(MIB, 0, &[]));
    pass(Duration::from_secs(2)).await;
    assert_near(sent.load(Ordering::Relaxed), 2 * MIB, 5, "at the new rate");
    shaper.set(&Rates::default());
    tokio::time::timeout(Duration::from_millis(1), tap.take(1 << 30)).await.expect("no limit, no waiting");
}

#[tokio::test(start_paused = true)]
async fn a_small_upload_is_through_after_its_turns() {
    let shaper = Shaper::default();
    shaper.set(&rates(MIB, 0, &[]));
    let _large: Vec<_> = (0..8).map(|_| flood(shaper.tap("team", Lane::Fresh, true))).collect();
    pass(Duration::from_secs(1)).await;
    let tap = shaper.tap("team", Lane::Fresh, true);
    let through = tokio::time::timeout(Duration::from_millis(200), tap.take(4096)).await;
    assert!(through.is_ok(), "it stood behind the large ones");
}

#[tokio::test(start_paused = true)]
async fn a_cache_that_gives_way_has_what_it_is_given_and_says_when_something_flows() {
    let shaper = Shaper::default();
    let background = BTreeMap::from([("away".to_owned(), Lane::Fresh)]);
    shaper.set(&Rates { background: background.clone(), ..rates(10 * MIB, 0, &[]) });
    let flows = tokio::spawn({
        let shaper = shaper.clone();
        async move { shaper.flows_in_background("away").await }
    });
    pass(Duration::from_secs(1)).await;
    assert!(!flows.is_finished() && shaper.sent_in_background("other").is_none());
    let sent = flood(shaper.tap("away", Lane::Fresh, true));
    pass(Duration::from_secs(4)).await;
    assert!(flows.is_finished());
    assert_near(sent.load(Ordering::Relaxed), 4 * Background::FIRST.per_second(), 5, "at first");
    assert_eq!(shaper.sent_in_background("away"), Some(sent.load(Ordering::Relaxed)));
    let before = sent.load(Ordering::Relaxed);
    shaper.give_way("away", Rate::kib(512));
    // Rates that change in between leave what was found out in force.
    shaper.set(&Rates { background, ..rates(20 * MIB, 0, &[]) });
    pass(Duration::from_secs(4)).await;
    assert_near(sent.load(Ordering::Relaxed) - before, 2 * MIB, 5, "as it was given");
    shaper.set(&rates(MIB, 0, &[]));
    let before = sent.load(Ordering::Relaxed);
    pass(Duration::from_secs(4)).await;
    assert_near(sent.load(Ordering::Relaxed) - before, 4 * MIB, 5, "not in the background any more");
}

#[tokio::test(start_paused = true)]
async fn a_path_that_is_sent_in_several_parts_at_once_has_one_share() {
    let shaper = Shaper::default();
    shaper.set(&rates(MIB, 0, &[]));
    let (one, other) = (shaper.tap("team", Lane::Fresh, true), shaper.tap("team", Lane::Fresh, true));
    let parts: Vec<_> = (0..3).map(|_| flood(one.clone())).collect();
    let sibling = flood(other);
    pass(Duration::from_secs(5)).await;
    let together: u64 = parts.iter().map(|part| part.load(Ordering::Relaxed)).sum();
    assert_near(together + sibling.load(Ordering::Relaxed), 5 * MIB, 5, "all of them");
    assert_near(together, 5 * MIB / 2, 5, "the path in parts");
}

#[tokio::test(start_paused = true)]
async fn backfill_that_gives_way_is_never_so_slow_that_servers_end_it() {
    let shaper = Shaper::default();
    shaper.set(&rates(128 * KIB, 0, &[]));
    let fresh = flood(shaper.tap("team", Lane::Fresh, true));
    let backfill: Vec<_> = (0..4).map(|_| flood(shaper.tap("team", Lane::Backfill, true))).collect();
    // Apache's default: 500 bytes a second, looked at from 20 s on.
    pass(Duration::from_secs(20)).await;
    for own in &backfill {
        let sent = own.load(Ordering::Relaxed);
        assert!(sent >= 20 * 500, "{sent} bytes in 20 s");
    }
    assert_near(fresh.load(Ordering::Relaxed), 20 * 128 * KIB, 6, "fresh work all the same");
}
