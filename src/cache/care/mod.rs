//! Care of a binary cache that has no server of its own: whether it is sound ([`verify()`]), making room in it ([`prune()`]),
//! and giving it another key ([`sign()`]).
//!
//! All three work on a [`Shelf`], whatever the cache's files lie on, and beside hosts that upload to the cache. Lists are
//! taken in pages, narinfos are read some at a time, and what is kept of each is its 160 bits and a few numbers, some 300
//! bytes in all, not its text: 300 MB of a million paths.
//!
//! Invariants kept here:
//!
//! - **Nothing broken.** A prune shows a path as long as a path that stays refers to it, and the referrer goes first.
//!   `prune` says what protects an upload that is under way meanwhile.
//! - **Nothing corrupt.** A narinfo gets a signature only after one that is trusted has been verified, and nothing else
//!   in it changes.
//! - Nothing outside the cache is read, whatever a narinfo says ([`archive_within`]), and nothing is removed but from the
//!   folders that a cache has: what lies elsewhere may be others', whoever names it.
//!
//! Deliberately absent: logs of builds and realisations, which nobody needs to read a path. They are left alone.

mod at_once;
mod clock;
mod deep;
mod graph;
mod inventory;
mod narinfo;
mod plan;
mod prune;
mod sign;
mod verify;

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

pub use self::clock::Clock;
pub use self::inventory::size;
pub(super) use self::inventory::{condemned_with, doomed_name};
pub(super) use self::narinfo::signatures_over;
pub use self::prune::{Choice, Owner, Pruned, Pruning, doom, prune};
pub use self::sign::{Signed, Signing, sign};
pub use self::verify::{Fault, Finding, Found, Leftover, OnTrust, Verifying, Whose, verify};
use super::{BoxFuture, CacheError, layout};

/// Seconds since 1970, until 2106.
pub type Seconds = u32;

/// A length of time in seconds.
#[must_use]
pub fn seconds(duration: Duration) -> Seconds {
    Seconds::try_from(duration.as_secs()).unwrap_or(Seconds::MAX)
}

/// To how many bytes a cache that has more than `max_size` is pruned: some more goes than need be, or each upload would drop
/// something.
#[must_use]
pub fn after_a_prune(max_size: u64) -> u64 {
    max_size - max_size / 10
}

/// Where the files of a binary cache lie. Names are relative to the cache.
pub trait Shelf: Send + Sync {
    /// The cache, as messages call it.
    fn name(&self) -> &str;

    /// Hands out what lies there, a page at a time and in no order. What comes or goes meanwhile may be among it or not.
    fn list<'a>(&'a self, what: Listed, take: Take<'a>) -> BoxFuture<'a, Result<(), CacheError>>;

    /// What time it is by the clock that gives the cache's files theirs, where that is told.
    fn clock(&self) -> BoxFuture<'_, Option<Clock>> {
        Box::pin(async { None })
    }

    /// A file, if it is there.
    fn find<'a>(&'a self, file: &'a str) -> BoxFuture<'a, Result<Option<Entry>, CacheError>>;

    /// The content of a small file, if it is there.
    fn read<'a>(&'a self, file: &'a str) -> BoxFuture<'a, Result<Option<Text>, CacheError>>;

    /// The content of a file of any size as it comes, if it is there.
    fn stream<'a>(&'a self, file: &'a str) -> BoxFuture<'a, Result<Option<Chunks>, CacheError>>;

    /// Puts a small file there, whole or not at all. Returns whether the condition held.
    fn put<'a>(
        &'a self,
        file: &'a str,
        content: Vec<u8>,
        condition: Condition<'a>,
    ) -> BoxFuture<'a, Result<bool, CacheError>>;

    /// Moves a small file, whose content was read just before, to another name, where it is as young as one that is put
    /// there. Returns whether it was moved: it stays where the condition doesn't hold, and, as far as the store lets us see
    /// that, where another one has taken its place since it was read.
    fn rename<'a>(
        &'a self,
        from: &'a str,
        text: Text,
        to: &'a str,
        condition: Condition<'a>,
    ) -> BoxFuture<'a, Result<bool, CacheError>> {
        Box::pin(async move {
            let is_put = self.put(to, text.content, condition).await?;
            if is_put {
                self.remove(from).await?;
            }
            Ok(is_put)
        })
    }

    /// Makes durable what was renamed and put, where that isn't so at once.
    fn settle(&self) -> BoxFuture<'_, Result<(), CacheError>> {
        Box::pin(async { Ok(()) })
    }

    /// Removes a file; that it isn't there is fine.
    fn remove<'a>(&'a self, file: &'a str) -> BoxFuture<'a, Result<(), CacheError>>;

    /// Uploads of the cache's archives that have begun and never ended.
    fn unfinished(&self) -> BoxFuture<'_, Result<Vec<Unfinished>, CacheError>>;

    /// Removes what there is of one.
    fn abandon<'a>(&'a self, upload: &'a Unfinished) -> BoxFuture<'a, Result<(), CacheError>>;
}

