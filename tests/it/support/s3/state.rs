//! What the fake S3 has, and what it holds against who uses it.

use super::super::cache::Narinfo;
use super::super::nix::base_name;
use super::Key;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// Least size of a part but the last, in bytes.
const LEAST_PART: usize = 5 * 1024 * 1024;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    Head,
    Get,
    List,
    Put,
    Delete,
    /// An upload in parts, from its beginning to its end.
    Begin,
    Part,
    Complete,
    Abort,
    /// Which uploads in parts there are.
    Uploads,
    /// Several at once, each to be deleted: Azure's.
    Batch,
}

/// What the fake does instead of what it is asked.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// Answers with this status and this code.
    Code(u16, &'static str),
    /// Ends the connection in the middle of the body.
    Cut,
    /// Does what it is asked, and ends the connection without a word.
    CutAfterDone,
    /// Does it twice and answers once, as a proxy that has heard nothing of the first time.
    Twice,
    /// Takes nothing any more, until the trouble is over.
    Stall,
}

/// Whose interface the fake speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    #[default]
    S3,
    Google,
    Azure,
}

/// On what condition an object is put.
#[derive(Clone, Debug)]
pub enum On {
    Whatever,
    Absent,
    Unchanged(String),
}

/// What tells one content from another.
pub fn e_tag(content: &[u8]) -> String {
    let hash = Sha256::digest(content);
    format!("\"{}\"", hash[..8].iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

#[derive(Debug, Default)]
pub struct State {
    pub dialect: Dialect,
    pub objects: BTreeMap<String, Bytes>,
    /// When objects were put; those that a test puts by itself have been there for a while.
    pub modified: BTreeMap<String, SystemTime>,
    /// How far its clock is behind that of this host.
    pub behind: Duration,
    /// Whether the list of uploads in parts leads in a circle, from page to page.
    pub lists_in_a_circle: bool,
    /// By their names: the object's name, and the parts by their numbers.
    pub multiparts: BTreeMap<String, (String, BTreeMap<u32, Bytes>)>,
    pub violations: Vec<String>,
    /// How often each was asked for.
    pub asked: BTreeMap<Op, u64>,
    /// Whom it lets in; the second may only read.
    pub keys: Vec<Key>,
    pub readers: Vec<Key>,
    pub troubled: u64,
    /// Whether it knows no conditional PUT.
    pub overwrites: bool,
    /// What has to be shown beside the signature, or in its place: the token that goes with a temporary key, or a bearer's.
    pub token: Option<String>,
    /// A header that stands for what is in front of the store: who doesn't show it is let in by nobody.
    pub gate: Option<(&'static str, String)>,
    /// Whether nobody may write.
    pub is_read_only: bool,
    /// So many names a page of a listing has, if not a thousand.
    pub page: Option<usize>,
    /// Whether who asks for what isn't there is told that it is forbidden, as Amazon does where listing is.
    pub hides_what_is_missing: bool,
    /// Where a client notes what it has begun: no archive may be noted there any more when its narinfo comes.
    pub notes: Option<PathBuf>,
    pub most_in_flight: usize,
    pub in_flight: usize,
    pub begun: u64,
}

impl State {
    pub fn violation(&mut self, what: String) {
        self.violations.push(what);
    }

    /// Whom it lets in, and whether they may write.
    pub fn known(&self) -> impl Iterator<Item = (&Key, bool)> {
        self.keys.iter().map(|key| (key, true)).chain(self.readers.iter().map(|key| (key, false)))
    }

    /// Puts an object, if it may be put.
    pub fn put(&mut self, name: &str, content: Bytes, on: &On) -> Result<(), (u16, &'static str)> {
        let create = matches!(on, On::Absent);
        if !matches!(on, On::Whatever) && self.overwrites {
            return Err((501, "NotImplemented"));
        }
        if let On::Unchanged(seen) = on
            && self.objects.get(name).is_none_or(|there| e_tag(there) != *seen)
        {
            return Err((412, "PreconditionFailed"));
        }
        if create && self.objects.contains_key(name) {
            return Err(match self.dialect {
                Dialect::Azure => (409, "BlobAlreadyExists"),
                Dialect::S3 | Dialect::Google => (412, "PreconditionFailed"),
            });
        }
        if name.ends_with(".narinfo") && !name.contains("pruned/") {
            self.check_narinfo(name, &content);
            if matches!(on, On::Whatever) && !self.overwrites {
                self.violation(format!("{name} was put without a condition"));
            }
        } else if self.objects.get(name).is_some_and(|there| *there != content) {
            // By the like it may be: two hosts that open an empty cache at once both write its `nix-cache-info`.
            self.violation(format!("{name} was overwritten"));
        }
        self.objects.insert(name.to_owned(), content);
        self.modified.insert(name.to_owned(), self.now());
        Ok(())
    }

    /// What time it is by its own clock.
    pub fn now(&self) -> SystemTime {
        SystemTime::now() - self.behind
    }

    /// Deletes an object, which nobody may need any more.
    pub fn delete(&mut self, name: &str) {
        if let Some(narinfo) = self.narinfos().into_iter().find(|narinfo| name.ends_with(&narinfo.url)) {
            self.violation(format!("{name} was deleted, and is the archive of {}", narinfo.store_path));
        }
        self.objects.remove(name);
    }

    pub fn modified(&self, name: &str) -> SystemTime {
        // An hour in which all was well.
        let before = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_514_400);
        self.modified.get(name).copied().unwrap_or(before)
    }

    /// A narinfo comes last, and tells the truth.
    fn check_narinfo(&mut self, name: &str, content: &Bytes) {
        let text = String::from_utf8_lossy(content).into_owned();
        let Some(narinfo) = Narinfo::parse(&text) else { return self.violation(format!("{name} is no narinfo")) };
        if !name.ends_with(&format!("{}.narinfo", &base_name(&narinfo.store_path)[..32])) {
            self.violation(format!("{name} is that of {}", narinfo.store_path));
        }
        let folder = name.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
        for reference in &narinfo.references {
            let theirs = format!("{folder}{}.narinfo", &reference[..32]);
            if theirs != name && !self.objects.contains_key(&theirs) {
                self.violation(format!("{name} came before its reference {reference}"));
            }
        }
        let notes = self.notes.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
        let mut notes = notes.filter_map(|note| std::fs::read_to_string(note.path()).ok());
        if notes.any(|note| note.contains(&narinfo.url)) {
            self.violation(format!("{name} came while its archive was noted as unfinished"));
        }
        let Some(nar) = self.objects.get(&format!("{folder}{}", narinfo.url)) else {
            return self.violation(format!("{name} came before its archive"));
        };
        if !narinfo.is_true_of(nar) {
            self.violation(format!("{name} lies about its archive"));
        }
    }

    pub fn begin(&mut self, name: &str) -> String {
        self.begun += 1;
        let id = format!("upload-{}", self.begun);
        self.multiparts.insert(id.clone(), (name.to_owned(), BTreeMap::new()));
        id
    }

    /// Puts the parts together that the request names.
    pub fn complete(&mut self, id: &str, named: &[u32]) -> Result<(), (u16, &'static str)> {
        let Some((name, parts)) = self.multiparts.remove(id) else { return Err((404, "NoSuchUpload")) };
        if named.is_empty() || named.iter().any(|number| !parts.contains_key(number)) {
            return Err((400, "InvalidPart"));
        }
        let parts: Vec<Bytes> = named.iter().map(|number| parts[number].clone()).collect();
        let (last, others) = parts.split_last().unwrap();
        if others.iter().any(|part| part.len() < LEAST_PART) {
            return Err((400, "EntityTooSmall"));
        }
        if others.iter().any(|part| part.len() != others[0].len() || part.len() < last.len()) {
            self.violation(format!("the parts of {name} differ in size"));
        }
        self.put(&name, parts.concat().into(), &On::Whatever)
    }

    /// Store paths that are shown.
    pub fn store_paths(&self) -> BTreeSet<String> {
        self.narinfos().into_iter().map(|narinfo| narinfo.store_path).collect()
    }

    /// All that is shown.
    pub fn narinfos(&self) -> Vec<Narinfo> {
        let narinfos = self.objects.iter().filter(|(name, _)| name.ends_with(".narinfo") && !name.contains("pruned/"));
        narinfos.filter_map(|(_, text)| Narinfo::parse(&String::from_utf8_lossy(text))).collect()
    }
}
