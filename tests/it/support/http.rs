//! HTTP as the tests' servers and the tests themselves speak it: one request and its answer.

use bytes::Bytes;
use http::request::Parts;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Frame;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

/// A body that is sent, whole or streamed.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A body that is all there.
pub fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body of which no more comes than that, whatever its head says.
pub fn cut(bytes: Bytes) -> Body {
    Cut(Some(bytes)).boxed_unsync()
}

struct Cut(Option<Bytes>);

impl hyper::body::Body for Cut {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready(Some(match self.0.take() {
            Some(bytes) => Ok(Frame::data(bytes)),
            None => Err(io::ErrorKind::ConnectionReset.into()),
        }))
    }
}

/// An answer with a body of a type.
pub fn answer(status: StatusCode, content_type: &str, body: impl Into<Bytes>) -> Response<Body> {
    Response::builder().status(status).header("content-type", content_type).body(whole(body)).unwrap()
}

/// An answer in JSON.
pub fn json(status: StatusCode, value: &serde_json::Value) -> Response<Body> {
    answer(status, "application/json", value.to_string())
}

/// What a request says behind the `?`, by its names.
pub fn query(request: &Parts) -> BTreeMap<String, String> {
    url::form_urlencoded::parse(request.uri.query().unwrap_or_default().as_bytes()).into_owned().collect()
}

/// What a test asks a server by itself.
#[derive(Clone, Debug)]
pub struct Question {
    pub port: u16,
    pub method: Method,
    /// With the slash that it begins with.
    pub path: String,
    /// By what name the server is called, where that isn't its address.
    pub host: Option<String>,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// What the server said to that.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Bytes,
}

impl Question {
    pub fn new(port: u16, method: Method, path: &str) -> Self {
        Self { port, method, path: path.to_owned(), host: None, headers: Vec::new(), body: Vec::new() }
    }

    /// Calls the server by that name.
    pub fn host(self, name: String) -> Self {
        Self { host: Some(name), ..self }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("bearer {token}"))
    }

    pub fn json(mut self, value: &serde_json::Value) -> Self {
        self.body = value.to_string().into_bytes();
        self.header("content-type", "application/json")
    }

    pub fn body(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.body = bytes.into();
        self
    }

    /// Asks, over a connection of its own; an error where no whole answer came.
    pub fn ask(self) -> Result<Answer, String> {
        static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
        RUNTIME.block_on(self.asked()).map_err(|error| error.to_string())
    }

    async fn asked(self) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driven = tokio::spawn(connection);
        let host = self.host.unwrap_or_else(|| format!("127.0.0.1:{}", self.port));
        let mut request = Request::builder().method(self.method).uri(self.path).header("host", host);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let answer = sender.send_request(request.body(whole(self.body))?).await?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await?.to_bytes();
        driven.abort();
        Ok(Answer { status, body })
    }
}

impl Answer {
    #[track_caller]
    pub fn ok(self) -> Bytes {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        self.body
    }

    /// The JSON of an answer that has to be a good one.
    #[track_caller]
    pub fn json(self) -> serde_json::Value {
        serde_json::from_slice(&self.ok()).unwrap()
    }
}
