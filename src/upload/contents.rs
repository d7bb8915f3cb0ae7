//! The queue's memory of what a cache was given.

use std::collections::HashSet;

use tracing::debug;

use crate::cache::{BoxFuture, Compression, Contents, StoredNar};
use crate::nix::{NarHash, StorePath};
use crate::queue::{CacheId, Content, QueueHandle, now};
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
        let StoredNar { url, compression, file_hash, file_size, nar_size } = nar.clone();
        let content = Content { url, compression: compression.name().to_owned(), file_hash, file_size, nar_size };
        let cache = self.cache;
        Box::pin(async move {
            let noted = self.queue.call(move |queue| queue.note_content(cache, &nar_hash, &content, now())).await;
            if let Err(error) = noted {
                debug!("{}", one_line(&error));
            }
        })
    }
}
