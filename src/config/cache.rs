//! What the policy says of one cache, and of the caches of others.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::cache::command::Gives;
use crate::cache::{CacheUrl, Compression};
use crate::policy::CacheName;
use crate::secret::Source;

/// How long an upstream's answer is believed, where the policy doesn't say. Caches collect garbage, but seldom; in an
/// hour few of the paths that one lacked come to be there.
const DEFAULT_REMEMBER: Duration = Duration::from_secs(60 * 60);

/// How long a program may take for one path, where the policy doesn't say: a large one over a slow line.
const DEFAULT_COMMAND_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// Names that hosts have which serve caches.
const DEFAULT_SERVER_HOSTNAMES: [&str; 3] = ["atticd", "cache-server", "cache-build-server"];

/// One cache, as the policy names it. It holds no secrets, only where they come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheConfig {
    /// Its name.
    pub name: CacheName,
    /// Where it is, in its normal form; checked by the cache layer's own rules, and so without user name, password or token.
    pub url: String,
    /// What the URL says.
    pub place: CacheUrl,
    /// Uploads at once, where they are other than `[limits]` says, 1 to 64.
    pub uploads: Option<usize>,
    /// How archives are packed, where the URL doesn't say it; of binary caches only.
    pub compression: Option<Compression>,
    /// Bytes that a cache in a directory may have; `None`: as many as there come.
    pub max_size: Option<u64>,
    /// Where the secret key comes from that signs what is uploaded; `None`: one is generated in the state directory, if
    /// it is a cache that storewatch signs for.
    pub signing_key: Option<Source>,
    /// Where the keys come from by which an object store knows us; none: from the environment, `~/.aws` or the cloud.
    pub store_keys: StoreKeyConfig,
    /// How its server is spoken to; all default where there is none.
    pub http: HttpConfig,
    /// How its program is run; all default where it is none.
    pub command: CommandConfig,
    /// Whether it is the one that stands in where the policy names none.
    pub builtin: bool,
}

impl CacheConfig {
    /// A cache of which the policy says no more than where it is: `place` is what its `url` says.
    #[must_use]
    pub fn new(name: CacheName, url: String, place: CacheUrl) -> Self {
        Self {
            name,
            url,
            place,
            uploads: None,
            compression: None,
            max_size: None,
            signing_key: None,
            store_keys: StoreKeyConfig::default(),
            http: HttpConfig::default(),
            command: CommandConfig::default(),
            builtin: false,
        }
    }
}

/// Where the keys of an object store come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreKeyConfig {
    /// The id of S3's key.
    pub access_key_id: Option<Source>,
    /// S3's key; given together with its id.
    pub secret_access_key: Option<Source>,
    /// The token that goes with a temporary key of S3's.
    pub session_token: Option<Source>,
    /// The key of a service account of Google's, in JSON.
    pub service_account_key: Option<Source>,
    /// The key of a storage account of Azure's.
    pub account_key: Option<Source>,
}

/// How a program that is a cache is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandConfig {
    /// Its arguments.
    pub args: Vec<String>,
    /// What it is given of a path.
    pub gives: Gives,
    /// Whether it is asked what is missing.
    pub answers_missing: bool,
    /// It is killed when it takes longer for one path.
    pub timeout: Duration,
    /// Variables of the service's environment that it gets beside the usual ones.
    pub pass_environment: Vec<String>,
}

impl Default for CommandConfig {
    fn default() -> Self {
        Self {
            args: Vec::new(),
            gives: Gives::default(),
            answers_missing: false,
            timeout: DEFAULT_COMMAND_TIMEOUT,
            pass_environment: Vec::new(),
        }
    }
}

/// How the server of a cache is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// Where the token comes from; `None`: the server asks for none.
    pub token: Option<Source>,
    /// The user's name that goes with the password; `None`: the password's source has it, as netrc files do.
    pub user: Option<String>,
    /// Where the password comes from, given in place of a token.
    pub password: Option<Source>,
    /// Headers for what stands in front of the server, by their names in lower case, in the order of the file.
    pub headers: Vec<(String, HeaderValue)>,
    /// Certificates, in PEM, of authorities that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// The certificate, in PEM, by which the server knows this host; given together with its key.
    pub client_certificate: Option<PathBuf>,
    /// Where the key of that certificate, in PEM, comes from.
    pub client_key: Option<Source>,
    /// Whether secrets may be sent although anybody on the way could read them.
    pub allow_unencrypted: bool,
    /// Whether this host uploads to the cache even if it is the cache's own server.
    pub allow_self: bool,
    /// The host names by which a host is known as the cache's own server.
    pub server_hostnames: Vec<String>,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            token: None,
            user: None,
            password: None,
            headers: Vec::new(),
            ca_file: None,
            client_certificate: None,
            client_key: None,
            allow_unencrypted: false,
            allow_self: false,
            server_hostnames: DEFAULT_SERVER_HOSTNAMES.map(str::to_owned).to_vec(),
        }
    }
}

/// What a header says. `Debug` shows no text, since people write secrets into headers plainly too.
#[derive(Clone, PartialEq, Eq)]
pub enum HeaderValue {
    /// As it stands in the policy.
    Plain(String),
    /// A secret.
    Secret(Source),
}

impl fmt::Debug for HeaderValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(_) => f.write_str("Plain(…)"),
            Self::Secret(source) => write!(f, "Secret({source})"),
        }
    }
}

/// Caches of others, which are asked and never filled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstreams {
    /// Their addresses, http or https, each ending in `/`.
    pub caches: Vec<String>,
    /// How long an answer of theirs is believed.
    pub remember: Duration,
}

impl Default for Upstreams {
    fn default() -> Self {
        Self { caches: Vec::new(), remember: DEFAULT_REMEMBER }
    }
}
