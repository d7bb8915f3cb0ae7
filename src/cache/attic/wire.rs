//! What is said between Attic and its clients: the JSON of its API, version 1 (`attic/src/api/v1` of its source).

use serde::{Deserialize, Serialize};

use crate::cache::Retention;
use crate::nix::{PathInfo, StoreDir, StorePath};

/// Header with the [`NarInfo`] of an upload.
pub(super) const NAR_INFO: &str = "X-Attic-Nar-Info";

/// Header with the length of a [`NarInfo`] that goes ahead of the body instead.
pub(super) const PREAMBLE_SIZE: &str = "X-Attic-Nar-Info-Preamble-Size";

/// From this size on (bytes) a [`NarInfo`] goes ahead of the body: servers and proxies refuse long headers. Attic's own
/// client draws the line here.
pub(super) const LONGEST_HEADER: usize = 4 * 1024;

/// What a cache says of itself. Attic may leave any of it out.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct Configuration {
    /// What Nix takes as a substituter.
    pub substituter_endpoint: Option<String>,
    /// Where its API is, should that be elsewhere.
    pub api_endpoint: Option<String>,
    /// The key that verifies what it serves.
    pub public_key: Option<String>,
    /// Whether anybody may read it.
    pub is_public: Option<bool>,
    /// The store directory that it is for.
    pub store_dir: Option<String>,
    /// Its priority as a substituter; the lowest number is asked first.
    pub priority: Option<i64>,
    /// Names of the keys whose paths its readers have from elsewhere.
    pub upstream_cache_key_names: Option<Vec<String>>,
    /// For how long it keeps what nobody reads: seconds, or how Attic puts that it is the server's own time.
    pub retention_period: Option<serde_json::Value>,
}

impl Configuration {
    /// For how long it keeps what nobody reads, where that is understood: `"Global"` or `{"Period": SECONDS}`.
    pub(super) fn retention(&self) -> Option<Retention> {
        let period = self.retention_period.as_ref()?;
        if period == "Global" {
            return Some(Retention::ServersOwn);
        }
        Some(Retention::Seconds(period.get("Period")?.as_u64()?))
    }
}

/// `POST _api/v1/get-missing-paths`
#[derive(Serialize)]
pub(super) struct MissingRequest<'a> {
    pub(super) cache: &'a str,
    pub(super) store_path_hashes: Vec<&'a str>,
}

/// Its answer.
#[derive(Deserialize)]
pub(super) struct MissingAnswer {
    pub(super) missing_paths: Vec<String>,
}

/// What goes with the archive in `PUT _api/v1/upload-path`.
#[derive(Serialize)]
pub(super) struct NarInfo<'a> {
    cache: &'a str,
    store_path_hash: &'a str,
    store_path: String,
    references: Vec<&'a str>,
    system: Option<&'a str>,
    deriver: Option<&'a str>,
    sigs: &'a [String],
    ca: Option<&'a str>,
    nar_hash: String,
    nar_size: u64,
}

/// Its answer.
#[derive(Default, Deserialize)]
pub(super) struct UploadAnswer {
    #[serde(default)]
    pub(super) kind: serde_json::Value,
}

impl UploadAnswer {
    /// Whether it is the answer of an Attic server, which then has the path.
    pub(super) fn is_attics(&self) -> bool {
        self.kind == "Uploaded" || self.is_deduplicated()
    }

    /// Whether the server had the same content already.
    pub(super) fn is_deduplicated(&self) -> bool {
        self.kind == "Deduplicated"
    }
}

impl<'a> NarInfo<'a> {
    pub(super) fn new(cache: &'a str, store_dir: &StoreDir, info: &'a PathInfo, system: Option<&'a str>) -> Self {
        Self {
            cache,
            store_path_hash: info.path.hash_part(),
            store_path: store_dir.full(&info.path),
            references: info.references.iter().flatten().map(StorePath::base_name).collect(),
            system,
            deriver: info.deriver.as_ref().map(StorePath::base_name),
            sigs: &info.sigs,
            ca: info.ca.as_deref(),
            nar_hash: format!("sha256:{}", info.nar_hash.to_hex()),
            nar_size: info.nar_size,
        }
    }
}
