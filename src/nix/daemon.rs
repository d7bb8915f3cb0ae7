//! A client of the Nix daemon: for who may not read the database, and for keeping paths from the garbage collector.
//!
//! A [`Daemon`] is one connection, and its temporary roots live as long as it does. A call that is dropped before it is
//! done, that takes too long or that meets anything unexpected ends the connection, because nobody could say where the next
//! answer begins: then all later calls say [`DaemonError::Broken`], and the caller connects anew.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix_daemon::nix::DaemonStore;
use nix_daemon::{Progress, Store};
use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::{NarHash, PathInfo, StoreDir, StorePath};

/// How long connecting may take. The daemon forks for each client, which takes some ms; on a busy host, many times that.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an answer may take. Adding a root waits for a garbage collector that is just deleting that path.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Paths asked for in one request, so that neither request nor answer grows with the store (some 80 KB each).
const PATHS_PER_REQUEST: usize = 1000;

/// One connection to the daemon.
pub struct Daemon {
    /// Taken out while a call is under way, so that a call which is dropped takes the connection with it.
    connection: Option<Connection>,
    store_dir: StoreDir,
}

/// Read through a buffer: the client reads eight bytes at a time.
type Connection = DaemonStore<BufReader<UnixStream>>;

/// Why the daemon is of no help.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Nobody listens. Keeps a single-user Nix, which needs no daemon, from looking like a fault.
    #[error("no Nix daemon at `{socket}`", socket = socket.display())]
    NotThere {
        /// Where it was looked for.
        socket: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// This user may not use it: by the socket's permissions, or because the daemon hung up at once, as it does on who isn't
    /// in its `allowed-users`. Keeps us from knocking for ever.
    #[error("the Nix daemon at `{socket}` refuses this user; see `allowed-users` in nix.conf", socket = socket.display())]
    Denied {
        /// Its socket.
        socket: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It speaks an older protocol than this client. Keeps an old Nix from being taken for a broken one.
    #[error("the Nix daemon speaks protocol {protocol}, but 1.35 is needed, which Nix 2.15 and newer speak")]
    TooOld {
        /// What it offered, as `1.34`.
        protocol: String,
    },
    /// The connection is lost, and its temporary roots with it: connect anew.
    #[error("{verb}: the connection to the Nix daemon is lost")]
    Broken {
        /// What was to be done.
        verb: &'static str,
        /// How it was lost, if this call is what lost it.
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// It answered that it can't do it; the connection goes on. Keeps one odd path from costing all roots.
    #[error("{verb}: the Nix daemon says: {message}")]
    Refused {
        /// What was to be done.
        verb: &'static str,
        /// Its message.
        message: String,
    },
    /// It answered with what is no path info. Keeps a path from going out with some references left out.
    #[error("Nix daemon, {path}: {why}")]
    Malformed {
        /// The path that was asked for.
        path: StorePath,
        /// What is wrong with the answer.
        why: String,
    },
}

impl DaemonError {
    /// Whether there is no daemon that this user, with this client, could ask.
    #[must_use]
    pub fn is_out_of_reach(&self) -> bool {
        matches!(self, Self::NotThere { .. } | Self::Denied { .. } | Self::TooOld { .. })
    }

    /// Whether connecting anew may help at once.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        matches!(self, Self::Broken { .. })
    }

    fn from_connect(socket: &Path, source: io::Error) -> Self {
        let socket = socket.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied => Self::Denied { socket, source },
            _ => Self::NotThere { socket, source },
        }
    }

    fn from_handshake(socket: &Path, verb: &'static str, error: nix_daemon::Error) -> Self {
        use nix_daemon::Error::{Field, IO, Invalid};
        match error {
            Field("daemon_proto", inner) => match *inner {
                Invalid(protocol) => Self::TooOld { protocol },
                other => Self::Broken { verb, source: Some(Spoken(other).into()) },
            },
            // It hung up on our first word.
            Field("magic1" | "magic2", inner) => match *inner {
                IO(source) => Self::Denied { socket: socket.to_owned(), source },
                other => Self::Broken { verb, source: Some(Spoken(other).into()) },
            },
            other => Self::Broken { verb, source: Some(Spoken(other).into()) },
        }
    }
}