/// What takes a page of a list.
pub type Take<'a> = &'a mut (dyn FnMut(Vec<Entry>) + Send);

/// The content of a large file, on its way.
pub type Chunks = mpsc::Receiver<Result<Bytes, CacheError>>;

/// What is to be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed {
    /// All files of the cache.
    Everything,
    /// Only those that lie in no folder: the narinfos.
    Root,
}

/// A file of a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the cache.
    pub name: String,
    /// In bytes.
    pub size: u64,
    /// When it was written last.
    pub modified: Seconds,
    /// When it was read or written last, as far as its store keeps that.
    pub read: Seconds,
}

/// A small file and what it was when it was read.
#[derive(Clone, Debug)]
pub struct Text {
    /// The file's content.
    pub content: Vec<u8>,
    /// When it was written last.
    pub modified: Seconds,
    /// Tells it from what others have written since.
    pub edition: Edition,
}

/// What tells one content of a file from another, as far as its store has something that does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edition {
    /// The object's entity tag.
    pub e_tag: Option<String>,
    /// The object's version.
    pub version: Option<String>,
}

/// On what condition a file is put.
#[derive(Clone, Copy, Debug)]
pub enum Condition<'a> {
    /// Whatever is there.
    Always,
    /// If none is there.
    Absent,
    /// If it is still the one that was read; its time stays what it was, where the store lets us say it.
    Unchanged(&'a Text),
}

/// An upload that has begun and never ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// The file it was to become, or the one that holds it.
    pub name: String,
    /// What its store calls it.
    pub id: String,
    /// Bytes, where that is known.
    pub size: Option<u64>,
    /// When it began, or was written to last.
    pub modified: Seconds,
}

/// The file that a narinfo's `URL:` names, if it lies within the cache: relative, and on no way up.
#[must_use]
pub fn archive_within(url: &str) -> Option<&str> {
    let legal = |part: &str| !part.is_empty() && part != "." && part != "..";
    let inside = url.split('/').all(legal) && !url.contains(|c: char| c.is_control() || "\\?#%:".contains(c));
    (inside && !url.ends_with(layout::NARINFO)).then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_lies_within_its_cache() {
        for url in ["nar/1w1fff338fvdw53sqgamddn1b2xgds473pv6y13gizdbqjv4i5p3.nar.xz", "a.nar", "nar/a/b.nar"] {
            assert_eq!(archive_within(url), Some(url));
        }
        for url in [
            "",
            "/etc/passwd",
            "../a.nar",
            "nar/../../a",
            "nar//a",
            "./a",
            "https://h/a.nar",
            "nar/a?b",
            "nar/%2e%2e/a",
            "a\\..\\b",
            "00000000000000000000000000000000.narinfo",
        ] {
            assert_eq!(archive_within(url), None, "{url}");
        }
    }
}
