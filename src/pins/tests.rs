use std::fs;
use std::path::Path;

use rusqlite::Connection;
use tokio::net::UnixListener;
use tokio::time::sleep;

use super::*;
use crate::limit::Lane;
use crate::nix::StoreDir;
use crate::queue::{Admission, Ended, Wanted};

#[test]
fn looks_leave_most_of_the_time_to_others() {
    assert_eq!(rest_after(Duration::from_millis(10)), Duration::from_millis(200));
    assert_eq!(rest_after(Duration::from_secs(3600)), LEFT_ALONE);
}

/// A folder with a queue of one path in it, and pins that nothing stands in the way of.
struct Bench {
    dir: tempfile::TempDir,
    cache: CacheId,
    path: StorePath,
    pins: Pins,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let path = StorePath::nth(0);
        let mut queue = Queue::open(dir.path()).expect("opened").queue;
        let cache = queue.cache_id("team", "file:///c").expect("a cache");
        let wanted = [Wanted { path: path.clone(), row: None, registered: 0, caches: vec![cache] }];
        let (lane, ended) = (Lane::Fresh, Ended::StartsAnew);
        let admission = Admission { lane, ended, ..Admission::of_new(&wanted, 1) };
        queue.admit(&admission, None).expect("admitted");
        fs::create_dir_all(dir.path().join("gcroots/auto")).expect("a folder");
        let socket = dir.path().join("socket");
        let facts = StoreFacts::new(dir.path().join("db.sqlite"), socket.clone(), StoreDir::default()).patient();
        let pins = Pins::new(Parts {
            state_dir: dir.path().to_owned(),
            queue: QueueHandle::start(queue).expect("a thread"),
            facts,
            nix_state: dir.path().to_owned(),
            socket,
            runtime_dir: Some(dir.path().to_owned()),
            orders: watch::channel(Orders::default()).1,
            disks: watch::channel(Levels::default()).1,
            stirred: Arc::default(),
        });
        Self { dir, cache, path, pins }
    }

    /// Looks, until it is pinned and something else is ordered.
    async fn look_and_be_overtaken(&mut self) -> Result<Looked, PinError> {
        let runtime_dir = self.dir.path().to_owned();
        let overtaken = std::pin::pin!(async move {
            while links(&runtime_dir) == 0 {
                sleep(Duration::from_millis(1)).await;
            }
            // What is waited for behind that may have begun, or not yet.
            sleep(Duration::from_millis(50)).await;
        });
        self.pins.look(Some(1 << 20), vec![self.cache], overtaken).await
    }

    fn know_its_size(&mut self) {
        self.pins.sizes.insert(self.path.clone(), Size { bytes: Some(1), asked: Instant::now() });
    }

    async fn is_pinned_until_nothing_is(&mut self) {
        assert_eq!(links(self.dir.path()), 1);
        let looked = self.pins.look(None, vec![self.cache], std::pin::pin!(std::future::pending())).await;
        assert!(matches!(looked, Ok(Looked::Through(_))));
        assert_eq!(links(self.dir.path()), 0);
    }
}

fn links(runtime_dir: &Path) -> usize {
    let folders = fs::read_dir(runtime_dir.join("pins")).into_iter().flatten().flatten();
    folders.flat_map(|folder| fs::read_dir(folder.path()).into_iter().flatten()).count()
}

#[tokio::test]
async fn a_database_that_is_busy_for_ever_keeps_no_pins() {
    let mut bench = Bench::new();
    bench.know_its_size();
    let pending = std::pin::pin!(std::future::pending());
    assert!(matches!(bench.pins.look(Some(1 << 20), vec![bench.cache], pending).await, Ok(Looked::Through(_))));
    bench.pins.sizes.clear();
    let busy = Connection::open(bench.dir.path().join("db.sqlite")).expect("a database");
    busy.execute_batch("CREATE TABLE t (c); BEGIN EXCLUSIVE").expect("locked");
    assert!(matches!(bench.look_and_be_overtaken().await, Ok(Looked::Overtaken)));
    bench.is_pinned_until_nothing_is().await;
    busy.execute_batch("COMMIT").expect("unlocked");
}

#[tokio::test]
async fn a_daemon_that_hangs_keeps_no_pins() {
    if !cfg!(target_os = "linux") {
        println!("skipped: this needs a folder that even root may not write to");
        return;
    }
    let mut bench = Bench::new();
    let auto = bench.dir.path().join("gcroots/auto");
    fs::remove_dir(&auto).expect("removed");
    std::os::unix::fs::symlink("/sys/kernel", &auto).expect("a link");
    let _silent = UnixListener::bind(bench.dir.path().join("socket")).expect("a socket");
    bench.know_its_size();
    assert!(matches!(bench.look_and_be_overtaken().await, Ok(Looked::Overtaken)));
    bench.is_pinned_until_nothing_is().await;
}

#[tokio::test]
async fn what_has_gone_is_asked_for_again_by_and_by() {
    let now = Instant::now();
    let long_ago = now.checked_sub(LEFT_ALONE).expect("a time");
    for (bytes, asked, expected) in [(Some(1), long_ago, false), (None, now, false), (None, long_ago, true)] {
        assert_eq!(Size { bytes, asked }.is_outdated(), expected, "{bytes:?}");
    }
}
