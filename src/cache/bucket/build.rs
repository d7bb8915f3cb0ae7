//! The library's view of a bucket, built by what the policy, the environment and `~/.aws` say.

use std::path::PathBuf;
use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredentialProvider};
use object_store::list::PaginatedListStore;
use object_store::multipart::MultipartStore;
use object_store::{ObjectStore, RetryConfig};
use reqwest::Url;
use tokio::sync::Semaphore;

use super::credentials::{Chain, S3Keys};
use super::environment::{token_file, variable};
use super::error::{BucketError, unwrapped};
use super::listing::Listing;
use super::send::SPARE;
use super::store::Store;
use super::uploads::{Signer, Uploads};
use super::wire::Wire;
use super::{azure, google};
use crate::cache::http::{Action, Http, HttpOptions};
use crate::cache::remote::ANSWERS_HOLD;
use crate::cache::url::is_loopback;
use crate::cache::{Addressing, BucketUrl, Service};
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
    /// How to speak to its server; no token is shown.
    pub http: HttpOptions,
    /// The policy's own keys.
    pub keys: StoreKeys,
    /// Where this host's store has its files: no secret comes from there.
    pub real_store: PathBuf,
    /// Whether temporary tokens may cross a network for everybody to read.
    pub allow_unencrypted: bool,
}

/// Not tried again by the library: what an error means, and how often something is worth trying, is decided elsewhere.
pub(super) fn once() -> RetryConfig {
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
        let endpoint = match url.lacks_account() {
            true => endpoint_of_environment(url)?,
            false => url.endpoint(&chain.region),
        };
        let of_policy = |key: &str, provider: &Option<Provider>| {
            provider.as_ref().map(|provider| format!("`{key}` from {}", provider.source()))
        };
        let source = match &url.service {
            Service::S3 { .. } => chain.source(),
            Service::Gcs { .. } => of_policy("service_account_key", &keys.service_account_key),
            Service::Azure { .. } => of_policy("account_key", &keys.account_key),
        };
        let (source, allow_unencrypted) = (source.map(Arc::from), *allow_unencrypted);
        let wire = Wire { keys: source, allow_unencrypted, ..wire(&endpoint, http, &name).await? };
        let readable = wire.endpoint.scheme() != "https" && !is_loopback(&wire.endpoint) && !allow_unencrypted;
        let (server, mut uploads) = (Some(Arc::new(wire.clone())), None);
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
                        // What is sent over TLS arrives as it left, and so does what never leaves this host; signing it would
                        // be hashing it once more, on both sides.
                        .with_unsigned_payload(wire.endpoint.scheme() == "https" || is_loopback(&wire.endpoint))
                        // Not all stores have it, and one object at a time is all that is ever deleted here.
                        .with_disable_bulk_delete(true)
                        .with_disable_tagging(true);
                    for key in CLOUDS_OWN {
                        if let Some(value) = variable(&key.as_ref().to_ascii_uppercase()) {
                            builder = builder.with_config(key, value);
                        }
                    }
                    let token_file = shown_to_a_cloud(&builder).map(|file| token_file(file.as_ref(), real_store));
                    // Built a first time for the library's own chain of credentials.
                    let clouds = Arc::clone(builder.clone().build().map_err(library)?.credentials());
                    let region = chain.region.clone();
                    let keys =
                        S3Keys { chain, clouds, token_file, bucket: name.clone(), readable_on_the_way: readable };
                    let keys: AwsCredentialProvider = Arc::new(keys);
                    let bucket = match is_virtual {
                        true => in_front(&wire.endpoint, &url.bucket),
                        false => below(&wire.endpoint, &url.bucket),
                    };
                    let signer = Signer::S3 { keys: Arc::clone(&keys), region };
                    uploads = Url::parse(&bucket).ok().map(|bucket| Uploads { wire, bucket, signer });
                    let store = Arc::new(builder.with_credentials(keys).build().map_err(library)?);
                    (Arc::clone(&store) as _, Arc::clone(&store) as _, store)
                }
                Service::Gcs { .. } => {
                    let key = secret(&keys.service_account_key).await?;
                    let store = Arc::new(google::google(url, &endpoint, wire.clone(), key.as_ref(), real_store).await?);
                    let signer = Signer::Google(Arc::clone(store.credentials()));
                    let bucket = Url::parse(&below(&wire.endpoint, &url.bucket)).ok();
                    uploads = bucket.map(|bucket| Uploads { wire, bucket, signer });
                    (Arc::clone(&store) as _, Arc::clone(&store) as _, store)
                }
                Service::Azure { .. } => {
                    let key = secret(&keys.account_key).await?;
                    let store = Arc::new(azure::azure(url, &endpoint, wire, key.as_ref(), real_store, readable)?);
                    (Arc::clone(&store) as _, Arc::clone(&store) as _, store)
                }
            };
        let aborts = !matches!(url.service, Service::Azure { .. });
        let (name, prefix, uploads) = (name.into(), url.key("").into(), uploads.map(Arc::new));
        let spare = Arc::new(Semaphore::new(SPARE));
        let (only_overwrites, listing) = (Arc::default(), Arc::new(Listing::new(ANSWERS_HOLD)));
        Ok(Self { objects, multiparts, pages, uploads, name, prefix, server, spare, aborts, only_overwrites, listing })
    }
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

