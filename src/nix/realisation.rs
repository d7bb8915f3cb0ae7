//! Realisations: which path an output of a content-addressed derivation has turned out to be. Nix can't know that from the
//! derivation, so who substitutes such an output asks a cache for it first.
//!
//! There are two formats, as in Nix's `src/libstore/realisation.cc` and `binary-cache-store.cc`:
//!
//! - up to Nix 2.34 a realisation is known by the hash of its derivation, and may depend on others: `realisations/…`;
//! - from Nix 2.35 on it is known by the derivation's path alone: `build-trace-v2/…`.
//!
//! Neither can be made of the other: a hash doesn't tell the derivation. What Nix has noted on this host is what there is.
//!
//! Signed is the JSON without its signatures, keys sorted and without spaces, as `nlohmann::json::dump` writes it.

mod written;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use written::WrittenRealisation;

use super::{SecretKey, StorePath};

/// Which path an output is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Realisation {
    /// Of what derivation.
    pub derivation: Derivation,
    /// Name of the output, `out` for the most part.
    pub output: String,
    /// The path.
    pub out_path: StorePath,
    /// Signatures as `KEYNAME:BASE64`, unverified.
    pub signatures: Vec<String>,
}

/// By what the derivation is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Derivation {
    /// Up to Nix 2.34.
    Hash {
        /// `sha256:` and 64 hexadecimal digits.
        hash: String,
        /// The realisations of inputs that the path refers to, each (`HASH!OUTPUT`) with its path.
        depends_on: BTreeMap<String, StorePath>,
    },
    /// From Nix 2.35 on.
    Path(StorePath),
}

/// What is signed up to Nix 2.34, and with signatures the file.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ByHash<'r> {
    dependent_realisations: BTreeMap<&'r str, &'r str>,
    id: &'r str,
    out_path: &'r str,
    #[serde(skip_serializing_if = "Option::is_none")]
    signatures: Option<BTreeSet<String>>,
}

/// What is signed from Nix 2.35 on.
#[derive(Serialize)]
struct ByPath<'r> {
    key: Key<'r>,
    value: Value<'r>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Key<'r> {
    drv_path: &'r str,
    output_name: &'r str,
}

/// The file from Nix 2.35 on, if there are signatures.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Value<'r> {
    out_path: &'r str,
    #[serde(skip_serializing_if = "Option::is_none")]
    signatures: Option<Vec<Signature>>,
}

/// A signature from Nix 2.35 on.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Signature {
    key_name: String,
    sig: String,
}

impl Signature {
    /// One that is written as `NAME:BASE64`.
    fn of(text: &str) -> Option<Self> {
        let (key_name, sig) = text.split_once(':')?;
        Some(Self { key_name: key_name.to_owned(), sig: sig.to_owned() })
    }
}

impl Realisation {
    /// Whether hash and output are such as Nix gives them: they become names of files.
    pub(super) fn is_legal(&self) -> bool {
        let output = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._?=".contains(&byte);
        let hash = match &self.derivation {
            Derivation::Hash { hash, .. } => hash.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b':'),
            Derivation::Path(_) => true,
        };
        hash && !self.output.is_empty() && !self.output.starts_with('.') && self.output.bytes().all(output)
    }

    /// What is signed of it: each text says less than the one before it, and is true if that is.
    #[must_use]
    pub fn fingerprints(&self) -> Vec<String> {
        let (output, out_path) = (&self.output, self.out_path.base_name());
        match &self.derivation {
            Derivation::Hash { hash, depends_on } => {
                let id = format!("{hash}!{output}");
                let unsigned = |dependent_realisations| {
                    json(&ByHash { dependent_realisations, id: &id, out_path, signatures: None })
                };
                let mut fingerprints = vec![unsigned(base_names(depends_on))];
                if !depends_on.is_empty() {
                    // To Nix 2.34 what it depends on is no part of what is signed.
                    fingerprints.push(unsigned(BTreeMap::new()));
                }
                fingerprints
            }
            Derivation::Path(derivation) => {
                let key = Key { drv_path: derivation.base_name(), output_name: output };
                vec![json(&ByPath { key, value: Value { out_path, signatures: None } })]
            }
        }
    }

    /// What stands in its file in a binary cache, signed with `key`, too.
    #[must_use]
    pub fn signed_json(&self, key: &SecretKey) -> String {
        let out_path = self.out_path.base_name();
        let mut signatures: BTreeSet<String> = self.signatures.iter().cloned().collect();
        signatures.extend(self.fingerprints().iter().map(|text| key.sign(text)));
        match &self.derivation {
            Derivation::Hash { hash, depends_on } => {
                let (id, dependent_realisations) = (format!("{hash}!{}", self.output), base_names(depends_on));
                json(&ByHash { dependent_realisations, id: &id, out_path, signatures: Some(signatures) })
            }
            Derivation::Path(_) => {
                let signatures = signatures.iter().filter_map(|text| Signature::of(text)).collect();
                json(&Value { out_path, signatures: Some(signatures) })
            }
        }
    }
}

