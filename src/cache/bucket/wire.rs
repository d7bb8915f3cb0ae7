//! How requests to an object store leave this host: by the one client of this project, with its certificates, proxies and
//! time-outs. The library signs them and understands the answers; what goes wrong is understood here, where status,
//! headers and body are still to be seen.
//!
//! Nothing is waited for without end: neither for the head of an answer nor for the next of its body; but who sends
//! more of it from time to time is at work. What a server says of a failure is passed on without what the request has
//! shown it.

use std::sync::Arc;

use async_trait::async_trait;
use http_body::Body;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError as LibraryError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    HttpService,
};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::time::timeout;

use super::arriving::Arriving;
use super::clock::StoreClock;
use super::code::Code;
use super::error::{BucketError, Carried};
use super::near::{HANDING_OUT, HANDING_OUT_FROM_AFAR, WEB_IDENTITY, is_in_the_open};
use super::watched::Watched;
use crate::cache::http::{
    ANSWERING, ANSWERING_BRIEFLY, Action, Credentials, HttpError, Movement, head_size, origin, pause, plain,
    read_whole, touch,
};
use crate::cache::layout;
use crate::limit::Tap;
use crate::secret::blackened;

/// The region that a bucket is in, by Amazon's servers.
const REGION: &str = "x-amz-bucket-region";

/// The error's name, by Azure's.
const AZURE_CODE: &str = "x-ms-error-code";

/// A temporary key's token, for Amazon's servers.
const TOKEN: &str = "x-amz-security-token";

/// What servers are shown in an address, of which the rest is for everybody: Azure's a signature, and Amazon's, that hand out
/// keys, the token of a web identity.
const SHOWN_IN_ADDRESSES: [&str; 2] = ["sig", WEB_IDENTITY];

/// No page of a listing is longer (bytes), nor are credentials: Azure's pages have 5,000 names.
const LONGEST_PAGE: u64 = 16 * 1024 * 1024;

/// The way to a bucket's servers.
#[derive(Clone)]
pub(super) struct Wire {
    pub(super) client: reqwest::Client,
    /// For what hands out credentials on this machine or beside it, which no proxy leads to.
    pub(super) near: reqwest::Client,
    /// `https://HOST[:PORT]`s that belong to the bucket; what goes elsewhere is for credentials.
    pub(super) endpoint: Url,
    /// Headers for what stands in front of the bucket's servers. They are no part of what is signed.
    pub(super) credentials: Arc<Credentials>,
    /// As messages call the bucket.
    pub(super) bucket: String,
    /// Where the keys come from, in words, as far as that is known.
    pub(super) keys: Option<Arc<str>>,
    /// What time it is there.
    pub(super) clock: Arc<StoreClock>,
    /// Whether credentials may cross a network for everybody to read.
    pub(super) allow_unencrypted: bool,
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
    /// Whether the server answers a small request, that shows it no key.
    pub(super) async fn touch(&self) -> bool {
        touch(&self.client, &self.endpoint).await
    }

    /// Sends a request, and says what went wrong.
    pub(super) async fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, BucketError> {
        let (parts, body) = request.into_parts();
        let not_understood = |problem: String| BucketError::NotUnderstood {
            action: Action::Configuration,
            bucket: self.bucket.clone(),
            problem,
        };
        let url = Url::parse(&parts.uri.to_string()).map_err(|error| not_understood(error.to_string()))?;
        let (action, host) = (action(&self.endpoint, &parts.method, &url), origin(&url));
        if is_in_the_open(action, &url) && !self.allow_unencrypted {
            return Err(BucketError::HandedOutInTheOpen { bucket: self.bucket.clone(), host });
        }
        let most = if action == Action::Credentials || lists(&url) { LONGEST_PAGE } else { u64::MAX };
        let mut shown = shown(&parts.headers, &url);
        let is_near = url.scheme() == "http";
        let client = if action == Action::Credentials && is_near { &self.near } else { &self.client };
        let movement = Movement::default();
        let has_body = !body.is_end_stream();
        let mut request = reqwest::Request::new(parts.method.clone(), url);
        *request.headers_mut() = parts.headers;
        if action != Action::Credentials {
            let ahead = self.credentials.shown().await.map_err(BucketError::Secret)?;
            ahead.dress_head(request.headers_mut());
            shown.extend(ahead.hidden().map(str::to_owned));
        }
        let tap = Tap::of_this_task();
        tap.take(head_size(&request)).await;
        if has_body {
            *request.body_mut() = Some(reqwest::Body::wrap(Watched::new(body, tap, movement.clone())));
        } else {
            movement.is_whole();
        }
        let failed = |source| BucketError::from(HttpError::of_transport(action, host.clone(), source));
        let stalled = |after| BucketError::Http(HttpError::Stalled { action, host: host.clone(), after });
        let answered = async {
            let response = client.execute(request).await.map_err(failed)?;
            self.judge(Asked { action, method: &parts.method, shown: &shown, most }, response, &movement).await
        };
        if action == Action::Credentials {
            let limit = if is_near { HANDING_OUT } else { HANDING_OUT_FROM_AFAR };
            return timeout(limit, answered).await.unwrap_or_else(|_| Err(stalled(limit)));
        }
        let limit = if has_body || parts.method == Method::POST { ANSWERING } else { ANSWERING_BRIEFLY };
        tokio::select! {
            answered = answered => answered,
            after = movement.stalled(limit) => Err(stalled(after)),
        }
    }