/// The file of the token by which the library gets keys from Amazon's servers, if it does so by one.
fn shown_to_a_cloud(builder: &AmazonS3Builder) -> Option<String> {
    let says = |key| builder.get_config_value(&key);
    match (says(AmazonS3ConfigKey::WebIdentityTokenFile), says(AmazonS3ConfigKey::RoleArn)) {
        (Some(file), Some(_)) => Some(file),
        _ if says(AmazonS3ConfigKey::ContainerCredentialsRelativeUri).is_some() => None,
        _ => says(AmazonS3ConfigKey::ContainerCredentialsFullUri)
            .and_then(|_| says(AmazonS3ConfigKey::ContainerAuthorizationTokenFile)),
    }
}

/// Where Azure has the account that the environment names.
pub(super) fn endpoint_of_environment(url: &BucketUrl) -> Result<String, Arc<BucketError>> {
    Ok(format!("https://{}.blob.core.windows.net", azure::account(url)?))
}

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
    let credentials = Arc::clone(&http.credentials);
    let (near, bucket) = (client(near).await?, name.to_owned());
    Ok(Wire {
        client: client_there,
        near,
        endpoint,
        credentials,
        bucket,
        keys: None,
        clock: Arc::default(),
        allow_unencrypted: false,
    })
}

/// The bucket behind the endpoint.
fn below(endpoint: &Url, bucket: &str) -> String {
    format!("{}/{bucket}", endpoint.as_str().trim_end_matches('/'))
}

/// The endpoint with the bucket in front of the host's name.
fn in_front(endpoint: &Url, bucket: &str) -> String {
    let (scheme, rest) = endpoint.as_str().split_once("://").unwrap_or(("https", endpoint.as_str()));
    format!("{scheme}://{bucket}.{}", rest.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_that_the_library_shows_to_amazon_is_known() {
        use AmazonS3ConfigKey::{
            ContainerAuthorizationTokenFile, ContainerCredentialsFullUri, ContainerCredentialsRelativeUri, RoleArn,
            WebIdentityTokenFile,
        };
        let (web, role) = ((WebIdentityTokenFile, "/web"), (RoleArn, "r"));
        let (full, file) = ((ContainerCredentialsFullUri, "http://h"), (ContainerAuthorizationTokenFile, "/pod"));
        let relative = (ContainerCredentialsRelativeUri, "/r");
        for (says, expected) in [
            (vec![], None),
            (vec![web, role, full, file], Some("/web")),
            (vec![web], None),
            (vec![web, full, file], Some("/pod")),
            (vec![full], None),
            (vec![relative, full, file], None),
        ] {
            let builder =
                says.iter().fold(AmazonS3Builder::new(), |builder, (key, value)| builder.with_config(*key, *value));
            assert_eq!(shown_to_a_cloud(&builder).as_deref(), expected, "{says:?}");
        }
    }
}
