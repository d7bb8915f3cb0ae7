//! From the caches of the policy file to caches that can be opened.

pub mod care;
mod keys;
mod left;
mod look;
mod sight;
mod standing;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::available_parallelism;

use reqwest::header::{HeaderName, HeaderValue};

pub use self::keys::{FoundKey, find_key, note_key_that_was_told, public_key};
use self::keys::{public_key_file, signing_key, tell_servers_key};
pub use self::left::tell_what_is_left;
pub use self::look::{Unanswered, describe, summary, try_all};
pub use self::sight::out_of_sight;
pub use self::standing::{lacks_secret, off_by_name, own_server, tell_what_is_off, why_off};
use crate::cache::attic::{AtticCache, AtticOptions};
use crate::cache::bucket::{BucketCache, StoreKeys, StoreOptions};
use crate::cache::care::after_a_prune;
use crate::cache::command::{CommandCache, CommandOptions};
use crate::cache::file::{FileCache, FileOptions};
use crate::cache::http::{Credentials, Header, HttpOptions, Proof};
use crate::cache::put::{PutCache, PutOptions};
use crate::cache::{BinaryCache, BoxFuture, BucketUrl, Cache, CacheError, CacheUrl, Layout, Pace, Upstreams};
use crate::config::{self, CacheConfig, CommandConfig, Config, NixStore, StoreKeyConfig};
use crate::disk::{Places, Terms, Threshold, Thresholds, What};
use crate::limit::Allowance;
use crate::nix::PublicKey;
use crate::policy::CacheName;
use crate::queue::{Queue, QueueError, Routes};
use crate::secret::{Provider, Source};
use crate::upload::{Forgive, Open, Orders, Target};

/// The embedded cache takes nothing while less than this of its file system is free: it was not asked for, so it must not
/// be what fills a disk.
const EMBEDDED_RESERVE: Threshold = Threshold::Percent(10);

/// Folder of the state directory with a folder for each cache on a server, of notes of what is being uploaded to it.
const UNFINISHED: &str = "unfinished";

/// What a cache needs beside its own lines in the policy file.
#[derive(Clone)]
pub struct CacheSurroundings {
    /// The state directory.
    pub state_dir: PathBuf,
    /// The Nix store.
    pub nix: NixStore,
    /// Tells this state directory's temporary files from another's.
    pub instance: String,
    /// The places whose file systems are watched.
    pub places: Places,
    /// How much backfill may still bring into those that may have no more than a size.
    pub allowances: Allowances,
}

/// How much backfill may still bring into caches that may have no more than a size.
pub type Allowances = BTreeMap<CacheName, Allowance>;

/// What the uploader is to work by under a configuration, and the routes to its caches. Those that are new get their
/// numbers.
///
/// # Errors
/// [`QueueError`].
pub fn orders(
    queue: &mut Queue,
    config: &Config,
    surroundings: &CacheSurroundings,
) -> Result<(Orders, Routes), QueueError> {
    let routes = routes(queue, config)?;
    for cache in &config.caches {
        let Some(id) = routes.caches.get(&cache.name) else { continue };
        if cache.max_size.is_none() {
            queue.forget_evicted(*id)?;
        }
    }
    let target = |cache: &CacheConfig| {
        let id = *routes.caches.get(&cache.name)?;
        let (open, forgive) = opener(cache, surroundings);
        Some(Target {
            id,
            name: cache.name.clone(),
            fingerprint: cache.fingerprint(),
            uploads: uploads_at_once(cache, config),
            over_line: over_line(cache),
            allowance: surroundings.allowances.get(&cache.name).cloned(),
            open,
            forgive,
        })
    };
    let orders = Orders {
        policy: Arc::clone(&config.policy),
        targets: config.caches.iter().filter_map(target).collect(),
        upstreams: Upstreams::new(&config.upstreams.caches, config.upstreams.remember),
    };
    Ok((orders, routes))
}

