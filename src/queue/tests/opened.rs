//! What there is in the place of a queue.

use std::path::Path;

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

#[test]
fn a_queue_that_was_moved_aside_just_before_the_process_ended_is_filled_again_too() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join(Queue::FILE_NAME);
    let new = dir.path().join("queue.sqlite.new");
    let begins = |dir: &Path| {
        let opened = Queue::open(dir).expect("opened");
        opened.queue.watched_since(&StoreDir::default()).expect("read")
    };
    assert_eq!(begins(dir.path()), None, "the very first watches from now on");
    // Cut off behind the renaming, in the middle of making another.
    Queue::mark_as_replaced(&path).expect("marked");
    std::fs::rename(&path, dir.path().join("queue.sqlite.corrupt-1")).expect("moved aside");
    std::fs::write(&new, b"half of one").expect("written");
    assert_eq!(begins(dir.path()), Some(0));
    assert!(!new.exists());
    assert_eq!(
        std::fs::read_dir(dir.path()).expect("listed").count(),
        2,
        "it says no longer that it is to be replaced"
    );
    assert_eq!(begins(dir.path()), Some(0), "and from then on");
    std::fs::remove_file(&path).expect("removed");
    assert_eq!(begins(dir.path()), None, "who removes it means to begin anew, whatever lies beside it");
    // Cut off when there was another already.
    Queue::mark_as_replaced(&path).expect("marked");
    begins(dir.path());
    std::fs::remove_file(&path).expect("removed");
    assert_eq!(begins(dir.path()), None, "it was in its place, and removed by hand");
}

#[test]
fn a_queue_that_was_there_before_is_not_made_anew() {
    let dir = tempfile::tempdir().expect("a folder");
    let again = || Queue::open_again(dir.path());
    assert!(matches!(again().err(), Some(QueueError::NoQueue { .. })));
    assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 0, "what it was mounted on stays empty");
    drop(Queue::open(dir.path()).expect("made"));
    again().expect("it is there");
    // Moved aside, and then there was no room for another: the folder is the right one all the same.
    let path = dir.path().join(Queue::FILE_NAME);
    Queue::mark_as_replaced(&path).expect("marked");
    std::fs::remove_file(&path).expect("moved aside");
    assert!(Queue::is_at(dir.path()));
    let begins = again().expect("made").queue.watched_since(&StoreDir::default()).expect("read");
    assert_eq!(begins, Some(0), "everything is to be read again");
}

#[test]
fn a_corrupt_queue_is_kept_and_replaced() {
    let mut bench = Bench::new();
    bench.fresh(&[1]);
    let (dir, file) = (bench.dir.path().to_owned(), bench.queue.path().to_owned());
    drop(bench.queue);
    for garbage in [b"garbage, and long enough to be read as a header of a database.....".repeat(100), vec![0x53; 7]] {
        std::fs::write(&file, &garbage).expect("written");
        let opened = Queue::open(&dir).expect("a new one");
        let aside = opened.moved_aside.expect("moved aside");
        assert_eq!(std::fs::read(aside).expect("kept"), garbage);
        let since = opened.queue.watched_since(&StoreDir::default()).expect("read");
        assert_eq!(since, Some(0), "everything is read again");
    }
}

#[test]
fn a_newer_schema_is_left_alone() {
    let bench = Bench::new();
    bench.queue.db.pragma_update(None, "user_version", 99).expect("set");
    let error = Queue::open(bench.dir.path()).err().expect("refused");
    assert!(matches!(error, QueueError::NewerSchema { found: 99, .. }), "{error}");
}
