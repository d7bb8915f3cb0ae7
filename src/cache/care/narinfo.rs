//! A narinfo, as a reader understands it.

use nix_narinfo::NarInfo;
use percent_encoding::percent_decode_str;

use crate::cache::http::plain;
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
        let read = NarInfo::parse_in(&theirs, text).map_err(|error| plain(&error.to_string()))?;
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

    /// The names of the keys by which it says that it is signed, as they can be shown.
    pub(super) fn signers(&self) -> Vec<String> {
        self.sigs.iter().filter_map(|sig| Some(plain(sig.split_once(':')?.0))).collect()
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

/// What a prune wants to know of a narinfo, however little else of it can be understood.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// The hash parts of its references.
    pub(super) references: Vec<HashPart>,
    /// Its archive, as every reader takes it.
    pub(super) archive: Option<String>,
    /// Where it names none so, what some reader may take for it: that is somebody's, and no more is known.
    pub(super) perhaps: Vec<String>,
}

/// Reads what a narinfo needs.
pub(super) fn needs(text: &[u8]) -> Needs {
    let text = String::from_utf8_lossy(text);
    let references = layout::field_of(&text, "References").unwrap_or_default();
    let references = references.split_ascii_whitespace();
    // Caches of very old Nix name them in full.
    let base_name = |reference: &str| reference.rsplit('/').next().and_then(HashPart::of_base_name);
    let url = layout::field_of(&text, "URL").unwrap_or_default();
    let archive = super::archive_within(url).map(str::to_owned);
    let perhaps = if archive.is_some() { Vec::new() } else { perhaps(url) };
    Needs { references: references.filter_map(base_name).collect(), archive, perhaps }
}

/// The files of a cache that a URL may name which isn't simply one's name: as it stands there for who reads a directory, and
/// what a web server makes of it.
pub(super) fn perhaps(url: &str) -> Vec<String> {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    [url, path, &*decoded].map(str::to_owned).into()
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
        let needed = needs(text("").as_bytes());
        assert_eq!((needed.references.len(), needed.archive.as_deref()), (1, Some("nar/a.nar.xz")));
        assert!(needed.perhaps.is_empty());
        for bad in ["", "StorePath: /nix/store/x", &text("").replace("NarSize: 112", "NarSize: many")] {
            assert!(Narinfo::read(bad.as_bytes(), &store_dir).is_err(), "{bad}");
        }
        assert!(Narinfo::read(text("").as_bytes(), &StoreDir::new("/gnu/store")).is_err(), "another store");
        let nothing = needs(b"\xff\n");
        assert!(nothing.references.is_empty() && nothing.archive.is_none());
    }

    #[test]
    fn what_a_url_may_name_is_known_although_it_is_no_files_name() {
        for (url, file) in [
            ("nar/a.nar.xz?hash=b", "nar/a.nar.xz"),
            ("nar/a.nar.xz#b", "nar/a.nar.xz"),
            ("nar/a%2Bb.nar.xz", "nar/a+b.nar.xz"),
            ("nar/a%2Bb.nar.xz", "nar/a%2Bb.nar.xz"),
        ] {
            let needed = needs(text("").replace("nar/a.nar.xz", url).as_bytes());
            assert!(
                needed.archive.is_none() && needed.perhaps.iter().any(|perhaps| perhaps == file),
                "{url}: {needed:?}"
            );
        }
    }

    #[test]
    fn names_of_keys_play_no_tricks_on_a_terminal() {
        let key = "a\u{1b}[2J:aGk=";
        let read = Narinfo::read(text(&format!("Sig: {key}\n")).as_bytes(), &StoreDir::default()).expect("a narinfo");
        assert_eq!(read.signers(), ["a [2J"]);
    }
}
