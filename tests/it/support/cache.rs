//! A binary cache in a directory, looked at without the help of Nix or storewatch.

use super::nix::base_name;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A binary cache in a directory; it need not be there yet.
#[derive(Clone, Debug)]
pub struct CacheDir {
    dir: PathBuf,
}

/// What a narinfo says.
#[derive(Clone, Debug)]
pub struct Narinfo {
    pub store_path: String,
    /// Its archive, relative to the cache.
    pub url: String,
    pub nar_hash: String,
    /// Of the archive as it lies there, and how many bytes that has.
    pub file_hash: String,
    pub file_size: String,
    /// Base names.
    pub references: Vec<String>,
}

impl Narinfo {
    pub fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        Some(Self {
            store_path: field("StorePath:")?.to_owned(),
            url: field("URL:")?.to_owned(),
            nar_hash: field("NarHash:").unwrap_or_default().to_owned(),
            file_hash: field("FileHash:").unwrap_or_default().to_owned(),
            file_size: field("FileSize:").unwrap_or_default().to_owned(),
            references: field("References:")?.split_whitespace().map(str::to_owned).collect(),
        })
    }

    /// Whether that is the archive which it was written for. Nix doesn't look at that when it reads.
    pub fn is_true_of(&self, archive: &[u8]) -> bool {
        let hash = storewatch::nix::NarHash(Sha256::digest(archive).into()).to_string();
        self.file_hash == hash && self.file_size == archive.len().to_string()
    }
}

impl CacheDir {
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn url(&self) -> String {
        format!("file://{}", self.dir.display())
    }

    /// Lets the cache take nothing, as long as it isn't there yet: no directory can be made where a file is.
    pub fn block(&self) {
        std::fs::write(&self.dir, "").unwrap();
    }

    /// Lets it take paths again.
    pub fn unblock(&self) {
        std::fs::remove_file(&self.dir).unwrap();
    }

    pub fn has(&self, path: &str) -> bool {
        self.narinfo_file(base_name(path)).exists()
    }

    pub fn has_all(&self, paths: &[String]) -> bool {
        paths.iter().all(|path| self.has(path))
    }

    /// The narinfo of a store path or a base name.
    pub fn narinfo(&self, path: &str) -> Option<Narinfo> {
        read_narinfo(&self.narinfo_file(base_name(path)))
    }

    /// All narinfos.
    pub fn narinfos(&self) -> Vec<Narinfo> {
        let names = names(&self.dir).into_iter().filter(|name| name.ends_with(".narinfo"));
        names
            .map(|name| read_narinfo(&self.dir.join(&name)).unwrap_or_else(|| panic!("{name} is no narinfo")))
            .collect()
    }

    /// The store paths that it has, full.
    pub fn store_paths(&self) -> BTreeSet<String> {
        self.narinfos().into_iter().map(|narinfo| narinfo.store_path).collect()
    }

    /// Its archives, relative to it.
    pub fn archives(&self) -> BTreeSet<String> {
        names(&self.dir.join("nar")).into_iter().map(|name| format!("nar/{name}")).collect()
    }

    /// What is being written, or was when somebody was killed.
    pub fn temporary_files(&self) -> BTreeSet<String> {
        names(&self.dir.join(".tmp"))
    }

    /// How large the largest temporary file is.
    pub fn largest_temporary_file(&self) -> u64 {
        let folder = self.dir.join(".tmp");
        let sizes = names(&folder).into_iter().filter_map(|name| std::fs::metadata(folder.join(name)).ok());
        sizes.map(|metadata| metadata.len()).max().unwrap_or(0)
    }

    /// Panics where a narinfo lacks a narinfo of one of its references that `elsewhere` doesn't have, where an archive is
    /// nobody's or that of two contents, or where something temporary is left.
    #[track_caller]
    pub fn assert_sound(&self, elsewhere: &[String]) {
        let mut contents = BTreeMap::<String, BTreeSet<String>>::new();
        for narinfo in self.narinfos() {
            for reference in &narinfo.references {
                let there = self.has(reference) || elsewhere.iter().any(|path| base_name(path) == reference);
                assert!(there, "{} is in the cache, its reference {reference} is nowhere", narinfo.store_path);
            }
            contents.entry(narinfo.url).or_default().insert(narinfo.nar_hash);
        }
        assert!(contents.values().all(|hashes| hashes.len() == 1), "one archive, two contents: {contents:?}");
        let (named, archives) = (contents.into_keys().collect::<BTreeSet<_>>(), self.archives());
        let alone: Vec<_> = named.symmetric_difference(&archives).collect();
        assert!(alone.is_empty(), "archives without a narinfo, or the other way round: {alone:?}");
        assert_eq!(self.temporary_files(), BTreeSet::new(), "temporary files are left");
    }

    fn narinfo_file(&self, base_name: &str) -> PathBuf {
        self.dir.join(format!("{}.narinfo", base_name.split('-').next().unwrap_or(base_name)))
    }
}

/// Names in a folder; none where there is no folder.
fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn read_narinfo(file: &Path) -> Option<Narinfo> {
    Narinfo::parse(&std::fs::read_to_string(file).ok()?)
}
