//! Whether a cache is sound: everything that a reader asks for is there, and is what it is said to be.
//!
//! Of each narinfo: it can be understood, is that of the path by whose hash part it is called, lies with an archive
//! within the cache whose size is the one it says, has a signature by a trusted key or a content address that gives its
//! path, and each reference is in the cache or in one of its upstreams. A reference that is in neither, and that this
//! host has with the signature of an upstream's key, was left out when its referrer was uploaded: that upstream is
//! trusted to deliver it, and it is told as such. If asked for, each archive is read and unpacked, and its hashes are
//! compared.
//!
//! The cache may be filled and pruned meanwhile. So what seems to be missing is asked for once more, by itself, before it is
//! called a fault.

mod leftover;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::debug;

pub use self::leftover::{Leftover, Whose};
use super::at_once::{REQUESTS, at_once};
use super::deep::{Archive, read_archive};
use super::inventory::{Inventory, Mark, narinfo_file};
use super::narinfo::{Narinfo, needs, perhaps};
use super::{Listed, Seconds, Shelf, Text, archive_within};
use crate::cache::http::plain;
use crate::cache::{CacheError, Upstreams};
use crate::nix::{HashPart, PublicKey, StoreDir, StoreFacts, StorePath};
use crate::policy::Policy;
use crate::report::one_line;

/// Archives that are read at the same time: unpacking keeps a processor busy.
const ARCHIVES: usize = 4;

/// How a cache is examined.
pub struct Verifying {
    /// The logical store directory of this host.
    pub store_dir: StoreDir,
    /// By one of these a narinfo has to be signed. None: signatures are not looked at.
    pub keys: Vec<PublicKey>,
    /// Caches in which references may be instead.
    pub upstreams: Upstreams,
    /// Says whose signatures vouch for what is left to upstreams.
    pub policy: Arc<Policy>,
    /// Where it is asked who has signed a reference.
    pub facts: StoreFacts,
    /// Whether each archive is read.
    pub deep: bool,
    /// The time, by which ages are told.
    pub now: Seconds,
    /// What nothing names and is younger than so many seconds may be an upload's that is under way.
    pub grace: Seconds,
}

/// What is wrong with a path in a cache.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No reader understands it.
    #[error("its narinfo can't be read: {0}")]
    Unreadable(String),
    /// It stands under another path's name.
    #[error("its narinfo is that of {0}")]
    OtherPath(StorePath),
    /// What it names is none of the cache's files.
    #[error("its narinfo names an archive outside the cache: {0}")]
    Outside(String),
    /// A reference is nowhere.
    #[error("its reference {0} is neither in the cache nor at an upstream")]
    LacksReference(StorePath),
    /// Readers are told of an archive that isn't there.
    #[error("its archive {0} is missing")]
    LacksArchive(String),
    /// The archive was cut, or is another.
    #[error("its archive {file} has {found} bytes, and its narinfo says {said}")]
    OtherSize {
        /// The archive.
        file: String,
        /// Bytes by the narinfo.
        said: u64,
        /// Bytes that there are.
        found: u64,
    },
    /// Readers who want a signature refuse it.
    #[error("it has no good signature by {keys}{}", made_by(signed))]
    Unsigned {
        /// The names of the trusted keys.
        keys: String,
        /// The names of the keys by which it says that it is signed.
        signed: Vec<String>,
    },
    /// What is in the archive is not what the narinfo says.
    #[error("its archive {file} is damaged: {problem}")]
    Damaged {
        /// The archive.
        file: String,
        /// In what way.
        problem: String,
    },
}

fn made_by(signed: &[String]) -> String {
    if signed.is_empty() { String::new() } else { format!(" (it says it is signed by {})", signed.join(", ")) }
}

impl Fault {
    /// The archive that isn't as the narinfo says. Either may be at fault.
    fn of_archive(&self) -> Option<&str> {
        match self {
            Self::OtherSize { file, .. } | Self::Damaged { file, .. } => Some(file),
            _ => None,
        }
    }

    /// In a word, for programs.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "unreadable",
            Self::OtherPath(_) => "other_path",
            Self::Outside(_) => "outside",
            Self::LacksReference(_) => "lacks_reference",
            Self::LacksArchive(_) => "lacks_archive",
            Self::OtherSize { .. } => "other_size",
            Self::Unsigned { .. } => "unsigned",
            Self::Damaged { .. } => "damaged",
        }
    }
}

/// A fault and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The hash part by which its narinfo is called.
    pub hash: HashPart,
    /// The path, as far as its narinfo says it.
    pub path: Option<StorePath>,
    /// What is wrong.
    pub fault: Fault,
}

