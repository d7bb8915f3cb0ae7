//! On a real file system; events come within seconds or not at all.

use std::fs;
use std::time::Duration;

use tokio::time::timeout;

use super::*;

/// Far longer than any event takes; a test that waits for it in vain fails.
const PATIENCE: Duration = Duration::from_secs(20);

fn database_folder(path: &Path) -> Folder {
    Folder { path: path.to_owned(), names: vec!["db.sqlite".into(), "db.sqlite-wal".into()] }
}

async fn wakes(wake: &mut Wake) -> usize {
    timeout(PATIENCE, wake.changed()).await.expect("a wake-up")
}

/// Takes wake-ups until none has come for several times the echo's delay.
async fn settle(wake: &mut Wake) -> usize {
    let mut count = 0;
    while timeout(pace::SPACING * 5, wake.changed()).await.is_ok() {
        count += 1;
    }
    count
}

#[tokio::test]
async fn a_write_wakes_and_other_names_do_not() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut wake = Wake::start(vec![database_folder(dir.path())]);
    assert!(wake.rearm().is_empty());
    assert_eq!(settle(&mut wake).await, 0, "idle");

    fs::write(dir.path().join("db.sqlite-shm"), "x").expect("a file");
    fs::write(dir.path().join("big-lock"), "x").expect("a file");
    assert_eq!(settle(&mut wake).await, 0, "names that don't matter");

    fs::write(dir.path().join("db.sqlite-wal"), "x").expect("a file");
    assert_eq!(wakes(&mut wake).await, 0);
    settle(&mut wake).await;
    fs::rename(dir.path().join("big-lock"), dir.path().join("db.sqlite")).expect("replaced");
    assert_eq!(wakes(&mut wake).await, 0);
    settle(&mut wake).await;
    fs::remove_file(dir.path().join("db.sqlite")).expect("deleted");
    assert_eq!(wakes(&mut wake).await, 0);
}

#[tokio::test]
async fn each_folder_has_its_place() {
    let (one, two) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let policy = Folder { path: two.path().to_owned(), names: vec!["policy.toml".into()] };
    let mut wake = Wake::start(vec![database_folder(one.path()), policy.clone(), policy]);
    fs::write(two.path().join("policy.toml"), "x").expect("a file");
    let mut woken = vec![wakes(&mut wake).await, wakes(&mut wake).await];
    woken.sort_unstable();
    assert_eq!(woken, [1, 2], "two that are one and the same are both told");
}

#[tokio::test]
async fn a_change_outlives_a_cancelled_wait() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut wake = Wake::start(vec![database_folder(dir.path())]);
    // Polled once and dropped, with the event there or not.
    for _ in 0..100 {
        assert!(timeout(Duration::ZERO, wake.changed()).await.is_err());
    }
    fs::write(dir.path().join("db.sqlite"), "x").expect("a file");
    assert_eq!(wakes(&mut wake).await, 0);
    // The echo is due later; waits that are given up don't lose it.
    let mut woken = false;
    while !woken {
        woken = timeout(Duration::from_millis(1), wake.changed()).await.is_ok();
    }
}

#[tokio::test]
async fn a_folder_that_comes_later_is_watched_from_then_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let later = dir.path().join("later");
    let mut wake = Wake::start(vec![database_folder(&later)]);
    let unwatched = wake.rearm();
    assert!(unwatched.len() == 1 && unwatched[0].folder == 0 && unwatched[0].why.is_missing(), "{unwatched:?}");
    assert!(wake.rearm().is_empty(), "told once");

    fs::create_dir(&later).expect("a folder");
    assert!(wake.rearm().is_empty());
    assert_eq!(wakes(&mut wake).await, 0, "what happened before it was watched");
    settle(&mut wake).await;
    fs::write(later.join("db.sqlite"), "x").expect("a file");
    assert_eq!(wakes(&mut wake).await, 0);
    settle(&mut wake).await;

    for put_away in ["deleted", "moved"] {
        match put_away {
            "deleted" => fs::remove_dir_all(&later).expect("deleted"),
            _ => fs::rename(&later, dir.path().join("away")).expect("moved"),
        }
        wakes(&mut wake).await;
        settle(&mut wake).await;
        assert_eq!(wake.rearm().len(), 1, "{put_away}: told again");
        fs::create_dir(&later).expect("a folder");
        assert!(wake.rearm().is_empty());
        settle(&mut wake).await;
        fs::write(later.join("db.sqlite"), "x").expect("a file");
        assert_eq!(wakes(&mut wake).await, 0, "{put_away} and made anew");
        settle(&mut wake).await;
    }
}

