//! What there is in the place of a queue.

use super::*;

#[test]
fn only_its_owner_brings_an_older_queue_up_to_date() {
    let Bench { dir, queue, .. } = Bench::new();
    let older = migrations::MIGRATIONS.len() as i64 - 1;
    queue.db.pragma_update(None, "user_version", older).expect("noted");
    for opened in [Queue::open_beside(dir.path()), Queue::open_to_look(dir.path())] {
        let refused = opened.err();
        assert!(matches!(refused, Some(QueueError::OlderSchema { .. })), "{refused:?}");
    }
    let found: i64 = queue.db.query_row("PRAGMA user_version", [], |row| row.get(0)).expect("read");
    assert_eq!(found, older, "a service of that age knows its queue again");
}

#[test]
fn a_directory_in_its_place_is_neither_taken_nor_moved_away() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(dir.path().join(Queue::FILE_NAME)).expect("a folder");
    let opened = [
        Queue::open(dir.path()).map(|opened| opened.queue),
        Queue::open_beside(dir.path()),
        Queue::open_to_look(dir.path()),
    ];
    for error in opened.into_iter().filter_map(Result::err) {
        assert!(error.to_string().contains("is no regular file"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("move it elsewhere")), "{:?}", error.hint());
    }
    assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1);
}
