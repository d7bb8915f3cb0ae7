//! Public keys that signatures are verified with.

use std::fmt;

use nix_narinfo::{KeyError, NixSignature, TrustedPublicKey};

/// The public half of a signing key, as Nix writes it: `NAME:BASE64`.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(TrustedPublicKey);

/// A text that is no public key. The text itself is never part of the message: it may be a secret in the wrong place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPublicKey {
    /// 64 bytes are Nix's secret keys, and the policy is read by everybody.
    #[error(
        "this is a secret key, which must not stand here: write the public half \
         (`nix key convert-secret-to-public`), and make a new pair if others could read this file"
    )]
    Secret,
    /// Anything else.
    #[error("{0}; expected NAME:BASE64 with the 32 bytes of an ed25519 public key, as in `trusted-public-keys`")]
    Malformed(String),
}

impl PublicKey {
    /// Takes `NAME:BASE64`.
    ///
    /// # Errors
    /// [`BadPublicKey`].
    pub fn parse(text: &str) -> Result<Self, BadPublicKey> {
        TrustedPublicKey::parse(text).map(Self).map_err(|err| match err {
            KeyError::InvalidLength { got: 64 } => BadPublicKey::Secret,
            other => BadPublicKey::Malformed(other.to_string()),
        })
    }

    /// The name in front of the colon, by which signatures refer to the key.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether this key made that signature (`NAME:BASE64`) over that fingerprint; takes some 48 µs.
    pub(super) fn verifies(&self, signature: &str, fingerprint: &str) -> bool {
        NixSignature::parse(signature).is_ok_and(|signature| {
            signature.verify(fingerprint.as_bytes(), std::slice::from_ref(&self.0)).unwrap_or(false)
        })
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_key_is_told_apart_and_never_repeated() {
        let secret = format!("host-1:{}==", "A".repeat(86));
        let err = PublicKey::parse(&secret).expect_err("secret");
        assert_eq!(err, BadPublicKey::Secret);
        assert!(!err.to_string().contains("AAAA"));
    }

    #[test]
    fn malformed_keys_say_what_is_expected() {
        for (text, start) in [
            ("nonsense", "public key has no name separator; expected NAME:BASE64"),
            ("a:AAAA", "public key is 3 bytes, expected 32; expected"),
            ("a:%", "public key is not valid base64; expected"),
        ] {
            let message = PublicKey::parse(text).expect_err(text).to_string();
            assert!(message.starts_with(start), "{message}");
        }
    }
}
