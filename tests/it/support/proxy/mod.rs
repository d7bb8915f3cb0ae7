//! A proxy that passes what it gets, until it is told to do something worse; with or without TLS in front.

mod fault;

use super::attic::Kind;
use super::attic::wire::NAR_INFO;
use super::http::Body;
use super::port::Port;
use bytes::Bytes;
use fault::{Disturbed, Then};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

pub use fault::{Canned, Fault, On};

/// A proxy in front of a server on this machine.
pub struct FlakyProxy {
    shared: Arc<Shared>,
    port: Port,
    scheme: &'static str,
    _runtime: Runtime,
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub at: Instant,
    pub kind: Kind,
    pub method: Method,
    /// Its path, and what stands behind that, decoded.
    pub target: String,
    pub headers: HeaderMap,
}

impl Seen {
    /// The value of a header; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

struct Shared {
    server: u16,
    secure: bool,
    /// None where all is well.
    fault: watch::Sender<Option<(On, Fault)>>,
    /// How often bodies were told to go on.
    sips: watch::Sender<u64>,
    faults: Mutex<u64>,
    seen: Mutex<Vec<Seen>>,
    /// TLS handshakes that failed.
    refused: Mutex<u64>,
}

impl FlakyProxy {
    /// In front of the server at this port.
    pub fn before(server: u16) -> Self {
        Self::start(server, None)
    }

    /// As [`FlakyProxy::before`], by TLS only.
    pub fn with_tls(server: u16, tls: TlsAcceptor) -> Self {
        Self::start(server, Some(tls))
    }

