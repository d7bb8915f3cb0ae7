//! What is signed of realisations, as Nix verifies it when it copies them by their derivation.
//!
//! No more is signed than follows from what a trusted key has signed: where that has left out what a realisation depends on,
//! so does the new one.

use super::{SignedFile, Signing, Verdict, names};
use crate::cache::care::verify::made_by;
use crate::cache::care::{Entry, Listed, Shelf};
use crate::cache::http::plain;
use crate::cache::{CacheError, layout};
use crate::nix::{PublicKey, Realisation, StorePath};

/// Why a realisation is left alone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RealisationFault {
    /// No reader understands it.
    #[error("the realisation can't be read: {0}")]
    Unreadable(String),
    /// It stands under the name of another.
    #[error("it is the realisation of another output: {0}")]
    OtherOutput(String),
    /// Who copies by the derivation, and wants a signature, refuses it.
    #[error("the realisation has no good signature by {keys}{}", made_by(signed))]
    Unsigned {
        /// The names of the trusted keys.
        keys: String,
        /// The names of the keys by which it says that it is signed.
        signed: Vec<String>,
    },
}

impl RealisationFault {
    /// In a word, for programs.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "unreadable",
            Self::OtherOutput(_) => "other_output",
            Self::Unsigned { .. } => "unsigned",
        }
    }
}

/// A realisation that is left alone, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealisationFinding {
    /// Its file, relative to the cache, as it can be shown.
    pub file: String,
    /// The path that the output is, as far as it says that.
    pub path: Option<StorePath>,
    /// What is wrong.
    pub fault: RealisationFault,
}

/// The realisation in a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RealisationIn(String);

/// The realisations that a cache has. Kept of each is its file's name, some 100 bytes: only outputs of content-addressed
/// derivations have any.
pub(super) async fn listed(shelf: &dyn Shelf) -> Result<Vec<RealisationIn>, CacheError> {
    let mut found = Vec::new();
    let mut take = |page: Vec<Entry>| {
        let names = page.into_iter().map(|entry| entry.name);
        found.extend(names.filter(|name| layout::is_realisation(name)).map(RealisationIn));
    };
    for folder in [layout::REALISATIONS_DIR, layout::BUILD_TRACE_DIR] {
        shelf.list(Listed::Below(folder), &mut take).await?;
    }
    Ok(found)
}

impl SignedFile for RealisationIn {
    type Finding = RealisationFinding;

    fn name(&self) -> String {
        self.0.clone()
    }

    fn judge(&self, content: &[u8], Signing { key, trusted, .. }: &Signing) -> Verdict<RealisationFinding> {
        let refuse = |path, fault| Verdict::Refuse(RealisationFinding { file: plain(&self.0), path, fault });
        let written = match layout::read_realisation(&self.0, content) {
            Ok(written) => written,
            Err(problem) => return refuse(None, RealisationFault::Unreadable(plain(&problem))),
        };
        let realisation = &written.realisation;
        let (_, name) = layout::realisation_name(realisation);
        if name != self.0 {
            return refuse(None, RealisationFault::OtherOutput(plain(&name)));
        }
        let (fingerprints, own) = (realisation.fingerprints(), [key.public()]);
        let is_vouched_for = |text: &&String| is_signed_by(realisation, text, trusted);
        let has_ours = |text: &&String| is_signed_by(realisation, text, &own);
        let true_texts = fingerprints.iter().skip_while(|text| !is_vouched_for(text));
        let more: Vec<String> = true_texts.filter(|text| !has_ours(text)).map(|text| key.sign(text)).collect();
        if !more.is_empty() {
            return Verdict::Sign(written.with_signatures(&more));
        }
        if fingerprints.iter().any(|text| has_ours(&text)) {
            return Verdict::HasIt;
        }
        let signers = realisation.signatures.iter().filter_map(|sig| Some(plain(sig.split_once(':')?.0)));
        let fault = RealisationFault::Unsigned { keys: names(trusted), signed: signers.collect() };
        refuse(Some(realisation.out_path.clone()), fault)
    }
}

