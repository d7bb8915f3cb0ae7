//! The queue's memory of what a cache was given, as backends see it.

use tracing::debug;

use crate::cache::{BoxFuture, Compression, Contents, StoredNar};
use crate::nix::NarHash;
use crate::queue::{CacheId, Content, QueueHandle, now};
use crate::report::one_line;

/// What the queue remembers of one cache. That it can't be asked is no reason not to upload.
pub(super) struct Remembered {
    pub(super) queue: QueueHandle,
    pub(super) cache: CacheId,
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
