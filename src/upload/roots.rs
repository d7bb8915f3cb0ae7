//! Temporary roots: what is being read is kept from the garbage collector, through the Nix daemon.
//!
//! A temporary root lives as long as the connection on which it was added, and can't be released singly. So there is one
//! connection for all of them, and it is changed for a new one from time to time (`connection` says when): what is still
//! held is rooted on the new one before the old one is closed.
//!
//! Invariants kept here:
//!
//! - **No gap.** A connection is only given up after the next one roots all that is held, even while it waits for an answer
//!   about a path that is just being deleted. Only a daemon that ends takes all roots with it.
//! - **Nobody waits.** Rooting costs a round trip, and a new connection is opened beside the old one. A daemon that isn't
//!   there, is too old or hangs is left alone for a while, which is said once, and paths go on without roots: what is
//!   collected meanwhile ends as gone.
//! - **Bounded memory.** Held is what is under way; beside that a connection has some more than [`MOST_LEFT`] roots, and
//!   twice as many where no other can be had: then it is closed first.

mod connection;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::info;

use self::connection::{Connection, NotRooted, Renewal};
use crate::nix::{Daemon, DaemonError, StoreDir, StorePath};
use crate::report::one_line;

/// A daemon that hasn't answered by then is done without. A root takes some 0.1 ms and a connection some ms, for which the
/// daemon forks; only a root on what is just being deleted takes as long as the deletion does.
const PATIENCE: Duration = Duration::from_secs(2);

/// So long a daemon that was of no help isn't asked again.
const LEFT_ALONE: Duration = Duration::from_secs(60);

/// While there is a connection, it is looked this often whether it is to be renewed. So long a path that is through is kept
/// at most when nothing else is under way; for each renewal the daemon forks.
const LOOK: Duration = Duration::from_secs(5);

/// Roots of paths that are through may stand beside those that are held until they are so many.
const MOST_LEFT: usize = 1_000;

/// No path that is through is kept for longer, however much is under way. So long, too, a path isn't asked for again that the
/// daemon didn't root in time.
const LONGEST_LEFT: Duration = Duration::from_secs(30);

/// Requests that may stand in line.
const BACKLOG: usize = 64;

/// Roots what is under way. Cheap to clone; the connection is closed after the last clone is gone.
#[derive(Clone)]
pub(super) struct Roots {
    held: Held,
    requests: mpsc::Sender<Request>,
}

/// Keeps a path from the garbage collector until it is dropped, and for some seconds beyond.
pub(super) struct Root {
    path: StorePath,
    held: Held,
}

struct Request {
    path: StorePath,
    /// Whether it is rooted now.
    answer: oneshot::Sender<bool>,
}

/// The paths that are held, each as often as it is.
#[derive(Clone, Default)]
struct Held {
    paths: Arc<Mutex<HashMap<StorePath, usize>>>,
}

impl Roots {
    /// Will use the daemon at `socket`, once there is something to be held. The task ends after the last clone is gone, or by
    /// a defect.
    pub(super) fn start(socket: PathBuf, store_dir: StoreDir) -> (Self, JoinHandle<()>) {
        let (requests, inbox) = mpsc::channel(BACKLOG);
        let held = Held::default();
        let keeper = Keeper {
            socket,
            store_dir,
            held: held.clone(),
            inbox,
            connection: None,
            opening: None,
            parked: Vec::new(),
            late: HashMap::new(),
            look_at: Instant::now(),
            ask_again: None,
            told: None,
        };
        let keeping = tokio::spawn(keeper.run());
        (Self { held, requests }, keeping)
    }

    /// Roots a path, which may be gone by then: ask Nix afterwards. `None` where that can't be done now.
    pub(super) async fn hold(&self, path: &StorePath) -> Option<Root> {
        // Noted first, so that a connection that is just being renewed takes it along.
        let root = self.held.note(path);
        let (answer, answered) = oneshot::channel();
        self.requests.send(Request { path: path.clone(), answer }).await.ok()?;
        answered.await.ok()?.then_some(root)
    }
}

