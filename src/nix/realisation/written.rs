//! A realisation's file in a binary cache, whoever wrote it: it may say more than anybody here knows, and that stays.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Derivation, Realisation, Signature};
use crate::nix::StorePath;

/// Under this the signatures stand, in both formats.
const SIGNATURES: &str = "signatures";

/// A realisation, and what stands in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenRealisation {
    /// What Nix understands of it.
    pub realisation: Realisation,
    text: Map<String, Value>,
}

/// The fields of both formats.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    id: Option<String>,
    out_path: String,
    #[serde(default)]
    signatures: Vec<AnySignature>,
    #[serde(default)]
    dependent_realisations: BTreeMap<String, String>,
}

/// Up to Nix 2.34 a signature is a text; from 2.35 on it is written in parts, and read either way.
#[derive(Deserialize)]
#[serde(untagged)]
enum AnySignature {
    Text(String),
    Parts(Signature),
}

impl WrittenRealisation {
    /// Reads one up to Nix 2.34, which says itself whose it is; or says what is wrong with it.
    ///
    /// # Errors
    /// A sentence; what is said in it may have any characters.
    pub fn by_hash(text: &[u8]) -> Result<Self, String> {
        let (text, fields) = read(text)?;
        let id = fields.id.as_deref().ok_or("it has no `id`")?;
        let (hash, output) = id.split_once('!').ok_or("its `id` is not HASH!OUTPUT")?;
        let depends_on = fields.dependent_realisations.iter().map(|(id, path)| Ok((id.clone(), path_of(path)?)));
        let depends_on = depends_on.collect::<Result<_, String>>()?;
        let derivation = Derivation::Hash { hash: hash.to_owned(), depends_on };
        Self::of(derivation, output, &fields, text)
    }

    /// Reads one from Nix 2.35 on, of that derivation's output; or says what is wrong with it.
    ///
    /// # Errors
    /// A sentence; what is said in it may have any characters.
    pub fn by_path(derivation: StorePath, output: &str, text: &[u8]) -> Result<Self, String> {
        let (text, fields) = read(text)?;
        Self::of(Derivation::Path(derivation), output, &fields, text)
    }

    fn of(derivation: Derivation, output: &str, fields: &Fields, text: Map<String, Value>) -> Result<Self, String> {
        let signature = |signature: &AnySignature| match signature {
            AnySignature::Text(text) => text.clone(),
            AnySignature::Parts(Signature { key_name, sig }) => format!("{key_name}:{sig}"),
        };
        let signatures = fields.signatures.iter().map(signature).collect();
        let out_path = path_of(&fields.out_path)?;
        let realisation = Realisation { derivation, output: output.to_owned(), out_path, signatures };
        if !realisation.is_legal() {
            return Err("it is of an output that Nix gives no such name".to_owned());
        }
        Ok(Self { realisation, text })
    }

    /// The same file with more signatures (`NAME:BASE64`), behind those that it has. All else that it says stays.
    #[must_use]
    pub fn with_signatures(mut self, more: &[String]) -> String {
        let written = |signature: &String| match self.realisation.derivation {
            Derivation::Hash { .. } => Some(Value::from(signature.as_str())),
            Derivation::Path(_) => serde_json::to_value(Signature::of(signature)?).ok(),
        };
        let more = more.iter().filter_map(written);
        // It was read as a list, or is missing.
        if let Value::Array(signatures) = self.text.entry(SIGNATURES).or_insert_with(|| Value::Array(Vec::new())) {
            signatures.extend(more);
        }
        super::json(&self.text)
    }
}

fn read(text: &[u8]) -> Result<(Map<String, Value>, Fields), String> {
    let text: Map<String, Value> = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let fields = Fields::deserialize(&text).map_err(|error| error.to_string())?;
    Ok((text, fields))
}

