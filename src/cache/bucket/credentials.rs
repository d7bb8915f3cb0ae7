//! What requests to S3 are signed with, and where it comes from: the policy; else the profile that the URL names, the
//! environment, `~/.aws`; else what the cloud gives its machines, which is left to the library.
//!
//! Nothing is kept here but for the seconds that a [`Provider`] keeps it, so that new keys are in use without a restart.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use object_store::CredentialProvider;
use object_store::aws::{AmazonS3ConfigKey, AwsCredential, AwsCredentialProvider};

use super::build::StoreKeys;
use super::environment::{UNSENDABLE, can_be_sent, given, key_file, variable};
use super::error::{BucketError, Carried};
use super::profile::{self, Profile};
use crate::cache::http::Action;
use crate::cache::{BucketUrl, Service};
use crate::report::one_line;
use crate::secret::{Provider, Source};

/// Without one, as Nix and Amazon's own tools have it.
const DEFAULT_REGION: &str = "us-east-1";

/// Variables that name a cloud's own source of credentials: where one is set, there is one.
const CLOUDS_SOURCES: [AmazonS3ConfigKey; 3] = [
    AmazonS3ConfigKey::WebIdentityTokenFile,
    AmazonS3ConfigKey::ContainerCredentialsRelativeUri,
    AmazonS3ConfigKey::ContainerCredentialsFullUri,
];

/// Where keys come from, and the region, which is found on the way.
pub(super) struct Chain {
    pub(super) region: String,
    keys: Keys,
}

enum Keys {
    /// Sources that the policy names.
    Policy { id: Provider, secret: Provider, token: Option<Provider> },
    /// `AWS_ACCESS_KEY_ID` and its kin.
    Environment,
    /// A profile with keys of its own in a file.
    Profile { file: Provider, name: String, is_config: bool },
    /// What the cloud gives.
    Clouds,
}

impl Chain {
    /// Where the keys come from, in words, as far as that is known before there are any.
    pub(super) fn source(&self) -> Option<String> {
        match &self.keys {
            Keys::Policy { id, secret, .. } => {
                Some(format!("`access_key_id` from {} and `secret_access_key` from {}", id.source(), secret.source()))
            }
            Keys::Environment => Some("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY from the environment".to_owned()),
            Keys::Profile { file, name, .. } => Some(format!("the keys of the profile {name} in {}", file.source())),
            Keys::Clouds => None,
        }
    }

    /// Looks where the keys for a bucket come from.
    pub(super) async fn find(url: &BucketUrl, keys: &StoreKeys, real_store: &Path) -> Result<Self, Arc<BucketError>> {
        let Service::S3 { region, profile, .. } = &url.service else {
            return Ok(Self { region: DEFAULT_REGION.to_owned(), keys: Keys::Clouds });
        };
        let named = profile.clone().or_else(|| variable("AWS_PROFILE"));
        let files = Files::find(named.as_deref().unwrap_or("default"), real_store);
        let of_variable = |name: &'static str| variable(name).map(|region| (region, name));
        let said = region.clone().map(|region| (region, "the `url`"));
        let region = match said.or_else(|| of_variable("AWS_REGION")).or_else(|| of_variable("AWS_DEFAULT_REGION")) {
            Some((region, from)) => usable_region(region, from, url)?,
            None => match files.region().await {
                Some(region) => usable_region(region, "the profile", url)?,
                None => DEFAULT_REGION.to_owned(),
            },
        };
        let keys = match keys {
            StoreKeys { access_key_id: Some(id), secret_access_key: Some(secret), session_token: token, .. } => {
                Keys::Policy { id: id.clone(), secret: secret.clone(), token: token.clone() }
            }
            _ if profile.is_none() && variable("AWS_ACCESS_KEY_ID").is_some() => Keys::Environment,
            _ => match files.keys().await {
                Some(keys) => keys,
                None => match named {
                    Some(named) => {
                        let problem = format!(
                            "the profile {named} has no keys in {}; write `aws_access_key_id` and \
                             `aws_secret_access_key` there, or name the keys in the policy",
                            files.credentials.display()
                        );
                        return Err(Arc::new(BucketError::NoCredentials { bucket: url.name(), problem }));
                    }
                    None => Keys::Clouds,
                },
            },
        };
        Ok(Self { region, keys })
    }
}

