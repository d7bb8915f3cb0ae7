//! Attic's wire format, read strictly: what the real server may let pass and the facts don't allow is an error here.

use super::super::nix::base_name;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::Method;
use serde::Deserialize;
use std::collections::BTreeSet;

/// The header that carries the JSON of an upload.
pub const NAR_INFO: &str = "x-attic-nar-info";

/// The header that says how long the JSON ahead of the body is.
pub const PREAMBLE_SIZE: &str = "x-attic-nar-info-preamble-size";

/// From so many bytes on, the JSON has to go ahead of the body: proxies take no longer headers.
pub const HEADER_LIMIT: usize = 4 << 10;

/// The server takes no longer JSON.
pub const PREAMBLE_LIMIT: usize = 1 << 20;

/// So many paths may be asked for at once.
pub const QUESTION_LIMIT: usize = 5000;

/// The digits of Nix's base 32.
const DIGITS: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    CacheConfig,
    /// A cache's being created or configured, which storewatch never does.
    Administration,
    MissingPaths,
    Upload,
    CacheInfo,
    Narinfo,
    Nar,
    Other,
}

impl Kind {
    pub fn of(method: &Method, path: &str) -> Self {
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match (method.as_str(), parts.as_slice()) {
            ("GET", ["_api", "v1", "cache-config", _]) => Self::CacheConfig,
            ("POST" | "PATCH" | "DELETE", ["_api", "v1", "cache-config", _]) => Self::Administration,
            ("POST", ["_api", "v1", "get-missing-paths"]) => Self::MissingPaths,
            ("PUT", ["_api", "v1", "upload-path"]) => Self::Upload,
            ("GET" | "HEAD", [_, "nix-cache-info"]) => Self::CacheInfo,
            ("GET" | "HEAD", [_, "nar", file]) if file.ends_with(".nar") => Self::Nar,
            ("GET" | "HEAD", [_, file]) if file.ends_with(".narinfo") => Self::Narinfo,
            _ => Self::Other,
        }
    }
}

/// What is said of a path that is uploaded.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UploadInfo {
    pub cache: String,
    pub store_path_hash: String,
    pub store_path: String,
    pub references: Vec<String>,
    pub system: Option<String>,
    pub deriver: Option<String>,
    pub sigs: Vec<String>,
    pub ca: Option<String>,
    pub nar_hash: String,
    pub nar_size: u64,
}

/// What is asked before an upload.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MissingQuestion {
    pub cache: String,
    pub store_path_hashes: Vec<String>,
}

/// Reads what is said of a path.
pub fn upload_info(json: &[u8]) -> Result<UploadInfo, String> {
    let info: UploadInfo = serde_json::from_slice(json).map_err(|error| format!("the upload's JSON: {error}"))?;
    let name = base_name(&info.store_path);
    let check = |holds: bool, what: &str| if holds { Ok(()) } else { Err(format!("{what} in {info:?}")) };
    check(is_base_name(name) && info.store_path.starts_with('/'), "`store_path` is no full store path")?;
    check(name[..32] == info.store_path_hash, "`store_path_hash` isn't that of `store_path`")?;
    check(info.references.iter().all(|reference| is_base_name(reference)), "a reference is no base name")?;
    // The server signs them in the order given, Nix verifies them in alphabetical order.
    check(info.references.is_sorted_by(|one, next| one < next), "`references` aren't sorted, or one is there twice")?;
    let of_derivation = |name: &String| is_base_name(name) && name.ends_with(".drv");
    check(info.deriver.as_ref().is_none_or(of_derivation), "`deriver` is no derivation's base name")?;
    check(info.sigs.iter().all(|signature| is_signature(signature)), "`sigs` has what is no signature")?;
    let is_ca = |ca: &String| ca.starts_with("fixed:") || ca.starts_with("text:");
    check(info.ca.as_ref().is_none_or(is_ca), "`ca` is no content address")?;
    let hex = info.nar_hash.strip_prefix("sha256:").unwrap_or_default();
    let is_hex = hex.len() == 64 && hex.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    check(is_hex, "`nar_hash` isn't `sha256:` and 64 digits")?;
    check(info.nar_size > 0 && info.nar_size.is_multiple_of(8), "`nar_size` is no archive's")?;
    Ok(info)
}

/// Reads what is asked before an upload.
pub fn missing_question(json: &[u8]) -> Result<MissingQuestion, String> {
    let question: MissingQuestion =
        serde_json::from_slice(json).map_err(|error| format!("the JSON of get-missing-paths: {error}"))?;
    let hashes = &question.store_path_hashes;
    if hashes.is_empty() || hashes.len() > QUESTION_LIMIT {
        return Err(format!("get-missing-paths asks for {} paths", hashes.len()));
    }
    if hashes.iter().collect::<BTreeSet<_>>().len() != hashes.len() {
        return Err("get-missing-paths asks for a path twice".to_owned());
    }
    match hashes.iter().find(|hash| !is_hash_part(hash)) {
        Some(bad) => Err(format!("get-missing-paths asks for {bad:?}, which is no hash part")),
        None => Ok(question),
    }
}

/// Whether a name may be a cache's.
pub fn is_cache_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || "-_+".contains(c);
    name.len() <= 50 && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(legal)
}

pub fn is_hash_part(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|digit| DIGITS.contains(&digit))
}

fn is_base_name(text: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || "+-._?=".contains(c);
    text.split_once('-').is_some_and(|(hash, name)| is_hash_part(hash) && !name.is_empty() && name.chars().all(legal))
}

fn is_signature(text: &str) -> bool {
    let bytes = |signature| BASE64.decode(signature).is_ok_and(|bytes: Vec<u8>| bytes.len() == 64);
    text.split_once(':').is_some_and(|(key, signature)| !key.is_empty() && bytes(signature))
}

/// A hash in Nix's base 32.
pub fn nix32(hash: &[u8; 32]) -> String {
    let digit = |at: usize| {
        let (byte, shift) = (at * 5 / 8, at * 5 % 8);
        let pair = u16::from(hash[byte]) | u16::from(*hash.get(byte + 1).unwrap_or(&0)) << 8;
        char::from(DIGITS[usize::from(pair >> shift & 31)])
    };
    (0..52).rev().map(digit).collect()
}
