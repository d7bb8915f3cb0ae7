//! The library's view of Google's and of Azure's buckets.
//!
//! What the policy says wins: where it has a key, nothing of the environment is asked for credentials, and where a bucket's
//! servers are is always said by its URL. A token that crosses the network crosses it encrypted. Files that the environment
//! names are looked at before the library reads them, as far as it does.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use object_store::CredentialProvider;
use object_store::azure::{
    AzureConfigKey, AzureCredential, AzureCredentialProvider, MicrosoftAzure, MicrosoftAzureBuilder,
};
use object_store::gcp::{
    GcpCredential, GcpCredentialProvider, GoogleCloudStorage, GoogleCloudStorageBuilder, GoogleConfigKey,
};
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use super::build::once;
use super::environment::{UNSENDABLE, can_be_sent, given, key_file, token_file, variable};
use super::error::{BucketError, Carried, unwrapped};
use super::wire::Wire;
use crate::cache::http::Action;
use crate::cache::{BucketUrl, Service};
use crate::secret::{Provider, Secret};

/// Where `gcloud` keeps a user's key, below the home directory.
const OF_GCLOUD: &str = ".config/gcloud/application_default_credentials.json";

/// A bucket of Google's, whose servers are at `endpoint`.
pub(super) async fn google(
    url: &BucketUrl,
    endpoint: &str,
    wire: Wire,
    key: Option<&Secret>,
    real_store: &Path,
) -> Result<GoogleCloudStorage, Arc<BucketError>> {
    let builder = match key {
        Some(key) => GoogleCloudStorageBuilder::new().with_service_account_key(key.expose()),
        None => {
            let builder = trimmed_google(GoogleCloudStorageBuilder::from_env());
            if let Some(file) = google_key(&builder, std::env::var_os("HOME").map(PathBuf::from)) {
                key_file(&file, real_store).get().await.map_err(|error| Arc::new(BucketError::Secret(error)))?;
            }
            builder
        }
    };
    let builder =
        builder.with_http_connector(wire).with_retry(once()).with_bucket_name(&url.bucket).with_base_url(endpoint);
    let library = |error: object_store::Error| match key {
        // Its own words may repeat the key.
        Some(_) => {
            let problem =
                "`service_account_key` is no key of Google's: it is JSON, with `client_email` and `private_key`";
            let (action, bucket) = (Action::Configuration, url.name());
            Arc::new(BucketError::NotUnderstood { action, bucket, problem: problem.to_owned() })
        }
        None => unwrapped(Action::Configuration, &url.name(), &error),
    };
    // Built a first time for the library's own chain of credentials.
    let chain = Arc::clone(builder.clone().build().map_err(library)?.credentials());
    builder.with_credentials(Arc::new(GoogleKeys { chain, bucket: url.name() })).build().map_err(library)
}

/// Without white space around what variables say.
fn trimmed_google(mut builder: GoogleCloudStorageBuilder) -> GoogleCloudStorageBuilder {
    use GoogleConfigKey::{ApplicationCredentials, BearerToken, ServiceAccount, ServiceAccountKey};
    for key in [ServiceAccount, ServiceAccountKey, ApplicationCredentials, BearerToken] {
        if let Some(value) = builder.get_config_value(&key) {
            builder = builder.with_config(key, value.trim());
        }
    }
    builder
}

/// The file from which the library takes Google's key, if it takes one from any.
fn google_key(builder: &GoogleCloudStorageBuilder, home: Option<PathBuf>) -> Option<PathBuf> {
    let says = |key| builder.get_config_value(&key);
    if let Some(file) = says(GoogleConfigKey::ServiceAccount) {
        return Some(file.into());
    }
    if says(GoogleConfigKey::ServiceAccountKey).or_else(|| says(GoogleConfigKey::BearerToken)).is_some() {
        return None;
    }
    match says(GoogleConfigKey::ApplicationCredentials) {
        Some(file) => Some(file.into()),
        None => home.map(|home| home.join(OF_GCLOUD)).filter(|file| file.exists()),
    }
}

/// What requests to Google carry.
struct GoogleKeys {
    chain: GcpCredentialProvider,
    bucket: String,
}

impl std::fmt::Debug for GoogleKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GoogleKeys({})", self.bucket)
    }
}

#[async_trait]
impl CredentialProvider for GoogleKeys {
    type Credential = GcpCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<GcpCredential>> {
        let credential = given(&*self.chain, &self.bucket).await.map_err(carried)?;
        sendable(&credential.bearer, &self.bucket)?;
        Ok(credential)
    }
}

