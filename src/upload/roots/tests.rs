use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::*;

#[test]
fn what_is_held_twice_is_held_until_both_let_go() {
    let held = Held::default();
    let (one, two) = (held.note(&path('0')), held.note(&path('0')));
    drop(one);
    assert_eq!(held.paths(), [path('0')]);
    drop(two);
    assert_eq!(held.len(), 0);
}

#[tokio::test]
async fn without_a_daemon_nobody_waits() {
    let (roots, _) = Roots::start("/nowhere/socket".into(), StoreDir::default());
    for n in ['0', '1'] {
        assert!(roots.hold(&path(n)).await.is_none());
    }
    assert_eq!(roots.held.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_hangs_is_waited_for_once() {
    let daemon = FakeDaemon::bind();
    let (roots, _) = Roots::start(daemon.socket(), StoreDir::default());
    let served = tokio::spawn(async move {
        let mut first = daemon.greet().await;
        first.root().await;
        (first, daemon)
    });
    let first = roots.hold(&path('0')).await;
    assert!(first.is_some());
    // Nobody answers any more, neither on the first connection nor on another.
    let _open = served.await.expect("a root");
    assert!(roots.hold(&path('0')).await.is_some(), "it is rooted already");
    let began = Instant::now();
    for n in ['1', '1', '2', '3', '1'] {
        assert!(roots.hold(&path(n)).await.is_none());
    }
    assert!(roots.hold(&path('0')).await.is_some(), "it is rooted still");
    let waited = began.elapsed();
    assert!(waited < 3 * PATIENCE, "once for an answer and once for another connection: {waited:?}");
    drop(first);
    assert_eq!(roots.held.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_still_held_is_on_the_new_connection_before_the_old_one_is_closed() {
    let daemon = FakeDaemon::bind();
    let (roots, _) = Roots::start(daemon.socket(), StoreDir::default());
    let served = tokio::spawn(async move {
        let mut old = daemon.greet().await;
        let through = [old.root().await, old.root().await];
        let mut new = daemon.greet().await;
        assert!(!old.is_closed(), "before anything is on the new one");
        let again = new.root().await;
        old.closed().await;
        (through, again)
    });
    let held = roots.hold(&path('0')).await.expect("rooted");
    drop(roots.hold(&path('1')).await.expect("rooted"));
    // The clock stands still but for what waits for it: it goes on to the renewal.
    let (first, again) = served.await.expect("two connections");
    assert_eq!(first, [full('0'), full('1')]);
    assert_eq!(again, full('0'), "the one that is held");
    drop(held);
}

/// While a path is being deleted, the daemon doesn't answer who wants it kept, for as long as that takes.
#[tokio::test(start_paused = true)]
async fn a_path_that_is_being_deleted_costs_the_others_no_root() {
    let daemon = FakeDaemon::bind();
    let (roots, _) = Roots::start(daemon.socket(), StoreDir::default());
    let served = tokio::spawn(async move {
        let mut old = daemon.greet().await;
        old.root().await;
        assert_eq!(old.asked().await, full('1'));
        let mut new = daemon.greet().await;
        assert!(!old.is_closed(), "before anything is on the new one");
        let mut again = [new.root().await, new.root().await];
        again.sort();
        old.closed().await;
        (again, new, daemon)
    });
    let _held = roots.hold(&path('0')).await.expect("rooted");
    let (one, two) = (path('1'), path('2'));
    let (deleted, beside) = tokio::join!(roots.hold(&one), roots.hold(&two));
    assert!(deleted.is_none() && beside.is_some());
    let (again, ..) = served.await.expect("two connections");
    assert_eq!(again, [full('0'), full('2')]);
}

/// A daemon may take no other connection.
#[tokio::test(start_paused = true)]
async fn a_late_answer_is_taken_where_no_other_connection_is_to_be_had() {
    let daemon = FakeDaemon::bind();
    let (roots, _) = Roots::start(daemon.socket(), StoreDir::default());
    let (went_on, go_on) = oneshot::channel::<()>();
    let served = tokio::spawn(async move {
        let mut only = daemon.greet().await;
        only.root().await;
        assert_eq!(only.asked().await, full('1'));
        go_on.await.expect("told");
        only.say(&[LAST, 1]).await;
        (only.root().await, only, daemon)
    });
    let _held = roots.hold(&path('0')).await.expect("rooted");
    assert!(roots.hold(&path('1')).await.is_none(), "not in time");
    assert!(roots.hold(&path('2')).await.is_none(), "nor by another connection");
    went_on.send(()).expect("it waits");
    // The answer may come after the question, which is then refused once more.
    let held = loop {
        match roots.hold(&path('2')).await {
            Some(held) => break held,
            None => assert!(!served.is_finished(), "the connection is lost"),
        }
        tokio::task::yield_now().await;
    };
    let (next, ..) = served.await.expect("one connection");
    assert_eq!(next, full('2'));
    assert!(roots.hold(&path('1')).await.is_some(), "it came late");
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_kept_once_nothing_is_held() {
    let daemon = FakeDaemon::bind();
    let (roots, _) = Roots::start(daemon.socket(), StoreDir::default());
    let served = tokio::spawn(async move {
        let mut only = daemon.greet().await;
        only.root().await;
        only.closed().await;
        daemon
    });
    drop(roots.hold(&path('0')).await.expect("rooted"));
    let began = Instant::now();
    let _daemon = served.await.expect("one connection");
    assert!(began.elapsed() <= LOOK);
}

fn path(n: char) -> StorePath {
    StorePath::from_base_name(&format!("{}-x", n.to_string().repeat(32))).expect("a store path")
}

fn full(n: char) -> String {
    StoreDir::default().full(&path(n))
}

/// A daemon that does what a test tells it, one client at a time.
struct FakeDaemon {
    dir: tempfile::TempDir,
    listener: UnixListener,
}

/// Its end of a connection.
struct Client(UnixStream);

const LAST: u64 = 0x616c_7473;

impl FakeDaemon {
    fn bind() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(dir.path().join("socket")).expect("a socket");
        Self { dir, listener }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    async fn greet(&self) -> Client {
        let (stream, _) = self.listener.accept().await.expect("a client");
        let mut client = Client(stream);
        client.say(&[0x6478_696f, 0x123, 0, 0, LAST]).await;
        // Magic, protocol and two words that mean nothing any more.
        client.0.read_exact(&mut [0; 32]).await.expect("a greeting");
        client
    }
}

impl Client {
    async fn say(&mut self, words: &[u64]) {
        for word in words {
            self.0.write_u64_le(*word).await.expect("a word");
        }
    }

    /// Answers one request for a temporary root, and says of what.
    async fn root(&mut self) -> String {
        let path = self.asked().await;
        self.say(&[LAST, 1]).await;
        path
    }

    /// Reads a request for a temporary root.
    async fn asked(&mut self) -> String {
        assert_eq!(self.0.read_u64_le().await.expect("an operation"), 11, "AddTempRoot");
        let length = self.0.read_u64_le().await.expect("a length") as usize;
        let mut padded = vec![0; length.next_multiple_of(8)];
        self.0.read_exact(&mut padded).await.expect("a path");
        String::from_utf8(padded[..length].to_vec()).expect("text")
    }

    fn is_closed(&self) -> bool {
        matches!(self.0.try_read(&mut [0]), Ok(0))
    }

    async fn closed(&mut self) {
        assert_eq!(self.0.read(&mut [0]).await.expect("its end"), 0);
    }
}