/// A region, if it can be one: it stands in names of hosts and in what requests are signed by.
fn usable_region(region: String, from: &str, url: &BucketUrl) -> Result<String, Arc<BucketError>> {
    if region.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(region);
    }
    let problem = format!("the region that {from} names {UNSENDABLE}; write it anew");
    Err(Arc::new(BucketError::NotUnderstood { action: Action::Configuration, bucket: url.name(), problem }))
}

/// The files in which Amazon's tools keep profiles.
struct Files {
    name: String,
    credentials: PathBuf,
    credentials_provider: Provider,
    /// What only configures may be read by others.
    config_provider: Provider,
    /// Keys in there may not.
    config_keys_provider: Provider,
}

impl Files {
    fn find(name: &str, real_store: &Path) -> Self {
        let home = variable("HOME").map(PathBuf::from).unwrap_or_else(|| PathBuf::from("/root"));
        let file = |name: &str, default: &str| variable(name).map_or_else(|| home.join(default), PathBuf::from);
        let credentials = file("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials");
        Self::at(name, credentials, file("AWS_CONFIG_FILE", ".aws/config"), real_store)
    }

    fn at(name: &str, credentials: PathBuf, config: PathBuf, real_store: &Path) -> Self {
        let config_source = Source::File { path: config.clone(), readable_by_others: Some(true) };
        Self {
            name: name.to_owned(),
            credentials_provider: key_file(&credentials, real_store),
            credentials,
            config_provider: Provider::of_lines(config_source, real_store),
            config_keys_provider: key_file(&config, real_store),
        }
    }

    async fn region(&self) -> Option<String> {
        let text = self.config_provider.get().await.ok()?;
        profile::find(text.expose(), &self.name, true).region
    }

    async fn keys(&self) -> Option<Keys> {
        let both = [(&self.credentials_provider, false), (&self.config_provider, true)];
        for (file, is_config) in both {
            // One that is there and must not be used is told when its keys are asked for.
            let usable = match file.get().await {
                Ok(text) => profile::find(text.expose(), &self.name, is_config).has_keys(),
                Err(error) => {
                    !is_config
                        && self.credentials.exists()
                        && !matches!(error, crate::secret::SecretError::NoText { .. })
                }
            };
            if usable {
                let file = if is_config { &self.config_keys_provider } else { file };
                return Some(Keys::Profile { file: file.clone(), name: self.name.clone(), is_config });
            }
        }
        None
    }
}

/// Signs requests to S3.
pub(super) struct S3Keys {
    pub(super) chain: Chain,
    /// The library's own way to get what a cloud gives.
    pub(super) clouds: AwsCredentialProvider,
    /// What that shows to the cloud is in this file.
    pub(super) token_file: Option<Provider>,
    pub(super) bucket: String,
    /// Whether a token must not be sent, since everybody on the way could read it.
    pub(super) readable_on_the_way: bool,
}

impl std::fmt::Debug for S3Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "S3Keys({})", self.bucket)
    }
}

