//! What Nix signs, and the keys that it signs and verifies with.
//!
//! A signature (`NAME:BASE64`, ed25519) is made over a path's fingerprint, in which stand its name, the hash and size
//! of its NAR, and its references; not its deriver, nor where the NAR is kept or how it is compressed. Formats as in
//! Nix's `src/libutil/signature/local-keys.cc` and `src/libstore/path-info.cc`; verification is `nix-narinfo`'s.
//!
//! A secret key never appears in a message: errors say what is wrong with a text without repeating it, `Debug` shows
//! the name alone, and memory that held the key is overwritten (invariant 5).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{SECRET_KEY_LENGTH, Signer, SigningKey};
use nix_narinfo::{KeyError, NixSignature, TrustedPublicKey};
use zeroize::Zeroizing;

use super::{PathInfo, StoreDir};

/// Bytes of a secret key as Nix writes it: the seed and the public key.
const PAIR_LEN: usize = 64;

/// Characters of [`PAIR_LEN`] bytes in base 64.
const PAIR_TEXT_LEN: usize = 88;

/// What Nix signs: `1;PATH;sha256:NIX32;SIZE;REFERENCES`, with full logical paths, the references sorted, the path
/// itself among them if it refers to itself, and commas between.
///
/// The references must have been asked for: without them it is the fingerprint of another path, which no signature
/// of this one fits.
#[must_use]
pub fn fingerprint(store_dir: &StoreDir, info: &PathInfo) -> String {
    debug_assert!(info.references.is_some(), "the references of {} have not been asked for", info.path);
    let mut references: Vec<_> = info.references.iter().flatten().collect();
    references.sort_unstable();
    references.dedup();
    let references: Vec<_> = references.into_iter().map(|reference| store_dir.full(reference)).collect();
    format!("1;{};{};{};{}", store_dir.full(&info.path), info.nar_hash, info.nar_size, references.join(","))
}

/// A key to sign with, as `nix-store --generate-binary-cache-key` makes it.
pub struct SecretKey {
    name: String,
    /// On the heap, where it stays while the key is handed around, and is overwritten when that ends.
    key: Box<SigningKey>,
}

/// A text that is no secret key, or a name that is none. The text itself is never part of the message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSecretKey {
    /// No colon.
    #[error("the key has no name; expected NAME:BASE64")]
    NoName,
    /// A name that would not survive in a narinfo.
    #[error("the key's name is empty or has a colon, white space or control characters in it")]
    BadName,
    /// What stands behind the name is no base 64.
    #[error("what stands behind the key's name is not base 64")]
    NotBase64,
    /// 32 bytes are Nix's public keys.
    #[error(
        "this is a public key; the secret one, which `nix-store --generate-binary-cache-key` writes first, is needed"
    )]
    Public,
    /// Another length than that of an ed25519 key.
    #[error("the key has another length than the {PAIR_LEN} bytes of an ed25519 secret key")]
    Length,
    /// Nobody could verify what it signs.
    #[error("the key's public half doesn't belong to its secret half: the file is damaged")]
    Mismatched,
    /// The system has no randomness to make one from.
    #[error("no random bytes from the system")]
    Random(#[source] getrandom::Error),
}

impl SecretKey {
    /// Takes `NAME:BASE64`; white space at the end, which editors leave, is fine.
    ///
    /// # Errors
    /// [`BadSecretKey`].
    pub fn parse(text: &str) -> Result<Self, BadSecretKey> {
        let (name, encoded) = text.trim_end().split_once(':').ok_or(BadSecretKey::NoName)?;
        let name = legal_name(name)?;
        // Two more than a pair has: the decoder wants room for whole groups of three.
        let mut bytes = Zeroizing::new([0; PAIR_LEN + 2]);
        let len = match STANDARD.decode_slice(encoded, bytes.as_mut_slice()) {
            Ok(len) => len,
            Err(base64::DecodeSliceError::OutputSliceTooSmall) => return Err(BadSecretKey::Length),
            Err(base64::DecodeSliceError::DecodeError(_)) => return Err(BadSecretKey::NotBase64),
        };
        match (len, bytes.first_chunk::<PAIR_LEN>()) {
            (PAIR_LEN, Some(pair)) => {
                let key = SigningKey::from_keypair_bytes(pair).map_err(|_| BadSecretKey::Mismatched)?;
                Ok(Self { name, key: Box::new(key) })
            }
            (32, _) => Err(BadSecretKey::Public),
            _ => Err(BadSecretKey::Length),
        }
    }

