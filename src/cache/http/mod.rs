//! Speaking HTTP to a cache's server, the same for all kinds of caches that have one.
//!
//! Invariant kept here: **nothing leaks.** Certificates are always verified. No redirect is followed to another host, so
//! that no secret goes there. Secrets are put into a request just before it is sent, in headers that no log shows, and
//! what a server says is passed on without them.
//!
//! Deliberately absent: trying again. An [`HttpError`] says what kind of failure it was, and the uploader draws the
//! conclusion.

mod action;
mod answer;
mod body;
mod credentials;
mod cure;
mod error;
mod greet;
mod jwt;
mod movement;
mod own;
mod status;
mod tls;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Identity, Request, RequestBuilder, Response, Url};
use rustls::crypto::ring;
use tokio::task::spawn_blocking;
use zeroize::Zeroizing;

pub use self::action::Action;
use self::answer::Head;
pub(crate) use self::answer::plain;
pub use self::answer::{Answer, ServerSays, Speaker};
pub(super) use self::answer::{beside, pause, wants_encryption};
pub use self::body::{Body, Progress};
pub use self::credentials::{Credentials, Header, Proof};
pub(super) use self::cure::reason;
pub use self::error::HttpError;
use self::error::address;
pub(super) use self::error::origin;
pub use self::greet::Greeting;
pub use self::jwt::{expiry, is_prefixed, is_web_token, lets_push};
pub(super) use self::movement::{ANSWERING, Movement};
pub use self::own::{own_by_address, refuse_own};
pub(super) use self::status::{UNTOLD_PAUSE, within};
use crate::limit::Tap;
use crate::secret::{Provider, SecretError};

/// To connect takes so long at most: more than any network in use needs.
const CONNECTING: Duration = Duration::from_secs(15);

/// Requests without a body to speak of are answered within this time, or never.
pub(super) const ANSWERING_BRIEFLY: Duration = Duration::from_secs(30);

/// A connection that nobody uses is closed after so long: shortly before servers and proxies do it, most of them after
/// 60 s or more, since a request that meets a closing connection is lost.
const IDLE: Duration = Duration::from_secs(45);

/// No answer that is read whole is longer (bytes): 5,000 missing paths are 175 kB.
const LONGEST_ANSWER: usize = 4 * 1024 * 1024;

/// So many redirects within one host are followed.
const REDIRECTS: usize = 5;

/// How to speak to a server.
#[derive(Clone, Default)]
pub struct HttpOptions {
    /// What it is to be shown.
    pub credentials: Arc<Credentials>,
    /// Certificates, in PEM, of authorities that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// The certificate, in PEM, by which the server knows this host, and its key.
    pub client_certificate: Option<(PathBuf, Provider)>,
    /// Whether the environment's proxies are passed by: what goes to this host itself must not leave it.
    pub direct: bool,
}

/// A way to one server. Cheap to clone; all clones share their connections.
#[derive(Clone)]
pub struct Http {
    client: Client,
    credentials: Arc<Credentials>,
}

