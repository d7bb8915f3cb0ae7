//! What a cache is called.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Longest name of a cache, in bytes: names become file names and metric labels, so they stay short.
pub const MAX_CACHE_NAME_LEN: usize = 64;

/// A cache's name in the policy: 1 to 64 of `a-z`, `0-9`, `_` and `-`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CacheName(Arc<str>);

/// A name that would be ambiguous in file names, labels or on the command line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no name for a cache: 1 to {MAX_CACHE_NAME_LEN} of a-z, 0-9, _ and - are")]
pub struct BadCacheName(pub String);

impl CacheName {
    /// Takes a name as it stands in the policy.
    ///
    /// # Errors
    /// [`BadCacheName`] for an empty one, a long one, or one with other characters.
    pub fn new(name: &str) -> Result<Self, BadCacheName> {
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte);
        if name.is_empty() || name.len() > MAX_CACHE_NAME_LEN || !name.bytes().all(legal) {
            return Err(BadCacheName(name.to_owned()));
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CacheName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for CacheName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for CacheName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_into_file_names_and_labels() {
        for name in ["a", "team", "my-cache_2", "-", &"x".repeat(64)] {
            assert_eq!(CacheName::new(name).map(|name| name.to_string()), Ok(name.to_owned()));
        }
        for name in ["", "Team", "a b", "a/b", "ä", "..", &"x".repeat(65)] {
            assert_eq!(CacheName::new(name), Err(BadCacheName(name.to_owned())));
        }
    }
}
