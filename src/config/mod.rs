//! The policy file, and where things live.
//!
//! A file is read in two steps: [`raw`](self) knows keys and types, the second step what makes sense, and its result
//! can't be wrong. Both report all that they find, each with its place and what to write instead ([`Problem`]); a file
//! with a problem is refused as a whole, so that a policy in force stays in force. What nothing acts on yet is refused
//! too: a limit or a rule that is silently ignored is worse than none.
//!
//! Secrets: the file only says where they come from, and no message repeats a key, a header or a URL's password. What
//! would send one over an open line is refused.
//!
//! Deliberately absent: whether a cache can be reached or a key file read. A policy may be checked on another host than
//! the one that it is for.

mod bandwidth;
mod cache;
mod duration;
mod fingerprint;
mod keys;
mod places;
mod problems;
mod raw;
mod raw_cache;
mod raw_limits;
mod reader;
mod schema;
mod store;
#[cfg(test)]
mod tests;
mod validate;

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::Thresholds;
use crate::limit::Schedule;
use crate::policy::{ByteSize, Policy};

pub use bandwidth::{BACKGROUND, BadBandwidth, parse_bandwidth};
pub use cache::{CacheConfig, CommandConfig, HeaderValue, HttpConfig, StoreKeyConfig, Upstreams};
pub use duration::{BadDuration, parse_duration};
pub use places::{
    NoStateDir, POLICY_FILE_NAME, PolicyFile, SYSTEM_CONFIG_DIR, SYSTEM_RUNTIME_DIR, SYSTEM_STATE_DIR, Surroundings,
};
pub use problems::{ConfigError, Problem};
pub use raw::VERSION;
pub use schema::SCHEMA;
pub use store::{BadRemote, NixStore, Remote, StoreError, StoreOptions};
pub use validate::CheckUrl;

use problems::{Problems, line_and_column};
use raw::RawPolicy;
use validate::{Validated, validate};

/// The cache that there is where the policy names none: a directory below the state directory.
pub const LOCAL_CACHE: &str = "local";

/// Longest policy file, in bytes; thousands of rules fit, and a wrong file named by mistake doesn't fill the memory.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// All that a policy file says, or the built-in policy.
#[derive(Clone, Debug)]
pub struct Config {
    /// What it says of the Nix store; [`NixStore::resolve`] brings it together with the environment.
    pub store: StoreOptions,
    /// So much of what is queued is kept from the garbage collector; `None` for nothing.
    pub pin: Option<ByteSize>,
    /// The caches, in the order of the file; at least one.
    pub caches: Vec<CacheConfig>,
    /// The caches of others.
    pub upstreams: Upstreams,
    /// The rules over these caches.
    pub policy: Arc<Policy>,
    /// How much storewatch takes.
    pub limits: Limits,
    /// How much of the line it takes, and when.
    pub schedule: Schedule,
    /// What is little room on a file system, and what is next to none.
    pub disk: Thresholds,
    /// The file; `None` for the built-in policy.
    pub source: Option<PathBuf>,
    /// What is odd about the file but no reason to refuse it.
    pub warnings: Vec<Problem>,
}

/// How much of the host storewatch takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Uploads at once for each cache, 1 to 64, where a number is given.
    pub uploads: Option<usize>,
    /// Priority of the daemon.
    pub priority: Priority,
}

/// Priority for CPU and I/O.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Priority {
    /// What others leave over.
    #[default]
    Low,
    /// Like any other process.
    Normal,
}

/// What a policy may leave out, and this host must say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// storewatch's state directory, absolute: the cache that stands in lies below it.
    pub state_dir: PathBuf,
}

impl Config {
    /// The built-in policy: what was built here, into a directory.
    #[must_use]
    pub fn built_in(defaults: &Defaults) -> Self {
        Self {
            store: StoreOptions::default(),
            pin: None,
            caches: vec![defaults.cache()],
            upstreams: Upstreams::default(),
            policy: defaults.policy(),
            limits: Limits::default(),
            schedule: defaults.schedule(),
            disk: Thresholds::default(),
            source: None,
            warnings: Vec::new(),
        }
    }

    /// Reads the policy file; the built-in policy where there is none and none was asked for by name.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(file: Option<&PolicyFile>, defaults: &Defaults, check_url: CheckUrl<'_>) -> Result<Self, ConfigError> {
        let Some(file) = file else { return Ok(Self::built_in(defaults)) };
        Self::of_file(file, read_file(&file.path), defaults, check_url)
    }

    /// As [`Config::load`], of a policy file that has been read.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn of_file(
        file: &PolicyFile,
        content: io::Result<Vec<u8>>,
        defaults: &Defaults,
        check_url: CheckUrl<'_>,
    ) -> Result<Self, ConfigError> {
        let PolicyFile { path, named } = file;
        let text = match content {
            Ok(bytes) => text_of(bytes, path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !named => return Ok(Self::built_in(defaults)),
            Err(source) => return Err(ConfigError::Io { path: path.clone(), source }),
        };
        let config = Self::parse(&text, &path.display().to_string(), defaults, check_url)?;
        Ok(Self { source: Some(path.clone()), ..config })
    }

    /// Reads the text of a policy; `file_name` is what problems call it.
    ///
    /// # Errors
    /// [`ConfigError::Problems`], with all of them.
    pub fn parse(
        text: &str,
        file_name: &str,
        defaults: &Defaults,
        check_url: CheckUrl<'_>,
    ) -> Result<Self, ConfigError> {
        let mut problems = Problems::new(file_name, text);
        let raw = RawPolicy::read(text, &mut problems);
        let validated = validate(raw, defaults, check_url, &mut problems);
        let warnings = problems.finish()?;
        let Some(Validated { store, pin, caches, upstreams, policy, limits, schedule, disk }) = validated else {
            unreachable!("what is refused has a problem")
        };
        let policy = Arc::new(policy);
        Ok(Self { store, pin, caches, upstreams, policy, limits, schedule, disk, source: None, warnings })
    }
}

/// The text of a policy file.
///
/// # Errors
/// [`ConfigError`], also where it is too long or no UTF-8.
pub fn read_policy(path: &Path) -> Result<String, ConfigError> {
    let bytes = read_file(path).map_err(|source| ConfigError::Io { path: path.to_owned(), source })?;
    text_of(bytes, path)
}

/// The content of a policy file.
///
/// # Errors
/// What the system says, also where it is too long.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("it has more than {} MiB", MAX_FILE_BYTES >> 20)));
    }
    Ok(bytes)
}

fn text_of(bytes: Vec<u8>, path: &Path) -> Result<String, ConfigError> {
    String::from_utf8(bytes).map_err(|err| {
        let (line, column) = line_and_column(err.as_bytes(), err.utf8_error().valid_up_to());
        let message = "this is no UTF-8: save the file in that encoding".to_owned();
        ConfigError::Problems(vec![Problem { file: path.display().to_string(), line, column, message }])
    })
}
