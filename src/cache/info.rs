//! What there is to say of a cache.

use std::path::PathBuf;

use serde::Serialize;

use super::http::plain;
use super::layout;

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
    /// Whether its `nix-cache-info` asks Nix to ask for many paths at once.
    pub want_mass_query: Option<bool>,
    /// Names of the keys whose paths its readers have from elsewhere.
    pub upstream_key_names: Vec<String>,
    /// For how long it keeps what nobody reads.
    pub retention: Option<Retention>,
    /// Where it lies, if it is a directory.
    pub directory: Option<DirectoryInfo>,
    /// What else a person should know.
    pub remark: Option<&'static str>,
}

impl CacheInfo {
    /// What its `nix-cache-info` says, as far as it says anything.
    pub(super) fn of_text(text: &str) -> Self {
        Self {
            store_dir: layout::store_dir_of(text).map(plain),
            priority: layout::field_of(text, "Priority").and_then(|priority| priority.parse().ok()),
            want_mass_query: layout::field_of(text, "WantMassQuery").map(|flag| flag == "1"),
            ..Self::default()
        }
    }
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
    /// Bytes of its file system that are free for this user.
    pub free_bytes: u64,
    /// Bytes of its file system.
    pub total_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_cache_says_of_itself_is_read_wherever_it_lies() {
        let said = CacheInfo::of_text("StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n");
        assert_eq!(
            (said.store_dir.as_deref(), said.want_mass_query, said.priority),
            (Some("/nix/store"), Some(true), Some(30))
        );
        assert_eq!(CacheInfo::of_text("WantMassQuery: 0").want_mass_query, Some(false));
        assert_eq!(CacheInfo::of_text("hi"), CacheInfo::default());
    }
}
