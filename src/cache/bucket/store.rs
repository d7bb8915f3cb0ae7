//! The library's view of a bucket, built by what the policy, the environment and `~/.aws` say.

use std::path::PathBuf;
use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{Attribute, Attributes, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, RetryConfig};
use reqwest::Url;

use super::credentials::{Chain, S3Keys};
use super::error::{BucketError, unwrapped};
use super::wire::Wire;
use crate::cache::http::{Action, Http, HttpOptions};
use crate::cache::unfinished::Place;
use crate::cache::url::is_loopback;
use crate::cache::{Addressing, BucketUrl, Service};
use crate::report::one_line;
use crate::secret::{Provider, Secret};

/// Keys that the policy says, instead of what the environment has.
#[derive(Clone, Default)]
pub struct StoreKeys {
    /// The id of S3's key.
    pub access_key_id: Option<Provider>,
    /// S3's key.
    pub secret_access_key: Option<Provider>,
    /// The token that goes with a temporary key of S3's.
    pub session_token: Option<Provider>,
    /// Google's, in JSON.
    pub service_account_key: Option<Provider>,
    /// Azure's.
    pub account_key: Option<Provider>,
}

/// What a bucket is spoken to by.
#[derive(Clone)]
pub struct StoreOptions {
    /// Which bucket.
    pub url: BucketUrl,
    /// How to speak to its server; no token and no headers are shown.
    pub http: HttpOptions,
    /// The policy's own keys.
    pub keys: StoreKeys,
    /// Where this host's store has its files: no secret comes from there.
    pub real_store: PathBuf,
    /// Whether temporary tokens may cross a network for everybody to read.
    pub allow_unencrypted: bool,
}

/// A bucket. Cheap to clone.
#[derive(Clone)]
pub(super) struct Store {
    objects: Arc<dyn ObjectStore>,
    pub(super) multiparts: Arc<dyn MultipartStore>,
    pages: Arc<dyn PaginatedListStore>,
    /// As messages call it.
    pub(super) name: Arc<str>,
    prefix: Arc<str>,
    /// Whether there is something to abort: Azure forgets what isn't put together by itself, after a week.
    pub(super) aborts: bool,
}

/// What an object is put under the name of another for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// It was put.
    New,
    /// One was there already, and stays.
    Exists,
}

/// Not tried again by the library: what an error means, and how often something is worth trying, is decided elsewhere.
fn once() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