impl S3Keys {
    async fn get(&self) -> Result<Arc<AwsCredential>, Arc<BucketError>> {
        let secret = |error| BucketError::Secret(error);
        let credential = match &self.chain.keys {
            Keys::Policy { id, secret: key, token } => {
                let token = match token {
                    Some(token) => Some(token.get().await.map_err(secret)?.expose().to_owned()),
                    None => None,
                };
                AwsCredential {
                    key_id: id.get().await.map_err(secret)?.expose().to_owned(),
                    secret_key: key.get().await.map_err(secret)?.expose().to_owned(),
                    token,
                }
            }
            Keys::Environment => AwsCredential {
                key_id: variable("AWS_ACCESS_KEY_ID").unwrap_or_default(),
                secret_key: variable("AWS_SECRET_ACCESS_KEY").ok_or_else(|| {
                    self.none("AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not: set both".to_owned())
                })?,
                token: variable("AWS_SESSION_TOKEN"),
            },
            Keys::Profile { file, name, is_config } => {
                let text = file.get().await.map_err(secret)?;
                let Profile { key_id, secret_key, token, .. } = profile::find(text.expose(), name, *is_config);
                let both = key_id.zip(secret_key);
                let (key_id, secret_key) = both.ok_or_else(|| {
                    self.none(format!("the profile {name} has no keys any more in {}", file.source()))
                })?;
                AwsCredential { key_id, secret_key, token }
            }
            Keys::Clouds => {
                if let Some(file) = &self.token_file {
                    file.get().await.map_err(secret)?;
                }
                match given(&*self.clouds, &self.bucket).await {
                    Ok(credential) => return Ok(self.checked(credential)?),
                    Err(why) => {
                        let is_named =
                            CLOUDS_SOURCES.iter().any(|key| variable(&key.as_ref().to_uppercase()).is_some());
                        return Err(if is_named || is_told_as_it_is(&why) {
                            why
                        } else {
                            Arc::new(self.given_none(&why))
                        });
                    }
                }
            }
        };
        Ok(self.checked(Arc::new(credential))?)
    }

    fn given_none(&self, why: &BucketError) -> BucketError {
        self.none(format!(
            "the policy names none, AWS_ACCESS_KEY_ID is not set, there are no keys in ~/.aws/credentials, and this \
             machine's cloud gives none ({}); name them with `access_key_id` and `secret_access_key`",
            one_line(why)
        ))
    }

    fn checked(&self, credential: Arc<AwsCredential>) -> Result<Arc<AwsCredential>, BucketError> {
        if credential.token.is_some() && self.readable_on_the_way {
            return Err(BucketError::Unencrypted { bucket: self.bucket.clone() });
        }
        let token = credential.token.as_deref();
        for (what, value) in [("the key's id", Some(credential.key_id.as_str())), ("the session token", token)] {
            if value.is_some_and(|value| !can_be_sent(value)) {
                let from = self.chain.source().unwrap_or_else(|| "what this machine's cloud gives".to_owned());
                return Err(self.none(format!("{what} {UNSENDABLE} ({from}); write it anew")));
            }
        }
        Ok(credential)
    }

    fn none(&self, problem: String) -> BucketError {
        BucketError::NoCredentials { bucket: self.bucket.clone(), problem }
    }
}

#[async_trait]
impl CredentialProvider for S3Keys {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        self.get().await.map_err(|error| object_store::Error::Generic { store: "S3", source: Box::new(Carried(error)) })
    }
}