/// A reference that an upstream is trusted to deliver, since its key has signed what this host has of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnTrust {
    /// The path.
    pub path: StorePath,
    /// The name of the key.
    pub key: String,
}

/// What is told on the way.
#[derive(Clone, Debug)]
pub enum Found {
    /// So many narinfos are there, and will be looked at.
    Narinfos(usize),
    /// So many have been looked at.
    At(usize),
    /// A fault.
    Fault(Finding),
    /// An archive, below `nar/`, that is not as any of the narinfos says that name it: nobody can use it.
    BadArchive(String),
    /// A reference that isn't in the cache and that an upstream is trusted to deliver; each once.
    OnTrust(OnTrust),
    /// A file that nothing names.
    Leftover(Leftover),
    /// Which uploads have never ended isn't known: why.
    UploadsUnseen(String),
    /// An archive whose packing is unknown here, or wants too much memory: its file's hash is good, and that is all that was
    /// compared.
    NotUnpacked(String),
}

/// Examines a cache, and hands out what it finds.
///
/// # Errors
/// [`CacheError`] where the cache or an upstream can't be asked.
pub async fn verify(
    shelf: &Arc<dyn Shelf>,
    verifying: Verifying,
    mut tell: impl FnMut(Found) + Send,
) -> Result<(), CacheError> {
    let inventory = Inventory::take(&**shelf, Listed::Everything).await?;
    tell(Found::Narinfos(inventory.narinfos.len()));
    let limit = if verifying.deep { ARCHIVES } else { REQUESTS };
    let examiner = Arc::new(Examiner { shelf: Arc::clone(shelf), verifying, inventory, trusted: Mutex::default() });
    let count = examiner.inventory.narinfos.len();
    let (mut named, mut looked_at) = (vec![false; examiner.inventory.archives.len()], 0);
    // Whether a narinfo is content with each archive, and those with which one isn't.
    let (mut is_good, mut bad) = (vec![false; examiner.inventory.archives.len()], BTreeMap::new());
    let examine = |place: usize| {
        let examiner = Arc::clone(&examiner);
        async move { examiner.examine(examiner.inventory.narinfos[place].hash).await }
    };
    let tell_all = |Verdict { hash, path, faults, archive, not_unpacked, on_trust }: Verdict| {
        if let Some(place) = archive {
            named[place] = true;
            match faults.iter().find_map(Fault::of_archive) {
                Some(file) => drop(bad.insert(place, file.to_owned())),
                None => is_good[place] = true,
            }
        }
        faults.into_iter().for_each(|fault| tell(Found::Fault(Finding { hash, path: path.clone(), fault })));
        not_unpacked.into_iter().for_each(|file| tell(Found::NotUnpacked(file)));
        on_trust.into_iter().for_each(|reference| tell(Found::OnTrust(reference)));
        looked_at += 1;
        tell(Found::At(looked_at));
    };
    at_once(0..count, limit, examine, tell_all).await?;
    for (place, file) in bad {
        if !is_good[place] && examiner.inventory.archives[place].is_one {
            tell(Found::BadArchive(file));
        }
    }
    examiner.leftovers(&named, tell).await
}

/// What an examination has found out about one narinfo.
struct Verdict {
    hash: HashPart,
    path: Option<StorePath>,
    faults: Vec<Fault>,
    /// The archive that it names, among those listed.
    archive: Option<usize>,
    not_unpacked: Option<String>,
    /// References that are told for the first time.
    on_trust: Vec<OnTrust>,
}

struct Examiner {
    shelf: Arc<dyn Shelf>,
    verifying: Verifying,
    inventory: Inventory,
    /// References that were taken on trust.
    trusted: Mutex<HashSet<HashPart>>,
}