/// Whether one of these keys made one of its signatures over that.
fn is_signed_by(realisation: &Realisation, fingerprint: &str, keys: &[PublicKey]) -> bool {
    realisation.signatures.iter().any(|sig| keys.iter().any(|key| key.verify(fingerprint, sig)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::nix::{Derivation, SecretKey, StoreDir};

    fn path(name: &str) -> StorePath {
        StorePath::from_base_name(&format!("g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-{name}")).expect("a legal name")
    }

    fn key(name: &str) -> SecretKey {
        SecretKey::generate(name).expect("randomness")
    }

    fn signing(trusted: &[&SecretKey]) -> Signing {
        Signing {
            store_dir: StoreDir::default(),
            key: key("new-1"),
            trusted: trusted.iter().map(|key| key.public()).collect(),
        }
    }

    /// One of each format; the first depends on another.
    fn realisations() -> [Realisation; 2] {
        let depends_on = BTreeMap::from([(format!("sha256:{}!out", "1".repeat(64)), path("other"))]);
        let hash = format!("sha256:{}", "0".repeat(64));
        [Derivation::Hash { hash, depends_on }, Derivation::Path(path("a.drv"))].map(|derivation| Realisation {
            derivation,
            output: "out".to_owned(),
            out_path: path("a"),
            signatures: vec!["others-1:c2ln".to_owned()],
        })
    }

    fn file_of(realisation: &Realisation) -> RealisationIn {
        RealisationIn(layout::realisation_name(realisation).1)
    }

    #[track_caller]
    fn signed(file: &RealisationIn, content: &str, signing: &Signing) -> Realisation {
        match file.judge(content.as_bytes(), signing) {
            Verdict::Sign(text) => {
                assert_eq!(file.judge(text.as_bytes(), signing), Verdict::HasIt, "once is enough");
                layout::read_realisation(&file.0, text.as_bytes()).expect("a realisation").realisation
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_a_trusted_key_has_signed_is_signed_by_the_new_one_too() {
        let old = key("old-1");
        let signing = signing(&[&old]);
        for realisation in realisations() {
            let (file, before) = (file_of(&realisation), realisation.signed_json(&old));
            let before_read = layout::read_realisation(&file.0, before.as_bytes()).expect("a realisation").realisation;
            let after = signed(&file, &before, &signing);
            let (kept, more) = after.signatures.split_at(before_read.signatures.len());
            assert_eq!(kept, before_read.signatures, "others' are not lost");
            let fingerprints = realisation.fingerprints();
            assert_eq!(more.len(), fingerprints.len());
            assert!(fingerprints.iter().all(|text| is_signed_by(&after, text, &[signing.key.public()])));
            assert_eq!(
                Realisation { signatures: Vec::new(), ..after },
                Realisation { signatures: Vec::new(), ..realisation }
            );
        }
    }

    #[test]
    fn no_more_is_signed_than_follows_from_what_a_trusted_key_has_signed() {
        let old = key("old-1");
        let signing = signing(&[&old]);
        let [mut realisation, _] = realisations();
        let fingerprints = realisation.fingerprints();
        realisation.signatures = vec![old.sign(&fingerprints[1])];
        let file = file_of(&realisation);
        let text = realisation.signed_json(&key("others-1"));
        let after = signed(&file, &text, &signing);
        let ours = [signing.key.public()];
        assert!(!is_signed_by(&after, &fingerprints[0], &ours), "nobody who is trusted says what it depends on");
        assert!(is_signed_by(&after, &fingerprints[1], &ours));
        // As Nix up to 2.33 has signed it.
        realisation.signatures = vec![old.sign(&fingerprints[0])];
        let after = signed(&file, &realisation.signed_json(&key("others-1")), &signing);
        assert!(fingerprints.iter().all(|text| is_signed_by(&after, text, &ours)));
    }

    #[test]
    fn what_no_trusted_key_has_signed_is_left_alone_and_told() {
        let (old, stranger) = (key("old-1"), key("stranger-1"));
        let signing = signing(&[&old]);
        let refused = |file: &RealisationIn, text: &str| match file.judge(text.as_bytes(), &signing) {
            Verdict::Refuse(RealisationFinding { path, fault, .. }) => (path, fault.kind(), fault.to_string()),
            other => panic!("{other:?}"),
        };
        for realisation in realisations() {
            let file = file_of(&realisation);
            let (of, kind, what) = refused(&file, &realisation.signed_json(&stranger));
            assert_eq!((of, kind), (Some(path("a")), "unsigned"));
            assert!(what.contains("by old-1 (it says it is signed by others-1, stranger-1"), "{what}");
            let tampered = realisation.signed_json(&old).replace("-a\"", "-b\"");
            assert_eq!(refused(&file, &tampered).1, "unsigned");
            assert_eq!(refused(&file, "{\u{1b}").1, "unreadable");
        }
        let [by_hash, _] = realisations();
        let elsewhere = RealisationIn(format!("realisations/sha256:{}!dev.doi", "0".repeat(64)));
        assert_eq!(refused(&elsewhere, &by_hash.signed_json(&old)).1, "other_output");
        let nowhere = RealisationIn("build-trace-v2/out.doi".to_owned());
        assert_eq!(refused(&nowhere, &by_hash.signed_json(&old)).1, "unreadable");
        // Ours alone is enough, as when the old key isn't trusted any more.
        assert_eq!(file_of(&by_hash).judge(by_hash.signed_json(&signing.key).as_bytes(), &signing), Verdict::HasIt);
    }
}