impl Held {
    fn note(&self, path: &StorePath) -> Root {
        *self.lock().entry(path.clone()).or_default() += 1;
        Root { path: path.clone(), held: self.clone() }
    }

    fn paths(&self) -> Vec<StorePath> {
        self.lock().keys().cloned().collect()
    }

    fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StorePath, usize>> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let mut paths = self.held.lock();
        if let Some(times) = paths.get_mut(&self.path) {
            *times -= 1;
            if *times == 0 {
                paths.remove(&self.path);
            }
        }
    }
}

/// A connection without a root yet, or why there is none.
type Opened = Result<Result<Daemon, DaemonError>, Elapsed>;

/// What is said of a daemon that is waited for in vain.
const SILENT: &str = "the Nix daemon doesn't answer";

async fn open(socket: PathBuf, store_dir: StoreDir) -> Opened {
    timeout(PATIENCE, Daemon::connect(&socket, &store_dir)).await
}

/// What came of opening a connection; never, where none is being opened. May be dropped at any time.
async fn end_of(opening: &mut Option<JoinHandle<Opened>>) -> Opened {
    let lost = || Ok(Err(DaemonError::Broken { verb: "connect to the Nix daemon", source: None }));
    match opening {
        Some(task) => task.await.unwrap_or_else(|_| lost()),
        None => std::future::pending().await,
    }
}

/// What comes of what was asked; never, where nothing is. May be dropped at any time.
async fn answer_of(connection: &mut Option<Connection>) -> Result<(), NotRooted> {
    match connection {
        Some(connection) => connection.answer().await,
        None => std::future::pending().await,
    }
}

/// Has the connection.
struct Keeper {
    socket: PathBuf,
    store_dir: StoreDir,
    held: Held,
    inbox: mpsc::Receiver<Request>,
    connection: Option<Connection>,
    /// The one that is to take its place, being opened.
    opening: Option<JoinHandle<Opened>>,
    /// Who waits for it. They are no more than what is under way.
    parked: Vec<Request>,
    /// What the daemon didn't root in time, and since when: it may be being deleted, and would hold the others up again.
    late: HashMap<StorePath, Instant>,
    /// When it is next looked whether the connection is to be renewed.
    look_at: Instant,
    /// Until then the daemon is left alone.
    ask_again: Option<Instant>,
    /// What has been said to be lacking, and still is.
    told: Option<Lacking>,
}

/// What there isn't while no connection can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lacking {
    Roots,
    /// The old connection stays, with all of its roots.
    Renewal,
}

impl Keeper {
    async fn run(mut self) {
        loop {
            tokio::select! {
                request = self.inbox.recv() => {
                    let Some(request) = request else { return };
                    self.take(request).await;
                }
                opened = end_of(&mut self.opening), if self.opening.is_some() => {
                    self.opening = None;
                    self.replace(opened).await;
                    self.take_parked().await;
                }
                answer = answer_of(&mut self.connection), if self.connection.as_ref().is_some_and(Connection::is_busy) => {
                    if answer == Err(NotRooted::Lost) {
                        self.connection = None;
                    }
                    self.take_parked().await;
                }
                () = sleep_until(self.look_at), if self.connection.is_some() => self.look(),
            }
        }
    }

    /// Roots a path and answers; later, if a connection is being opened.
    async fn take(&mut self, request: Request) {
        let path = &request.path;
        let is_late = self.is_late(path);
        let is_rooted = match &mut self.connection {
            Some(connection) if connection.roots(path) => true,
            _ if is_late => false,
            Some(connection) if !connection.is_busy() => match connection.root(path).await {
                Ok(()) => true,
                Err(NotRooted::Refused) => false,
                Err(NotRooted::Late) => {
                    self.late.retain(|_, since| since.elapsed() < LONGEST_LEFT);
                    self.late.insert(path.clone(), Instant::now());
                    self.open();
                    false
                }
                // The daemon was started anew.
                Err(NotRooted::Lost) => {
                    self.connection = None;
                    return self.park(request);
                }
            },
            _ => return self.park(request),
        };
        // Who asked may be gone, which is fine.
        let _ = request.answer.send(is_rooted);
    }

