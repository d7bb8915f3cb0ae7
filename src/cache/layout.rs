//! The binary cache layout that Nix reads: `nix-cache-info`, `nar/…`, `HASH.narinfo`. The same on every kind of store.

use std::fmt::Write;
use std::path::PathBuf;

use super::Compression;
use crate::nix::{Derivation, NarHash, PathInfo, Realisation, SecretKey, StoreDir, StorePath, fingerprint, nix32};

/// Name of the file that describes the cache.
pub const CACHE_INFO: &str = "nix-cache-info";

/// Directory of the archives.
pub const NAR_DIR: &str = "nar";

/// Directory of the narinfos of pruned paths, as long as their archives are there, and of what marks these archives.
pub const PRUNED_DIR: &str = "pruned";

/// Directory of the logs of builds.
pub const LOG_DIR: &str = "log";

/// Directory of what older Nix has noted of content-addressed derivations.
pub const REALISATIONS_DIR: &str = "realisations";

/// The same from Nix 2.34 on.
pub const BUILD_TRACE_DIR: &str = "build-trace-v2";

/// Directory of Nix's index of debug symbols.
pub const DEBUG_DIR: &str = "debuginfo";

/// All directories of a cache. An archive may lie wherever its narinfo says, but whoever makes a cache puts it into
/// `nar/`, or into no directory.
pub const FOLDERS: [&str; 6] = [NAR_DIR, PRUNED_DIR, LOG_DIR, REALISATIONS_DIR, BUILD_TRACE_DIR, DEBUG_DIR];

/// What stands behind the hash part in a narinfo's name.
pub const NARINFO: &str = ".narinfo";

/// What stands there in the name of a list of files.
pub const LISTING: &str = ".ls";

/// What archives are, as Nix tells servers.
pub const NAR_TYPE: &str = "application/x-nix-nar";

/// What narinfos are.
pub const NARINFO_TYPE: &str = "text/x-nix-narinfo";

/// What `nix-cache-info` is.
pub const CACHE_INFO_TYPE: &str = "text/x-nix-cache-info";

/// What logs are.
pub const LOG_TYPE: &str = "text/plain; charset=utf-8";

/// What listings and realisations are.
pub const JSON_TYPE: &str = "application/json";

/// Where a path's narinfo lies.
#[must_use]
pub fn narinfo_name(path: &StorePath) -> String {
    format!("{}{NARINFO}", path.hash_part())
}

/// Where the list of a path's files lies.
#[must_use]
pub fn listing_name(path: &StorePath) -> String {
    format!("{}{LISTING}", path.hash_part())
}

/// Where the log of a derivation's build lies, not compressed: `nix log` looks for it there.
#[must_use]
pub fn log_name(derivation: &StorePath) -> String {
    format!("{LOG_DIR}/{}", derivation.base_name())
}

/// Where a realisation lies, and in what folder.
#[must_use]
pub fn realisation_name(realisation: &Realisation) -> (String, String) {
    let output = &realisation.output;
    match &realisation.derivation {
        Derivation::Hash { hash, .. } => {
            (REALISATIONS_DIR.to_owned(), format!("{REALISATIONS_DIR}/{hash}!{output}.doi"))
        }
        Derivation::Path(derivation) => {
            let folder = format!("{BUILD_TRACE_DIR}/{}", derivation.base_name());
            let file = format!("{folder}/{output}.doi");
            (folder, file)
        }
    }
}

/// A name for an archive that no other upload has: `nar/NARHASH-SUFFIX.nar.zst`.
///
/// It is known before the first byte, so that nothing needs to be spooled; and no file is ever overwritten, so that the
/// `FileHash` of a narinfo stays true when two hosts upload one path at once.
#[must_use]
pub fn nar_name(nar_hash: &NarHash, suffix: [u8; 5], compression: Compression) -> String {
    format!("{NAR_DIR}/{}-{}.nar{}", nar_hash.to_nix32(), nix32(&suffix), compression.suffix())
}

/// How a binary cache is laid out, as far as that can be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// How archives are packed; `None` where that isn't said.
    pub compression: Option<Compression>,
    /// `Priority` of the `nix-cache-info` that is written where there is none.
    pub priority: u32,
    /// `WantMassQuery` likewise.
    pub want_mass_query: bool,
    /// Whether a list of its files is put beside each path, as Nix does with the parameter of that name.
    pub write_nar_listing: bool,
    /// Whether the log of a path's build is put there, too.
    pub write_build_logs: bool,
    /// Whether realisations are put there as Nix up to 2.34 wants them, where this host's Nix has noted some.
    pub write_realisations: bool,
    /// Whether they are put there as Nix from 2.35 on wants them, likewise.
    pub write_build_trace: bool,
    /// The file of the key that signs narinfos, where the URL names one; absolute.
    pub secret_key: Option<PathBuf>,
}

impl Default for Layout {
    /// Nix's own priority is that of a cache that doesn't say (`BinaryCacheStoreConfig::priority`).
    fn default() -> Self {
        Self {
            compression: None,
            priority: 50,
            want_mass_query: true,
            write_nar_listing: false,
            write_build_logs: false,
            write_realisations: true,
            write_build_trace: true,
            secret_key: None,
        }
    }
}