impl Daemon {
    /// Connects to the daemon's socket.
    ///
    /// # Errors
    /// `NotThere`, `Denied`, `TooOld` or `Broken`.
    pub async fn connect(socket: &Path, store_dir: &StoreDir) -> Result<Self, DaemonError> {
        const VERB: &str = "connect to the Nix daemon";
        let stream = match timeout(CONNECT_TIMEOUT, UnixStream::connect(socket)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(source)) => return Err(DaemonError::from_connect(socket, source)),
            Err(elapsed) => return Err(DaemonError::Broken { verb: VERB, source: Some(elapsed.into()) }),
        };
        match timeout(CONNECT_TIMEOUT, DaemonStore::builder().init(BufReader::new(stream))).await {
            Ok(Ok(connection)) => Ok(Self { connection: Some(connection), store_dir: store_dir.clone() }),
            Ok(Err(error)) => Err(DaemonError::from_handshake(socket, VERB, error)),
            Err(elapsed) => Err(DaemonError::Broken { verb: VERB, source: Some(elapsed.into()) }),
        }
    }

    /// The newest protocol that the daemon speaks, as `1.37`; `None` once the connection is lost.
    #[must_use]
    pub fn protocol(&self) -> Option<String> {
        self.connection.as_ref().map(|connection| connection.proto.to_string())
    }

    /// Whether the connection was lost by an earlier call, and the temporary roots with it.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.connection.is_none()
    }

    /// All that is known of one path, its references included; `None` if it isn't valid. There is no id.
    ///
    /// # Errors
    /// `Broken`, `Refused` or `Malformed`.
    pub async fn path_info(&mut self, path: &StorePath) -> Result<Option<PathInfo>, DaemonError> {
        const VERB: &str = "ask for path info";
        let mut connection = self.take(VERB)?;
        let answer = timeout(ANSWER_TIMEOUT, connection.query_pathinfo(self.store_dir.full(path)).result()).await;
        let info = self.give_back(VERB, connection, answer)?;
        let malformed = |why| DaemonError::Malformed { path: path.clone(), why };
        info.map(|info| path_info(path, info, &self.store_dir)).transpose().map_err(malformed)
    }

    /// Which of these paths are valid. Nothing is substituted or built for it.
    ///
    /// # Errors
    /// `Broken` or `Refused`.
    pub async fn valid(&mut self, paths: &[StorePath]) -> Result<Vec<StorePath>, DaemonError> {
        const VERB: &str = "ask for valid paths";
        let mut valid = Vec::new();
        for some in paths.chunks(PATHS_PER_REQUEST) {
            let full: Vec<_> = some.iter().map(|path| self.store_dir.full(path)).collect();
            let mut connection = self.take(VERB)?;
            let answer = timeout(ANSWER_TIMEOUT, connection.query_valid_paths(full, false).result()).await;
            let answer = self.give_back(VERB, connection, answer)?;
            // It names nothing that it wasn't asked for, so all of them can be parsed.
            valid.extend(answer.iter().filter_map(|full| self.store_dir.parse(full).ok()));
        }
        Ok(valid)
    }

    /// Keeps a path from the garbage collector for as long as this connection lives. It may be gone by then: ask afterwards.
    ///
    /// # Errors
    /// `Broken` or `Refused`.
    pub async fn add_temp_root(&mut self, path: &StorePath) -> Result<(), DaemonError> {
        const VERB: &str = "add temporary root";
        let mut connection = self.take(VERB)?;
        let answer = timeout(ANSWER_TIMEOUT, connection.add_temp_root(self.store_dir.full(path)).result()).await;
        self.give_back(VERB, connection, answer)
    }

    /// Lets Nix know of a link to a store path, which is a root from then on until the link is gone.
    ///
    /// # Errors
    /// `Broken` or `Refused`.
    pub async fn add_indirect_root(&mut self, link: &Path) -> Result<(), DaemonError> {
        const VERB: &str = "add indirect root";
        let mut connection = self.take(VERB)?;
        let answer = timeout(ANSWER_TIMEOUT, connection.add_indirect_root(link.to_string_lossy()).result()).await;
        self.give_back(VERB, connection, answer)
    }

    fn take(&mut self, verb: &'static str) -> Result<Connection, DaemonError> {
        self.connection.take().ok_or(DaemonError::Broken { verb, source: None })
    }

    /// Keeps the connection if it is known where the next answer begins.
    fn give_back<T>(
        &mut self,
        verb: &'static str,
        connection: Connection,
        answer: Result<Result<T, nix_daemon::Error>, Elapsed>,
    ) -> Result<T, DaemonError> {
        match answer {
            Ok(Ok(answer)) => {
                self.connection = Some(connection);
                Ok(answer)
            }
            Ok(Err(nix_daemon::Error::NixError(error))) => {
                self.connection = Some(connection);
                Err(DaemonError::Refused { verb, message: error.msg })
            }
            Ok(Err(error)) => Err(DaemonError::Broken { verb, source: Some(Spoken(error).into()) }),
            Err(elapsed) => Err(DaemonError::Broken { verb, source: Some(elapsed.into()) }),
        }
    }
}

/// An error of the client's, whose message has all of its sources in it: so it names none, lest they be printed twice.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Spoken(nix_daemon::Error);