impl Examiner {
    async fn examine(&self, hash: HashPart) -> Result<Verdict, CacheError> {
        let mut verdict =
            Verdict { hash, path: None, faults: Vec::new(), archive: None, not_unpacked: None, on_trust: Vec::new() };
        // One that has gone meanwhile was pruned.
        let Some(Text { content, .. }) = self.shelf.read(&narinfo_file(hash)).await? else { return Ok(verdict) };
        let narinfo = match Narinfo::read(&content, &self.verifying.store_dir) {
            Ok(narinfo) => narinfo,
            Err(problem) => {
                // Its archive isn't called nobody's for that.
                verdict.archive = needs(&content).archive.and_then(|file| self.inventory.archive(Mark::of(&file)));
                verdict.faults.push(Fault::Unreadable(problem));
                return Ok(verdict);
            }
        };
        if HashPart::from(&narinfo.path) != hash {
            // What else is wrong with it is told where it stands under its own name, and its archive may be that one's.
            verdict.archive = archive_within(&narinfo.url).and_then(|file| self.inventory.archive(Mark::of(file)));
            verdict.faults.push(Fault::OtherPath(narinfo.path));
            return Ok(verdict);
        }
        verdict.path = Some(narinfo.path.clone());
        let keys = &self.verifying.keys;
        if !keys.is_empty() && !narinfo.is_signed_by(keys) && !narinfo.is_content_addressed {
            let keys = keys.iter().map(PublicKey::name).collect::<Vec<_>>().join(", ");
            verdict.faults.push(Fault::Unsigned { keys, signed: narinfo.signers() });
        }
        for missing in self.missing(&narinfo).await? {
            match self.vouched_for(&missing).await {
                Some(key) => verdict.on_trust.extend(self.note_trust(missing, key)),
                None => verdict.faults.push(Fault::LacksReference(missing)),
            }
        }
        match archive_within(&narinfo.url) {
            None => {
                // What may be its archive is somebody's, as a prune takes it.
                let perhaps = perhaps(&narinfo.url);
                verdict.archive = perhaps.iter().find_map(|file| self.inventory.archive(Mark::of(file)));
                verdict.faults.push(Fault::Outside(plain(&narinfo.url)));
            }
            Some(file) => {
                verdict.archive = self.inventory.archive(Mark::of(file));
                self.examine_archive(file, &narinfo, &mut verdict).await?;
            }
        }
        Ok(verdict)
    }

    async fn examine_archive(&self, file: &str, narinfo: &Narinfo, verdict: &mut Verdict) -> Result<(), CacheError> {
        let size = match verdict.archive {
            Some(place) => Some(self.inventory.archives[place].size),
            None => self.shelf.find(file).await?.map(|entry| entry.size),
        };
        let Some(found) = size else { return self.note_lack(file, verdict).await };
        if let Some(said) = narinfo.file_size.filter(|said| *said != found) {
            verdict.faults.push(Fault::OtherSize { file: file.to_owned(), said, found });
        } else if self.verifying.deep {
            match read_archive(&*self.shelf, file, narinfo).await? {
                Archive::Good => {}
                Archive::NotUnpacked => verdict.not_unpacked = Some(file.to_owned()),
                Archive::Gone => self.note_lack(file, verdict).await?,
                Archive::Damaged(problem) => {
                    verdict.faults.push(Fault::Damaged { file: file.to_owned(), problem });
                }
            }
        }
        Ok(())
    }

    /// Notes that an archive is missing, unless its narinfo is too by now: then both were pruned between two questions.
    async fn note_lack(&self, file: &str, verdict: &mut Verdict) -> Result<(), CacheError> {
        if self.shelf.find(&narinfo_file(verdict.hash)).await?.is_some() {
            verdict.faults.push(Fault::LacksArchive(file.to_owned()));
        }
        Ok(())
    }

    /// References that are neither here nor at an upstream.
    async fn missing(&self, narinfo: &Narinfo) -> Result<Vec<StorePath>, CacheError> {
        let mut missing = Vec::new();
        for reference in narinfo.references.iter().filter(|reference| **reference != narinfo.path) {
            let hash = HashPart::from(reference);
            let is_known = self.inventory.narinfo(hash).is_some() || self.is_trusted(hash);
            if !is_known && self.shelf.find(&narinfo_file(hash)).await?.is_none() {
                missing.push(reference.clone());
            }
        }
        let upstream = self.verifying.upstreams.have(&missing).await?;
        missing.retain(|path| !upstream.contains(path));
        Ok(missing)
    }

    /// The upstream's key that has signed a path, as far as this host has it. So it was when the path's referrer was
    /// uploaded without it, from here.
    async fn vouched_for(&self, path: &StorePath) -> Option<String> {
        let Verifying { policy, facts, store_dir, .. } = &self.verifying;
        match facts.path_info(path).await {
            Ok(info) => info.and_then(|info| policy.delivered_by_upstream(&info, store_dir).map(str::to_owned)),
            // A host without Nix may look after a cache, too.
            Err(error) => {
                debug!("{}", one_line(&error));
                None
            }
        }
    }

    fn is_trusted(&self, hash: HashPart) -> bool {
        self.trusted.lock().unwrap_or_else(PoisonError::into_inner).contains(&hash)
    }

    /// Remembers that a path is taken on trust; tells it if that is new.
    fn note_trust(&self, path: StorePath, key: String) -> Option<OnTrust> {
        let is_new = self.trusted.lock().unwrap_or_else(PoisonError::into_inner).insert(HashPart::from(&path));
        is_new.then_some(OnTrust { path, key })
    }
}
