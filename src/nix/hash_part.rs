//! The hash part of a store path, in as many bytes as it has bits.

use std::fmt;

use super::{HASH_PART_LEN, StorePath};

/// Nix's base-32 alphabet, in order.
const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// The 160 bits of a hash part: 20 bytes, where the text takes 32 and a store path some 60. Ordered as the texts are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct HashPart([u8; 20]);

impl HashPart {
    /// Takes the 32 characters; `None` of what is no hash part.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != HASH_PART_LEN {
            return None;
        }
        let mut bytes = [0; 20];
        for (eight, five) in text.as_bytes().chunks(8).zip(bytes.chunks_mut(5)) {
            let mut bits = 0_u64;
            for byte in eight {
                bits = bits << 5 | ALPHABET.binary_search(byte).ok()? as u64;
            }
            five.copy_from_slice(&bits.to_be_bytes()[3..]);
        }
        Some(Self(bytes))
    }

    /// That of a base name such as `q1yw…-hello-2.12`, or of one that only begins like one.
    #[must_use]
    pub fn of_base_name(base_name: &str) -> Option<Self> {
        Self::parse(base_name.get(..HASH_PART_LEN)?)
    }

    /// Its bits, from the first character on.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }
}

impl From<&StorePath> for HashPart {
    fn from(path: &StorePath) -> Self {
        // A store path begins with one.
        Self::parse(path.hash_part()).unwrap_or_default()
    }
}

impl fmt::Display for HashPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for five in self.0.chunks(5) {
            let bits = five.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
            for place in (0..8).rev() {
                let digit = ALPHABET[(bits >> (place * 5) & 0x1f) as usize];
                write!(f, "{}", char::from(digit))?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for HashPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_parts_are_packed_without_loss_and_in_their_order() {
        let hashes = [
            "00000000000000000000000000000000",
            "0123456789abcdfghijklmnpqrsvwxyz",
            "0123456789abcdfghijklmnpqrsvwxz0",
            "z0000000000000000000000000000000",
            "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz",
        ];
        let all: Vec<HashPart> = hashes.iter().map(|hash| HashPart::parse(hash).expect("a hash part")).collect();
        assert!(all.is_sorted_by(|one, two| one < two), "{all:?}");
        assert_eq!((all[0].as_bytes(), all[4].as_bytes()), (&[0; 20], &[0xff; 20]));
        assert_eq!(all.iter().map(ToString::to_string).collect::<Vec<_>>(), hashes);
        for none in ["", "0123456789abcdfghijklmnpqrsvwxy", "e123456789abcdfghijklmnpqrsvwxyz", "nix-cache-info"] {
            assert_eq!(HashPart::parse(none), None, "{none}");
        }
        assert_eq!(HashPart::of_base_name(&format!("{}-a", hashes[1])), Some(all[1]));
        assert_eq!(HashPart::of_base_name("ää"), None);
    }
}
