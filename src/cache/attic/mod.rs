//! A cache of an Attic server: `attic+https://HOST/CACHE`.
//!
//! The server packs, signs and shows a path as soon as its archive has arrived; there is no moment in between. So the
//! go-ahead is awaited before the first byte is sent, and the archive's last chunk leaves only when its hash is right.
//!
//! Deliberately absent: Attic's own way of managing caches. They are made and changed by `attic cache …`.

mod trial;
mod wire;

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Url;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use tokio::task::spawn_blocking;

pub use self::trial::try_out;
pub use self::wire::Configuration;
use self::wire::{LONGEST_HEADER, MissingAnswer, MissingRequest, NAR_INFO, NarInfo, PREAMBLE_SIZE, UploadAnswer};
use super::http::{Action, Body, Http, HttpError, HttpOptions, plain, refuse_own};
use super::url::is_loopback;
use super::{BoxFuture, Cache, CacheError, CacheInfo, Push, Pushed};
use crate::nix::{PathInfo, PublicKey, StoreDir, StorePath, system_of};

/// So long it is believed that a path is there. Attic collects garbage by the day, and spares what is fresh.
const ANSWERS_HOLD: Duration = Duration::from_secs(5);

/// Paths that one request asks for: Attic looks each up by a variable of one SQL statement.
const ASKED_AT_ONCE: usize = 5_000;

/// Longest derivation that is read for its system (bytes); those of whole systems have some 100 kB.
const LONGEST_DERIVATION: u64 = 4 * 1024 * 1024;

/// An answer that can't be one to the question.
const NOT_ASKED_FOR: &str = "it says that paths are missing that it was not asked for; does something in front of it answer in \
                             its place, or with what it has kept of another answer?";

/// What a cache on an Attic server is made of.
#[derive(Clone)]
pub struct AtticOptions {
    /// `https://HOST/`, with a slash at its end.
    pub endpoint: String,
    /// The cache's name there.
    pub cache: String,
    /// How to speak to it.
    pub http: HttpOptions,
    /// The logical store directory of this host.
    pub store_dir: StoreDir,
    /// Where this host's store has its files.
    pub real_store: PathBuf,
    /// Whether this host uploads to itself.
    pub allow_self: bool,
    /// Whether the server may name an API that is spoken to without encryption.
    pub allow_unencrypted: bool,
}

/// A cache on an Attic server.
pub struct AtticCache {
    http: Http,
    /// Where the API is, with a slash at its end.
    api: Url,
    /// The server of the policy, where that names another one for its API.
    named_by: Option<Url>,
    cache: String,
    store_dir: StoreDir,
    real_store: PathBuf,
    configuration: Configuration,
    upstream_key_names: Vec<String>,
}

impl AtticCache {
    /// Asks the server what the cache is. Nothing is asked while it has just refused the same credentials.
    ///
    /// # Errors
    /// [`CacheError::Http`]; [`CacheError::OwnServer`], [`CacheError::OtherStore`].
    pub async fn open(options: AtticOptions) -> Result<Self, CacheError> {
        let AtticOptions { endpoint, cache, http, store_dir, real_store, allow_self, allow_unencrypted } = options;
        http.credentials.check().await?;
        let endpoint = parse_endpoint(&endpoint, &endpoint)?;
        if !allow_self {
            refuse_own(&endpoint).await?;
        }
        let shows_secrets = http.credentials.has_secrets();
        let options = HttpOptions { direct: is_loopback(&endpoint), ..http };
        let http = Http::new(&options).await?;
        let url = join(&endpoint, &format!("_api/v1/cache-config/{cache}"))?;
        let configuration: Configuration = match http.ask(Action::Configuration, http.client().get(url)).await {
            Ok(answer) => serde_json::from_slice(&answer).map_err(|_| HttpError::NotUnderstood {
                action: Action::Configuration,
                host: endpoint.origin().ascii_serialization(),
                problem: "the answer is no cache's configuration; is it an Attic server?".to_owned(),
            })?,
            // A token that may only push is told nothing; that is no reason not to push with it.
            Err(HttpError::Status { status: 403, says, .. }) if says.is_attics() => {
                http.forgive(Action::Configuration);
                Configuration::default()
            }
            Err(HttpError::Status { status: 404, says, .. }) if says.is_attics() => {
                return Err(CacheError::NoSuchCache { server: endpoint.to_string(), cache });
            }
            Err(error) => return Err(error.into()),
        };
        if let Some(theirs) = configuration.store_dir.as_deref().filter(|theirs| *theirs != store_dir.as_str()) {
            return Err(CacheError::OtherStore {
                cache: format!("{endpoint}{cache}"),
                theirs: plain(theirs),
                ours: store_dir.as_str().to_owned(),
            });
        }
        let server = endpoint.clone();
        let (api, http) = match configuration.api_endpoint.as_deref().filter(|api| !api.is_empty()) {
            Some(theirs) => {
                let api = parse_endpoint(theirs, endpoint.as_str())?;
                // Who came here without encryption came by loopback, or has no secret to lose.
                let has_to_be_encrypted = shows_secrets || endpoint.scheme() == "https";
                if has_to_be_encrypted && api.scheme() != "https" && !allow_unencrypted && !is_loopback(&api) {
                    return Err(CacheError::Unencrypted { api: plain(theirs) });
                }
                if !allow_self {
                    refuse_own(&api).await?;
                }
                let direct = is_loopback(&api);
                let http =
                    if direct == options.direct { http } else { Http::new(&HttpOptions { direct, ..options }).await? };
                (api, http)
            }
            None => (endpoint, http),
        };
        let upstream_key_names = configuration.upstream_cache_key_names.clone().unwrap_or_default();
        let named_by = (server.origin() != api.origin()).then_some(server);
        Ok(Self { http, api, named_by, cache, store_dir, real_store, configuration, upstream_key_names })
    }

