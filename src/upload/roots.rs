//! Temporary roots: what is being read is kept from the garbage collector, through the Nix daemon.
//!
//! A temporary root lives as long as the connection on which it was added, and can't be released singly. So there is one
//! connection for all of them, and it is changed for a new one from time to time ([`renewal`] says when): what is still
//! held is rooted on the new one before the old one is closed.
//!
//! **Nobody waits.** Rooting costs a round trip, and a new connection is opened beside the old one. A daemon that isn't there,
//! is too old or hangs is left alone for a while, which is said once, and paths go on without roots: what is collected
//! meanwhile ends as gone.
//!
//! **Bounded memory.** Held is what is under way; a connection has at most [`MOST_LEFT`] roots beside that.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info};

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

/// No path that is through is kept for longer, however much is under way.
const LONGEST_LEFT: Duration = Duration::from_secs(30);

/// A connection without a root is kept for so long, since the next path may come soon. It costs a process of the daemon's.
const KEPT_IDLE: Duration = Duration::from_secs(60);

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
    /// Will use the daemon at `socket`, once there is something to be held.
    pub(super) fn start(socket: PathBuf, store_dir: StoreDir) -> Self {
        let (requests, inbox) = mpsc::channel(BACKLOG);
        let held = Held::default();
        let keeper = Keeper {
            socket,
            store_dir,
            held: held.clone(),
            inbox,
            connection: None,
            opening: None,
            ask_again: None,
            told: false,
        };
        tokio::spawn(keeper.run());
        Self { held, requests }
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

/// A connection and what it roots.
struct Connection {
    daemon: Daemon,
    rooted: HashSet<StorePath>,
    since: Instant,
}

/// What is to become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Renewal {
    /// It stays.
    NotYet,
    /// Another takes its place, with what is still held.
    Due,
    /// None is needed for now.
    Closed,
}

/// What is to become of a connection of this age that roots so many paths, `held` of which are still under way.
fn renewal(held: usize, rooted: usize, age: Duration) -> Renewal {
    let left = rooted.saturating_sub(held);
    match (held, left) {
        (0, 0) if age >= KEPT_IDLE => Renewal::Closed,
        (_, 0) => Renewal::NotYet,
        (0, _) => Renewal::Due,
        (_, left) if left >= MOST_LEFT || age >= LONGEST_LEFT => Renewal::Due,
        _ => Renewal::NotYet,
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

/// Has the connection.
struct Keeper {
    socket: PathBuf,
    store_dir: StoreDir,
    held: Held,
    inbox: mpsc::Receiver<Request>,
    connection: Option<Connection>,
    /// The one that is to take its place, being opened.
    opening: Option<JoinHandle<Opened>>,
    /// Until then the daemon is left alone.
    ask_again: Option<Instant>,
    /// That there are no roots has been said, and nothing has changed since.
    told: bool,
}

impl Keeper {
    async fn run(mut self) {
        let mut look = Instant::now();
        loop {
            tokio::select! {
                request = self.inbox.recv() => {
                    let Some(Request { path, answer }) = request else { return };
                    if self.connection.is_none() {
                        look = Instant::now() + LOOK;
                    }
                    // Who asked may be gone, which is fine.
                    let _ = answer.send(self.root(&path).await);
                }
                opened = end_of(&mut self.opening), if self.opening.is_some() => {
                    self.opening = None;
                    self.replace(opened, None).await;
                }
                () = sleep_until(look), if self.connection.is_some() => {
                    look = Instant::now() + LOOK;
                    self.look();
                }
            }
        }
    }

    /// Whether the path is rooted now.
    async fn root(&mut self, path: &StorePath) -> bool {
        if self.connection.is_none() {
            // It is held already, so it is rooted with all that are.
            return self.renew(None).await && self.is_rooted(path);
        }
        if self.is_rooted(path) {
            return true;
        }
        let Some(connection) = &mut self.connection else { return false };
        match timeout(PATIENCE, connection.daemon.add_temp_root(path)).await {
            Ok(Ok(())) => connection.rooted.insert(path.clone()),
            Ok(Err(error)) if !error.is_broken() => {
                debug!(%path, "{}", one_line(&error));
                false
            }
            // The daemon was started anew, and all roots are gone.
            Ok(Err(_)) => {
                self.connection = None;
                self.renew(None).await && self.is_rooted(path)
            }
            // It may be being deleted, and would hold the others up again.
            Err(_) => {
                self.connection = None;
                self.renew(Some(path)).await;
                false
            }
        }
    }

    fn is_rooted(&self, path: &StorePath) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.rooted.contains(path))
    }

    fn look(&mut self) {
        let Some(connection) = &self.connection else { return };
        match renewal(self.held.len(), connection.rooted.len(), connection.since.elapsed()) {
            Renewal::NotYet => {}
            Renewal::Closed => self.connection = None,
            Renewal::Due if self.opening.is_none() && !self.is_left_alone() => {
                self.opening = Some(tokio::spawn(open(self.socket.clone(), self.store_dir.clone())));
            }
            Renewal::Due => {}
        }
    }

    fn is_left_alone(&self) -> bool {
        self.ask_again.is_some_and(|then| Instant::now() < then)
    }

    /// Opens a connection now, and puts it in the place of the old one. Says whether it did.
    async fn renew(&mut self, except: Option<&StorePath>) -> bool {
        if self.is_left_alone() {
            return false;
        }
        let opened = open(self.socket.clone(), self.store_dir.clone()).await;
        self.replace(opened, except).await
    }

    /// Puts a new connection, with all that is held but for one path, in the place of the old one, which stays otherwise. Says
    /// whether it did.
    async fn replace(&mut self, opened: Opened, except: Option<&StorePath>) -> bool {
        let daemon = match opened {
            Ok(Ok(daemon)) => daemon,
            Ok(Err(error)) => return self.do_without(&one_line(&error)),
            Err(_) => return self.do_without(SILENT),
        };
        match timeout(PATIENCE, self.root_what_is_held(daemon, except)).await {
            Ok(Ok(connection)) => {
                if std::mem::take(&mut self.told) {
                    info!("the Nix daemon keeps from the garbage collector what is being uploaded again");
                }
                self.ask_again = None;
                self.connection = Some(connection);
                true
            }
            Ok(Err(error)) => self.do_without(&one_line(&error)),
            Err(_) => self.do_without(SILENT),
        }
    }

    async fn root_what_is_held(
        &self,
        mut daemon: Daemon,
        except: Option<&StorePath>,
    ) -> Result<Connection, DaemonError> {
        let mut rooted = HashSet::new();
        for path in self.held.paths().into_iter().filter(|path| except != Some(path)) {
            match daemon.add_temp_root(&path).await {
                Ok(()) => {
                    rooted.insert(path);
                }
                Err(error) if error.is_broken() => return Err(error),
                Err(error) => debug!(%path, "{}", one_line(&error)),
            }
        }
        Ok(Connection { daemon, rooted, since: Instant::now() })
    }

    fn do_without(&mut self, why: &str) -> bool {
        self.ask_again = Some(Instant::now() + LEFT_ALONE);
        if !std::mem::replace(&mut self.told, true) {
            info!(
                "nothing keeps from the garbage collector what is being uploaded; what is collected meanwhile isn't \
                 uploaded: {why}"
            );
        }
        false
    }
}

#[cfg(test)]
mod tests;
