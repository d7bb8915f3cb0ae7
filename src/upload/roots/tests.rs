use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::*;

#[test]
fn a_connection_is_renewed_when_it_keeps_too_much_or_for_too_long() {
    let (now, old) = (Duration::ZERO, LONGEST_LEFT);
    for (held, rooted, age, expected) in [
        (0, 0, now, Renewal::NotYet),
        (0, 0, KEPT_IDLE, Renewal::Closed),
        (3, 3, KEPT_IDLE, Renewal::NotYet),
        (0, 1, now, Renewal::Due),
        (1, 2, now, Renewal::NotYet),
        (1, 2, old, Renewal::Due),
        (5, 4 + MOST_LEFT, now, Renewal::NotYet),
        (5, 5 + MOST_LEFT, now, Renewal::Due),
        // Noted, and not rooted yet.
        (7, 2, old, Renewal::NotYet),
    ] {
        assert_eq!(renewal(held, rooted, age), expected, "{held} held of {rooted}, {age:?}");
    }
}

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
    let roots = Roots::start("/nowhere/socket".into(), StoreDir::default());
    for n in ['0', '1'] {
        assert!(roots.hold(&path(n)).await.is_none());
    }
    assert_eq!(roots.held.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_hangs_is_waited_for_once() {
    let daemon = FakeDaemon::bind();
    let roots = Roots::start(daemon.socket(), StoreDir::default());
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
    assert!(roots.hold(&path('1')).await.is_none());
    let began = Instant::now();
    for n in ['0', '1', '2'] {
        assert!(roots.hold(&path(n)).await.is_none(), "the roots are lost");
    }
    assert!(began.elapsed() < PATIENCE, "waited for {:?}", began.elapsed());
    drop(first);
    assert_eq!(roots.held.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_still_held_is_on_the_new_connection_before_the_old_one_is_closed() {
    let daemon = FakeDaemon::bind();
    let roots = Roots::start(daemon.socket(), StoreDir::default());
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
        assert_eq!(self.0.read_u64_le().await.expect("an operation"), 11, "AddTempRoot");
        let length = self.0.read_u64_le().await.expect("a length") as usize;
        let mut padded = vec![0; length.next_multiple_of(8)];
        self.0.read_exact(&mut padded).await.expect("a path");
        self.say(&[LAST, 1]).await;
        String::from_utf8(padded[..length].to_vec()).expect("text")
    }

    fn is_closed(&self) -> bool {
        matches!(self.0.try_read(&mut [0]), Ok(0))
    }

    async fn closed(&mut self) {
        assert_eq!(self.0.read(&mut [0]).await.expect("its end"), 0);
    }
}
