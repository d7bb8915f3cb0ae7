//! A web server that takes what is put there, and notes when each of its bytes came.

use super::http::{Body, answer};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// Content that is longer is not kept (bytes): of an archive only its size is.
const KEPT: usize = 64 * 1024;

/// The server. What it is given is taken as fast as it comes.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    shared: Arc<Mutex<Received>>,
    _runtime: Runtime,
}

#[derive(Debug, Default)]
struct Received {
    files: HashMap<String, Bytes>,
    bytes: Vec<(Instant, usize)>,
    /// When each file was there.
    arrived: Vec<(Instant, String)>,
    touched: usize,
}

impl Receiver {
    /// On the loopback.
    pub fn start() -> Self {
        Self::at(Ipv4Addr::LOCALHOST.into())
    }

    /// At an address of this host.
    pub fn at(address: IpAddr) -> Self {
        let shared = Arc::<Mutex<Received>>::default();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind((address, 0))).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared, _runtime: runtime }
    }

    /// What a policy calls it.
    pub fn url(&self) -> String {
        format!("http://{}/cache", self.address)
    }

    /// When how many bytes of contents came.
    pub fn received(&self) -> Vec<(Instant, usize)> {
        self.shared.lock().unwrap().bytes.clone()
    }

    /// Bytes of contents that came.
    pub fn total(&self) -> usize {
        self.received().iter().map(|(_, bytes)| bytes).sum()
    }

    /// When the narinfo of that path was there.
    pub fn shows(&self, path: &str) -> Option<Instant> {
        let name = format!("/cache/{}.narinfo", &super::nix::base_name(path)[..32]);
        let shared = self.shared.lock().unwrap();
        shared.arrived.iter().find(|(_, file)| *file == name).map(|(when, _)| *when)
    }

    /// How often its front page was asked for.
    pub fn touched(&self) -> usize {
        self.shared.lock().unwrap().touched
    }
}

async fn accept(listener: TcpListener, shared: Arc<Mutex<Received>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(move |request| serve(Arc::clone(&shared), request));
            // A client that goes away is none of the server's faults.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn serve(shared: Arc<Mutex<Received>>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let name = request.uri().path().to_owned();
    match *request.method() {
        Method::GET | Method::HEAD => {
            let mut shared = shared.lock().unwrap();
            shared.touched += usize::from(name == "/");
            let file = shared.files.get(&name).cloned();
            drop(shared);
            Ok(match file {
                Some(content) => answer(StatusCode::OK, "text/plain", content),
                None => answer(StatusCode::NOT_FOUND, "text/plain", ""),
            })
        }
        Method::PUT => {
            let (mut body, mut content) = (request.into_body(), Vec::new());
            while let Some(frame) = body.frame().await {
                // An upload that is cut leaves nothing.
                let Ok(frame) = frame else { return Ok(answer(StatusCode::BAD_REQUEST, "text/plain", "cut")) };
                let Ok(data) = frame.into_data() else { continue };
                shared.lock().unwrap().bytes.push((Instant::now(), data.len()));
                if content.len() + data.len() <= KEPT {
                    content.extend_from_slice(&data);
                }
            }
            let mut shared = shared.lock().unwrap();
            shared.arrived.push((Instant::now(), name.clone()));
            shared.files.insert(name, content.into());
            Ok(answer(StatusCode::CREATED, "text/plain", ""))
        }
        _ => Ok(answer(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "")),
    }
}