impl Store {
    /// Makes ready to speak; nothing is sent yet, and secrets are only read where the library wants them at once.
    pub(super) async fn new(options: &StoreOptions) -> Result<Self, Arc<BucketError>> {
        let StoreOptions { url, http, keys, real_store, allow_unencrypted } = options;
        let name = url.name();
        let library = |error: object_store::Error| unwrapped(Action::Configuration, &name, &error);
        let secret = async |provider: &Option<Provider>| -> Result<Option<Secret>, Arc<BucketError>> {
            let Some(provider) = provider else { return Ok(None) };
            provider.get().await.map(Some).map_err(|error| Arc::new(BucketError::Secret(error)))
        };
        let chain = Chain::find(url, keys, real_store).await?;
        let endpoint = match &url.service {
            Service::Azure { account: None, endpoint: None } => {
                let account = std::env::var("AZURE_STORAGE_ACCOUNT_NAME").map_err(|_| {
                    let problem =
                        "write `?account=ACCOUNT` into the `url`, or set AZURE_STORAGE_ACCOUNT_NAME".to_owned();
                    Arc::new(BucketError::NoCredentials { bucket: name.clone(), problem })
                })?;
                format!("https://{account}.blob.core.windows.net")
            }
            _ => url.endpoint(&chain.region),
        };
        let wire = wire(&endpoint, http, &name).await?;
        let (objects, multiparts, pages): (Arc<dyn ObjectStore>, Arc<dyn MultipartStore>, Arc<dyn PaginatedListStore>) =
            match &url.service {
                Service::S3 { addressing, endpoint: own, .. } => {
                    let is_virtual = match addressing {
                        Addressing::Auto => own.is_none() && !url.bucket.contains('.'),
                        Addressing::Path => false,
                        Addressing::Virtual => true,
                    };
                    let mut builder = AmazonS3Builder::new()
                        .with_http_connector(wire.clone())
                        .with_retry(once())
                        .with_bucket_name(&url.bucket)
                        .with_region(&chain.region)
                        .with_virtual_hosted_style_request(is_virtual)
                        .with_endpoint(if is_virtual {
                            in_front(&wire.endpoint, &url.bucket)
                        } else {
                            endpoint.clone()
                        })
                        .with_allow_http(true)
                        // What is sent over TLS arrives as it left; signing it would be hashing it once more.
                        .with_unsigned_payload(wire.endpoint.scheme() == "https")
                        // Not all stores have it, and one object at a time is all that is ever deleted here.
                        .with_disable_bulk_delete(true)
                        .with_disable_tagging(true);
                    for key in CLOUDS_OWN {
                        if let Ok(value) = std::env::var(key.as_ref().to_ascii_uppercase()) {
                            builder = builder.with_config(key, value);
                        }
                    }
                    let readable =
                        wire.endpoint.scheme() != "https" && !is_loopback(&wire.endpoint) && !allow_unencrypted;
                    // Built a first time for the library's own chain of credentials.
                    let clouds = Arc::clone(builder.clone().build().map_err(library)?.credentials());
                    let keys = S3Keys { chain, clouds, bucket: name.clone(), readable_on_the_way: readable };
                    let store = Arc::new(builder.with_credentials(Arc::new(keys)).build().map_err(library)?);
                    (Arc::clone(&store) as _, Arc::clone(&store) as _, store)
                }
                Service::Gcs { endpoint: own } => {
                    let mut builder = GoogleCloudStorageBuilder::from_env()
                        .with_http_connector(wire)
                        .with_retry(once())
                        .with_bucket_name(&url.bucket);
                    if own.is_some() {
                        builder = builder.with_base_url(&endpoint);
                    }
                    if let Some(key) = secret(&keys.service_account_key).await? {
                        builder = builder.with_service_account_key(key.expose());
                    }
                    let store = Arc::new(builder.build().map_err(library)?);
                    (Arc::clone(&store) as _, Arc::clone(&store) as _, store)
                }
                Service::Azure { account, endpoint: own } => {
                    let mut builder = MicrosoftAzureBuilder::from_env()
                        .with_http_connector(wire)
                        .with_retry(once())
                        .with_container_name(&url.bucket)
                        .with_allow_http(true)
                        .with_disable_tagging(true);
                    if let Some(account) = account {
                        builder = builder.with_account(account);
                    }
                    if own.is_some() {
                        builder = builder.with_endpoint(endpoint.clone());
                    }
                    if let Some(key) = secret(&keys.account_key).await? {
                        builder = builder.with_access_key(key.expose());
                    }
                    let store = Arc::new(builder.build().map_err(library)?);
                    (Arc::clone(&store) as _, Arc::clone(&store) as _, store)
                }
            };
        let aborts = !matches!(url.service, Service::Azure { .. });
        Ok(Self { objects, multiparts, pages, name: name.into(), prefix: url.key("").into(), aborts })
    }

    /// The object that a file of the cache's layout is.
    pub(super) fn object(&self, file: &str) -> Path {
        Path::from(format!("{}{file}", self.prefix))
    }

