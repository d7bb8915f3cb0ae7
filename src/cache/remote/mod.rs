//! A binary cache whose files lie on a server: what is the same in a bucket (`cache/bucket`) and on a web server
//! (`cache/put`). What they differ by is a [`Remote`].
//!
//! An archive is sent under a name that no other upload has, then the narinfo that names it, then what goes beside the path.
//! So nothing is ever overwritten but a narinfo or a list of files by its like: hosts that upload one path at the same time
//! leave a narinfo that is true, whosever it is. `upload` says in which order things are done, `beside` what goes beside a
//! path, and `cache/unfinished` what becomes of uploads that fail, are called off, or are cut by a crash.
//!
//! Deliberately absent: trying again. An error says what a failure means, and the uploader draws the conclusion.

mod beside;
mod upload;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

pub(super) use self::upload::{Arrived, Departure};
use super::unfinished::{Notes, Place};
use super::{BinaryCache, CacheError, NarStream, StoredNar};
use crate::limit::Tap;
use crate::nix::PathInfo;

/// So long an answer that a path is there is believed. What removes paths from a server does it by the day.
pub(super) const ANSWERS_HOLD: Duration = Duration::from_secs(5 * 60);

/// Where the files of a cache lie on a server. They go by their names in the layout of binary caches. Cheap to clone.
pub(super) trait Remote: Place {
    /// Whether a file is there.
    fn has(&self, file: &str) -> impl Future<Output = Result<bool, CacheError>> + Send;

    /// Whether an archive is there, whole, and no prune is about to remove it (`care/prune`). Where the latter can't be learnt,
    /// it had better be sent again.
    fn keeps(&self, nar: &StoredNar) -> impl Future<Output = Result<bool, CacheError>> + Send;

    /// Puts a small file where none is, as far as the server knows how.
    fn add(
        &self,
        file: &str,
        content: Bytes,
        kind: &'static str,
    ) -> impl Future<Output = Result<(), CacheError>> + Send;

    /// Puts a small file, over one that is there.
    fn overwrite(
        &self,
        file: &str,
        content: Bytes,
        kind: &'static str,
    ) -> impl Future<Output = Result<(), CacheError>> + Send;

    /// Sends an archive, between [`Departure::begin`] and [`Sending::arrived`](upload::Sending::arrived).
    fn send(
        &self,
        departure: &Departure<'_>,
        nar: NarStream,
    ) -> impl Future<Output = Result<Arrived<Self>, CacheError>> + Send;

    /// Shows a path, by the narinfo that names its archive; with `anew`, in the place of what is shown.
    fn publish(
        &self,
        binary: &BinaryCache,
        info: &PathInfo,
        nar: &StoredNar,
        anew: bool,
    ) -> impl Future<Output = Result<Put, CacheError>> + Send;

    /// Whether the server certainly didn't take what was put there.
    fn is_certain(error: &CacheError) -> bool;
}

/// What became of putting a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// It was put.
    New,
    /// One was there already, and stays.
    Exists,
}

/// A binary cache on a server, as far as putting paths there goes.
pub(super) struct RemoteCache<R: Remote> {
    /// Where its files lie.
    pub(super) remote: R,
    binary: Arc<BinaryCache>,
    /// Held by who has a log in memory, one for each lane: backfill may have to wait long until its log is sent.
    log_in_memory: [Mutex<()>; 2],
    notes: Notes,
    /// Ended when the cache is dropped: the next opening begins it anew.
    _tidying: JoinSet<()>,
}

impl<R: Remote> RemoteCache<R> {
    /// A cache that is ready to be used. What an earlier run has left behind, as the notes say, is tidied up meanwhile.
    ///
    /// Call it within a tokio runtime.
    pub(super) fn new(remote: R, binary: BinaryCache, notes: Notes) -> Self {
        let mut tidying = JoinSet::new();
        tidying.spawn(notes.clone().tidy_up(remote.clone()));
        Self { remote, binary: Arc::new(binary), log_in_memory: Default::default(), notes, _tidying: tidying }
    }
}

/// Asks a server for each of these files, `limit` at a time, and returns its answers in their order. The first failure ends it.
pub(super) async fn ask_each<F, A>(
    files: Vec<String>,
    limit: usize,
    ask: impl Fn(String) -> F,
) -> Result<Vec<A>, CacheError>
where
    F: Future<Output = Result<A, CacheError>> + Send + 'static,
    A: Send + 'static,
{
    let (mut asking, mut files, mut answers) = (JoinSet::new(), files.into_iter().enumerate(), Vec::new());
    loop {
        while asking.len() < limit
            && let Some((place, file)) = files.next()
        {
            let answer = ask(file);
            asking.spawn(Tap::of_this_task().scope(async move { (place, answer.await) }));
        }
        match asking.join_next().await {
            Some(Ok((place, answer))) => answers.push((place, answer?)),
            Some(Err(_)) => return Err(CacheError::LostThread { action: "look for what is missing" }),
            None => break,
        }
    }
    answers.sort_unstable_by_key(|(place, _)| *place);
    Ok(answers.into_iter().map(|(_, answer)| answer).collect())
}

#[cfg(test)]
mod tests;