/// A bucket of Azure's, whose servers are at `endpoint`; `readable`: what is sent there could be read on the way, and must
/// not be.
pub(super) fn azure(
    url: &BucketUrl,
    endpoint: &str,
    wire: Wire,
    key: Option<&Secret>,
    real_store: &Path,
    readable: bool,
) -> Result<MicrosoftAzure, Arc<BucketError>> {
    let builder = match key {
        Some(key) => MicrosoftAzureBuilder::new().with_access_key(key.expose()),
        None => trimmed_azure(MicrosoftAzureBuilder::from_env()),
    };
    let source = AzureSource::of(&builder);
    let token_file = match &source {
        AzureSource::TokenFile(file) => Some(token_file(file, real_store)),
        AzureSource::Az | AzureSource::Directly => None,
    };
    let builder = builder
        .with_http_connector(wire)
        .with_retry(once())
        .with_account(account(url)?)
        .with_container_name(&url.bucket)
        .with_endpoint(endpoint.to_owned())
        .with_use_emulator(false)
        .with_allow_http(true)
        .with_disable_tagging(true);
    let library = |error: object_store::Error| unwrapped(Action::Configuration, &url.name(), &error);
    // Built a first time for the library's own chain of credentials.
    let chain = Arc::clone(builder.clone().build().map_err(library)?.credentials());
    let runs_az = source == AzureSource::Az;
    let keys = AzureKeys { chain, token_file, runs_az, bucket: url.name(), readable_on_the_way: readable };
    builder.with_credentials(Arc::new(keys)).build().map_err(library)
}

/// The storage account: as the URL has it, else the environment.
pub(super) fn account(url: &BucketUrl) -> Result<String, Arc<BucketError>> {
    let named = match &url.service {
        Service::Azure { account, .. } => account.clone(),
        Service::S3 { .. } | Service::Gcs { .. } => None,
    };
    let none = |problem| Arc::new(BucketError::NoCredentials { bucket: url.name(), problem });
    let account = named
        .or_else(|| variable("AZURE_STORAGE_ACCOUNT_NAME"))
        .ok_or_else(|| none("write `?account=ACCOUNT` into the `url`, or set AZURE_STORAGE_ACCOUNT_NAME".to_owned()))?;
    if !account.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(none(format!("the name of the storage account {UNSENDABLE}; write it anew")));
    }
    Ok(account)
}

/// Without white space around what variables say.
fn trimmed_azure(mut builder: MicrosoftAzureBuilder) -> MicrosoftAzureBuilder {
    use AzureConfigKey::{
        AccessKey, AuthorityHost, AuthorityId, ClientId, ClientSecret, FederatedTokenFile, MsiEndpoint, SasKey, Token,
    };
    for key in
        [AccessKey, AuthorityHost, AuthorityId, ClientId, ClientSecret, FederatedTokenFile, MsiEndpoint, SasKey, Token]
    {
        if let Some(value) = builder.get_config_value(&key) {
            builder = builder.with_config(key, value.trim());
        }
    }
    builder
}

/// Where the library takes Azure's credentials from.
#[derive(Debug, PartialEq, Eq)]
enum AzureSource {
    /// From a server, which is shown the token in this file.
    TokenFile(PathBuf),
    /// From the program `az`, whose end the library waits for where it stands.
    Az,
    /// From a variable, or from a server that is shown nothing of a file.
    Directly,
}

impl AzureSource {
    /// In the library's own order.
    fn of(builder: &MicrosoftAzureBuilder) -> Self {
        let says = |key| builder.get_config_value(&key);
        let has = |key| says(key).is_some();
        let workload =
            || says(AzureConfigKey::FederatedTokenFile).map_or(Self::Directly, |file| Self::TokenFile(file.into()));
        match says(AzureConfigKey::CredentialType).as_deref() {
            Some("workload_identity") => return workload(),
            Some("azure_cli") => return Self::Az,
            Some("auto") | None => {}
            Some(_) => return Self::Directly,
        }
        let is_client = has(AzureConfigKey::ClientId) && has(AzureConfigKey::AuthorityId);
        if has(AzureConfigKey::FabricTokenServiceUrl) || has(AzureConfigKey::Token) || has(AzureConfigKey::AccessKey) {
            Self::Directly
        } else if is_client && has(AzureConfigKey::FederatedTokenFile) {
            workload()
        } else if (is_client && has(AzureConfigKey::ClientSecret)) || has(AzureConfigKey::SasKey) {
            Self::Directly
        } else if says(AzureConfigKey::UseAzureCli).is_some_and(|value| is_yes(&value)) {
            Self::Az
        } else {
            Self::Directly
        }
    }
}

