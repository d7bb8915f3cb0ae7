//! What Nix knows of one valid path.

use std::fmt;

use super::StorePath;

/// What the Nix database (or the Nix daemon) says of one valid path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathInfo {
    /// `ValidPaths.id`; grows with each registration, none is used twice. `None` where the daemon was asked.
    pub id: Option<i64>,
    /// The path itself.
    pub path: StorePath,
    /// Hash of the path's NAR.
    pub nar_hash: NarHash,
    /// Size of the path's NAR in bytes; 0 where a very old Nix did not note it.
    pub nar_size: u64,
    /// Seconds since 1970; whoever registered the path may have set it.
    pub registration_time: i64,
    /// The derivation that was built for it, where that is known.
    pub deriver: Option<StorePath>,
    /// Whether this host built it (Nix trusts it without a signature).
    pub ultimate: bool,
    /// Signatures as `KEYNAME:BASE64`, unverified.
    pub sigs: Vec<String>,
    /// Content address (`fixed:r:sha256:…`, `text:sha256:…`), if it has one.
    pub ca: Option<String>,
    /// Paths that it refers to, itself perhaps among them, sorted; `None` while they have not been asked for.
    pub references: Option<Vec<StorePath>>,
}

impl PathInfo {
    /// The references, none where they have not been asked for, without the path itself.
    pub fn other_references(&self) -> impl Iterator<Item = &StorePath> {
        self.references.iter().flatten().filter(|reference| **reference != self.path)
    }
}

/// A SHA-256 over a NAR.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct NarHash(pub [u8; 32]);

/// A hash that is not `sha256:` and 64 hexadecimal digits, which is how Nix's database holds it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not `sha256:` and 64 hexadecimal digits")]
pub struct NarHashError(pub String);

impl NarHash {
    /// Takes `sha256:` and 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`NarHashError`] for anything else.
    pub fn from_hex(text: &str) -> Result<Self, NarHashError> {
        let bad = || NarHashError(text.to_owned());
        let digits = text.strip_prefix("sha256:").ok_or_else(bad)?.as_bytes();
        if digits.len() != 64 {
            return Err(bad());
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            let high = char::from(pair[0]).to_digit(16).ok_or_else(bad)?;
            let low = char::from(pair[1]).to_digit(16).ok_or_else(bad)?;
            *byte = (high * 16 + low) as u8;
        }
        Ok(Self(hash))
    }

    /// The 64 characters of its hexadecimal form, as Attic wants them.
    #[must_use]
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The 52 characters of Nix's base 32, as they stand in narinfos and file names.
    #[must_use]
    pub fn to_nix32(&self) -> String {
        nix32(&self.0)
    }
}

impl fmt::Display for NarHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.to_nix32())
    }
}

impl fmt::Debug for NarHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Nix's base 32: five bits a character, the last bits first.
#[must_use]
pub fn nix32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";
    let len = (bytes.len() * 8).div_ceil(5);
    (0..len)
        .rev()
        .map(|n| {
            let bit = n * 5;
            let (index, shift) = (bit / 8, bit % 8);
            let low = u16::from(bytes[index]) >> shift;
            let high = bytes.get(index + 1).map_or(0, |byte| u16::from(*byte) << (8 - shift));
            char::from(ALPHABET[usize::from((low | high) & 0x1f)])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nix32_agrees_with_nix() {
        // `nix-hash --type sha256 --to-base32` of the SHA-256 of nothing.
        let empty = NarHash::from_hex("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
            .expect("a hash");
        assert_eq!(empty.to_string(), "sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73");
    }

    #[test]
    fn other_hashes_are_refused() {
        for text in ["", "sha256:", "sha512:00", "sha256:zz", &format!("sha256:{}", "g".repeat(64))] {
            assert_eq!(NarHash::from_hex(text), Err(NarHashError(text.to_owned())));
        }
    }
}