    fn is_rooted(&self, path: &StorePath) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.roots(path))
    }

    fn is_late(&self, path: &StorePath) -> bool {
        self.late.get(path).is_some_and(|since| since.elapsed() < LONGEST_LEFT)
    }

    /// Lets a request wait for another connection, if there is to be one.
    fn park(&mut self, request: Request) {
        self.open();
        if self.opening.is_some() {
            self.parked.push(request);
        } else {
            let _ = request.answer.send(false);
        }
    }

    async fn take_parked(&mut self) {
        for request in std::mem::take(&mut self.parked) {
            self.take(request).await;
        }
    }

    fn look(&mut self) {
        self.look_at = Instant::now() + LOOK;
        let Some(connection) = &self.connection else { return };
        match connection.renewal(self.held.len()) {
            Renewal::NotYet => {}
            Renewal::Due => self.open(),
            Renewal::Overdue => {
                self.connection = None;
                self.ask_again = None;
                self.open();
            }
            Renewal::Closed => self.connection = None,
        }
    }

    /// Begins to open another connection, if none is being opened and the daemon isn't left alone.
    fn open(&mut self) {
        let is_left_alone = self.ask_again.is_some_and(|then| Instant::now() < then);
        if self.opening.is_none() && !is_left_alone {
            self.opening = Some(tokio::spawn(open(self.socket.clone(), self.store_dir.clone())));
        }
    }

    /// Puts a new connection, with all that is held, in the place of the old one, which stays otherwise.
    async fn replace(&mut self, opened: Opened) {
        let daemon = match opened {
            Ok(Ok(daemon)) => daemon,
            Ok(Err(error)) => return self.do_without(&one_line(&error)),
            Err(_) => return self.do_without(SILENT),
        };
        let held = self.held.paths().into_iter().filter(|path| self.is_rooted(path) || !self.is_late(path)).collect();
        match timeout(PATIENCE, root_all(daemon, held)).await {
            Ok(Some(connection)) => {
                if self.told.take() == Some(Lacking::Roots) {
                    info!("the Nix daemon keeps from the garbage collector what is being uploaded again");
                }
                self.ask_again = None;
                self.look_at = Instant::now() + LOOK;
                self.connection = Some(connection);
            }
            Ok(None) => self.do_without("the connection to the Nix daemon is lost"),
            Err(_) => self.do_without(SILENT),
        }
    }

    fn do_without(&mut self, why: &str) {
        self.ask_again = Some(Instant::now() + LEFT_ALONE);
        let lacking = if self.connection.is_some() { Lacking::Renewal } else { Lacking::Roots };
        if self.told.replace(lacking) == Some(lacking) {
            return;
        }
        match lacking {
            Lacking::Roots => info!(
                "nothing keeps from the garbage collector what is being uploaded; what is collected meanwhile isn't \
                 uploaded: {why}"
            ),
            Lacking::Renewal => info!(
                "what has been uploaded is kept from the garbage collector for longer than need be, since the Nix daemon \
                 takes no other connection: {why}"
            ),
        }
    }
}

/// A connection that roots these paths, as far as the daemon does; `None` if it is lost.
async fn root_all(daemon: Daemon, paths: Vec<StorePath>) -> Option<Connection> {
    let mut connection = Connection::new(daemon);
    for path in &paths {
        match connection.root(path).await {
            Ok(()) | Err(NotRooted::Refused) => {}
            Err(NotRooted::Late | NotRooted::Lost) => return None,
        }
    }
    Some(connection)
}

#[cfg(test)]
mod tests;
