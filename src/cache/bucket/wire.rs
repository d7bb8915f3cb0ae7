//! How requests to an object store leave this host: by the one client of this project, with its certificates, proxies and
//! time-outs. The library signs them and understands the answers; what goes wrong is understood here, where status,
//! headers and body are still to be seen.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError as LibraryError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
    HttpResponseBody, HttpService,
};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::time::{Instant, sleep_until, timeout};

use super::code::Code;
use super::error::{BucketError, Carried};
use crate::cache::http::{Action, HttpError, origin, pause, plain, read_whole};

/// A server that takes nothing for so long is given up, as in `cache/http`.
const TAKING: Duration = Duration::from_secs(30);

/// A server that has everything answers within this time: one that puts parts together may take a while.
const ANSWERING: Duration = Duration::from_secs(180);

/// Requests without a body are answered within this time, or never.
const ANSWERING_BRIEFLY: Duration = Duration::from_secs(30);

/// What hands out the credentials of a machine in a cloud is so near that it answers within this time, or isn't there.
const HANDING_OUT: Duration = Duration::from_secs(5);

/// The region that a bucket is in, by Amazon's servers.
const REGION: &str = "x-amz-bucket-region";

/// The error's name, by Azure's.
const AZURE_CODE: &str = "x-ms-error-code";

/// The way to a bucket's servers.
#[derive(Clone)]
pub(super) struct Wire {
    pub(super) client: reqwest::Client,
    /// For what hands out credentials on this machine or beside it, which no proxy leads to.
    pub(super) near: reqwest::Client,
    /// `https://HOST[:PORT]`s that belong to the bucket; what goes elsewhere is for credentials.
    pub(super) endpoint: Url,
    /// As messages call the bucket.
    pub(super) bucket: String,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Wire({})", self.bucket)
    }
}

impl HttpConnector for Wire {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Wire {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, LibraryError> {
        self.exchange(request).await.map_err(|error| {
            // Nothing is tried again by the library, so it doesn't matter what kind it takes it for.
            LibraryError::new(HttpErrorKind::Unknown, Carried(Arc::new(error)))
        })
    }
}

impl Wire {
    /// Sends a request, and says what went wrong.
    pub(super) async fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, BucketError> {
        let (parts, body) = request.into_parts();
        let not_understood = |problem: String| BucketError::NotUnderstood {
            action: Action::Configuration,
            bucket: self.bucket.clone(),
            problem,
        };
        let url = Url::parse(&parts.uri.to_string()).map_err(|error| not_understood(error.to_string()))?;
        let (action, host) = (self.action(&parts.method, &url), origin(&url));
        let client = if action == Action::Credentials && url.scheme() == "http" { &self.near } else { &self.client };
        let sent = Sent::default();
        let has_body = !body.is_end_stream();
        let mut request = reqwest::Request::new(parts.method.clone(), url);
        *request.headers_mut() = parts.headers;
        if has_body {
            *request.body_mut() = Some(reqwest::Body::wrap(Watched { body, sent: sent.clone() }));
        }
        let failed = |source| BucketError::Http(HttpError::of_transport(action, host.clone(), source));
        let stalled = |after| BucketError::Http(HttpError::Stalled { action, host: host.clone(), after });
        let answered = async {
            let response = client.execute(request).await.map_err(failed)?;
            self.judge(action, &parts.method, response).await
        };
        if action == Action::Credentials {
            return timeout(HANDING_OUT, answered).await.unwrap_or_else(|_| Err(stalled(HANDING_OUT)));
        }
        let limit = if has_body || parts.method == Method::POST { ANSWERING } else { ANSWERING_BRIEFLY };
        tokio::select! {
            answered = answered => answered,
            after = sent.stalled(has_body, limit) => Err(stalled(after)),
        }
    }

    /// What a request is for.
    fn action(&self, method: &Method, url: &Url) -> Action {
        let host = self.endpoint.host_str().unwrap_or_default();
        // The bucket may stand in front of the host's name.
        let is_there =
            |theirs: &str| theirs == host || theirs.strip_suffix(host).is_some_and(|rest| rest.ends_with('.'));
        if !url.host_str().is_some_and(is_there) {
            return Action::Credentials;
        }
        match *method {
            Method::HEAD => Action::Missing,
            Method::GET => Action::Configuration,
            _ => Action::Upload,
        }
    }