/// Whether that is more than that there is no cloud that gives credentials: one that gives them, only not now; or one that
/// must not be asked, or can't be, as it is named.
fn is_told_as_it_is(why: &BucketError) -> bool {
    matches!(
        why,
        BucketError::Refused { status: 429 | 500..=599, .. }
            | BucketError::HandedOutInTheOpen { .. }
            | BucketError::NoCredentials { .. }
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use object_store::StaticCredentialProvider;

    use super::super::code::Code;
    use super::super::environment::token_file;
    use super::*;
    use crate::cache::{CacheUrl, Class};
    use crate::secret::SecretError;

    #[tokio::test]
    async fn a_configuration_may_be_readable_for_others_and_keys_in_it_may_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let config = dir.path().join("config");
        fs::write(&config, "[default]\nregion=garage\naws_access_key_id=A\naws_secret_access_key=B\n")
            .expect("written");
        for (mode, may) in [(0o644, false), (0o600, true)] {
            fs::set_permissions(&config, fs::Permissions::from_mode(mode)).expect("changed");
            let files = Files::at("default", dir.path().join("credentials"), config.clone(), &dir.path().join("store"));
            assert_eq!(files.region().await.as_deref(), Some("garage"));
            let Some(Keys::Profile { file, is_config: true, .. }) = files.keys().await else { panic!("its keys") };
            match file.get().await {
                Ok(_) => assert!(may, "{mode:o}"),
                Err(error) => assert!(!may && matches!(error, SecretError::Readable { .. }), "{mode:o}: {error}"),
            }
        }
    }

    #[test]
    fn a_cloud_that_stumbles_is_not_one_that_gives_nothing() {
        let refused = |status| BucketError::Refused {
            action: Action::Credentials,
            bucket: "s3://b".to_owned(),
            status,
            code: Code::None,
            says: String::new(),
            keys: None,
            retry_after: None,
        };
        for status in [429, 500, 503] {
            assert!(is_told_as_it_is(&refused(status)) && refused(status).class() != Class::Credentials, "{status}");
        }
        assert!(!is_told_as_it_is(&refused(404)), "the machine has no role");
    }

    fn keys_of(credential: AwsCredential, token_file: Option<Provider>) -> S3Keys {
        let chain = Chain { region: DEFAULT_REGION.to_owned(), keys: Keys::Clouds };
        let clouds = Arc::new(StaticCredentialProvider::new(credential));
        S3Keys { chain, clouds, token_file, bucket: "s3://b".to_owned(), readable_on_the_way: false }
    }

    /// The library panics where it can't put them into a request.
    #[tokio::test]
    async fn a_key_that_no_request_can_carry_is_told_and_not_sent() {
        for (id, token, what) in [
            ("AKIA", None, None),
            ("AKIA", Some("t"), None),
            ("\u{feff}AKIA", None, Some("the key's id has")),
            ("AKIA\nX", None, Some("the key's id has")),
            ("AKIA", Some("t\u{a0}s"), Some("the session token has")),
        ] {
            let credential =
                AwsCredential { key_id: id.to_owned(), secret_key: "s".to_owned(), token: token.map(str::to_owned) };
            match keys_of(credential, None).get().await {
                Ok(_) => assert_eq!(what, None, "{id:?} {token:?}"),
                Err(error) => {
                    assert!(matches!(&*error, BucketError::NoCredentials { .. }), "{error}");
                    let told = error.to_string();
                    assert!(what.is_some_and(|what| told.contains(what)) && !told.contains("AKIA"), "{told}");
                }
            }
        }
    }

    #[tokio::test]
    async fn a_token_in_the_store_is_shown_to_nobody() {
        let store = tempfile::tempdir().expect("a folder");
        let file = store.path().join("token");
        fs::write(&file, "s3cret").expect("written");
        let credential = || AwsCredential { key_id: "A".to_owned(), secret_key: "s".to_owned(), token: None };
        let outside = keys_of(credential(), Some(token_file(&file, Path::new("/nix/store"))));
        assert!(outside.get().await.is_ok(), "clusters let all that run in them read it");
        let error = keys_of(credential(), Some(token_file(&file, store.path()))).get().await.expect_err("in the store");
        assert!(matches!(&*error, BucketError::Secret(SecretError::InStore { .. })), "{error}");
    }

    #[test]
    fn a_region_has_no_odd_characters() {
        let CacheUrl::Bucket { bucket, .. } = CacheUrl::parse("s3://b").expect("a good URL") else {
            panic!("a bucket")
        };
        for (region, may) in
            [("eu-central-1", true), ("garage", true), ("eu\u{a0}", false), ("a\nb", false), ("a b", false)]
        {
            let usable = usable_region(region.to_owned(), "AWS_REGION", &bucket);
            assert_eq!(usable.as_deref().ok(), may.then_some(region), "{region:?}");
        }
    }
}