    /// Makes a new key from the system's randomness.
    ///
    /// # Errors
    /// [`BadSecretKey::BadName`], or [`BadSecretKey::Random`].
    pub fn generate(name: &str) -> Result<Self, BadSecretKey> {
        let name = legal_name(name)?;
        let mut seed = Zeroizing::new([0; SECRET_KEY_LENGTH]);
        getrandom::fill(seed.as_mut_slice()).map_err(BadSecretKey::Random)?;
        Ok(Self { name, key: Box::new(SigningKey::from_bytes(&seed)) })
    }

    /// The name in front of the colon, by which signatures refer to the key.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The half that others verify with.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(TrustedPublicKey { name: self.name.clone(), key: self.key.verifying_key() })
    }

    /// The signature over a [`fingerprint`], as `NAME:BASE64`.
    #[must_use]
    pub fn sign(&self, fingerprint: &str) -> String {
        let signature = self.key.sign(fingerprint.as_bytes());
        format!("{}:{}", self.name, STANDARD.encode(signature.to_bytes()))
    }

    /// The key as [`SecretKey::parse`] takes it, and Nix: `NAME:BASE64`, without a newline.
    #[must_use]
    pub fn to_nix_string(&self) -> Zeroizing<String> {
        let pair = Zeroizing::new(self.key.to_keypair_bytes());
        // Long enough from the start: growing would leave a copy behind.
        let mut text = Zeroizing::new(String::with_capacity(self.name.len() + 1 + PAIR_TEXT_LEN));
        text.push_str(&self.name);
        text.push(':');
        STANDARD.encode_string(pair.as_slice(), &mut text);
        text
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({}, …)", self.name)
    }
}

fn legal_name(name: &str) -> Result<String, BadSecretKey> {
    let bad = |char: char| char == ':' || char.is_whitespace() || char.is_control();
    if name.is_empty() || name.contains(bad) { Err(BadSecretKey::BadName) } else { Ok(name.to_owned()) }
}

/// A key to verify with: `NAME:BASE64`, as it stands in `trusted-public-keys`.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(TrustedPublicKey);

