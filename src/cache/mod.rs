//! Binary caches: where paths go.
//!
//! Invariants kept here:
//!
//! - **Nothing broken.** A backend shows a path (writes its narinfo) only after [`Push::go_ahead`] has said that every
//!   reference is in the cache or in one of its upstreams.
//! - **Nothing corrupt.** It does so only after [`NarReader`] has come to its end without an error, and the reader ends
//!   with one when hash or size differ from what Nix has registered.
//! - A push that is dropped or fails leaves nothing that a reader of the cache could see. Only what has left for a server
//!   can't be called back: where the narinfo, or an archive's last bytes, are under way just then, it may be shown.

pub mod attic;
mod binary;
pub mod bucket;
pub mod care;
pub mod command;
mod compression;
mod error;
pub mod file;
pub mod http;
mod info;
mod layout;
mod nar;
mod pace;
pub mod pack;
pub mod put;
mod remote;
mod run;
mod trial;
mod unfinished;
mod upstream;
mod url;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::nix::{NarHash, PathInfo, StorePath};

pub use binary::BinaryCache;
pub use compression::Compression;
pub use error::{CacheError, Class, NarFailure};
pub use info::{CacheInfo, DirectoryInfo, Retention};
pub use layout::{Layout, StoredNar, narinfo_name};
pub use nar::{CallOff, Gate, Listed, NarReader, NarStream, Pass, Punctuality, Seat, Tally};
pub use pace::Pace;
pub use trial::Trial;
pub use unfinished::tell_of_cut_uploads;
pub use upstream::{Answers, Away, Unanswered, Upstreams, greet as greet_upstream};
pub use url::{Addressing, BucketUrl, CacheUrl, Service, UrlError, parse_upstream};

/// A future that a backend returns; boxed, so that backends of all kinds stand side by side.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a backend does.
pub trait Cache: Send + Sync {
    /// Which of these paths the cache lacks, in the order given.
    fn missing<'a>(&'a self, paths: &'a [StorePath]) -> BoxFuture<'a, Result<Vec<StorePath>, CacheError>>;

    /// The same by what is there now, and not by what has been seen of it before.
    fn missing_now<'a>(&'a self, paths: &'a [StorePath]) -> BoxFuture<'a, Result<Vec<StorePath>, CacheError>> {
        self.missing(paths)
    }

    /// Whether [`Cache::missing`] tells what the cache has. Where it doesn't, and so says that everything is missing, what
    /// it was given counts as there.
    fn knows_what_it_has(&self) -> bool {
        true
    }

    /// How long it may be believed that a path is there: zero where asking costs next to nothing.
    fn answers_hold(&self) -> Duration {
        Duration::ZERO
    }

    /// Forgets what it remembers of what is there: something was removed.
    fn forget(&self) {}

    /// Names of the keys whose paths those who read from this cache have from elsewhere.
    fn upstream_key_names(&self) -> &[String] {
        &[]
    }

    /// Sends the cache's server a small request that costs it next to nothing and shows it no secret, for who wants to know how
    /// long the line takes; whether it was answered, whatever the answer. None where there is no server.
    fn touch(&self) -> Option<BoxFuture<'_, bool>> {
        None
    }

    /// Notes that a path that is there was asked for by its name: where the cache drops what is longest unused, it isn't among
    /// that now. Whether it is there still.
    fn note_use<'a>(&'a self, _path: &'a StorePath) -> BoxFuture<'a, bool> {
        Box::pin(async { true })
    }

    /// Puts what Nix has noted of the derivations of a path beside the path, which is there already, as far as the cache
    /// has room for that and lacks it.
    fn add_realisations(self: Arc<Self>, _info: PathInfo) -> BoxFuture<'static, Result<(), CacheError>> {
        Box::pin(async { Ok(()) })
    }

    /// Puts one path into the cache and returns when it is safe there.
    fn push(self: Arc<Self>, push: Push) -> BoxFuture<'static, Result<Pushed, CacheError>>;
}

/// One path to be put into a cache.
pub struct Push {
    /// What Nix has registered of it, references included.
    pub info: PathInfo,
    /// Its archive, not begun yet.
    pub nar: NarStream,
    /// Comes true once the references that were under way to the same cache have arrived. It may take long, and what
    /// it waits for may need what this push holds: nothing scarce must be held meanwhile.
    pub arrivals: BoxFuture<'static, Result<(), Hindrance>>,
    /// Comes true, soon, if the path may be shown now: the references that were in the cache still are, and the policy
    /// still wants it there. To be asked for last.
    pub go_ahead: BoxFuture<'static, Result<(), Hindrance>>,
    /// What the cache was given before.
    pub contents: Arc<dyn Contents>,
    /// Whether what the cache shows of the path, should it show it already, isn't well: that gives way to what is pushed, at
    /// the end. It is known of caches that are cared for (`care`); others put what they are given over what is there, or
    /// are their server's or program's matter.
    pub anew: bool,
}

impl Push {
    /// An archive of the same content, if the cache was given one before. The references have arrived then: the archive
    /// is to be looked for when that is over, since it may take hours, in which a cache is pruned, and who waits has no
    /// seat in a reading that others share.
    async fn recall(&mut self) -> Result<Option<StoredNar>, Hindrance> {
        let known = self.contents.recall(self.info.nar_hash).await;
        if known.is_some() {
            self.arrivals.as_mut().await?;
            self.arrivals = Box::pin(async { Ok(()) });
        }
        Ok(known)
    }
}

/// Remembers what a cache was given, so that a backend that shows archives by narinfos needn't send the same content
/// again for another path. What is remembered may have been removed from the cache since: a backend looks first.
pub trait Contents: Send + Sync {
    /// The archive with that hash, if it was given.
    fn recall(&self, nar_hash: NarHash) -> BoxFuture<'_, Option<StoredNar>>;

    /// Notes that the cache was given it, and that a narinfo names it, or may.
    fn remember(&self, nar_hash: NarHash, nar: &StoredNar) -> BoxFuture<'_, ()>;

    /// Notes that the cache was given it, and that a narinfo is about to name it: a later run recalls it, and this one not
    /// before it is remembered. Who forgets everything with this run has nothing to note.
    fn expect(&self, _nar_hash: NarHash, _nar: &StoredNar) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    /// Forgets what was expected: no narinfo names it, and it is to be deleted.
    fn forget(&self, _nar_hash: NarHash, _nar: &StoredNar) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

/// Why a path must not be shown after all.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Hindrance {
    /// A reference that was under way to the same cache didn't arrive. Showing the path would break the closure.
    #[error("its reference {0} did not arrive")]
    ReferenceMissing(StorePath),
    /// Whether the references are still there can't be learnt now: what the cache says to the question.
    #[error("ask whether its references are still there")]
    Unasked(#[source] Arc<CacheError>),
    /// Nor can it by this path, whose question went out together with another's, who is told why.
    #[error("whether its references are still there is not known")]
    Unknown,
    /// The policy has changed meanwhile: by which rule it is kept back. Showing the path could leak it.
    #[error("{0}")]
    NotWanted(String),
}

/// What a push came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Bytes of the archive that were read for it.
    pub read: u64,
    /// Bytes that the cache took.
    pub sent: u64,
    /// Whether the cache had the same content already, under another name.
    pub deduplicated: bool,
}
