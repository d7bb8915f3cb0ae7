//! What can go wrong between a client and its server.

use super::super::attic::Kind;
use super::super::http::{self, Body};
use super::Seen;
use bytes::Bytes;
use hyper::body::{Frame, Incoming};
use hyper::{Method, Response, StatusCode};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

/// Which requests are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    Every,
    Only(Kind),
    /// Uploads of archives that are larger, in bytes.
    UploadsOver(u64),
    /// What puts something where the path, or what stands behind it, has this part.
    Puts(&'static str),
}

impl On {
    /// Whether it concerns a request, which brings an archive of so many bytes.
    pub fn concerns(self, seen: &Seen, bytes: u64) -> bool {
        match self {
            Self::Every => true,
            Self::Only(only) => only == seen.kind,
            Self::UploadsOver(limit) => bytes > limit,
            Self::Puts(part) => seen.method == Method::PUT && seen.target.contains(part),
        }
    }
}

/// What happens to a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// After so many bytes of its body, both connections are gone.
    CutAfter(u64),
    /// After so many bytes, the server is told that this was all.
    EndAfter(u64),
    /// After so many bytes nothing goes on, until the fault ends.
    StallAfter(u64),
    /// Of each body so many bytes are taken, and as many again each time that the proxy is told to.
    Sips(u64),
    /// The connection is reset at once.
    Reset,
    /// The server never sees it, and this is the answer.
    Answer(Canned),
    /// What brings something without saying how long it is gets 411; all else passes.
    WantLength,
}

/// An answer that the proxy gives by itself.
#[derive(Clone, Debug)]
pub struct Canned {
    status: StatusCode,
    content_type: &'static str,
    header: Option<(&'static str, String)>,
    body: String,
}

impl Canned {
    fn html(status: StatusCode) -> Self {
        let body = format!("<html><head><title>{status}</title></head><body><h1>{status}</h1></body></html>\r\n");
        Self { status, content_type: "text/html", header: None, body }
    }

    /// 429: come again in so many seconds.
    pub fn too_many_requests(seconds: u64) -> Self {
        let header = Some(("retry-after", seconds.to_string()));
        Self { header, ..Self::html(StatusCode::TOO_MANY_REQUESTS) }
    }

    /// 503, as object stores say it: come again in so many seconds.
    pub fn slow_down_of_a_store(seconds: u64) -> Self {
        let body =
            "<?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>Please reduce your rate.</Message></Error>";
        Self { content_type: "application/xml", body: body.to_owned(), ..Self::slow_down(seconds) }
    }

    /// 411, as a web server says it.
    pub fn length_required() -> Self {
        Self::html(StatusCode::LENGTH_REQUIRED)
    }

    /// 503: come again in so many seconds.
    pub fn slow_down(seconds: u64) -> Self {
        let header = Some(("retry-after", seconds.to_string()));
        Self { header, ..Self::html(StatusCode::SERVICE_UNAVAILABLE) }
    }

    /// 500, as Attic itself says it.
    pub fn internal_error() -> Self {
        Self::error_saying("The server encountered an internal error or misconfiguration.")
    }

    /// 502, as a proxy says it.
    pub fn bad_gateway() -> Self {
        Self::html(StatusCode::BAD_GATEWAY)
    }

    /// 413, as a proxy says it.
    pub fn too_large() -> Self {
        Self::html(StatusCode::PAYLOAD_TOO_LARGE)
    }

    /// 401, as a proxy says it.
    pub fn unauthorized() -> Self {
        Self::html(StatusCode::UNAUTHORIZED)
    }

    /// A page where JSON should be.
    pub fn page() -> Self {
        Self::html(StatusCode::OK)
    }

    /// JSON of one's own.
    pub fn json(body: &str) -> Self {
        Self { content_type: "application/json", body: body.to_owned(), ..Self::html(StatusCode::OK) }
    }

    /// 500, with a message of one's own in Attic's form.
    pub fn error_saying(message: &str) -> Self {
        let body = serde_json::json!({ "code": 500, "error": "InternalServerError", "message": message });
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, ..Self::json(&body.to_string()) }
    }

    /// A page of that time.
    pub fn dated(time: SystemTime) -> Self {
        let header = Some(("date", httpdate::fmt_http_date(time)));
        Self { header, ..Self::html(StatusCode::OK) }
    }

    /// 307: ask there instead.
    pub fn redirect(to: &str) -> Self {
        let header = Some(("location", to.to_owned()));
        Self { header, ..Self::html(StatusCode::TEMPORARY_REDIRECT) }
    }

    pub fn response(&self) -> Response<Body> {
        let mut response = http::answer(self.status, self.content_type, self.body.clone());
        if let Some((name, value)) = &self.header {
            response.headers_mut().insert(*name, value.parse().unwrap());
        }
        response
    }
}

/// Comes true when a body goes on.
type Over = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What happens at the end of a body's first bytes.
pub enum Then {
    Cut,
    End,
    /// Waits for that, and goes on.
    Wait {
        over: Over,
        told: bool,
    },
    /// Waits for what `next` makes, and takes so many bytes more, again and again.
    Sip {
        size: u64,
        next: Box<dyn FnMut() -> Over + Send>,
        over: Option<Over>,
    },
}

/// A body that passes so many bytes, and has an accident then.
pub struct Disturbed {
    pub body: Incoming,
    /// Bytes before the accident.
    pub left: u64,
    /// None once it is over.
    pub then: Option<Then>,
    /// Told of the accident.
    pub on_fault: Box<dyn Fn() + Send>,
    /// What of a chunk goes on after it.
    pub rest: Bytes,
}

impl hyper::body::Body for Disturbed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = &mut *self;
        if this.left == 0 {
            match &mut this.then {
                None => {}
                Some(Then::Cut) => {
                    (this.on_fault)();
                    this.then = None;
                    return Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())));
                }
                Some(Then::End) => {
                    (this.on_fault)();
                    this.rest.clear();
                    return Poll::Ready(None);
                }
                Some(Then::Wait { over, told }) => {
                    if !std::mem::replace(told, true) {
                        (this.on_fault)();
                    }
                    ready!(over.as_mut().poll(context));
                    this.then = None;
                }
                Some(Then::Sip { size, next, over }) => {
                    if over.is_none() {
                        (this.on_fault)();
                    }
                    ready!(over.get_or_insert_with(next).as_mut().poll(context));
                    *over = None;
                    this.left = *size;
                }
            }
        }
        let mut data = std::mem::take(&mut this.rest);
        if data.is_empty() {
            let Some(frame) = ready!(Pin::new(&mut this.body).poll_frame(context)) else { return Poll::Ready(None) };
            data = frame.map_err(io::Error::other)?.into_data().unwrap_or_default();
        }
        if this.then.is_some() {
            let passed = data.len().min(usize::try_from(this.left).unwrap_or(usize::MAX));
            this.rest = data.split_off(passed);
            this.left -= passed as u64;
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }
}