    /// Hands on what the library understands, and tells everything else apart.
    async fn judge(&self, action: Action, method: &Method, response: Response) -> Result<HttpResponse, BucketError> {
        let status = response.status();
        if status.is_success() && *method != Method::POST {
            return Ok(stream(response));
        }
        let headers = response.headers().clone();
        if is_for_the_library(method, status) {
            return Ok(stream(response));
        }
        let host = origin(response.url());
        let mut bare = http::Response::new(());
        (*bare.status_mut(), *bare.headers_mut()) = (status, headers.clone());
        let answer = read_whole(response).await;
        let answer = answer.map_err(|source| HttpError::of_transport(action, host, source))?;
        let (code, says) = understand(&headers, &answer);
        let code = Code::parse(&code);
        // A success may yet turn out to be none when the parts are put together.
        let went_well = status.is_success() && !String::from_utf8_lossy(&answer).contains("<Error>");
        // No object of that name is for the library to say; no bucket isn't.
        let no_object = status == StatusCode::NOT_FOUND && !matches!(code, Code::NoSuchBucket(_) | Code::Damaged(_));
        // That an object is there already, as Azure says it.
        let exists =
            status == StatusCode::CONFLICT && matches!(&code, Code::Other(name) if name.ends_with("AlreadyExists"));
        if went_well || no_object || exists {
            return Ok(bare.map(|()| HttpResponseBody::from(answer)));
        }
        let region = headers.get(REGION).and_then(|region| region.to_str().ok()).map(plain);
        if let Some(region) = region.filter(|_| status.is_redirection() || matches!(code, Code::OtherRegion(_))) {
            return Err(BucketError::OtherRegion { bucket: self.bucket.clone(), region });
        }
        let retry_after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        Err(BucketError::Refused {
            action,
            bucket: self.bucket.clone(),
            status: status.as_u16(),
            code,
            says,
            retry_after: retry_after.and_then(|text| pause(text, std::time::SystemTime::now())),
        })
    }
}

/// What the library makes more of than we could.
fn is_for_the_library(method: &Method, status: StatusCode) -> bool {
    match status {
        StatusCode::NOT_MODIFIED | StatusCode::PRECONDITION_FAILED => true,
        // An answer to HEAD has no body to understand.
        StatusCode::NOT_FOUND | StatusCode::FORBIDDEN => *method == Method::HEAD,
        _ => false,
    }
}

/// The error's name and its message, as XML has them, or Azure's header.
fn understand(headers: &HeaderMap, answer: &[u8]) -> (String, String) {
    let text = String::from_utf8_lossy(answer);
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        Some(plain(rest.split_once("</")?.0))
    };
    let header = headers.get(AZURE_CODE).and_then(|code| code.to_str().ok()).map(plain);
    let code = header.or_else(|| element("Code")).unwrap_or_default();
    let says = match element("Message") {
        Some(message) => message,
        // Of a page that a proxy made, only its title is worth telling.
        None => element("title").unwrap_or_else(|| if text.contains('<') { String::new() } else { plain(&text) }),
    };
    (code, says)
}

/// An answer whose body comes as it is read.
fn stream(response: Response) -> HttpResponse {
    let response: http::Response<reqwest::Body> = response.into();
    response.map(|body| {
        HttpResponseBody::new(body.map_err(|source| {
            let source = io::Error::other(source.without_url().to_string());
            LibraryError::new(HttpErrorKind::Decode, source)
        }))
    })
}

/// How far a body has been taken.
#[derive(Clone, Default)]
struct Sent(Arc<Mutex<Taken>>);

#[derive(Default)]
struct Taken {
    last: Option<Instant>,
    whole: bool,
}

impl Sent {
    fn took(&self, whole: bool) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Taken { last: Some(Instant::now()), whole };
    }

    /// Comes true when nothing has moved for too long; says for how long.
    async fn stalled(&self, has_body: bool, answering: Duration) -> Duration {
        let began = Instant::now();
        loop {
            let (since, limit) = {
                let taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                (taken.last.unwrap_or(began), if taken.whole || !has_body { answering } else { TAKING })
            };
            if since + limit <= Instant::now() {
                return limit;
            }
            sleep_until(since + limit).await;
        }
    }
}

/// A body that notes when some of it was taken.
struct Watched {
    body: HttpRequestBody,
    sent: Sent,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = LibraryError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, LibraryError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        self.sent.took(self.body.is_end_stream());
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