/// Whether a cache is reached over a line, and is no directory.
fn over_line(cache: &CacheConfig) -> bool {
    !matches!(cache.place, CacheUrl::File { .. })
}

/// How many paths are uploaded to a cache at once.
#[must_use]
pub fn uploads_at_once(cache: &CacheConfig, config: &Config) -> usize {
    cache.uploads.or(config.limits.uploads).unwrap_or_else(|| usual_uploads(cache))
}

/// Uploads at once to a cache for which the policy gives no number.
///
/// Four keep a line busy while each waits for a server in turn. Into a directory none waits, but all are packed: more than
/// there are processors would only be in each other's way.
fn usual_uploads(cache: &CacheConfig) -> usize {
    let usual = 4;
    if over_line(cache) {
        return usual;
    }
    available_parallelism().map_or(usual, |processors| processors.get().min(usual))
}

/// The routes to the caches of a configuration, without those that are off on this host.
///
/// # Errors
/// [`QueueError`].
pub fn routes(queue: &mut Queue, config: &Config) -> Result<Routes, QueueError> {
    let on = config.caches.iter().filter(|cache| own_server(cache).is_none());
    Routes::find(queue, Arc::clone(&config.policy), on.map(|cache| (cache.name.clone(), cache.url.clone())))
}

/// What opens a cache, as often as need be, and what has its refusals forgotten.
fn opener(config: &CacheConfig, surroundings: &CacheSurroundings) -> (Open, Forgive) {
    let nothing_kept: Forgive = Arc::new(|| ());
    let of_http = |http: &HttpOptions| -> Forgive {
        let credentials = Arc::clone(&http.credentials);
        Arc::new(move || credentials.forgive())
    };
    let (config, surroundings) = (config.clone(), surroundings.clone());
    match &config.place {
        CacheUrl::File { dir, layout } => {
            let (dir, layout) = (dir.clone(), layout.clone());
            let open = move || open_file(dir.clone(), layout.clone(), config.clone(), surroundings.clone());
            (Arc::new(open), nothing_kept)
        }
        CacheUrl::Bucket { bucket, layout } => {
            let (options, layout) = (store_options(&config, &surroundings.nix, bucket), layout.clone());
            let open = move || open_bucket(options.clone(), layout.clone(), config.clone(), surroundings.clone());
            // Nothing of what it refuses is kept: it is asked each time.
            (Arc::new(open), nothing_kept)
        }
        CacheUrl::Http { endpoint, layout } => {
            let (options, layout) = (put_options(&config, &surroundings.nix, endpoint), layout.clone());
            let forgive = of_http(&options.http);
            let open = move || open_put(options.clone(), layout.clone(), config.clone(), surroundings.clone());
            (Arc::new(open), forgive)
        }
        CacheUrl::Attic { endpoint, cache } => {
            let options = attic_options(&config, &surroundings.nix, endpoint, cache);
            let forgive = of_http(&options.http);
            let (name, public) = (config.name.to_string(), public_key_file(&surroundings.state_dir, &config));
            (Arc::new(move || open_attic(options.clone(), name.clone(), public.clone())), forgive)
        }
        CacheUrl::Command { program } => {
            let options = command_options(&config, &surroundings.nix, program);
            (Arc::new(move || open_command(options.clone())), nothing_kept)
        }
    }
}

fn open_file(
    dir: PathBuf,
    layout: Layout,
    config: CacheConfig,
    surroundings: CacheSurroundings,
) -> BoxFuture<'static, Result<Arc<dyn Cache>, CacheError>> {
    let open = move || {
        let cache = FileCache::open(FileOptions {
            place: surroundings.places.of_cache(config.name.as_str(), &dir, Terms::default()),
            dir,
            binary: binary_cache(layout, &config, &surroundings)?,
            instance: surroundings.instance.clone(),
            largest: config.max_size.map(after_a_prune),
        })?;
        Ok(Arc::new(cache) as Arc<dyn Cache>)
    };
    Box::pin(async move {
        let opened = tokio::task::spawn_blocking(open).await;
        opened.unwrap_or(Err(CacheError::LostThread { action: "open the cache" }))
    })
}

