//! What lies in a cache, in as few bytes as it can be told apart by.

use std::fmt;

use sha2::{Digest, Sha256};

use super::{Entry, Listed, Seconds, Shelf};
use crate::cache::{CacheError, layout};
use crate::nix::HashPart;

/// What tells one archive from all others: half of the SHA-256 of its name, as the names are too long to be kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Mark([u8; 16]);

impl Mark {
    /// That of a file, by its name relative to the cache.
    pub(super) fn of(file: &str) -> Self {
        let mut mark = [0; 16];
        mark.copy_from_slice(&Sha256::digest(file)[..16]);
        Self(mark)
    }

    fn parse(hex: &str) -> Option<Self> {
        u128::from_str_radix(hex, 16).ok().filter(|_| hex.len() == 32).map(|bits| Self(bits.to_be_bytes()))
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A file that is called by a hash part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Named {
    pub(super) hash: HashPart,
    pub(super) size: u32,
    pub(super) modified: Seconds,
}

/// A file that may be an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Archive {
    pub(super) mark: Mark,
    pub(super) size: u64,
    pub(super) modified: Seconds,
    /// When it was read or written last.
    pub(super) read: Seconds,
    /// Whether it lies where archives do, and so is one even if no narinfo names it. Of what lies elsewhere nobody but who put
    /// it there knows what it is.
    pub(super) is_one: bool,
}

/// A path that was pruned, with the archive that it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Condemned {
    pub(super) hash: HashPart,
    pub(super) mark: Mark,
    pub(super) since: Seconds,
}

/// An archive that nobody may show again, and that goes a grace period after it was marked so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Doomed {
    pub(super) mark: Mark,
    pub(super) since: Seconds,
}

/// What lies in a cache. All lists are in order.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    pub(super) narinfos: Vec<Named>,
    /// Lists of files.
    pub(super) listings: Vec<Named>,
    pub(super) archives: Vec<Archive>,
    pub(super) condemned: Vec<Condemned>,
    pub(super) doomed: Vec<Doomed>,
    /// Bytes of what is none of these.
    pub(super) others: u64,
    /// When something of that was written last.
    others_modified: Option<Seconds>,
}

impl Inventory {
    /// Lists a cache.
    pub(super) async fn take(shelf: &dyn Shelf, what: Listed) -> Result<Self, CacheError> {
        let mut inventory = Self::default();
        let mut take = |page: Vec<Entry>| page.iter().for_each(|entry| inventory.add(entry));
        shelf.list(what, &mut take).await?;
        inventory.narinfos.sort_unstable();
        inventory.listings.sort_unstable();
        inventory.archives.sort_unstable();
        inventory.condemned.sort_unstable();
        inventory.doomed.sort_unstable();
        Ok(inventory)
    }

    pub(super) fn add(&mut self, Entry { name, size, modified, read }: &Entry) {
        let (size, modified, read) = (*size, *modified, *read);
        let named = |hash| Named { hash, size: u32::try_from(size).unwrap_or(u32::MAX), modified };
        match kind_of(name) {
            Kind::Narinfo(hash) => self.narinfos.push(named(hash)),
            Kind::Listing(hash) => self.listings.push(named(hash)),
            Kind::Condemned(mark, hash) => self.condemned.push(Condemned { hash, mark, since: modified }),
            Kind::Doomed(mark) => self.doomed.push(Doomed { mark, since: modified }),
            Kind::Archive { is_one } => {
                self.archives.push(Archive { mark: Mark::of(name), size, modified, read, is_one })
            }
            Kind::Other => {
                self.others += size;
                self.others_modified = self.others_modified.max(Some(modified));
            }
        }
    }

    /// When something of the cache was written: each file's time, and the last of those that are no path's.
    pub(super) fn times(&self) -> impl Iterator<Item = Seconds> + '_ {
        let named = self.narinfos.iter().chain(&self.listings).map(|named| named.modified);
        let pruned = self.condemned.iter().map(|condemned| condemned.since);
        let pruned = pruned.chain(self.doomed.iter().map(|doomed| doomed.since));
        let archives = self.archives.iter().filter(|archive| archive.is_one).map(|archive| archive.modified);
        named.chain(pruned).chain(archives).chain(self.others_modified)
    }

    pub(super) fn narinfo(&self, hash: HashPart) -> Option<usize> {
        self.narinfos.binary_search_by_key(&hash, |named| named.hash).ok()
    }

    pub(super) fn listing(&self, hash: HashPart) -> Option<&Named> {
        self.listings.binary_search_by_key(&hash, |named| named.hash).ok().map(|place| &self.listings[place])
    }

    pub(super) fn archive(&self, mark: Mark) -> Option<usize> {
        self.archives.binary_search_by_key(&mark, |archive| archive.mark).ok()
    }

    /// Whether a path was pruned and isn't shown.
    pub(super) fn is_hidden(&self, hash: HashPart) -> bool {
        self.narinfo(hash).is_none() && !self.condemned(hash).is_empty()
    }

    /// The marks under which a path was pruned, an archive each.
    pub(super) fn condemned(&self, hash: HashPart) -> &[Condemned] {
        let start = self.condemned.partition_point(|condemned| condemned.hash < hash);
        let end = self.condemned.partition_point(|condemned| condemned.hash <= hash);
        &self.condemned[start..end]
    }
}

