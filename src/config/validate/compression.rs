//! How a binary cache packs archives, where the policy says it beside the URL.

use crate::cache::{CacheUrl, Compression};
use crate::config::problems::Problems;
use crate::config::raw_cache::RawCache;

use super::word;

/// The keys that only binary caches can have.
pub(super) const KEYS: [&str; 2] = ["compression", "compression_level"];

/// The words for how archives are packed.
const WORDS: [(&str, Compression); 4] = [
    ("auto", Compression::AUTO),
    ("zstd", Compression::DEFAULT_ZSTD),
    ("xz", Compression::DEFAULT_XZ),
    ("none", Compression::None),
];

pub(super) fn compression(raw: &RawCache, problems: &mut Problems<'_>) -> Option<Compression> {
    let kind = match &raw.compression {
        Some(given) => Some(word("compression", given, &WORDS, problems)?),
        None => None,
    };
    let Some(level) = &raw.compression_level else { return kind };
    let packed = kind.unwrap_or_default();
    let at_level = packed.at_level(*level.get_ref());
    if at_level.is_none() {
        let message = format!("`compression_level` can not be {}: expected {}", level.get_ref(), packed.levels());
        problems.add(level.span(), message);
    }
    at_level
}

/// Whether the URL says it, too: then nobody knows which is meant.
pub(super) fn only_once(raw: &RawCache, url: &CacheUrl, problems: &mut Problems<'_>) {
    if url.layout().is_none_or(|layout| layout.compression.is_none()) {
        return;
    }
    for (key, at) in raw.given.iter().filter(|(given, _)| KEYS.contains(given)) {
        problems.add(
            at.clone(),
            format!("`{key}` is given although the URL says how archives are packed: keep one of them"),
        );
    }
}