    /// Hands on what the library understands, and tells everything else apart.
    async fn judge(
        &self,
        asked: Asked<'_>,
        response: Response,
        movement: &Movement,
    ) -> Result<HttpResponse, BucketError> {
        let Asked { action, method, shown, most } = asked;
        let (status, host) = (response.status(), origin(response.url()));
        if action != Action::Credentials {
            self.clock.note(response.headers());
        }
        if (status.is_success() && *method != Method::POST) || is_for_the_library(method, status) {
            let response: http::Response<reqwest::Body> = response.into();
            let bucket = self.bucket.clone();
            return Ok(response.map(|body| HttpResponseBody::new(Arriving::new(body, action, host, bucket, most))));
        }
        let headers = response.headers().clone();
        let mut bare = http::Response::new(());
        (*bare.status_mut(), *bare.headers_mut()) = (status, headers.clone());
        let answer = read_whole(response, movement).await;
        let answer = answer.map_err(|source| HttpError::of_transport(action, host, source))?;
        let (code, says) = understand(&headers, &String::from_utf8_lossy(&answer), shown);
        let code = Code::parse(&code).told_apart(&says);
        // A success may yet turn out to be none when the parts are put together. Of several answers in one, each is for the
        // library to understand.
        let says_otherwise = || String::from_utf8_lossy(&answer).contains("<Error>");
        let went_well = status.is_success() && (are_several(&headers) || !says_otherwise());
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
            keys: self.keys.clone().filter(|_| code.is_about_keys()),
            code,
            says,
            retry_after: retry_after.and_then(|text| pause(text, std::time::SystemTime::now())),
        })
    }
}

/// What a request to `url` is for, if that is the bucket's server.
fn action(endpoint: &Url, method: &Method, url: &Url) -> Action {
    let host = endpoint.host_str().unwrap_or_default();
    // The bucket may stand in front of the host's name.
    let is_there = |theirs: &str| theirs == host || theirs.strip_suffix(host).is_some_and(|rest| rest.ends_with('.'));
    let is_same_port = url.port_or_known_default() == endpoint.port_or_known_default();
    if !is_same_port || !url.host_str().is_some_and(is_there) {
        return Action::Credentials;
    }
    match *method {
        Method::HEAD => Action::Missing,
        Method::GET if lists(url) => Action::Missing,
        Method::GET if url.path().ends_with(layout::CACHE_INFO) => Action::Configuration,
        Method::GET => Action::Fetch,
        Method::DELETE => Action::Delete,
        _ => Action::Upload,
    }
}

/// What an answer is an answer to.
struct Asked<'r> {
    action: Action,
    method: &'r Method,
    /// What the server was shown.
    shown: &'r [String],
    /// Bytes that the answer may have.
    most: u64,
}

/// Whether an answer holds those to several requests, as Azure's to a batch.
fn are_several(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"multipart/"))
}

/// Whether a request asks for a page of names.
fn lists(url: &Url) -> bool {
    url.query_pairs()
        .any(|(name, value)| name == "list-type" || name == "uploads" || (name == "comp" && value == "list"))
}

