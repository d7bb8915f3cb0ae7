//! The library's view of Google's buckets.
//!
//! Where the policy has a key, nothing of the environment is asked for credentials, and where the servers are is always said by
//! the URL. A file that the environment names is looked at before the library reads it, if it does.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use object_store::CredentialProvider;
use object_store::gcp::{
    GcpCredential, GcpCredentialProvider, GoogleCloudStorage, GoogleCloudStorageBuilder, GoogleConfigKey,
};

use super::build::once;
use super::environment::{carried, given, key_file, sendable};
use super::error::{BucketError, unwrapped};
use super::wire::Wire;
use crate::cache::BucketUrl;
use crate::cache::http::Action;
use crate::secret::Secret;

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
            let builder = trimmed(GoogleCloudStorageBuilder::from_env());
            if let Some(file) = key_of(&builder, std::env::var_os("HOME").map(PathBuf::from)) {
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
fn trimmed(mut builder: GoogleCloudStorageBuilder) -> GoogleCloudStorageBuilder {
    use GoogleConfigKey::{ApplicationCredentials, BearerToken, ServiceAccount, ServiceAccountKey};
    for key in [ServiceAccount, ServiceAccountKey, ApplicationCredentials, BearerToken] {
        if let Some(value) = builder.get_config_value(&key) {
            builder = builder.with_config(key, value.trim());
        }
    }
    builder
}

/// The file from which the library takes Google's key, if it takes one from any.
fn key_of(builder: &GoogleCloudStorageBuilder, home: Option<PathBuf>) -> Option<PathBuf> {
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

#[cfg(test)]
mod tests {
    use object_store::StaticCredentialProvider;

    use super::*;

    #[test]
    fn the_file_that_the_library_takes_its_key_from_is_known() {
        let home = tempfile::tempdir().expect("a folder");
        let of_gcloud = home.path().join(OF_GCLOUD);
        let of = |says: &[(GoogleConfigKey, &str)]| {
            let builder = says
                .iter()
                .fold(GoogleCloudStorageBuilder::new(), |builder, (key, value)| builder.with_config(*key, *value));
            key_of(&trimmed(builder), Some(home.path().to_owned()))
        };
        let file = |file: &str| Some(PathBuf::from(file));
        use GoogleConfigKey::{ApplicationCredentials, BearerToken, ServiceAccount, ServiceAccountKey};
        assert_eq!(of(&[]), None);
        std::fs::create_dir_all(of_gcloud.parent().expect("a folder")).expect("made");
        std::fs::write(&of_gcloud, "{}").expect("written");
        assert_eq!(of(&[]), Some(of_gcloud));
        assert_eq!(of(&[(ApplicationCredentials, "/a\n")]), file("/a"));
        assert_eq!(of(&[(ApplicationCredentials, "/a"), (ServiceAccount, "/s")]), file("/s"));
        for needs_none in [ServiceAccountKey, BearerToken] {
            assert_eq!(of(&[(ApplicationCredentials, "/a"), (needs_none, "k")]), None, "{needs_none:?}");
        }
    }

    #[tokio::test]
    async fn a_token_that_no_request_can_carry_is_not_sent() {
        for (bearer, may) in [("ya29.a", true), ("ya29.a\n", false)] {
            let chain = Arc::new(StaticCredentialProvider::new(GcpCredential { bearer: bearer.to_owned() }));
            let keys = GoogleKeys { chain, bucket: "gs://b".to_owned() };
            match keys.get_credential().await {
                Ok(_) => assert!(may, "{bearer:?}"),
                Err(error) => {
                    let error = unwrapped(Action::Upload, "gs://b", &error);
                    assert!(!may && matches!(*error, BucketError::NoCredentials { .. }), "{error}");
                    assert!(!error.to_string().contains("ya29"), "{error}");
                }
            }
        }
    }
}