impl Http {
    /// Makes ready to speak; nothing is sent yet.
    ///
    /// # Errors
    /// [`HttpError::File`] where a certificate can't be used, [`HttpError::Secret`] where its key can't be had.
    pub async fn new(options: &HttpOptions) -> Result<Self, HttpError> {
        // Whoever was first has chosen the same one.
        let _ = ring::default_provider().install_default();
        let mut builder = Client::builder()
            .user_agent(concat!("storewatch/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECTING)
            .pool_idle_timeout(IDLE)
            .http1_only()
            .redirect(within_one_host());
        if options.direct {
            builder = builder.no_proxy();
        }
        let own = match &options.ca_file {
            Some(file) => Some(certificates(file.clone()).await?),
            None => None,
        };
        // Nix's own setting says which authorities there are, instead of the system.
        builder = match std::env::var_os("NIX_SSL_CERT_FILE").filter(|file| !file.is_empty()) {
            Some(file) => {
                let mut trusted = certificates(PathBuf::from(file)).await?;
                trusted.extend(own.unwrap_or_default());
                builder.tls_certs_only(trusted)
            }
            None => match own {
                Some(own) => builder.tls_certs_merge(own),
                None => builder,
            },
        };
        if let Some((file, key)) = &options.client_certificate {
            builder = builder.identity(identity(file, key).await?);
        }
        let client =
            builder.build().map_err(|source| match (&options.client_certificate, tls::tls_error(&source)) {
                (Some((file, _)), Some(rustls::Error::InconsistentKeys(_))) => {
                    unusable(file, "`client_key` is the key of another certificate".to_owned())
                }
                _ => HttpError::Unusable { source },
            })?;
        Ok(Self { client, credentials: Arc::clone(&options.credentials) })
    }

    /// The client, to begin a request with.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// That the server has refused that says nothing of the credentials.
    pub fn forgive(&self, action: Action) {
        self.credentials.accepted(action);
    }

    /// Asks the server at `url` for the head of its front page, without any of what it is to be shown, and says whether it
    /// answered, whatever it said.
    pub async fn touch(&self, url: &Url) -> bool {
        touch(&self.client, url).await
    }

    /// Sends a request that has no long body, and reads the answer.
    ///
    /// # Errors
    /// [`HttpError`], also where the server answers with anything but success.
    pub async fn ask(&self, action: Action, request: RequestBuilder) -> Result<Vec<u8>, HttpError> {
        Ok(self.look(action, request).await?.content)
    }

    /// As [`Http::ask`], for who wants to know how large a file is.
    ///
    /// # Errors
    /// Those of [`Http::ask`].
    pub async fn look(&self, action: Action, request: RequestBuilder) -> Result<Answer, HttpError> {
        let asked = error::url_of(&request);
        self.exchange(action, asked, request.timeout(ANSWERING_BRIEFLY)).await
    }

    /// As [`Http::ask`], with a long body on its way: whoever takes or gives nothing for too long is given up.
    ///
    /// # Errors
    /// [`HttpError`].
    pub async fn upload(&self, action: Action, request: RequestBuilder, body: Body) -> Result<Answer, HttpError> {
        let asked = error::url_of(&request);
        let (stream, progress) = body.split(Tap::of_this_task());
        let request = request.body(reqwest::Body::wrap_stream(stream));
        tokio::select! {
            ended = self.exchange(action, asked.clone(), request) => ended,
            after = progress.stalled() => Err(HttpError::Stalled { action, host: error::host_of(asked.as_ref()), after }),
        }
    }

    /// Sends a request with everything that the server is to be shown, and reads the answer.
    async fn exchange(&self, action: Action, asked: Option<Url>, request: RequestBuilder) -> Result<Answer, HttpError> {
        let host = error::host_of(asked.as_ref());
        let shown = self.credentials.shown().await.map_err(|source| HttpError::Secret { source })?;
        let failed = |source| HttpError::of_transport(action, host.clone(), source);
        let request = shown.dress(request).build().map_err(failed)?;
        let asks = request.body().and_then(|body| body.as_bytes()).map_or(0, <[u8]>::len);
        Tap::of_this_task().take(head_size(&request) + asks).await;
        let response = self.client.execute(request).await.map_err(failed)?;
        let mut head = Head::of(&response);
        // Who follows a redirect may end with a question in place of what it was to put: the success of that says nothing.
        if action == Action::Put && asked.as_ref() != Some(response.url()) {
            return Err(HttpError::Redirected { action, host, to: shown.blacken(&address(response.url())) });
        }
        let content = read_whole(response, &Movement::default()).await.map_err(failed)?;
        if head.status.is_success() {
            self.credentials.accepted(action);
            return Ok(Answer { status: head.status, content, size: head.size });
        }
        head.location = head.location.map(|to| shown.blacken(&to));
        let says = ServerSays::read(&content, |text| shown.blacken(text));
        let refused = self.credentials.refused_words(&shown, action, &head, &says);
        let error = HttpError::of_status(action, host, head, says).refusing(refused);
        if error.is_about_credentials() {
            self.credentials.refused(&shown, action, error.to_string()).await;
        }
        Err(error)
    }
}

/// Bytes that a request takes ahead of its body, some more or less.
pub(super) fn head_size(request: &Request) -> usize {
    /// What stands around a header's name and value.
    const AROUND: usize = ": \r\n".len();
    let headers = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + AROUND);
    request.url().as_str().len() + headers.sum::<usize>()
}

/// As [`Http::touch`], by a client.
pub(super) async fn touch(client: &Client, url: &Url) -> bool {
    let mut front = url.clone();
    front.set_path("/");
    front.set_query(None);
    client.head(front).send().await.is_ok()
}

/// An answer, as long as it may be. That some of it comes is a movement, too: an object store that puts many parts together
/// sends white space until that is done.
pub(super) async fn read_whole(mut response: Response, movement: &Movement) -> Result<Vec<u8>, reqwest::Error> {
    let mut answer = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        movement.is_whole();
        answer.extend_from_slice(&chunk);
        if answer.len() > LONGEST_ANSWER {
            // Nobody can mean that; what there is of it won't be understood, and that is said.
            break;
        }
    }
    Ok(answer)
}

/// Follows redirects within a host; the answer is otherwise the redirect itself, which is told.
fn within_one_host() -> Policy {
    Policy::custom(|attempt| {
        let same = attempt.previous().last().is_some_and(|before| before.origin() == attempt.url().origin());
        if same && attempt.previous().len() <= REDIRECTS { attempt.follow() } else { attempt.stop() }
    })
}

/// How many certificates a file holds, in PEM.
///
/// # Errors
/// [`HttpError::File`] where it can't be read or holds none.
pub fn count_certificates(file: &Path) -> Result<usize, HttpError> {
    let read = std::fs::read(file).map_err(|source| unusable(file, source.to_string()))?;
    parse_certificates(&read, file).map(|found| found.len())
}

async fn certificates(file: PathBuf) -> Result<Vec<Certificate>, HttpError> {
    parse_certificates(&read(&file).await?, &file)
}

fn parse_certificates(pem: &[u8], file: &Path) -> Result<Vec<Certificate>, HttpError> {
    let found = Certificate::from_pem_bundle(pem).ok().filter(|found| !found.is_empty());
    found.ok_or_else(|| unusable(file, "it holds no certificate in PEM".to_owned()))
}

/// Reads a file on a thread that may wait: it may lie on a disk that doesn't answer.
async fn read(file: &Path) -> Result<Vec<u8>, HttpError> {
    let path = file.to_owned();
    let read = spawn_blocking(move || std::fs::read(path)).await;
    let read = read.unwrap_or_else(|_| Err(io::Error::other("the thread that was to read it was lost")));
    read.map_err(|source| unusable(file, source.to_string()))
}

fn unusable(file: &Path, problem: String) -> HttpError {
    HttpError::File { file: file.to_owned(), problem }
}

async fn identity(file: &Path, key: &Provider) -> Result<Identity, HttpError> {
    let key = key.get().await.map_err(|source: SecretError| HttpError::Secret { source })?;
    let mut pem = Zeroizing::new(read(file).await?);
    pem.push(b'\n');
    pem.extend_from_slice(key.expose().as_bytes());
    let problem = "it and `client_key` are no certificate and key in PEM that belong together";
    Identity::from_pem(&pem).map_err(|_| unusable(file, problem.to_owned()))
}