    /// What the server says of the cache, as far as it tells who has this token.
    #[must_use]
    pub fn info(&self) -> CacheInfo {
        let Configuration { substituter_endpoint, api_endpoint, public_key, is_public, store_dir, priority, .. } =
            self.configuration.clone();
        let untold = "the token may only push, so the server says nothing of the cache";
        // What it says is copied into configurations, and stands on terminals.
        let plain = |text: String| plain(&text);
        CacheInfo {
            substituter: substituter_endpoint.map(plain).or_else(|| Some(format!("{}{}", self.api, self.cache))),
            // One that is none is told nowhere.
            public_key: public_key.filter(|key| PublicKey::parse(key).is_ok()),
            api: api_endpoint.map(plain).or_else(|| Some(self.api.to_string())),
            is_public,
            store_dir: store_dir.map(plain),
            priority,
            upstream_key_names: self.upstream_key_names.iter().cloned().map(plain).collect(),
            retention: self.configuration.retention(),
            want_mass_query: None,
            directory: None,
            remark: (!self.is_told()).then_some(untold),
        }
    }

    /// Whether the server tells what the cache is, which it does to who may read from it.
    fn is_told(&self) -> bool {
        self.configuration != Configuration::default()
    }

    /// What the server says of the cache.
    #[must_use]
    pub fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    async fn ask_missing(&self, paths: &[StorePath]) -> Result<Vec<StorePath>, HttpError> {
        let request =
            MissingRequest { cache: &self.cache, store_path_hashes: paths.iter().map(StorePath::hash_part).collect() };
        let host = self.api.origin().ascii_serialization();
        let not_understood = |problem: &str| HttpError::NotUnderstood {
            action: Action::Missing,
            host: host.clone(),
            problem: problem.to_owned(),
        };
        let url = join(&self.api, "_api/v1/get-missing-paths")?;
        let body = serde_json::to_vec(&request).map_err(|_| not_understood("the question can't be put"))?;
        let request = self.http.client().post(url).header(CONTENT_TYPE, "application/json").body(body);
        let answer = self.http.ask(Action::Missing, request).await.map_err(|error| self.at_api(error))?;
        let MissingAnswer { missing_paths } = serde_json::from_slice(&answer)
            .map_err(|_| not_understood("the answer is no list of missing paths; is it an Attic server?"))?;
        let mut missing = Vec::with_capacity(missing_paths.len());
        let mut asked: std::collections::HashMap<_, _> = paths.iter().map(|path| (path.hash_part(), path)).collect();
        for hash in &missing_paths {
            match asked.remove(hash.as_str()) {
                Some(path) => missing.push(path.clone()),
                None => return Err(not_understood(NOT_ASKED_FOR)),
            }
        }
        Ok(missing)
    }