fn open_bucket(
    options: StoreOptions,
    layout: Layout,
    config: CacheConfig,
    surroundings: CacheSurroundings,
) -> BoxFuture<'static, Result<Arc<dyn Cache>, CacheError>> {
    Box::pin(async move {
        let (binary, unfinished) = sent_to_a_server(layout, config, surroundings).await?;
        Ok(Arc::new(BucketCache::open(options, binary, unfinished).await?) as Arc<dyn Cache>)
    })
}

fn open_put(
    options: PutOptions,
    layout: Layout,
    config: CacheConfig,
    surroundings: CacheSurroundings,
) -> BoxFuture<'static, Result<Arc<dyn Cache>, CacheError>> {
    Box::pin(async move {
        let (binary, unfinished) = sent_to_a_server(layout, config, surroundings).await?;
        Ok(Arc::new(PutCache::open(options, binary, unfinished).await?) as Arc<dyn Cache>)
    })
}

/// What a binary cache on a server is made of, and the folder of the state directory in which it notes its uploads.
async fn sent_to_a_server(
    layout: Layout,
    config: CacheConfig,
    surroundings: CacheSurroundings,
) -> Result<(BinaryCache, PathBuf), CacheError> {
    let unfinished = surroundings.state_dir.join(UNFINISHED).join(config.name.as_str());
    let binary = tokio::task::spawn_blocking(move || binary_cache(layout, &config, &surroundings)).await;
    Ok((binary.unwrap_or(Err(CacheError::LostThread { action: "open the cache" }))?, unfinished))
}

/// What is the same for a binary cache wherever it lies; `layout` is what its URL says.
fn binary_cache(
    layout: Layout,
    config: &CacheConfig,
    surroundings: &CacheSurroundings,
) -> Result<BinaryCache, CacheError> {
    let nix = &surroundings.nix;
    Ok(BinaryCache {
        store_dir: nix.logical.clone(),
        layout: Layout { compression: config.compression.or(layout.compression), ..layout },
        key: signing_key(config, surroundings)?,
        log_dir: nix.log.clone(),
        facts: nix.facts().patient(),
        pace: if over_line(config) { Pace::over_a_line() } else { Pace::default() },
    })
}

/// A cache on a web server, as the policy has it. What is remembered of its credentials lives as long as these.
#[must_use]
pub fn put_options(config: &CacheConfig, nix: &NixStore, endpoint: &str) -> PutOptions {
    let (endpoint, allow_self) = (endpoint.to_owned(), config.http.allow_self);
    PutOptions { endpoint, http: http_options(config, nix), allow_self }
}

/// A bucket, as the policy and the surroundings have it.
#[must_use]
pub fn store_options(config: &CacheConfig, nix: &NixStore, url: &BucketUrl) -> StoreOptions {
    let StoreKeyConfig { access_key_id, secret_access_key, session_token, service_account_key, account_key } =
        &config.store_keys;
    let line = |source: &Option<Source>| source.as_ref().map(|source| Provider::new(source.clone(), &nix.real, None));
    let json = service_account_key.as_ref().map(|source| Provider::of_lines(source.clone(), &nix.real));
    StoreOptions {
        url: url.clone(),
        http: http_options(config, nix),
        keys: StoreKeys {
            access_key_id: line(access_key_id),
            secret_access_key: line(secret_access_key),
            session_token: line(session_token),
            service_account_key: json,
            account_key: line(account_key),
        },
        real_store: nix.real.clone(),
        allow_unencrypted: config.http.allow_unencrypted,
    }
}

