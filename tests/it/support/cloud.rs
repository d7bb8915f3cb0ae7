//! What hands out credentials to the machines of a cloud, of all three kinds, on the loopback.

use super::http::{Body, answer, json};
use super::port::Port;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json as value;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// The token by which a machine or a container says what it is, where it has one.
pub const OF_THE_MACHINE: &str = "s3cret-of-the-machine";

/// The token that is handed out, beside Amazon's key or as it is.
pub const HANDED_OUT: &str = "s3cret-that-is-handed-out";

/// The role that a machine has.
pub const ROLE: &str = "arn:aws:iam::0:role/uploader";

/// Hands out one key of S3's, and one token.
pub struct Cloud {
    port: Port,
    given: Arc<Given>,
    asked: Arc<Mutex<Vec<String>>>,
    _runtime: Runtime,
}

/// What is handed out.
struct Given {
    key: super::s3::Key,
    /// Google's token.
    token: Mutex<String>,
}

impl Cloud {
    pub fn start(key: super::s3::Key) -> Self {
        let (port, asked) = (Port::hold(), Arc::<Mutex<Vec<String>>>::default());
        let given = Arc::new(Given { key, token: Mutex::new(HANDED_OUT.to_owned()) });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(async { port.listen() });
        runtime.spawn(accept(listener, Arc::clone(&given), Arc::clone(&asked)));
        Self { port, given, asked, _runtime: runtime }
    }

    /// From now on, machines at Google get another token.
    pub fn hand_out(&self, token: &str) {
        token.clone_into(&mut self.given.token.lock().unwrap());
    }

    /// `127.0.0.1:PORT`
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port.number())
    }

    /// The paths of what it was asked, and whether it had what was asked for.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn accept(listener: TcpListener, given: Arc<Given>, asked: Arc<Mutex<Vec<String>>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (given, asked) = (Arc::clone(&given), Arc::clone(&asked));
        tokio::spawn(async move {
            let service = service_fn(move |request| serve(Arc::clone(&given), Arc::clone(&asked), request));
            // A client that goes away is none of the server's faults.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn serve(
    from: Arc<Given>,
    asked: Arc<Mutex<Vec<String>>>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let form = |text: &[u8]| url::form_urlencoded::parse(text).into_owned().collect::<BTreeMap<String, String>>();
    let query = form(parts.uri.query().unwrap_or_default().as_bytes());
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let given = match (&parts.method, parts.uri.path()) {
        // That one is for what stands in front of the store.
        _ if !header("x-gate").is_empty() => None,
        (&Method::PUT, "/latest/api/token") => Some(answer(StatusCode::OK, "text/plain", OF_THE_MACHINE)),
        (&Method::GET, "/latest/meta-data/iam/security-credentials/") => {
            let is_known = header("x-aws-ec2-metadata-token") == OF_THE_MACHINE;
            is_known.then(|| answer(StatusCode::OK, "text/plain", "uploader"))
        }
        (&Method::GET, "/latest/meta-data/iam/security-credentials/uploader") => {
            (header("x-aws-ec2-metadata-token") == OF_THE_MACHINE).then(|| amazons(&from.key))
        }
        (&Method::GET, "/container") => (header("authorization") == OF_THE_MACHINE).then(|| amazons(&from.key)),
        (&Method::POST, "/") => {
            let said = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
            let is_known = said("Action") == "AssumeRoleWithWebIdentity"
                && said("WebIdentityToken") == OF_THE_MACHINE
                && said("RoleArn") == ROLE;
            is_known.then(|| assumed(&from.key))
        }
        (&Method::GET, "/computeMetadata/v1/instance/service-accounts/default/token") => {
            let token =
                value!({ "access_token": *from.token.lock().unwrap(), "expires_in": 3600, "token_type": "Bearer" });
            (header("metadata-flavor") == "Google").then(|| json(StatusCode::OK, &token))
        }
        (&Method::GET, "/metadata/identity/oauth2/token") => {
            let soon = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap() + Duration::from_secs(3600);
            let token = value!({ "access_token": HANDED_OUT, "expires_on": soon.as_secs().to_string() });
            (header("metadata") == "true").then(|| json(StatusCode::OK, &token))
        }
        (&Method::POST, "/tenant/oauth2/v2.0/token") => {
            let token = value!({ "access_token": HANDED_OUT, "expires_in": 3600 });
            let is_known = form(&body).get("client_assertion").is_some_and(|token| token == OF_THE_MACHINE);
            is_known.then(|| json(StatusCode::OK, &token))
        }
        _ => None,
    };
    let outcome = if given.is_some() { "given" } else { "refused" };
    asked.lock().unwrap().push(format!("{} {}: {outcome}", parts.method, parts.uri.path()));
    Ok(given.unwrap_or_else(|| answer(StatusCode::FORBIDDEN, "text/plain", "no")))
}

/// Amazon's key, as machines and containers get it.
fn amazons(key: &super::s3::Key) -> Response<Body> {
    let given = value!({
        "Code": "Success", "AccessKeyId": key.id, "SecretAccessKey": key.secret, "Token": HANDED_OUT,
        "Expiration": "2100-01-01T00:00:00Z"
    });
    json(StatusCode::OK, &given)
}

/// The same, as who brings a web identity gets it.
fn assumed(key: &super::s3::Key) -> Response<Body> {
    let text = format!(
        "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
         <SessionToken>{HANDED_OUT}</SessionToken><SecretAccessKey>{}</SecretAccessKey><AccessKeyId>{}</AccessKeyId>\
         <Expiration>2100-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult>\
         </AssumeRoleWithWebIdentityResponse>",
        key.secret, key.id
    );
    answer(StatusCode::OK, "text/xml", text)
}
