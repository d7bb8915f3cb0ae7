//! Several things in one transaction.

use super::*;

#[test]
fn all_of_it_happens_or_nothing_and_a_failure_leaves_the_queue_usable() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut queue = Queue::open(dir.path()).expect("opened").queue;
    let both = |queue: &mut Queue| -> Result<_, QueueError> {
        Ok((queue.cache_id("one", "file:///one")?, queue.cache_id("two", "file:///two")?))
    };
    let failed: Result<(), _> = queue.at_once(|queue| {
        both(queue)?;
        Err(QueueError::Closed)
    });
    assert!(matches!(failed, Err(QueueError::Closed)));
    assert!(queue.counts().expect("read").is_empty(), "nothing of it has happened");
    let (one, two) = queue.at_once(both).expect("done");
    assert_ne!(one, two);
    assert_eq!(queue.counts().expect("read").len(), 2);
}