/// The place of a cache in a directory: where it is, and what is asked of its file system. `None` for another kind.
#[must_use]
pub fn place(config: &CacheConfig, thresholds: &Thresholds) -> Option<(What, PathBuf, Terms)> {
    let CacheUrl::File { dir, .. } = &config.place else { return None };
    let terms = Terms { thresholds: *thresholds, reserve: config.builtin.then_some(EMBEDDED_RESERVE) };
    Some((What::Cache(config.name.to_string()), dir.clone(), terms))
}

/// A cache on an Attic server, as the policy has it. What is remembered of its credentials lives as long as these.
#[must_use]
pub fn attic_options(config: &CacheConfig, nix: &NixStore, endpoint: &str, cache: &str) -> AtticOptions {
    AtticOptions {
        endpoint: endpoint.to_owned(),
        cache: cache.to_owned(),
        http: http_options(config, nix),
        store_dir: nix.logical.clone(),
        real_store: nix.real.clone(),
        allow_self: config.http.allow_self,
        allow_unencrypted: config.http.allow_unencrypted,
    }
}

/// Opens it, and writes the key that it signs with down for those who ask for it without asking the server.
fn open_attic(
    options: AtticOptions,
    name: String,
    public: PathBuf,
) -> BoxFuture<'static, Result<Arc<dyn Cache>, CacheError>> {
    Box::pin(async move {
        let cache = AtticCache::open(options).await?;
        if let Some(Ok(key)) = cache.configuration().public_key.as_deref().map(PublicKey::parse) {
            // Where the thread is lost, the key is noted the next time.
            let _ = tokio::task::spawn_blocking(move || tell_servers_key(&name, &key, &public)).await;
        }
        Ok(Arc::new(cache) as Arc<dyn Cache>)
    })
}

/// A program as a cache, as the policy has it.
#[must_use]
pub fn command_options(config: &CacheConfig, nix: &NixStore, program: &Path) -> CommandOptions {
    let CommandConfig { args, gives, answers_missing, timeout, pass_environment } = config.command.clone();
    CommandOptions {
        name: config.name.to_string(),
        program: program.to_owned(),
        args,
        gives,
        answers_missing,
        timeout,
        pass_environment,
        store_dir: nix.logical.clone(),
        real_store: nix.real.clone(),
    }
}

fn open_command(options: CommandOptions) -> BoxFuture<'static, Result<Arc<dyn Cache>, CacheError>> {
    Box::pin(async move { Ok(Arc::new(CommandCache::open(options).await?) as Arc<dyn Cache>) })
}

fn http_options(cache: &CacheConfig, nix: &NixStore) -> HttpOptions {
    let (host, config) = (cache.place.host(), &cache.http);
    let host = host.as_deref();
    let header = |(name, value): &(String, config::HeaderValue)| {
        // Both are legal in a policy that was validated.
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        let value = match value {
            config::HeaderValue::Plain(text) => Header::Plain(HeaderValue::from_str(text).ok()?),
            config::HeaderValue::Secret(source) => Header::Secret(Provider::new(source.clone(), &nix.real, host)),
        };
        Some((name, value))
    };
    let secret = |source: &Source| Provider::new(source.clone(), &nix.real, host);
    let login = |source: &Source| Provider::of_login(source.clone(), &nix.real, host);
    let proof = match (&config.token, &config.user, &config.password) {
        (Some(token), ..) => Some(Proof::Bearer(secret(token))),
        (None, Some(user), Some(password)) => Some(Proof::Basic { user: user.clone(), password: secret(password) }),
        (None, None, Some(netrc)) => Some(Proof::Login(login(netrc))),
        (None, _, None) => None,
    };
    let key = config.client_key.as_ref().map(|source| Provider::of_lines(source.clone(), &nix.real));
    HttpOptions {
        credentials: Arc::new(Credentials::new(proof, config.headers.iter().filter_map(header).collect())),
        ca_file: config.ca_file.clone(),
        client_certificate: config.client_certificate.clone().zip(key),
        direct: cache.place.is_within_this_host(),
    }
}