    async fn upload(&self, push: Push) -> Result<Pushed, CacheError> {
        let Push { info, nar, arrivals, go_ahead, .. } = push;
        // The server shows the path as soon as it has it. No slot is held meanwhile: what is waited for may need it.
        arrivals.await?;
        let system = self.system(&info).await;
        let nar_info = NarInfo::new(&self.cache, &self.store_dir, &info, system.as_deref());
        let nar_info = serde_json::to_vec(&nar_info).unwrap_or_default();
        let mut request = self.http.client().put(join(&self.api, "_api/v1/upload-path")?);
        let header = HeaderValue::from_bytes(&nar_info).ok().filter(|_| nar_info.len() < LONGEST_HEADER);
        let ahead = match header {
            Some(header) => {
                request = request.header(NAR_INFO, header);
                Bytes::new()
            }
            None => {
                request = request.header(PREAMBLE_SIZE, nar_info.len());
                Bytes::from(nar_info)
            }
        };
        if info.nar_size > 0 {
            // So that what can't take it says so at once, and nobody takes a part for the whole.
            request = request.header(CONTENT_LENGTH, ahead.len() as u64 + info.nar_size);
        }
        let reader = nar.start().await?;
        go_ahead.await?;
        // The server is at work until it answers, which may be a while after it has taken everything.
        let _slot = reader.slot();
        let body = Body::new(ahead, reader);
        let progress = body.progress();
        match self.http.upload(Action::Upload, request, body).await {
            Ok(answer) => {
                let answer: UploadAnswer = serde_json::from_slice(&answer.content).unwrap_or_default();
                if !answer.is_attics() && !self.ask_missing(std::slice::from_ref(&info.path)).await?.is_empty() {
                    return Err(HttpError::NotUnderstood {
                        action: Action::Upload,
                        host: self.api.origin().ascii_serialization(),
                        problem:
                            "it says yes, and doesn't have the path; does something in front of it answer in its place?"
                                .to_owned(),
                    }
                    .into());
                }
                Ok(Pushed { read: info.nar_size, sent: info.nar_size, deduplicated: answer.is_deduplicated() })
            }
            Err(error) => Err(match progress.failure() {
                Some(failure) => failure.into(),
                None => self.at_api(error).into(),
            }),
        }
    }

    /// What went wrong where the API is, with the word of whoever has named that address.
    fn at_api(&self, error: HttpError) -> HttpError {
        match &self.named_by {
            Some(server) => error.named_by(server),
            None => error,
        }
    }

    /// The system that the path was built for, where its derivation is still here.
    async fn system(&self, info: &PathInfo) -> Option<String> {
        let file = self.real_store.join(info.deriver.as_ref()?.base_name());
        let read = move || {
            let mut text = String::new();
            File::open(file).ok()?.take(LONGEST_DERIVATION).read_to_string(&mut text).ok()?;
            system_of(&text)
        };
        spawn_blocking(read).await.ok().flatten()
    }
}

impl Cache for AtticCache {
    fn missing<'a>(&'a self, paths: &'a [StorePath]) -> BoxFuture<'a, Result<Vec<StorePath>, CacheError>> {
        Box::pin(async move {
            let mut missing = Vec::new();
            for some in paths.chunks(ASKED_AT_ONCE) {
                missing.extend(self.ask_missing(some).await?);
            }
            Ok(missing)
        })
    }

    fn answers_hold(&self) -> Duration {
        ANSWERS_HOLD
    }

    fn upstream_key_names(&self) -> &[String] {
        &self.upstream_key_names
    }

    fn touch(&self) -> Option<BoxFuture<'_, bool>> {
        Some(Box::pin(self.http.touch(&self.api)))
    }

    fn push(self: Arc<Self>, push: Push) -> BoxFuture<'static, Result<Pushed, CacheError>> {
        Box::pin(async move { self.upload(push).await })
    }
}

/// A URL with a slash at its end; `host` is whose word it is.
fn parse_endpoint(url: &str, host: &str) -> Result<Url, HttpError> {
    let slashed = if url.ends_with('/') { url.to_owned() } else { format!("{url}/") };
    let web = |url: &Url| matches!(url.scheme(), "http" | "https") && url.host().is_some();
    Url::parse(&slashed).ok().filter(web).ok_or_else(|| HttpError::NotUnderstood {
        action: Action::Configuration,
        host: host.to_owned(),
        problem: "what it gives for its API is no address of a server".to_owned(),
    })
}

fn join(base: &Url, path: &str) -> Result<Url, HttpError> {
    base.join(path).map_err(|_| HttpError::NotUnderstood {
        action: Action::Configuration,
        host: base.origin().ascii_serialization(),
        problem: "its address can't be used".to_owned(),
    })
}