fn path_info(path: &StorePath, info: nix_daemon::PathInfo, store_dir: &StoreDir) -> Result<PathInfo, String> {
    // The daemon leaves out what the database puts in front.
    let digits = info.nar_hash.strip_prefix("sha256:").unwrap_or(&info.nar_hash);
    let nar_hash = NarHash::from_hex(&format!("sha256:{digits}")).map_err(|error| format!("hash: {error}"))?;
    let parse = |what: &str, full: &str| store_dir.parse(full).map_err(|error| format!("{what}: {error}"));
    let deriver = info.deriver.filter(|deriver| !deriver.is_empty());
    let mut references =
        info.references.iter().map(|full| parse("a reference", full)).collect::<Result<Vec<_>, _>>()?;
    references.sort_unstable();
    Ok(PathInfo {
        id: None,
        path: path.clone(),
        nar_hash,
        nar_size: info.nar_size,
        registration_time: info.registration_time.timestamp(),
        deriver: deriver.map(|full| parse("deriver", &full)).transpose()?,
        ultimate: info.ultimate,
        sigs: info.signatures,
        ca: info.ca.filter(|ca| !ca.is_empty()),
        references: Some(references),
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    /// A daemon that says these words (of eight bytes), then hangs up. Gives the client.
    async fn client_of(words: &'static [u64]) -> Result<Daemon, DaemonError> {
        let dir = tempfile::tempdir().expect("a folder");
        let socket = dir.path().join("socket");
        let listener = UnixListener::bind(&socket).expect("a socket");
        tokio::spawn(async move {
            let (mut client, _) = listener.accept().await.expect("a client");
            for word in words {
                client.write_u64_le(*word).await.expect("a word");
            }
            // What is unread would be a reset instead of an end. The greeting is six words but one.
            let mut greeting = [0; 32];
            if !words.is_empty() {
                client.read_exact(&mut greeting).await.expect("a greeting");
            }
            client.shutdown().await.expect("hung up");
            let _ = client.read_to_end(&mut Vec::new()).await;
        });
        Daemon::connect(&socket, &StoreDir::default()).await
    }

    const MAGIC: u64 = 0x6478_696f;
    const LAST: u64 = 0x616c_7473;

    #[tokio::test]
    async fn who_is_not_there_or_hangs_up_is_told_apart() {
        let dir = tempfile::tempdir().expect("a folder");
        let socket = dir.path().join("socket");
        let absent = Daemon::connect(&socket, &StoreDir::default()).await.map(drop).expect_err("absent");
        assert!(matches!(absent, DaemonError::NotThere { .. }), "{absent:?}");
        drop(UnixListener::bind(&socket).expect("a socket"));
        let ended = Daemon::connect(&socket, &StoreDir::default()).await.map(drop).expect_err("nobody listens");
        assert!(matches!(ended, DaemonError::NotThere { .. }), "{ended:?}");
        let hung_up = client_of(&[]).await.map(drop).expect_err("hung up");
        assert!(matches!(hung_up, DaemonError::Denied { .. }), "{hung_up:?}");
        let old = client_of(&[MAGIC, 0x115]).await.map(drop).expect_err("too old");
        let text = old.to_string();
        assert_eq!(text, "the Nix daemon speaks protocol 1.21, but 1.35 is needed, which Nix 2.15 and newer speak");
        let other = client_of(&[1, 2, 3]).await.map(drop).expect_err("no daemon of Nix's");
        assert!(other.is_broken(), "{other:?}");
    }

    #[tokio::test]
    async fn a_lost_connection_stays_lost() {
        let mut daemon = client_of(&[MAGIC, 0x123, 0, 0, LAST]).await.expect("greeted");
        let path = StorePath::nth(0);
        assert!(!daemon.is_broken());
        for _ in 0..2 {
            let error = daemon.path_info(&path).await.expect_err("hung up");
            assert!(error.is_broken() && daemon.is_broken(), "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_call_that_is_dropped_takes_the_connection_with_it() {
        let mut daemon = client_of(&[MAGIC, 0x123, 0, 0, LAST]).await.expect("greeted");
        let path = StorePath::nth(0);
        // Polled once: asked, and not answered yet.
        tokio::select! {
            biased;
            _ = daemon.path_info(&path) => {}
            () = std::future::ready(()) => {}
        }
        assert!(daemon.is_broken());
    }

    #[test]
    fn futures_can_be_spawned() {
        fn is_send<T: Send>(_: T) {}
        let path = StorePath::nth(0);
        let mut daemon = Daemon { connection: None, store_dir: StoreDir::default() };
        is_send(daemon.path_info(&path));
        is_send(daemon.valid(&[]));
        is_send(daemon.add_temp_root(&path));
        is_send(daemon.add_indirect_root(Path::new("/")));
        is_send(Daemon::connect(Path::new("/"), &StoreDir::default()));
    }
}
