//! What there is to say of a cache.

use std::path::PathBuf;

use serde::Serialize;

/// What there is to say of a cache. Where a server tells nothing, there is nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CacheInfo {
    /// Its URL, as Nix takes it for a substituter, if Nix can read from it.
    pub substituter: Option<String>,
    /// The key that verifies its narinfos, as Nix takes it in `trusted-public-keys`.
    pub public_key: Option<String>,
    /// Where the API of its server is.
    pub api: Option<String>,
    /// Whether anybody may read from it.
    pub is_public: Option<bool>,
    /// The store directory that it is for.
    pub store_dir: Option<String>,
    /// Its priority as a substituter; the lowest number is asked first.
    pub priority: Option<i64>,
    /// Names of the keys whose paths its readers have from elsewhere.
    pub upstream_key_names: Vec<String>,
    /// For how long it keeps what nobody reads.
    pub retention: Option<Retention>,
    /// Where it lies, if it is a directory.
    pub directory: Option<DirectoryInfo>,
    /// What else a person should know.
    pub remark: Option<&'static str>,
}

/// For how long a cache keeps what nobody reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Retention {
    /// As its server does by default.
    ServersOwn,
    /// So many seconds; for 0 it keeps everything.
    Seconds(u64),
}

/// A cache's directory and its file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DirectoryInfo {
    /// The directory.
    pub path: PathBuf,
    /// Whether its `nix-cache-info` asks Nix to ask for many paths at once.
    pub want_mass_query: Option<bool>,
    /// Bytes of its file system that are free for this user.
    pub free_bytes: u64,
    /// Bytes of its file system.
    pub total_bytes: u64,
}
