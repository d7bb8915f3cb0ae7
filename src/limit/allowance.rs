//! How much backfill may still bring into a cache that may have no more than a size.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// What is left of a cache's size: what was left when it was looked at last, less what this process has brought since, and what
/// it is bringing. Nothing before the first look. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Allowance(Arc<Counted>);

#[derive(Debug, Default)]
struct Counted {
    /// Bytes that were brought so far, in either lane.
    brought: AtomicU64,
    /// Bytes that backfill is bringing, at most.
    promised: AtomicU64,
    /// Nothing is left once so many were.
    until: AtomicU64,
    used_up: Notify,
}

/// What backfill is bringing, until it is dropped: then it has come, and counts as brought, or it hasn't.
#[derive(Debug)]
pub struct Promise {
    allowance: Allowance,
    bytes: u64,
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.allowance.0.promised.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Allowance {
    /// Backfill is about to bring so many bytes, at most. `None` where nothing is left: it had better not.
    #[must_use]
    pub fn promise(&self, bytes: u64) -> Option<Promise> {
        let left = self.0.until.load(Ordering::Relaxed).saturating_sub(self.brought());
        let promise = |promised: u64| (promised < left).then(|| promised.saturating_add(bytes));
        self.0.promised.fetch_update(Ordering::Relaxed, Ordering::Relaxed, promise).ok()?;
        Some(Promise { allowance: self.clone(), bytes })
    }

    /// Bytes that were brought so far: to be asked before a look, which may see what comes while it lasts, or not.
    #[must_use]
    pub fn brought(&self) -> u64 {
        self.0.brought.load(Ordering::Relaxed)
    }

    /// By a look that began when so many bytes had been `brought`, the cache has `room` (bytes) for more. What came meanwhile
    /// counts, though it may have been seen: the next look puts that right.
    pub fn looked(&self, brought: u64, room: u64) {
        self.0.until.store(brought.saturating_add(room), Ordering::Relaxed);
    }

    /// So many bytes more were brought, and can be seen.
    pub fn bring(&self, bytes: u64) {
        let before = self.0.brought.fetch_add(bytes, Ordering::Relaxed);
        let until = self.0.until.load(Ordering::Relaxed);
        if before < until && before.saturating_add(bytes) >= until {
            self.0.used_up.notify_one();
        }
    }

    /// Whether backfill may bring anything.
    #[must_use]
    pub fn is_left(&self) -> bool {
        let on_its_way = self.0.promised.load(Ordering::Relaxed);
        self.brought().saturating_add(on_its_way) < self.0.until.load(Ordering::Relaxed)
    }

    /// Comes true when what was left at the last look has been used up, once for each time; for one who waits.
    pub async fn used_up(&self) {
        self.0.used_up.notified().await;
    }
}

/// Those are equal that are one.
impl PartialEq for Allowance {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Allowance {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_before_the_first_look_nor_when_as_much_was_brought() {
        let allowance = Allowance::default();
        assert!(!allowance.is_left());
        allowance.bring(7);
        assert!(!allowance.is_left());
        let began = allowance.brought();
        // While it is looked at.
        allowance.bring(3);
        allowance.looked(began, 10);
        assert!(allowance.is_left());
        allowance.clone().bring(6);
        assert!(allowance.is_left(), "9 of 10");
        allowance.bring(1);
        assert!(!allowance.is_left());
        allowance.looked(allowance.brought(), 4);
        assert!(allowance.is_left(), "what was seen counts no longer");
        allowance.looked(allowance.brought(), 0);
        assert!(!allowance.is_left());
    }

    #[test]
    fn what_is_on_its_way_counts_until_it_has_come_or_has_not() {
        let allowance = Allowance::default();
        assert!(allowance.promise(1).is_none(), "nobody has looked");
        allowance.looked(0, 10);
        let (first, second) = (allowance.promise(9).expect("left"), allowance.promise(9).expect("1 of 10 is left"));
        assert!(allowance.promise(1).is_none());
        // Packed, it was less.
        allowance.bring(4);
        drop(first);
        assert!(!allowance.is_left(), "4 and 9");
        drop(second);
        assert!(allowance.promise(1).is_some(), "4 of 10");
    }

    #[tokio::test(start_paused = true)]
    async fn who_looks_is_woken_when_it_is_used_up() {
        let allowance = Allowance::default();
        let is_told = async || {
            let patience = std::time::Duration::from_secs(1);
            tokio::time::timeout(patience, allowance.used_up()).await.is_ok()
        };
        allowance.bring(5);
        assert!(!is_told().await, "nothing was left");
        allowance.looked(allowance.brought(), 10);
        allowance.bring(9);
        assert!(!is_told().await);
        allowance.bring(9);
        assert!(is_told().await);
        allowance.bring(9);
        assert!(!is_told().await, "it was told");
    }
}