    /// The text of an object, if it is there.
    pub(super) async fn text(&self, object: &Path) -> Result<Option<String>, Arc<BucketError>> {
        let failed = |error| unwrapped(Action::Configuration, &self.name, &error);
        let found = match self.objects.get(object).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let bytes = found.bytes().await.map_err(failed)?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Whether an object is there. Those who may not list a bucket are told 403 of what is missing, so that counts as
    /// missing too: whether the credentials are good has been found out when the cache was opened.
    pub(super) async fn has(&self, object: &Path) -> Result<bool, Arc<BucketError>> {
        match self.objects.head(object).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. } | object_store::Error::PermissionDenied { .. }) => Ok(false),
            Err(error) => Err(unwrapped(Action::Missing, &self.name, &error)),
        }
    }

    /// A page of the names in the cache's root that begin like that, and by what the next page is asked for, if there is
    /// one. Folders are passed over.
    pub(super) async fn page(
        &self,
        begin: &str,
        page_token: Option<String>,
    ) -> Result<(Vec<String>, Option<String>), Arc<BucketError>> {
        let options =
            PaginatedListOptions { delimiter: Some("/".into()), page_token, ..PaginatedListOptions::default() };
        let listed = self.pages.list_paginated(Some(&format!("{}{begin}", self.prefix)), options).await;
        let listed = listed.map_err(|error| unwrapped(Action::Missing, &self.name, &error))?;
        let names = listed.result.objects.iter().filter_map(|object| object.location.filename().map(str::to_owned));
        Ok((names.collect(), listed.page_token))
    }

    /// Puts an object; with `create`, only where there is none, as far as the store knows how.
    pub(super) async fn put(
        &self,
        object: &Path,
        payload: PutPayload,
        kind: &'static str,
        create: bool,
    ) -> Result<Put, Arc<BucketError>> {
        let mode = if create { PutMode::Create } else { PutMode::Overwrite };
        let options = PutOptions { mode, attributes: content_type(kind), ..PutOptions::default() };
        match self.objects.put_opts(object, payload, options).await {
            Ok(_) => Ok(Put::New),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) if create => {
                Ok(Put::Exists)
            }
            Err(error) => Err(unwrapped(Action::Upload, &self.name, &error)),
        }
    }

    /// Aborts an upload in parts; that it isn't there is fine.
    async fn abort(&self, object: &Path, parts: Option<&str>) -> Result<(), Arc<BucketError>> {
        let Some(parts) = parts else { return Ok(()) };
        match self.multiparts.abort_multipart(object, &parts.to_owned()).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => match unwrapped(Action::Upload, &self.name, &error) {
                // Aborted already, or put together.
                error if error.is_gone() => Ok(()),
                error => Err(error),
            },
        }
    }

    /// Deletes an object; that it isn't there is fine.
    pub(super) async fn delete(&self, object: &Path) -> Result<(), Arc<BucketError>> {
        match self.objects.delete(object).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(unwrapped(Action::Upload, &self.name, &error)),
        }
    }
}

impl Place for Store {
    fn name(&self) -> &str {
        &self.name
    }

    async fn take_back(&self, object: &str, parts: Option<&str>) -> Result<(), String> {
        let object = Path::from(object);
        let taken_back: Result<(), Arc<BucketError>> = async {
            self.abort(&object, parts.filter(|_| self.aborts)).await?;
            self.delete(&object).await
        }
        .await;
        taken_back.map_err(|error| one_line(&*error))
    }
}

/// What a store is told that an object holds, as Nix tells it.
pub(super) fn content_type(kind: &'static str) -> Attributes {
    Attributes::from_iter([(Attribute::ContentType, kind)])
}

/// Variables by which a cloud tells its machines where credentials are to be had.
const CLOUDS_OWN: [AmazonS3ConfigKey; 8] = [
    AmazonS3ConfigKey::WebIdentityTokenFile,
    AmazonS3ConfigKey::RoleArn,
    AmazonS3ConfigKey::RoleSessionName,
    AmazonS3ConfigKey::StsEndpoint,
    AmazonS3ConfigKey::ContainerCredentialsRelativeUri,
    AmazonS3ConfigKey::ContainerCredentialsFullUri,
    AmazonS3ConfigKey::ContainerAuthorizationTokenFile,
    AmazonS3ConfigKey::MetadataEndpoint,
];

async fn wire(endpoint: &str, http: &HttpOptions, name: &str) -> Result<Wire, Arc<BucketError>> {
    let endpoint = Url::parse(endpoint).map_err(|error| {
        let problem = format!("its endpoint is no address: {error}");
        Arc::new(BucketError::NotUnderstood { action: Action::Configuration, bucket: name.to_owned(), problem })
    })?;
    let client = |options| async move {
        let http = Http::new(&options).await.map_err(|error| Arc::new(BucketError::from(error)))?;
        Ok::<_, Arc<BucketError>>(http.client().clone())
    };
    let near = HttpOptions { direct: true, client_certificate: None, ..http.clone() };
    let direct = http.direct || is_loopback(&endpoint);
    let client_there = client(HttpOptions { direct, ..http.clone() }).await?;
    Ok(Wire { client: client_there, near: client(near).await?, endpoint, bucket: name.to_owned() })
}

/// The endpoint with the bucket in front of the host's name.
fn in_front(endpoint: &Url, bucket: &str) -> String {
    let (scheme, rest) = endpoint.as_str().split_once("://").unwrap_or(("https", endpoint.as_str()));
    format!("{scheme}://{bucket}.{}", rest.trim_end_matches('/'))
}