/// Bytes of all files of a cache; what lies beside them, where no cache has any, is others'.
///
/// # Errors
/// [`CacheError`] where it can't be listed.
pub async fn size(shelf: &dyn Shelf) -> Result<u64, CacheError> {
    let mut size = 0;
    let is_of_the_cache = |entry: &&Entry| kind_of(&entry.name) != Kind::Archive { is_one: false };
    let mut take = |page: Vec<Entry>| {
        size += page.iter().filter(is_of_the_cache).map(|entry| entry.size).sum::<u64>();
    };
    shelf.list(Listed::Everything, &mut take).await?;
    Ok(size)
}

/// What a file is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Narinfo(HashPart),
    Listing(HashPart),
    Condemned(Mark, HashPart),
    Doomed(Mark),
    Archive {
        is_one: bool,
    },
    /// What is left alone.
    Other,
}

/// Folders of what is no archive, and of what is being written to a directory.
const LEFT_ALONE: [&str; 6] =
    [layout::LOG_DIR, layout::REALISATIONS_DIR, layout::BUILD_TRACE_DIR, layout::DEBUG_DIR, ".tmp", ".links"];

pub(super) fn kind_of(name: &str) -> Kind {
    if name == layout::CACHE_INFO {
        return Kind::Other;
    }
    match name.split_once('/') {
        None => {
            let hash = |suffix| HashPart::parse(name.strip_suffix(suffix)?);
            match (hash(layout::NARINFO), hash(layout::LISTING)) {
                (Some(hash), _) => Kind::Narinfo(hash),
                (None, Some(hash)) => Kind::Listing(hash),
                (None, None) => Kind::Archive { is_one: false },
            }
        }
        Some((layout::PRUNED_DIR, file)) => {
            let parts = file.split_once('-').and_then(|(mark, rest)| Mark::parse(mark).zip(Some(rest)));
            let Some((mark, rest)) = parts else { return Kind::Other };
            match rest.strip_suffix(layout::NARINFO).and_then(HashPart::parse) {
                Some(hash) => Kind::Condemned(mark, hash),
                None if rest == DOOMED => Kind::Doomed(mark),
                None => Kind::Other,
            }
        }
        Some((folder, _)) if LEFT_ALONE.contains(&folder) => Kind::Other,
        Some((folder, _)) => Kind::Archive { is_one: folder == layout::NAR_DIR },
    }
}

/// Whether a file lies where archives do.
pub(super) fn is_archive(name: &str) -> bool {
    kind_of(name) == Kind::Archive { is_one: true }
}

/// Where a path's narinfo lies.
pub(super) fn narinfo_file(hash: HashPart) -> String {
    format!("{hash}{}", layout::NARINFO)
}

/// Where the list of its files lies.
pub(super) fn listing_file(hash: HashPart) -> String {
    format!("{hash}{}", layout::LISTING)
}

/// Where the narinfo of a pruned path lies until its archive goes.
pub(super) fn condemned_name(mark: Mark, hash: HashPart) -> String {
    format!("{}{hash}{}", condemned_begin(mark), layout::NARINFO)
}

/// What stands behind the mark of an archive that is doomed.
const DOOMED: &str = "archive";

/// What says by being there that an archive is doomed, even if no path was pruned that had it.
pub(super) fn doomed_file(mark: Mark) -> String {
    format!("{}{DOOMED}", condemned_begin(mark))
}

/// As [`doomed_file`], for who can ask for a file but not for a list.
pub(in crate::cache) fn doomed_name(archive: &str) -> String {
    doomed_file(Mark::of(archive))
}

fn condemned_begin(mark: Mark) -> String {
    format!("{}/{mark}-", layout::PRUNED_DIR)
}

/// What all begins with in `pruned/` that tells of that archive. As long as something is there, nobody may show the archive
/// again.
pub(in crate::cache) fn condemned_with(archive: &str) -> String {
    condemned_begin(Mark::of(archive))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_their_names() {
        let text = "0123456789abcdfghijklmnpqrsvwxyz";
        let hash = HashPart::parse(text).expect("a hash part");
        let mark = Mark::of("nar/a.nar.xz");
        assert_eq!(kind_of(&condemned_name(mark, hash)), Kind::Condemned(mark, hash));
        assert_eq!(kind_of(&doomed_name("nar/a.nar.xz")), Kind::Doomed(mark));
        for name in [condemned_name(mark, hash), doomed_name("nar/a.nar.xz")] {
            assert!(name.starts_with(&condemned_with("nar/a.nar.xz")), "{name}");
        }
        for (name, kind) in [
            (format!("{text}.narinfo"), Kind::Narinfo(hash)),
            (format!("{text}.ls"), Kind::Listing(hash)),
            ("nar/a.nar.xz".to_owned(), Kind::Archive { is_one: true }),
            ("a.nar.xz".to_owned(), Kind::Archive { is_one: false }),
            ("a.narinfo".to_owned(), Kind::Archive { is_one: false }),
            ("nix-cache-info".to_owned(), Kind::Other),
            (format!("log/{text}-a.drv"), Kind::Other),
            ("pruned/mine".to_owned(), Kind::Other),
        ] {
            assert_eq!(kind_of(&name), kind, "{name}");
        }
    }
}
