//! Store paths: `/nix/store/` + 32 characters of hash + `-` + name.

use std::fmt;
use std::path::{Path, PathBuf};

/// Characters of a store path's hash part: 160 bits in Nix's base 32.
pub const HASH_PART_LEN: usize = 32;

/// Longest name that Nix accepts behind the hash part, in bytes (`StorePath::MaxPathLen`).
const MAX_NAME_LEN: usize = 211;

/// Nix's base-32 alphabet: digits and lower-case letters without `e`, `o`, `u` and `t`. Tables, because a first scan
/// asks two million times: a search in the alphabet took half of its time.
const NIX32: [bool; 256] = table(b"0123456789abcdfghijklmnpqrsvwxyz");

/// What a name may consist of.
const NAME: [bool; 256] = table(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+-._?=");

const fn table(members: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut n = 0;
    while n < members.len() {
        table[members[n] as usize] = true;
        n += 1;
    }
    table
}

/// Why a text is no store path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StorePathError {
    /// The path lies elsewhere.
    #[error("`{path}` is not directly in the store `{store_dir}`")]
    OutsideStore {
        /// The path as given.
        path: String,
        /// The logical store directory it should lie in.
        store_dir: String,
    },
    /// No hash part in front.
    #[error("`{0}` does not begin with a {HASH_PART_LEN} character hash and a dash")]
    NoHashPart(String),
    /// The name behind the hash part is none that Nix would give.
    #[error("`{0}` has no legal name behind its hash (1 to {MAX_NAME_LEN} of a-z A-Z 0-9 + - . _ ? =)")]
    BadName(String),
}

/// A store path without its store directory: the base name, known to be well-formed.
///
/// Keeping the base name alone makes it impossible to confuse where a path is said to be (the logical store directory)
/// with where its files are (the real one).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorePath(Box<str>);

impl StorePath {
    /// Takes a base name such as `q1yw…-hello-2.12`.
    ///
    /// # Errors
    /// [`StorePathError::NoHashPart`] or [`StorePathError::BadName`].
    pub fn from_base_name(base_name: &str) -> Result<Self, StorePathError> {
        let bytes = base_name.as_bytes();
        let well_hashed = bytes.len() > HASH_PART_LEN
            && bytes[HASH_PART_LEN] == b'-'
            && bytes[..HASH_PART_LEN].iter().all(|byte| NIX32[usize::from(*byte)]);
        if !well_hashed {
            return Err(StorePathError::NoHashPart(base_name.to_owned()));
        }
        let name = &bytes[HASH_PART_LEN + 1..];
        let legal = |byte: &u8| NAME[usize::from(*byte)];
        if name.is_empty() || name.len() > MAX_NAME_LEN || !name.iter().all(legal) {
            return Err(StorePathError::BadName(base_name.to_owned()));
        }
        Ok(Self(base_name.into()))
    }

    /// The whole base name.
    #[must_use]
    pub fn base_name(&self) -> &str {
        &self.0
    }

    /// The 32 characters by which caches know the path.
    #[must_use]
    pub fn hash_part(&self) -> &str {
        &self.0[..HASH_PART_LEN]
    }

    /// What stands behind the hash: `hello-2.12`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0[HASH_PART_LEN + 1..]
    }

    /// Whether it is a derivation (`….drv`).
    #[must_use]
    pub fn is_derivation(&self) -> bool {
        self.0.ends_with(".drv")
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The logical store directory, as it stands in every store path: `/nix/store` nearly everywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreDir(String);

impl StoreDir {
    /// Takes an absolute path; a trailing slash is dropped.
    #[must_use]
    pub fn new(dir: &str) -> Self {
        let trimmed = dir.trim_end_matches('/');
        Self(if trimmed.is_empty() { "/" } else { trimmed }.to_owned())
    }

    /// The directory as text, without a trailing slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The full logical path: what Nix prints.
    #[must_use]
    pub fn full(&self, path: &StorePath) -> String {
        format!("{}/{}", self.0, path.base_name())
    }

    /// Takes a full logical path, exactly one component below the store directory.
    ///
    /// # Errors
    /// [`StorePathError::OutsideStore`], or what [`StorePath::from_base_name`] says.
    pub fn parse(&self, full: &str) -> Result<StorePath, StorePathError> {
        let outside = || StorePathError::OutsideStore { path: full.to_owned(), store_dir: self.0.clone() };
        let base = full.strip_prefix(self.0.as_str()).and_then(|rest| rest.strip_prefix('/')).ok_or_else(outside)?;
        if base.contains('/') {
            return Err(outside());
        }
        StorePath::from_base_name(base)
    }

    /// Takes a full logical path or anything below one: `/nix/store/…-hello/bin/hello` is `…-hello`.
    ///
    /// # Errors
    /// As for [`StoreDir::parse`].
    pub fn parse_below(&self, full: &Path) -> Result<StorePath, StorePathError> {
        let outside = || StorePathError::OutsideStore { path: full.display().to_string(), store_dir: self.0.clone() };
        let below = full.strip_prefix(&self.0).map_err(|_| outside())?;
        let first = below.components().next().ok_or_else(outside)?;
        StorePath::from_base_name(&first.as_os_str().to_string_lossy())
    }

    /// The directory as a path.
    #[must_use]
    pub fn to_path_buf(&self) -> PathBuf {
        PathBuf::from(&self.0)
    }
}

impl Default for StoreDir {
    fn default() -> Self {
        Self("/nix/store".to_owned())
    }
}

#[cfg(test)]
impl StorePath {
    /// For tests: a path of that number.
    pub(crate) fn nth(n: usize) -> Self {
        Self::from_base_name(&format!("{n:0>32}-p{n}")).expect("a legal name")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "0123456789abcdfghijklmnpqrsvwxyz";

    #[test]
    fn odd_but_legal_names_are_taken() {
        for name in ["a", "x+y-1._?=Z", ".hidden", "-", "a.drv"] {
            let path = StorePath::from_base_name(&format!("{HASH}-{name}")).expect("legal");
            assert_eq!((path.hash_part(), path.name()), (HASH, name));
        }
    }

    #[test]
    fn what_nix_would_not_write_is_refused() {
        let too_long = "x".repeat(MAX_NAME_LEN + 1);
        for name in ["", "ä", "a b", "a/b", too_long.as_str()] {
            let base = format!("{HASH}-{name}");
            assert_eq!(StorePath::from_base_name(&base), Err(StorePathError::BadName(base)));
        }
        for base in ["", "hello", "0123456789abcdefghijklmnopqrstuv-e-is-no-digit", HASH] {
            assert_eq!(StorePath::from_base_name(base), Err(StorePathError::NoHashPart(base.to_owned())));
        }
    }

    #[test]
    fn full_paths_belong_to_one_store() {
        let store = StoreDir::new("/nix/store/");
        let path = store.parse(&format!("/nix/store/{HASH}-a")).expect("in the store");
        assert_eq!(store.full(&path), format!("/nix/store/{HASH}-a"));
        for outside in [format!("/nix/stores/{HASH}-a"), format!("/nix/store/{HASH}-a/b"), "/nix/store".to_owned()] {
            assert!(matches!(store.parse(&outside), Err(StorePathError::OutsideStore { .. })), "{outside}");
        }
        let below = store.parse_below(Path::new(&format!("/nix/store/{HASH}-a/bin/a"))).expect("below a path");
        assert_eq!(below, path);
    }
}
