//! The fake's process of being there.

use super::super::port::Port;
use super::api;
use super::state::{Op, State, Trouble};
use super::{BUCKET, Key, hex};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// A server that stands in for S3, strict about what may be put when. Dropped, it panics where something was wrong.
#[derive(Debug)]
pub struct FakeS3 {
    shared: Arc<Shared>,
    port: Port,
    key: Key,
    _runtime: Runtime,
}

#[derive(Debug)]
pub struct Shared {
    state: Mutex<State>,
    pub trouble: watch::Sender<Option<At>>,
}

/// Where a trouble happens.
#[derive(Clone, Debug)]
pub struct At {
    ops: Vec<Op>,
    /// A part of the object's name.
    part: &'static str,
    pub trouble: Trouble,
    /// The requests that it has happened to, where it happens to each only once.
    hit: Option<Arc<Mutex<BTreeSet<String>>>>,
}

impl At {
    pub fn hits(&self, op: Op, name: &str, request: String) -> bool {
        let is_new = || self.hit.as_ref().is_none_or(|hit| hit.lock().unwrap().insert(request));
        self.ops.contains(&op) && name.contains(self.part) && is_new()
    }
}

impl Shared {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl FakeS3 {
    pub fn start() -> Self {
        let key = Key { id: format!("AK{}", hex(8)), secret: hex(16) };
        let state = State { keys: vec![key.clone()], ..State::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state), trouble: watch::Sender::new(None) });
        let port = Port::hold();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(async { port.listen() });
        runtime.spawn(accept(Arc::clone(&shared), listener));
        Self { shared, port, key, _runtime: runtime }
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    pub fn key(&self) -> &Key {
        &self.key
    }

    /// A key that may only read.
    pub fn reader_key(&self) -> Key {
        let key = Key { id: format!("RO{}", hex(8)), secret: hex(16) };
        self.state().readers.push(key.clone());
        key
    }

    /// Lets a key write, too.
    pub fn allow_to_write(&self, key: &Key) {
        let mut state = self.state();
        state.readers.retain(|reader| reader.id != key.id);
        state.keys.push(key.clone());
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }

    /// From now on, this happens to such requests.
    pub fn fail(&self, ops: &[Op], trouble: Trouble) {
        self.fail_at(ops, "", trouble);
    }

    /// The same, to those of objects whose names have this part.
    pub fn fail_at(&self, ops: &[Op], part: &'static str, trouble: Trouble) {
        self.shared.trouble.send_replace(Some(At { ops: ops.to_vec(), part, trouble, hit: None }));
    }

    /// The same, to each request when it is made for the first time.
    pub fn fail_once(&self, ops: &[Op], part: &'static str, trouble: Trouble) {
        let hit = Some(Arc::default());
        self.shared.trouble.send_replace(Some(At { ops: ops.to_vec(), part, trouble, hit }));
    }

    /// From now on, all goes well.
    pub fn pass(&self) {
        self.shared.trouble.send_replace(None);
    }

    /// How many requests something happened to.
    pub fn troubled(&self) -> u64 {
        self.state().troubled
    }

    /// What Nix reads the bucket by, without a signature.
    pub fn website(&self) -> String {
        format!("http://127.0.0.1:{}/web", self.port())
    }

    /// Panics where an archive isn't that of exactly one narinfo, or parts are left that nobody put together.
    #[track_caller]
    pub fn assert_sound(&self) {
        assert_eq!(self.assert_readable(), BTreeSet::new(), "archives that nobody names");
    }

    /// Panics where a narinfo has no archive of its own, or parts are left that nobody put together. Returns the archives
    /// that no narinfo names.
    #[track_caller]
    pub fn assert_readable(&self) -> BTreeSet<String> {
        let state = self.state();
        let mut named = BTreeMap::<String, u32>::new();
        state.narinfos().into_iter().for_each(|narinfo| *named.entry(narinfo.url).or_default() += 1);
        assert!(named.values().all(|count| *count == 1), "narinfos share an archive: {named:?}");
        let mut archives: BTreeSet<String> =
            state.objects.keys().filter(|name| name.starts_with("nar/")).cloned().collect();
        named.keys().for_each(|name| assert!(archives.remove(name), "{name} is named and isn't there"));
        assert!(state.multiparts.is_empty(), "parts are left of {:?}", state.multiparts.values().map(|(name, _)| name));
        archives
    }
}

impl Drop for FakeS3 {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let violations = &self.shared.state().violations;
            assert!(violations.is_empty(), "{BUCKET} was used in ways that it must not be: {violations:#?}");
        }
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(move |request| api::answer(Arc::clone(&shared), request));
            // A client that goes away is none of the server's faults.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