/// Whether the library understands a variable's value as yes.
fn is_yes(value: &str) -> bool {
    ["1", "true", "on", "yes", "y"].contains(&value.to_ascii_lowercase().as_str())
}

/// What requests to Azure carry.
struct AzureKeys {
    chain: AzureCredentialProvider,
    /// What is shown to who hands them out is in this file.
    token_file: Option<Provider>,
    /// Whether a program is run for them, by whoever asks.
    runs_az: bool,
    bucket: String,
    /// Whether a token must not be sent, since everybody on the way could read it.
    readable_on_the_way: bool,
}

impl std::fmt::Debug for AzureKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AzureKeys({})", self.bucket)
    }
}

#[async_trait]
impl CredentialProvider for AzureKeys {
    type Credential = AzureCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AzureCredential>> {
        if let Some(file) = &self.token_file {
            file.get().await.map_err(|error| carried(Arc::new(BucketError::Secret(error))))?;
        }
        let credential = self.given().await.map_err(carried)?;
        match &*credential {
            // It only signs.
            AzureCredential::AccessKey(_) => {}
            AzureCredential::SASToken(_) | AzureCredential::BearerToken(_) if self.readable_on_the_way => {
                return Err(carried(Arc::new(BucketError::Unencrypted { bucket: self.bucket.clone() })));
            }
            // It stands in the address, encoded.
            AzureCredential::SASToken(_) => {}
            AzureCredential::BearerToken(token) => sendable(token, &self.bucket)?,
        }
        Ok(credential)
    }
}

impl AzureKeys {
    async fn given(&self) -> Result<Arc<AzureCredential>, Arc<BucketError>> {
        if !self.runs_az {
            return given(&*self.chain, &self.bucket).await;
        }
        let (chain, bucket) = (Arc::clone(&self.chain), self.bucket.clone());
        let ran = spawn_blocking(move || Handle::current().block_on(given(&*chain, &bucket))).await;
        ran.unwrap_or_else(|_| {
            let problem = "what ran `az` for them broke off, by a defect of storewatch: its log has more".to_owned();
            Err(Arc::new(BucketError::NoCredentials { bucket: self.bucket.clone(), problem }))
        })
    }
}

/// An error on its way through the library.
fn carried(error: Arc<BucketError>) -> object_store::Error {
    object_store::Error::Generic { store: "a cloud's", source: Box::new(Carried(error)) }
}

/// Refuses a token that can't be sent.
fn sendable(token: &str, bucket: &str) -> object_store::Result<()> {
    if can_be_sent(token) {
        return Ok(());
    }
    let problem = format!("the token {UNSENDABLE}; write it anew");
    Err(carried(Arc::new(BucketError::NoCredentials { bucket: bucket.to_owned(), problem })))
}

#[cfg(test)]
mod tests {
    use object_store::StaticCredentialProvider;
    use object_store::azure::AzureAccessKey;

    use super::*;

    #[tokio::test]
    async fn azures_tokens_do_not_cross_an_open_line_and_its_keys_sign_there() {
        let key = || AzureCredential::AccessKey(AzureAccessKey::try_new("c2VjcmV0").expect("a key"));
        let token = || AzureCredential::BearerToken("s3cret".to_owned());
        let signature = || AzureCredential::SASToken(vec![("sig".to_owned(), "s3cret".to_owned())]);
        for (credential, readable_on_the_way, may) in [
            (key(), true, true),
            (token(), true, false),
            (signature(), true, false),
            (token(), false, true),
            (signature(), false, true),
        ] {
            let chain = Arc::new(StaticCredentialProvider::new(credential));
            let keys =
                AzureKeys { chain, token_file: None, runs_az: false, bucket: "az://c".to_owned(), readable_on_the_way };
            match keys.get_credential().await {
                Ok(_) => assert!(may),
                Err(error) => {
                    let error = unwrapped(Action::Upload, "az://c", &error);
                    assert!(!may && matches!(*error, BucketError::Unencrypted { .. }), "{error}");
                }
            }
        }
    }
}