/// What a request shows to the server alone.
fn shown(headers: &HeaderMap, url: &Url) -> Vec<String> {
    let header = |name: &str| headers.get(name)?.to_str().ok();
    // The scheme is no secret, and a server may repeat what stands behind it.
    let authorization =
        header(AUTHORIZATION.as_str()).map(|value| value.split_once(' ').map_or(value, |(_, rest)| rest));
    let in_headers = authorization.into_iter().chain(header(TOKEN)).map(str::to_owned);
    let is_shown = |name: &str| SHOWN_IN_ADDRESSES.contains(&name);
    let understood = url.query_pairs().filter(|(name, _)| is_shown(name)).map(|(_, value)| value.into_owned());
    let as_written = url.query().into_iter().flat_map(|query| query.split('&'));
    let as_written = as_written.filter_map(|pair| pair.split_once('=')).filter(|(name, _)| is_shown(name));
    let as_written = as_written.map(|(_, value)| value.to_owned());
    in_headers.chain(understood).chain(as_written).filter(|shown| !shown.is_empty()).collect()
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

/// The error's name and its message, as XML has them, or Azure's header; without what the server was shown.
fn understand(headers: &HeaderMap, answer: &str, shown: &[String]) -> (String, String) {
    let text = blackened(answer, shown);
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        Some(plain(&unescaped(rest.split_once("</")?.0)))
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

/// A text of XML as it was before it was written there.
pub(super) fn unescaped(text: &str) -> String {
    let quotes = text.replace("&quot;", "\"").replace("&apos;", "'").replace("&#39;", "'").replace("&#34;", "\"");
    quotes.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;
    use tokio::time::sleep;

    use super::super::arriving::tests::Handed;
    use super::*;
    use crate::cache::http::{Http, HttpOptions};

    /// Amazon's servers answer at once when parts are to be put together, and send white space until they are, which may take
    /// several minutes.
    #[tokio::test(start_paused = true)]
    async fn a_store_that_shows_that_it_is_at_work_is_not_given_up() {
        let (sender, handed) = mpsc::channel(8);
        let response = Response::from(http::Response::new(reqwest::Body::wrap(Handed(handed))));
        let movement = Movement::default();
        movement.is_whole();
        let answered = async {
            tokio::select! {
                answer = read_whole(response, &movement) => answer.expect("an answer"),
                after = movement.stalled(ANSWERING) => panic!("given up after {after:?}"),
            }
        };
        let at_work = async move {
            for piece in [" ", " ", " ", "<CompleteMultipartUploadResult/>"] {
                sleep(ANSWERING - Duration::from_secs(1)).await;
                sender.send(piece.into()).await.expect("read");
            }
        };
        let (answer, ()) = tokio::join!(answered, at_work);
        assert!(answer.ends_with(b"/>"));
    }

    #[test]
    fn messages_say_what_was_asked_for() {
        let endpoint = Url::parse("https://s3.example").expect("an address");
        for (method, url, expected) in [
            (Method::GET, "https://s3.example/b/nix-cache-info", Action::Configuration),
            (Method::GET, "https://s3.example/b?list-type=2&prefix=", Action::Missing),
            (Method::GET, "https://s3.example/b?uploads", Action::Missing),
            (Method::GET, "https://b.s3.example/nar/a.nar.zst", Action::Fetch),
            (Method::HEAD, "https://b.s3.example/nar/a.nar.zst", Action::Missing),
            (Method::DELETE, "https://b.s3.example/nar/a.nar.zst", Action::Delete),
            (Method::PUT, "https://b.s3.example/nar/a.nar.zst", Action::Upload),
            (Method::GET, "https://sts.example/", Action::Credentials),
        ] {
            let url = Url::parse(url).expect("an address");
            assert_eq!(action(&endpoint, &method, &url), expected, "{method} {url}");
        }
    }

    #[test]
    fn what_a_server_repeats_of_what_it_was_shown_is_blackened() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, "Bearer s3cret".parse().expect("a header"));
        headers.insert(TOKEN, "t0ken".parse().expect("a header"));
        let url = Url::parse("https://h/c/o?sv=1&sig=a%2Fb").expect("an address");
        let shown = shown(&headers, &url);
        // The end of what is shown of a message must not lie in the middle of a secret.
        let long = format!("<Message>{} s3cret t0ken a/b a%2Fb sv=1</Message>", "x".repeat(190));
        let (_, says) = understand(&HeaderMap::new(), &long, &shown);
        assert!(says.trim_end().ends_with("x [secret]"), "{says}");
        let (_, says) = understand(&HeaderMap::new(), "you sent s3cret t0ken a/b a%2Fb sv=1", &shown);
        assert_eq!(says, "you sent [secret] [secret] [secret] [secret] sv=1");
    }

    #[test]
    fn what_xml_has_written_otherwise_is_read_as_it_was() {
        let answer = "<Code>A</Code><Message>scope &apos;a/&lt;b&gt;&apos; &amp;amp;</Message>";
        let (_, says) = understand(&HeaderMap::new(), answer, &[]);
        assert_eq!(says, "scope 'a/<b>' &amp;");
    }

    /// Azure answers a batch as a whole with success; what isn't there any more is one of the answers in it.
    #[tokio::test]
    async fn of_several_answers_in_one_none_is_taken_for_all() {
        let http = Http::new(&HttpOptions { direct: true, ..HttpOptions::default() }).await.expect("a client");
        let wire = Wire {
            client: http.client().clone(),
            near: http.client().clone(),
            endpoint: Url::parse("https://h").expect("an address"),
            credentials: Arc::default(),
            bucket: "az://c".to_owned(),
            keys: None,
            clock: Arc::default(),
            allow_unencrypted: false,
        };
        for (kind, is_handed_on) in [("multipart/mixed; boundary=b", true), ("application/xml", false)] {
            let answer = http::Response::builder().status(202).header(CONTENT_TYPE, kind);
            let answer = answer.body("<Error><Code>BlobNotFound</Code></Error>").expect("an answer");
            let asked = Asked { action: Action::Upload, method: &Method::POST, shown: &[], most: u64::MAX };
            assert_eq!(
                wire.judge(asked, Response::from(answer), &Movement::default()).await.is_ok(),
                is_handed_on,
                "{kind}"
            );
        }
    }
}
