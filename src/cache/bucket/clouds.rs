//! The library's view of Google's and of Azure's buckets.
//!
//! What the policy says wins: where it has a key, nothing of the environment is asked for credentials, and where a bucket's
//! servers are is always said by its URL. A token that crosses the network crosses it encrypted.

use std::sync::Arc;

use async_trait::async_trait;
use object_store::CredentialProvider;
use object_store::azure::{AzureCredential, AzureCredentialProvider, MicrosoftAzure, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder};

use super::build::once;
use super::credentials::variable;
use super::error::{BucketError, Carried, unwrapped};
use super::wire::Wire;
use crate::cache::http::Action;
use crate::cache::{BucketUrl, Service};
use crate::secret::Secret;

/// A bucket of Google's, whose servers are at `endpoint`.
pub(super) fn google(
    url: &BucketUrl,
    endpoint: &str,
    wire: Wire,
    key: Option<&Secret>,
) -> Result<GoogleCloudStorage, Arc<BucketError>> {
    let builder = match key {
        Some(key) => GoogleCloudStorageBuilder::new().with_service_account_key(key.expose()),
        None => GoogleCloudStorageBuilder::from_env(),
    };
    let builder =
        builder.with_http_connector(wire).with_retry(once()).with_bucket_name(&url.bucket).with_base_url(endpoint);
    builder.build().map_err(|error| match key {
        // Its own words may repeat the key.
        Some(_) => {
            let problem =
                "`service_account_key` is no key of Google's: it is JSON, with `client_email` and `private_key`";
            let (action, bucket) = (Action::Configuration, url.name());
            Arc::new(BucketError::NotUnderstood { action, bucket, problem: problem.to_owned() })
        }
        None => unwrapped(Action::Configuration, &url.name(), &error),
    })
}

/// A bucket of Azure's, whose servers are at `endpoint`; `readable`: what is sent there could be read on the way, and must
/// not be.
pub(super) fn azure(
    url: &BucketUrl,
    endpoint: &str,
    wire: Wire,
    key: Option<&Secret>,
    readable: bool,
) -> Result<MicrosoftAzure, Arc<BucketError>> {
    let builder = match key {
        Some(key) => MicrosoftAzureBuilder::new().with_access_key(key.expose()),
        None => MicrosoftAzureBuilder::from_env(),
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
    let keys = AzureKeys { chain, bucket: url.name(), readable_on_the_way: readable };
    builder.with_credentials(Arc::new(keys)).build().map_err(library)
}

/// The storage account: as the URL has it, else the environment.
pub(super) fn account(url: &BucketUrl) -> Result<String, Arc<BucketError>> {
    let named = match &url.service {
        Service::Azure { account, .. } => account.clone(),
        Service::S3 { .. } | Service::Gcs { .. } => None,
    };
    named.or_else(|| variable("AZURE_STORAGE_ACCOUNT_NAME")).ok_or_else(|| {
        let problem = "write `?account=ACCOUNT` into the `url`, or set AZURE_STORAGE_ACCOUNT_NAME".to_owned();
        Arc::new(BucketError::NoCredentials { bucket: url.name(), problem })
    })
}

/// What requests to Azure carry.
struct AzureKeys {
    chain: AzureCredentialProvider,
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
        let credential = self.chain.get_credential().await?;
        match &*credential {
            // It only signs.
            AzureCredential::AccessKey(_) => {}
            AzureCredential::SASToken(_) | AzureCredential::BearerToken(_) if self.readable_on_the_way => {
                let error = Arc::new(BucketError::Unencrypted { bucket: self.bucket.clone() });
                return Err(object_store::Error::Generic { store: "Azure", source: Box::new(Carried(error)) });
            }
            AzureCredential::SASToken(_) | AzureCredential::BearerToken(_) => {}
        }
        Ok(credential)
    }
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
            let keys = AzureKeys { chain, bucket: "az://c".to_owned(), readable_on_the_way };
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