/// A text that is no public key. The text itself is never part of the message: it may be a secret in the wrong place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPublicKey {
    /// 64 bytes are Nix's secret keys.
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
        TrustedPublicKey::parse(text).map(Self).map_err(|error| match error {
            KeyError::InvalidLength { got: PAIR_LEN } => BadPublicKey::Secret,
            other => BadPublicKey::Malformed(other.to_string()),
        })
    }

    /// The name in front of the colon, by which signatures refer to the key.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether this key made that signature (`NAME:BASE64`) over that [`fingerprint`]; takes some 48 µs where the
    /// signature bears the key's name, and next to nothing otherwise.
    #[must_use]
    pub fn verify(&self, fingerprint: &str, signature: &str) -> bool {
        NixSignature::parse(signature).is_ok_and(|signature| {
            signature.verify(fingerprint.as_bytes(), std::slice::from_ref(&self.0)).unwrap_or(false)
        })
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0.name, STANDARD.encode(self.0.key.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nix::{NarHash, StorePath};

    // A pair that `nix-store --generate-binary-cache-key golden-1 …` made (Nix 2.8.0). It signs nothing but this test.
    const SECRET: &str =
        "golden-1:NW3Ue/G91C80lqQcjj/kVulsPYuRYaBL5mRsj/a57iSqoll5p08A62Pl3r0TBiXxxj/d++i0xzGl1YULxyiqFw==";
    const PUBLIC: &str = "golden-1:qqJZeadPAOtj5d69EwYl8cY/3fvotMcxpdWFC8coqhc=";
    // What `nix store sign` made of `golden_info` with it.
    const SIGNATURE: &str =
        "golden-1:zL5VCYrbcB3Na+k69RzOOsaJLzb7d/5bbJmDcUhQL9FEVCPJUp5hhl3Le18uusD/Uw/K2fZRnWu9NPINKL1uAw==";

    /// A path with two references and itself, as that Nix had registered it.
    fn golden_info() -> PathInfo {
        let path = |base_name: &str| StorePath::from_base_name(base_name).expect("a store path");
        let hash = "sha256:40f65a0498e98d25eebf171771b856d0d850da91a096c1edce2f0848c7120957";
        PathInfo {
            id: Some(2),
            path: path("7777777777777777777777777777777c-self-1.0"),
            nar_hash: NarHash::from_hex(hash).expect("a hash"),
            nar_size: 184,
            registration_time: 1_795_452_527,
            deriver: None,
            ultimate: false,
            sigs: Vec::new(),
            ca: None,
            // Not in order, as a database may give them.
            references: Some(vec![
                path("zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz-b"),
                path("7777777777777777777777777777777c-self-1.0"),
                path("00000000000000000000000000000000-a"),
            ]),
        }
    }

    #[test]
    fn fingerprint_and_signature_are_those_of_nix() {
        let fingerprint = fingerprint(&StoreDir::new("/tmp/golden/store"), &golden_info());
        assert_eq!(
            fingerprint,
            "1;/tmp/golden/store/7777777777777777777777777777777c-self-1.0;\
             sha256:0mq92b3lh21grvnw35m0j7d51n6hasw725qppzp2b3g9k025mxj0;184;\
             /tmp/golden/store/00000000000000000000000000000000-a,\
             /tmp/golden/store/7777777777777777777777777777777c-self-1.0,\
             /tmp/golden/store/zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz-b"
        );
        let secret = SecretKey::parse(SECRET).expect("a secret key");
        assert_eq!(secret.sign(&fingerprint), SIGNATURE);
        let public = PublicKey::parse(PUBLIC).expect("a public key");
        assert!(public.verify(&fingerprint, SIGNATURE));
        assert!(!public.verify(&fingerprint.replace("184", "185"), SIGNATURE));
        assert!(!public.verify(&fingerprint, &SIGNATURE.replace("golden-1", "golden-2")));
        assert!(!public.verify(&fingerprint, "golden-1:AAAA"));
        assert!(!public.verify(&fingerprint, "nonsense"));
    }

    #[test]
    fn keys_are_written_as_nix_writes_them() {
        let secret = SecretKey::parse(&format!("{SECRET}\n")).expect("a secret key");
        assert_eq!(secret.name(), "golden-1");
        assert_eq!(*secret.to_nix_string(), SECRET);
        assert_eq!(secret.public().to_string(), PUBLIC);
        assert_eq!(secret.public(), PublicKey::parse(PUBLIC).expect("a public key"));
    }

    #[test]
    fn a_generated_key_verifies_what_it_signed() {
        let secret = SecretKey::generate("host-1").expect("randomness");
        let again = SecretKey::parse(&secret.to_nix_string()).expect("its own text");
        assert!(secret.public().verify("x", &again.sign("x")));
        assert_ne!(secret.public(), SecretKey::generate("host-1").expect("randomness").public());
        for name in ["", "a:b", "a b", "a\n"] {
            assert_eq!(SecretKey::generate(name).err(), Some(BadSecretKey::BadName), "{name:?}");
        }
    }

    #[test]
    fn bad_secret_keys_are_told_apart_and_never_repeated() {
        let damaged = SECRET.replace("golden-1:NW3U", "golden-1:NW3V");
        for (text, expected) in [
            ("", BadSecretKey::NoName),
            (&SECRET["golden-1:".len()..], BadSecretKey::NoName),
            (&SECRET["golden-1".len()..], BadSecretKey::BadName),
            ("golden-1:NW3U!", BadSecretKey::NotBase64),
            (PUBLIC, BadSecretKey::Public),
            ("golden-1:NW3U", BadSecretKey::Length),
            (&format!("golden-1:{}", "NW3U".repeat(100)), BadSecretKey::Length),
            (&damaged, BadSecretKey::Mismatched),
        ] {
            let error = SecretKey::parse(text).expect_err(text);
            assert_eq!(error, expected);
            assert!(!error.to_string().contains("NW3") && !format!("{error:?}").contains("NW3"));
        }
        let secret = SecretKey::parse(SECRET).expect("a secret key");
        assert_eq!(format!("{secret:?}"), "SecretKey(golden-1, …)");
        assert_eq!(PublicKey::parse(SECRET), Err(BadPublicKey::Secret));
        assert!(!BadPublicKey::Secret.to_string().contains("NW3"));
    }
}