#[tokio::test]
async fn another_folder_at_the_path_is_noticed_without_an_event() {
    let dir = tempfile::tempdir().expect("a folder");
    let (parent, db) = (dir.path().join("nix"), dir.path().join("nix/db"));
    fs::create_dir_all(&db).expect("a folder");
    let mut wake = Wake::start(vec![database_folder(&db)]);
    // The watched folder itself is neither moved nor deleted.
    fs::rename(&parent, dir.path().join("away")).expect("moved");
    fs::create_dir_all(&db).expect("a folder");
    assert_eq!(settle(&mut wake).await, 0);
    assert!(wake.rearm().is_empty());
    assert_eq!(wakes(&mut wake).await, 0);
    settle(&mut wake).await;
    fs::write(db.join("db.sqlite"), "x").expect("a file");
    assert_eq!(wakes(&mut wake).await, 0);
}

#[tokio::test]
async fn a_flood_wakes_seldom() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut wake = Wake::start(vec![database_folder(dir.path())]);
    let path = dir.path().join("db.sqlite-wal");
    let started = std::time::Instant::now();
    let flood = tokio::task::spawn_blocking(move || {
        for n in 0..2000 {
            fs::write(&path, n.to_string()).expect("a write");
        }
    });
    let mut count = 1;
    wakes(&mut wake).await;
    while !flood.is_finished() {
        count += usize::from(timeout(pace::SPACING, wake.changed()).await.is_ok());
    }
    count += settle(&mut wake).await;
    let most = started.elapsed().as_millis() / pace::SPACING.as_millis() + 2;
    assert!(count as u128 <= most, "{count} wake-ups where {most} would do");
}

/// Otherwise each look at the database would be the cause of the next.
#[tokio::test]
async fn reading_the_database_does_not_wake() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("db.sqlite");
    let nix = rusqlite::Connection::open(&path).expect("a database");
    nix.pragma_update(None, "journal_mode", "wal").expect("a log");
    nix.execute_batch("create table t (x); insert into t values (1)").expect("a table");
    let mut wake = Wake::start(vec![database_folder(dir.path())]);
    let read_only = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    for _ in 0..3 {
        let reader = rusqlite::Connection::open_with_flags(&path, read_only).expect("a reader");
        let count: i64 = reader.query_row("select count(*) from t", [], |row| row.get(0)).expect("a count");
        assert_eq!(count, 1);
    }
    assert_eq!(settle(&mut wake).await, 0);
    nix.execute_batch("insert into t values (2)").expect("a row");
    assert_eq!(wakes(&mut wake).await, 0, "but a commit does");
}

#[tokio::test]
async fn silence_never_wakes() {
    let mut wake = Wake::silent();
    assert!(wake.rearm().is_empty());
    assert_eq!(settle(&mut wake).await, 0);
}

#[cfg(target_os = "linux")]
#[test]
fn the_kernels_limits_are_named() {
    let error = |errno: rustix::io::Errno| WakeError::new(Path::new("/x"), errno.into()).to_string();
    assert_eq!(error(rustix::io::Errno::NOSPC), "no file system events: `fs.inotify.max_user_watches` is used up");
    assert_eq!(error(rustix::io::Errno::MFILE), "no file system events: `fs.inotify.max_user_instances` is used up");
    assert_eq!(error(rustix::io::Errno::ACCESS), "watch `/x`");
    assert_eq!(error(rustix::io::Errno::NOENT), "`/x` isn't there");
}
