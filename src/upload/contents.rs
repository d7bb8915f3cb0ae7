//! The queue's memory of what a cache was given.

use std::collections::HashSet;

use tracing::debug;

use crate::cache::{BoxFuture, Compression, Contents, StoredNar};
use crate::nix::{NarHash, StorePath};
use crate::queue::{CacheId, Content, Queue, QueueError, QueueHandle, now};
use crate::report::one_line;

/// What the queue remembers of one cache. That it can't be asked is no reason not to upload.
#[derive(Clone)]
pub(super) struct Remembered {
    pub(super) queue: QueueHandle,
    pub(super) cache: CacheId,
}

impl Remembered {
    /// Which of these paths the cache has been given, as far as the queue knows.
    pub(super) async fn given(&self, paths: &[StorePath]) -> HashSet<StorePath> {
        let (cache, paths) = (self.cache, paths.to_vec());
        let found = self.queue.call(move |queue| queue.delivered(cache, &paths)).await;
        found.map(HashSet::from_iter).unwrap_or_else(|error| {
            debug!("{}", one_line(&error));
            HashSet::new()
        })
    }

    fn noted(&self, verb: impl FnMut(&mut Queue) -> Result<(), QueueError> + Send + 'static) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Err(error) = self.queue.call(verb).await {
                debug!("{}", one_line(&error));
            }
        })
    }
}

impl Contents for Remembered {
    fn recall(&self, nar_hash: NarHash) -> BoxFuture<'_, Option<StoredNar>> {
        let cache = self.cache;
        Box::pin(async move {
            let found = self.queue.call(move |queue| queue.content(cache, &nar_hash)).await;
            let Content { url, compression, file_hash, file_size, nar_size } = match found {
                Ok(found) => found?,
                Err(error) => {
                    debug!("{}", one_line(&error));
                    return None;
                }
            };
            let compression = Compression::named(&compression)?;
            Some(StoredNar { url, compression, file_hash, file_size, nar_size })
        })
    }

    fn remember(&self, nar_hash: NarHash, nar: &StoredNar) -> BoxFuture<'_, ()> {
        let (cache, content) = (self.cache, content(nar));
        self.noted(move |queue| queue.note_content(cache, &nar_hash, &content, now()))
    }

    fn expect(&self, nar_hash: NarHash, nar: &StoredNar) -> BoxFuture<'_, ()> {
        let (cache, content) = (self.cache, content(nar));
        self.noted(move |queue| queue.expect_content(cache, &nar_hash, &content, now()))
    }

    fn forget(&self, nar_hash: NarHash, nar: &StoredNar) -> BoxFuture<'_, ()> {
        let (cache, url) = (self.cache, nar.url.clone());
        self.noted(move |queue| queue.forget_expected(cache, &nar_hash, &url))
    }
}

/// What the queue remembers of an archive.
fn content(nar: &StoredNar) -> Content {
    let StoredNar { url, compression, file_hash, file_size, nar_size } = nar.clone();
    Content { url, compression: compression.name().to_owned(), file_hash, file_size, nar_size }
}