/// An archive as it lies in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredNar {
    /// Relative to the cache's root.
    pub url: String,
    /// How it is packed.
    pub compression: Compression,
    /// SHA-256 of the file.
    pub file_hash: NarHash,
    /// Size of the file in bytes.
    pub file_size: u64,
    /// Size of the archive in bytes.
    pub nar_size: u64,
}

/// The narinfo of a path, signed, with the fields in the order in which Nix writes them.
///
/// The path's own signatures are kept: they are as true in this cache as in the one they came from.
#[must_use]
pub fn narinfo(store_dir: &StoreDir, info: &PathInfo, nar: &StoredNar, key: &SecretKey) -> String {
    let info = PathInfo { nar_size: nar.nar_size, ..info.clone() };
    let mut text = String::with_capacity(1024);
    let mut line = |field: &str, value: &str| {
        // Writing to a string can't fail.
        let _ = writeln!(text, "{field}: {value}");
    };
    line("StorePath", &store_dir.full(&info.path));
    line("URL", &nar.url);
    line("Compression", nar.compression.name());
    line("FileHash", &nar.file_hash.to_string());
    line("FileSize", &nar.file_size.to_string());
    line("NarHash", &info.nar_hash.to_string());
    line("NarSize", &info.nar_size.to_string());
    let references: Vec<&str> = info.references.iter().flatten().map(StorePath::base_name).collect();
    line("References", &references.join(" "));
    if let Some(deriver) = &info.deriver {
        line("Deriver", deriver.base_name());
    }
    let own = key.sign(&fingerprint(store_dir, &info));
    for sig in info.sigs.iter().filter(|sig| **sig != own) {
        line("Sig", sig);
    }
    line("Sig", &own);
    if let Some(ca) = &info.ca {
        line("CA", ca);
    }
    text
}

/// The text of a `nix-cache-info`.
#[must_use]
pub fn cache_info(store_dir: &StoreDir, want_mass_query: bool, priority: u32) -> String {
    let want_mass_query = u8::from(want_mass_query);
    format!("StoreDir: {}\nWantMassQuery: {want_mass_query}\nPriority: {priority}\n", store_dir.as_str())
}

/// The store directory that a `nix-cache-info` names, if it does.
#[must_use]
pub fn store_dir_of(cache_info: &str) -> Option<&str> {
    field_of(cache_info, "StoreDir")
}

/// What a line of a `nix-cache-info` or a narinfo says.
#[must_use]
pub fn field_of<'t>(text: &'t str, field: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).map(str::trim)
}

/// Whether a text is the narinfo of that path.
#[must_use]
pub fn is_narinfo_of(text: &str, path: &StorePath) -> bool {
    let named = text.lines().find_map(|line| line.strip_prefix("StorePath:")).map(str::trim);
    named.is_some_and(|full| full.rsplit('/').next() == Some(path.base_name()))
}

/// The archive that a narinfo names, relative to the cache's root, if it lies where archives do.
#[must_use]
pub fn archive_of(narinfo: &str) -> Option<&str> {
    let url = field_of(narinfo, "URL")?;
    let name = url.strip_prefix(NAR_DIR)?.strip_prefix('/')?;
    (!name.is_empty() && !name.contains('/') && !name.starts_with('.')).then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narinfo_is_what_nix_would_write() {
        let store_dir = StoreDir::default();
        let path = |name: &str| {
            StorePath::from_base_name(&format!("0123456789abcdfghijklmnpqrsvwxyz-{name}")).expect("a legal name")
        };
        let hash = NarHash([7; 32]);
        let info = PathInfo {
            id: Some(1),
            path: path("b"),
            nar_hash: hash,
            nar_size: 120,
            registration_time: 0,
            deriver: Some(path("b.drv")),
            ultimate: true,
            sigs: vec!["other-1:c2ln".to_owned()],
            ca: None,
            references: Some(vec![path("a"), path("b")]),
        };
        let nar = StoredNar {
            url: nar_name(&hash, [0; 5], Compression::Zstd { level: 3 }),
            compression: Compression::Zstd { level: 3 },
            file_hash: NarHash([9; 32]),
            file_size: 60,
            nar_size: 120,
        };
        let key = SecretKey::generate("test-1").expect("randomness");
        let text = narinfo(&store_dir, &info, &nar, &key);
        let theirs = nix_narinfo::NarInfo::parse_in(&"/nix/store".parse().expect("a store directory"), text.as_bytes())
            .expect("the reference parser takes it");
        assert_eq!(String::from_utf8(theirs.to_canonical_bytes()).expect("text"), text);
        let trusted = [nix_narinfo::TrustedPublicKey::parse(&key.public().to_string()).expect("a public key")];
        assert!(theirs.has_valid_signature(theirs.store_dir(), &trusted));
        assert!(text.contains("URL: nar/") && text.contains("-00000000.nar.zst\n"), "{text}");
    }
}