fn path_of(base_name: &str) -> Result<StorePath, String> {
    StorePath::from_base_name(base_name).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUT: &str = "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-foo";
    const OTHER: &str = "sha256:11!out";

    fn by_path(text: &str) -> Result<WrittenRealisation, String> {
        let derivation = StorePath::from_base_name("g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-bar.drv").expect("a path");
        WrittenRealisation::by_path(derivation, "foo", text.as_bytes())
    }

    #[test]
    fn signatures_go_behind_the_others_as_each_nix_writes_them_and_all_else_stays() {
        let more = ["new-1:AAAA".to_owned(), "new-1:BBBB".to_owned()];
        let file = |signatures: &str| {
            format!(
                r#"{{"dependentRealisations":{{"{OTHER}":"{OUT}"}},"mine":{{"b":1.5,"a":[]}},"id":"sha256:00!foo","outPath":"{OUT}",{signatures}"of":null}}"#
            )
        };
        let (before, after) =
            (file(r#""signatures":["a:b"],"#), file(r#""signatures":["a:b","new-1:AAAA","new-1:BBBB"],"#));
        let read = WrittenRealisation::by_hash(before.as_bytes()).expect("a realisation");
        assert_eq!(read.realisation.signatures, ["a:b"]);
        assert_eq!(read.with_signatures(&more), after);
        let read = WrittenRealisation::by_hash(file("").as_bytes()).expect("a realisation without signatures");
        assert!(read.with_signatures(&more).contains(r#""signatures":["new-1:AAAA","new-1:BBBB"]}"#));

        let before = format!(r#"{{"outPath":"{OUT}","signatures":["a:b",{{"keyName":"c","sig":"d"}}]}}"#);
        let read = by_path(&before).expect("a realisation");
        assert_eq!(read.realisation.signatures, ["a:b", "c:d"]);
        let after = before.replace("]}", r#",{"keyName":"new-1","sig":"AAAA"}]}"#);
        assert_eq!(read.with_signatures(&more[..1]), after);
    }

    /// The text is what Nix 2.36's own tests say is signed (`src/libstore-tests/data/realisation/simple-fingerprint.txt`).
    #[test]
    fn what_is_signed_is_the_same_as_when_it_was_uploaded() {
        let read = by_path(&format!(r#"{{"outPath":"{OUT}","signatures":[],"mine":1}}"#)).expect("a realisation");
        let drv = "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-bar.drv";
        let signed = format!(r#"{{"key":{{"drvPath":"{drv}","outputName":"foo"}},"value":{{"outPath":"{OUT}"}}}}"#);
        assert_eq!(read.realisation.fingerprints(), [signed]);
        let text = format!(
            r#"{{"outPath":"{OUT}","mine":1,"id":"sha256:00!foo","dependentRealisations":{{"{OTHER}":"{OUT}","sha256:0!a":"{OUT}"}}}}"#
        );
        let read = WrittenRealisation::by_hash(text.as_bytes()).expect("a realisation");
        let signed = |depends_on: &str| {
            format!(r#"{{"dependentRealisations":{{{depends_on}}},"id":"sha256:00!foo","outPath":"{OUT}"}}"#)
        };
        let both = format!(r#""sha256:0!a":"{OUT}","{OTHER}":"{OUT}""#);
        assert_eq!(read.realisation.fingerprints(), [signed(&both), signed("")]);
    }

    #[test]
    fn what_is_no_realisation_is_told() {
        let of = |id: &str, path: &str, more: &str| format!(r#"{{"id":"{id}","outPath":"{path}"{more}}}"#);
        for bad in [
            String::new(),
            "[]".to_owned(),
            format!(r#"{{"outPath":"{OUT}"}}"#),
            of("sha256:00", OUT, ""),
            of("sha256:00!../x", OUT, ""),
            of("sha256:00!foo", "foo", ""),
            of("sha256:00!foo", OUT, r#","signatures":[1]"#),
            of("sha256:00!foo", OUT, r#","signatures":null"#),
            of("sha256:00!foo", OUT, r#","dependentRealisations":{"a":"b"}"#),
        ] {
            assert!(WrittenRealisation::by_hash(bad.as_bytes()).is_err(), "{bad}");
        }
        for bad in ["", "{}", r#"{"outPath":1}"#] {
            assert!(by_path(bad).is_err(), "{bad}");
        }
    }
}
