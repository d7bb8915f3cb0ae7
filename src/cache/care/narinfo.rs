//! A narinfo, as a reader understands it.

use nix_narinfo::NarInfo;

use crate::cache::layout;
use crate::nix::{HashPart, PublicKey, StoreDir, StorePath};

/// What a narinfo says.
#[derive(Debug)]
pub(super) struct Narinfo {
    pub(super) path: StorePath,
    pub(super) url: String,
    pub(super) compression: String,
    /// As Nix writes it: `sha256:` and Nix's base 32.
    pub(super) file_hash: Option<String>,
    pub(super) file_size: Option<u64>,
    pub(super) nar_hash: String,
    pub(super) nar_size: u64,
    pub(super) references: Vec<StorePath>,
    /// `NAME:BASE64`, unverified.
    pub(super) sigs: Vec<String>,
    /// What these are made over.
    pub(super) fingerprint: String,
    /// Whether its `CA:` and its references give its path, which Nix then takes without a signature.
    pub(super) is_content_addressed: bool,
}

impl Narinfo {
    /// Reads one of a cache for that store, or says what is wrong with it.
    pub(super) fn read(text: &[u8], store_dir: &StoreDir) -> Result<Self, String> {
        let theirs = store_dir.as_str().parse().map_err(|_| format!("{} is no store directory", store_dir.as_str()))?;
        let read = NarInfo::parse_in(&theirs, text).map_err(|error| crate::cache::http::plain(&error.to_string()))?;
        let path = |theirs: String| StorePath::from_base_name(&theirs).map_err(|error| error.to_string());
        Ok(Self {
            path: path(read.store_path().to_basename())?,
            url: read.url().to_owned(),
            compression: read.compression().as_str().to_owned(),
            file_hash: read.file_hash().map(|hash| hash.to_nix_nixbase32_string()),
            file_size: read.file_size(),
            nar_hash: read.nar_hash().to_nix_nixbase32_string(),
            nar_size: read.nar_size(),
            references: read.references().iter().map(|other| path(other.to_basename())).collect::<Result<_, _>>()?,
            sigs: read.signatures().iter().map(|sig| sig.to_nix_string()).collect(),
            fingerprint: read.fingerprint(&theirs),
            is_content_addressed: read.is_content_addressed(&theirs),
        })
    }

    /// Whether one of these keys made one of its signatures.
    pub(super) fn is_signed_by(&self, keys: &[PublicKey]) -> bool {
        self.sigs.iter().any(|sig| keys.iter().any(|key| key.verify(&self.fingerprint, sig)))
    }

    /// The names of the keys by which it says that it is signed.
    pub(super) fn signers(&self) -> Vec<String> {
        self.sigs.iter().filter_map(|sig| Some(sig.split_once(':')?.0.to_owned())).collect()
    }
}

/// The signatures of a narinfo, if they are made over that.
pub(in crate::cache) fn signatures_over(fingerprint: &str, text: &[u8], store_dir: &StoreDir) -> Vec<String> {
    let narinfo = Narinfo::read(text, store_dir).ok().filter(|narinfo| narinfo.fingerprint == fingerprint);
    narinfo.map(|narinfo| narinfo.sigs).unwrap_or_default()
}

/// The same narinfo with one more signature, behind those that it has; every other byte stays what it is.
pub(super) fn with_signature(text: &str, signature: &str) -> String {
    let line = format!("Sig: {signature}\n");
    let behind = |field: &str| {
        let mut end = 0;
        let mut last = None;
        for whole in text.split_inclusive('\n') {
            end += whole.len();
            if whole.starts_with(field) {
                last = Some(end);
            }
        }
        last
    };
    // Where there is none yet, in front of what Nix writes behind signatures.
    let before_ca = || text.find("\nCA:").map(|at| at + 1);
    let place = behind("Sig:").or_else(before_ca).unwrap_or(text.len());
    let (before, after) = text.split_at(place);
    let end = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
    format!("{before}{end}{line}{after}")
}

/// What a prune wants to know of a narinfo, however little else of it can be understood: the hash parts of its references,
/// and its archive.
pub(super) fn needs(text: &[u8]) -> (Vec<HashPart>, Option<String>) {
    let text = String::from_utf8_lossy(text);
    let references = layout::field_of(&text, "References").unwrap_or_default();
    let references = references.split_ascii_whitespace();
    // Caches of very old Nix name them in full.
    let base_name = |reference: &str| reference.rsplit('/').next().and_then(HashPart::of_base_name);
    let archive = layout::field_of(&text, "URL").and_then(super::archive_within).map(str::to_owned);
    (references.filter_map(base_name).collect(), archive)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "0123456789abcdfghijklmnpqrsvwxyz-a";

    fn text(more: &str) -> String {
        format!(
            "StorePath: /nix/store/{PATH}\nURL: nar/a.nar.xz\nCompression: xz\nNarHash: \
             sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73\nNarSize: 112\nReferences: {PATH}\n{more}"
        )
    }

    #[test]
    fn a_signature_goes_behind_the_others_and_nothing_else_changes() {
        for (more, expected) in [
            ("", "Sig: b-1:c2ln\n"),
            ("Sig: a-1:c2ln\n", "Sig: a-1:c2ln\nSig: b-1:c2ln\n"),
            ("Sig: a-1:c2ln", "Sig: a-1:c2ln\nSig: b-1:c2ln\n"),
            ("X-Mine:  odd \nCA: fixed:r:x\n", "X-Mine:  odd \nSig: b-1:c2ln\nCA: fixed:r:x\n"),
            ("Sig: a-1:c2ln\nCA: x\nMine: 1\n", "Sig: a-1:c2ln\nSig: b-1:c2ln\nCA: x\nMine: 1\n"),
        ] {
            assert_eq!(with_signature(&text(more), "b-1:c2ln"), text(expected));
        }
    }

    #[test]
    fn what_it_says_is_read_and_what_is_wrong_is_said() {
        let store_dir = StoreDir::default();
        let read = Narinfo::read(text("").as_bytes(), &store_dir).expect("a narinfo");
        assert_eq!((read.path.base_name(), read.nar_size, read.references.len()), (PATH, 112, 1));
        let (references, archive) = needs(text("").as_bytes());
        assert_eq!((references.len(), archive.as_deref()), (1, Some("nar/a.nar.xz")));
        for bad in ["", "StorePath: /nix/store/x", &text("").replace("NarSize: 112", "NarSize: many")] {
            assert!(Narinfo::read(bad.as_bytes(), &store_dir).is_err(), "{bad}");
        }
        assert!(Narinfo::read(text("").as_bytes(), &StoreDir::new("/gnu/store")).is_err(), "another store");
        assert_eq!(needs(b"\xff\n"), (Vec::new(), None));
    }
}