    fn start(server: u16, tls: Option<TlsAcceptor>) -> Self {
        let (port, scheme) = (Port::hold(), if tls.is_some() { "https" } else { "http" });
        let shared = Arc::new(Shared {
            server,
            secure: tls.is_some(),
            fault: watch::Sender::new(None),
            sips: watch::Sender::new(0),
            faults: Mutex::default(),
            seen: Mutex::default(),
            refused: Mutex::default(),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(async { port.listen() });
        runtime.spawn(accept(Arc::clone(&shared), listener, tls));
        Self { shared, port, scheme, _runtime: runtime }
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The URL, for a policy, of a cache of the server behind it.
    pub fn url(&self, cache: &str) -> String {
        format!("attic+{}://127.0.0.1:{}/{cache}", self.scheme, self.port())
    }

    /// From now on, this happens to such requests.
    pub fn fail(&self, on: On, fault: Fault) {
        self.shared.fault.send_replace(Some((on, fault)));
    }

    /// From now on, all goes well.
    pub fn pass(&self) {
        self.shared.fault.send_replace(None);
    }

    /// Lets each body that goes by [`Fault::Sips`] take as much again.
    pub fn sip(&self) {
        self.shared.sips.send_modify(|sips| *sips += 1);
    }

    /// How many requests something happened to; of those that go by sips, how often they waited for the next one.
    pub fn faults(&self) -> u64 {
        *self.shared.faults.lock().unwrap()
    }

    /// TLS handshakes that came to nothing.
    pub fn refused(&self) -> u64 {
        *self.shared.refused.lock().unwrap()
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }
}

impl Shared {
    fn fault(&self) {
        *self.faults.lock().unwrap() += 1;
    }

    /// Waits until all goes well again, or another fault is set.
    fn over(self: &Arc<Self>) -> impl Future<Output = ()> + Send + use<> {
        let mut fault = self.fault.subscribe();
        async move {
            let _ = fault.changed().await;
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

async fn accept(shared: Arc<Shared>, listener: TcpListener, tls: Option<TlsAcceptor>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (shared, tls) = (Arc::clone(&shared), tls.clone());
        tokio::spawn(async move {
            // A second handle of the same connection, by which it can be told how to end.
            let stream = stream.into_std().unwrap();
            let handle = Arc::new(TcpStream::from_std(stream.try_clone().unwrap()).unwrap());
            let stream = TcpStream::from_std(stream).unwrap();
            let stream: Box<dyn Stream> = match tls {
                None => Box::new(stream),
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => Box::new(stream),
                    Err(_) => {
                        *shared.refused.lock().unwrap() += 1;
                        return;
                    }
                },
            };
            let service = service_fn(|request| answer(Arc::clone(&shared), Arc::clone(&handle), request));
            // Errors are what this is for.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// Answers one request. An error ends the connection without an answer.
async fn answer(
    shared: Arc<Shared>,
    connection: Arc<TcpStream>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Box<dyn std::error::Error + Send + Sync>> {
    let kind = Kind::of(request.method(), request.uri().path());
    let method = request.method().clone();
    // Google's interface has the slashes of a name encoded.
    let target = percent_decode_str(&request.uri().to_string()).decode_utf8_lossy().into_owned();
    let seen = Seen { at: Instant::now(), kind, method, target, headers: request.headers().clone() };
    let bytes = uploaded_bytes(&seen);
    let fault = shared.fault.borrow().clone().filter(|(on, _)| on.concerns(&seen, bytes));
    shared.seen.lock().unwrap().push(seen);
    let over = shared.over();
    match fault.map(|(_, fault)| fault) {
        Some(Fault::WantLength) if request.headers().contains_key(TRANSFER_ENCODING) => {
            shared.fault();
            tokio::spawn(request.into_body().collect());
            Ok(Canned::length_required().response())
        }
        None | Some(Fault::WantLength) => {
            forward(&shared, request, |body| body.map_err(io::Error::other).boxed_unsync()).await
        }
        Some(Fault::Reset) => {
            shared.fault();
            connection.set_zero_linger()?;
            Err("reset".into())
        }
        Some(Fault::Answer(canned)) => {
            shared.fault();
            // What is still sent is read, as good proxies do: otherwise the client might never see the answer.
            tokio::spawn(request.into_body().collect());
            Ok(canned.response())
        }
        Some(Fault::StallAfter(bytes)) => {
            if bytes == 0 {
                shared.fault();
                over.await;
                return forward(&shared, request, |body| body.map_err(io::Error::other).boxed_unsync()).await;
            }
            forward(&shared, request, |body| {
                disturbed(&shared, body, bytes, Then::Wait { over: Box::pin(over), told: false })
            })
            .await
        }
        Some(Fault::Sips(size)) => {
            let (sips, mut had) = (shared.sips.subscribe(), *shared.sips.borrow());
            let next = Box::new(move || {
                had += 1;
                let (mut sips, wanted) = (sips.clone(), had);
                Box::pin(async move { drop(sips.wait_for(|sips| *sips >= wanted).await) }) as _
            });
            forward(&shared, request, |body| disturbed(&shared, body, size, Then::Sip { size, next, over: None })).await
        }
        Some(Fault::CutAfter(bytes)) => {
            forward(&shared, request, |body| disturbed(&shared, body, bytes, Then::Cut)).await
        }
        Some(Fault::EndAfter(bytes)) => {
            let mut request = request;
            // What is said of the length no longer holds.
            request.headers_mut().remove(CONTENT_LENGTH);
            forward(&shared, request, |body| disturbed(&shared, body, bytes, Then::End)).await
        }
    }
}

/// The size of the archive that an upload says it brings; 0 for other requests.
fn uploaded_bytes(seen: &Seen) -> u64 {
    let info: Option<serde_json::Value> = serde_json::from_str(seen.header(NAR_INFO)).ok();
    info.and_then(|info| info["nar_size"].as_u64()).unwrap_or(0)
}

fn disturbed(shared: &Arc<Shared>, body: Incoming, left: u64, then: Then) -> Body {
    let shared = Arc::clone(shared);
    let on_fault = Box::new(move || shared.fault());
    Disturbed { body, left, then: Some(then), on_fault, rest: Bytes::new() }.boxed_unsync()
}

/// Passes a request on, over a connection of its own, with its body changed.
async fn forward(
    shared: &Shared,
    request: Request<Incoming>,
    change: impl FnOnce(Incoming) -> Body,
) -> Result<Response<Body>, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(("127.0.0.1", shared.server)).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = request.map(change);
    if shared.secure {
        request.headers_mut().insert("x-forwarded-proto", "https".parse()?);
    }
    let response = sender.send_request(request).await?;
    Ok(response.map(|body| body.map_err(io::Error::other).boxed_unsync()))
}
