//! The side of the fake that Nix reads: narinfos, signed with the cache's own key, and archives as they came.

use super::super::http::{self, Body};
use super::super::nix::base_name;
use super::fake::Shared;
use super::state::{FakeCache, Permission, Refusal};
use super::wire::{Kind, UploadInfo, is_hash_part, nix32};
use hyper::{Response, StatusCode};
use std::fmt::Write;

/// Answers a request for one of the files of a binary cache.
pub fn answer(shared: &Shared, token: Option<&str>, kind: Kind, path: &str) -> Result<Response<Body>, Refusal> {
    let mut parts = path.trim_start_matches('/').split('/');
    let cache = parts.next().unwrap_or_default();
    let file = parts.next_back().unwrap_or_default();
    let hash = file.split('.').next().unwrap_or_default();
    let mut state = shared.state();
    if kind != Kind::CacheInfo && !is_hash_part(hash) {
        state.violation(format!("{path} is asked for, and {hash:?} is no hash part"));
    }
    // Whoever may not pull learns that a path isn't there, but not that it is.
    let there = state.caches.get(cache).is_some_and(|cache| cache.objects.contains_key(hash));
    if kind != Kind::CacheInfo && !there {
        return Err((StatusCode::NOT_FOUND, "NoSuchObject", "The requested object does not exist.".to_owned()));
    }
    let cache = state.allowed(token, cache, Permission::Pull)?;
    let (content_type, body) = match kind {
        Kind::CacheInfo => {
            let info = format!("WantMassQuery: 1\nStoreDir: {}\nPriority: 41\n", cache.store_dir);
            ("text/x-nix-cache-info", info.into_bytes())
        }
        Kind::Narinfo => ("text/x-nix-narinfo", narinfo(cache, &cache.objects[hash]).into_bytes()),
        _ => ("application/x-nix-nar", std::fs::read(shared.archive(&cache.objects[hash])).unwrap()),
    };
    Ok(http::answer(StatusCode::OK, content_type, body))
}

fn narinfo(cache: &FakeCache, info: &UploadInfo) -> String {
    let nar_hash = format!("sha256:{}", nix32(&unhex(&info.nar_hash["sha256:".len()..])));
    let full: Vec<_> = info.references.iter().map(|name| format!("{}/{name}", cache.store_dir)).collect();
    let fingerprint = format!("1;{};{nar_hash};{};{}", info.store_path, info.nar_size, full.join(","));
    let mut text = format!(
        "StorePath: {}\nURL: nar/{}.nar\nCompression: none\nNarHash: {nar_hash}\nNarSize: {}\nReferences: {}\n",
        info.store_path,
        &base_name(&info.store_path)[..32],
        info.nar_size,
        info.references.join(" "),
    );
    for (name, value) in [("System", &info.system), ("Deriver", &info.deriver), ("CA", &info.ca)] {
        if let Some(value) = value {
            writeln!(text, "{name}: {value}").unwrap();
        }
    }
    writeln!(text, "Sig: {}", cache.sign(&fingerprint)).unwrap();
    text
}

fn unhex(text: &str) -> [u8; 32] {
    std::array::from_fn(|at| u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).unwrap())
}