fn base_names(depends_on: &BTreeMap<String, StorePath>) -> BTreeMap<&str, &str> {
    depends_on.iter().map(|(id, path)| (id.as_str(), path.base_name())).collect()
}

fn json(value: &impl Serialize) -> String {
    // Texts and maps of texts always can be written.
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nix::PublicKey;

    fn path(name: &str) -> StorePath {
        StorePath::from_base_name(&format!("g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-{name}")).expect("a legal name")
    }

    fn realisation(derivation: Derivation, out: &str) -> Realisation {
        Realisation { derivation, output: "foo".to_owned(), out_path: path(out), signatures: Vec::new() }
    }

    /// Key, names and signature are those of Nix 2.36's own tests (`src/libstore-tests/data/realisation`).
    #[test]
    fn from_nix_2_35_on_it_is_signed_as_nix_signs_it() {
        const SECRET: &str =
            "test-key:tU7tTvLcScf8pmz/eTV0BEtLmRsPpZfKaRcd0nCN+pysBZPHSeg61/u2oc7mIOewfuAY1V1BiX32homTaDJ2Jw==";
        const SIGNATURE: &str =
            "ZE30UrOh26/EYvUaczjJtz6c4WcRYke6IEhDNN5TiFRF6Uu+H8lHofponlhfZxDDrCUlfstS/vtv3Xm2F6M/AA==";
        let key = SecretKey::parse(SECRET).expect("a key");
        let mut realisation = realisation(Derivation::Path(path("bar.drv")), "foo.drv");
        let own = format!(r#"{{"keyName":"test-key","sig":"{SIGNATURE}"}}"#);
        let file = |signatures: &str| {
            format!(r#"{{"outPath":"g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-foo.drv","signatures":[{signatures}]}}"#)
        };
        assert_eq!(realisation.signed_json(&key), file(&own));
        realisation.signatures = vec!["asdf:AAAA".to_owned(), format!("test-key:{SIGNATURE}")];
        let all = format!(r#"{{"keyName":"asdf","sig":"AAAA"}},{own}"#);
        assert_eq!(realisation.signed_json(&key), file(&all), "each once, sorted");
    }

    /// That Nix takes it is shown by a test with Nix itself; this is what Nix 2.34, which isn't there, would verify.
    #[test]
    fn up_to_nix_2_34_it_is_signed_with_and_without_what_it_depends_on() {
        let key = SecretKey::generate("test-1").expect("randomness");
        let hash = format!("sha256:{}", "0".repeat(64));
        let other = format!("sha256:{}!out", "1".repeat(64));
        let depends_on = BTreeMap::from([(other.clone(), path("other"))]);
        let json = realisation(Derivation::Hash { hash: hash.clone(), depends_on }, "a").signed_json(&key);
        let read: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        let names: Vec<_> = read.as_object().expect("a table").keys().cloned().collect();
        assert_eq!(names, ["dependentRealisations", "id", "outPath", "signatures"]);
        let out = path("a");
        for dependent in [String::new(), format!(r#""{other}":"{}""#, path("other"))] {
            let signed = format!(r#"{{"dependentRealisations":{{{dependent}}},"id":"{hash}!foo","outPath":"{out}"}}"#);
            let public: PublicKey = key.public();
            let signatures = read["signatures"].as_array().expect("a list");
            assert!(signatures.iter().any(|signature| public.verify(&signed, signature.as_str().expect("text"))));
        }
        let alone = realisation(Derivation::Hash { hash, depends_on: BTreeMap::new() }, "a").signed_json(&key);
        let read: serde_json::Value = serde_json::from_str(&alone).expect("JSON");
        assert_eq!(read["signatures"].as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn what_is_no_name_of_a_file_is_not_legal() {
        let of = |hash: &str, output: &str| Realisation {
            output: output.to_owned(),
            ..realisation(Derivation::Hash { hash: hash.to_owned(), depends_on: BTreeMap::new() }, "a")
        };
        assert!(of("sha256:00", "out").is_legal() && of("sha256:00", "dev-1.0_?=+").is_legal());
        for (hash, output) in
            [("sha256:00/..", "out"), ("../x", "out"), ("sha256:00", ""), ("sha256:00", "../x"), ("sha256:00", ".")]
        {
            assert!(!of(hash, output).is_legal(), "{hash} {output}");
        }
    }
}
