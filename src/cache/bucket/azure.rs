//! The library's view of Azure's buckets.
//!
//! Where the policy has a key, nothing of the environment is asked for credentials, and where the servers are is always said by
//! the URL. A token that crosses the network crosses it encrypted. A file that the environment names is looked at before the
//! library reads it, if it does.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use object_store::CredentialProvider;
use object_store::azure::{
    AzureConfigKey, AzureCredential, AzureCredentialProvider, MicrosoftAzure, MicrosoftAzureBuilder,
};
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use super::build::once;
use super::environment::{UNSENDABLE, carried, given, sendable, token_file, variable};
use super::error::{BucketError, unwrapped};
use super::wire::Wire;
use crate::cache::http::Action;
use crate::cache::{BucketUrl, Service};
use crate::secret::{Provider, Secret};

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
        None => trimmed(MicrosoftAzureBuilder::from_env()),
    };
    let source = Chosen::of(&builder);
    let token_file = match &source {
        Chosen::TokenFile(file) => Some(token_file(file, real_store)),
        Chosen::Az | Chosen::Directly => None,
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
    let runs_az = source == Chosen::Az;
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
fn trimmed(mut builder: MicrosoftAzureBuilder) -> MicrosoftAzureBuilder {
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
enum Chosen {
    /// From a server, which is shown the token in this file.
    TokenFile(PathBuf),
    /// From the program `az`, whose end the library waits for where it stands.
    Az,
    /// From a variable, or from a server that is shown nothing of a file.
    Directly,
}

impl Chosen {
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

#[cfg(test)]
mod tests {
    use object_store::StaticCredentialProvider;
    use object_store::azure::AzureAccessKey;

    use super::*;
    use crate::secret::SecretError;

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

    #[tokio::test]
    async fn a_token_that_no_request_can_carry_is_not_sent() {
        let chain = Arc::new(StaticCredentialProvider::new(AzureCredential::BearerToken("s3cret\n".to_owned())));
        let bucket = "az://c".to_owned();
        let keys = AzureKeys { chain, token_file: None, runs_az: false, bucket, readable_on_the_way: false };
        let error = unwrapped(Action::Upload, "az://c", &keys.get_credential().await.expect_err("a newline"));
        assert!(matches!(*error, BucketError::NoCredentials { .. }), "{error}");
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }

    #[tokio::test]
    async fn a_token_in_the_store_is_shown_to_nobody() {
        let store = tempfile::tempdir().expect("a folder");
        let file = store.path().join("token");
        std::fs::write(&file, "s3cret").expect("written");
        let chain = Arc::new(StaticCredentialProvider::new(AzureCredential::BearerToken("t".to_owned())));
        let (bucket, token_file) = ("az://c".to_owned(), Some(token_file(&file, store.path())));
        let keys = AzureKeys { chain, token_file, runs_az: false, bucket, readable_on_the_way: false };
        let error = unwrapped(Action::Upload, "az://c", &keys.get_credential().await.expect_err("in the store"));
        assert!(matches!(&*error, BucketError::Secret(SecretError::InStore { .. })), "{error}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_runs_a_program_holds_nobody_up() {
        /// Waits where it stands until somebody else has had a turn.
        #[derive(Debug)]
        struct Blocks(std::sync::Mutex<std::sync::mpsc::Receiver<()>>);

        #[async_trait]
        impl CredentialProvider for Blocks {
            type Credential = AzureCredential;

            async fn get_credential(&self) -> object_store::Result<Arc<AzureCredential>> {
                let waits = std::time::Duration::from_secs(60);
                self.0.lock().expect("no panic").recv_timeout(waits).expect("somebody had a turn");
                Ok(Arc::new(AzureCredential::BearerToken("t".to_owned())))
            }
        }

        let (sender, receiver) = std::sync::mpsc::channel();
        let (chain, bucket) = (Arc::new(Blocks(receiver.into())), "az://c".to_owned());
        let keys = AzureKeys { chain, token_file: None, runs_az: true, bucket, readable_on_the_way: false };
        let (given, ()) = tokio::join!(keys.get_credential(), async { sender.send(()).expect("waited for") });
        assert!(given.is_ok());
    }

    #[test]
    fn it_is_known_where_the_library_takes_credentials_from() {
        use AzureConfigKey::{
            AccessKey, AuthorityId, ClientId, ClientSecret, CredentialType, FederatedTokenFile, SasKey, Token,
            UseAzureCli,
        };
        let workload = [(ClientId, "c"), (AuthorityId, "t"), (FederatedTokenFile, "/t\n")];
        let with = |more: &[(AzureConfigKey, &str)]| {
            let all = workload.iter().chain(more);
            let builder =
                all.fold(MicrosoftAzureBuilder::new(), |builder, (key, value)| builder.with_config(*key, *value));
            Chosen::of(&trimmed(builder))
        };
        let only = |says: &[(AzureConfigKey, &str)]| {
            let builder = says
                .iter()
                .fold(MicrosoftAzureBuilder::new(), |builder, (key, value)| builder.with_config(*key, *value));
            Chosen::of(&builder)
        };
        let file = || Chosen::TokenFile(PathBuf::from("/t"));
        assert_eq!(with(&[]), file());
        assert_eq!(with(&[(SasKey, "s")]), file());
        assert_eq!(with(&[(Token, "t\n")]), Chosen::Directly);
        assert_eq!(with(&[(AccessKey, "a")]), Chosen::Directly);
        assert_eq!(with(&[(CredentialType, "managed_identity")]), Chosen::Directly);
        assert_eq!(with(&[(AccessKey, "a"), (CredentialType, "workload_identity")]), file());
        assert_eq!(only(&[(FederatedTokenFile, "/t")]), Chosen::Directly);
        assert_eq!(only(&[(UseAzureCli, "true")]), Chosen::Az);
        assert_eq!(only(&[(UseAzureCli, "true"), (SasKey, "s")]), Chosen::Directly);
        let secret = [(ClientId, "c"), (AuthorityId, "t"), (ClientSecret, "s"), (UseAzureCli, "true")];
        assert_eq!(only(&secret), Chosen::Directly);
    }
}
