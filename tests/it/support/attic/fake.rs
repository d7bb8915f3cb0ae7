//! The fake's process of being there: its port, its connections, its being stopped and started again.

use super::super::port::Port;
use super::api;
use super::state::State;
use super::wire::UploadInfo;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// No more connections may be open at once: four uploads, as many questions beside them, and what was left open by
/// those before.
const CONNECTIONS: usize = 16;

/// A server that stands in for Attic, and notes everything that the facts about Attic don't allow. Dropped, it panics
/// where there was something.
#[derive(Debug)]
pub struct Fake {
    shared: Arc<Shared>,
    port: Port,
    runtime: Option<Runtime>,
}

/// What its connections share.
#[derive(Debug)]
pub struct Shared {
    state: Mutex<State>,
    folder: TempDir,
    forgets_archives: AtomicBool,
    received: AtomicU64,
}

impl Shared {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The file of a path's archive.
    pub fn archive(&self, info: &UploadInfo) -> PathBuf {
        self.folder.path().join(format!("{}-{}", info.cache, info.store_path_hash))
    }

    /// A new file for an archive, unless archives are only hashed.
    pub fn archive_to_write(&self, info: &UploadInfo) -> Option<File> {
        (!self.forgets_archives.load(Ordering::Relaxed)).then(|| File::create(self.archive(info)).unwrap())
    }

    /// Notes that so much of an archive has arrived.
    pub fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Fake {
    pub fn start() -> Self {
        let shared = Shared {
            state: Mutex::default(),
            folder: tempfile::tempdir().unwrap(),
            forgets_archives: AtomicBool::new(false),
            received: AtomicU64::new(0),
        };
        let mut fake = Self { shared: Arc::new(shared), port: Port::hold(), runtime: None };
        fake.go_on();
        fake
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }

    /// Only hashes archives from now on: nothing can be read back.
    pub fn forget_archives(&self) {
        self.shared.forgets_archives.store(true, Ordering::Relaxed);
    }

    /// Bytes of archives that have arrived.
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }

    /// Goes away with all its connections, whatever is under way, and refuses new ones.
    pub fn stop(&mut self) {
        self.runtime = None;
        self.state().connections = 0;
    }

    /// Comes back with all that it had.
    pub fn go_on(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(async { self.port.listen() });
        runtime.spawn(accept(Arc::clone(&self.shared), listener));
        self.runtime = Some(runtime);
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop();
        if !std::thread::panicking() {
            let violations = &self.shared.state().violations;
            assert!(violations.is_empty(), "Attic was used in ways that the facts don't allow: {violations:#?}");
        }
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let shared = Arc::clone(&shared);
        {
            let mut state = shared.state();
            state.connections += 1;
            state.most_connections = state.most_connections.max(state.connections);
            if state.connections > CONNECTIONS {
                let open = state.connections;
                state.violation(format!("{open} connections were open at once"));
            }
        }
        tokio::spawn(async move {
            let answering = Arc::clone(&shared);
            let service = service_fn(move |request| api::answer(Arc::clone(&answering), request));
            // A client that goes away is none of the server's faults.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            shared.state().connections -= 1;
        });
    }
}
