//! A binary cache in a bucket of an object store: `s3://BUCKET`, `gs://BUCKET`, `az://CONTAINER`.
//!
//! How paths are put there is said by `cache/remote`. Where the store knows how to put only what isn't there, the first of
//! two hosts that upload one path wins, and the other takes its archive back; elsewhere the last wins, and both narinfos are
//! true. A narinfo gives way to a good one if what it shows isn't well.
//!
//! Deliberately absent: trying again, which the library would do too. What a failure means is said by [`BucketError`],
//! and the uploader draws the conclusion.

mod arriving;
mod azure;
mod build;
mod clock;
mod code;
mod credentials;
mod environment;
mod error;
mod google;
mod listing;
mod look;
mod near;
mod pages;
mod profile;
mod remote;
mod send;
mod shelf;
mod store;
mod uploads;
mod watched;
mod wire;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use self::build::{StoreKeys, StoreOptions};
pub use self::code::Code;
pub use self::error::BucketError;
pub use self::look::{look, try_out};
pub use self::shelf::BucketShelf;
pub(super) use self::store::Store;
use super::binary::agree_on_store;
use super::remote::{ANSWERS_HOLD, Put, Remote, RemoteCache, ask_each};
use super::unfinished::Notes;
use super::{BinaryCache, BoxFuture, Cache, CacheError, Class, Push, Pushed, layout};
use crate::nix::{PathInfo, StorePath};

/// So many paths are asked for at once, each by a request of its own.
const ASKED_AT_ONCE: usize = 32;

/// A binary cache in a bucket.
pub struct BucketCache {
    cache: RemoteCache<Store>,
}

impl BucketCache {
    /// Finds out whether the bucket can be read and written, and makes it a cache if it is none. What an earlier run has
    /// left behind, as the notes in `unfinished` say, is tidied up meanwhile.
    ///
    /// Call it within a tokio runtime.
    ///
    /// # Errors
    /// [`CacheError::Bucket`]; [`CacheError::OtherStore`] where the cache belongs to another store directory.
    pub async fn open(options: StoreOptions, binary: BinaryCache, unfinished: PathBuf) -> Result<Self, CacheError> {
        let store = Store::new(&options).await?;
        let notes = Notes::open(&unfinished)?;
        read_or_write_info(&store, &binary).await?;
        Ok(Self { cache: RemoteCache::new(store, binary, notes) })
    }

    /// Which of these paths the bucket lacks. Asks for those of which it isn't known whether they are there, by their places.
    async fn lacks(&self, paths: &[StorePath], mut told: Vec<Option<bool>>) -> Result<Vec<StorePath>, CacheError> {
        let unknown: Vec<usize> = (0..paths.len()).filter(|place| told[*place].is_none()).collect();
        let narinfos = unknown.iter().map(|place| layout::narinfo_name(&paths[*place])).collect();
        let ask = |narinfo: String| {
            let store = self.cache.remote.clone();
            async move { store.has(&narinfo).await }
        };
        let answers = ask_each(narinfos, ASKED_AT_ONCE, ask).await?;
        for (place, is_there) in unknown.into_iter().zip(answers) {
            told[place] = Some(is_there);
        }
        Ok(paths.iter().zip(told).filter(|(_, there)| *there == Some(false)).map(|(path, _)| path.clone()).collect())
    }
}

/// Reads `nix-cache-info`, or writes it. So wrong credentials are told apart from an empty cache.
async fn read_or_write_info(store: &Store, binary: &BinaryCache) -> Result<(), CacheError> {
    let forbidden = match store.text(layout::CACHE_INFO).await {
        Ok(Some(text)) => {
            let name = &store.name;
            return agree_on_store(&text, &binary.store_dir, name, &format!("{name}/{}", layout::CACHE_INFO));
        }
        Ok(None) => None,
        // Those who may not list are told this of what isn't there; who may not read would take it for an empty cache.
        Err(error) if error.may_be_missing() => match look::lets_read(store).await {
            Ok(true) => Some(error),
            Ok(false) => return Err(error.into()),
            Err(refused) if refused.class() == Class::Credentials => return Err(error.into()),
            Err(failed) => return Err(failed.into()),
        },
        Err(error) => return Err(error.into()),
    };
    let put = store.put_where_none_is(layout::CACHE_INFO, binary.cache_info(), layout::CACHE_INFO_TYPE).await;
    match (put, forbidden) {
        (Ok(Put::New | Put::Exists), _) => Ok(()),
        (Err(error), Some(forbidden)) if error.class() == Class::Credentials => Err(forbidden.into()),
        (Err(error), _) => Err(error.into()),
    }
}

impl Cache for BucketCache {
    fn missing<'a>(&'a self, paths: &'a [StorePath]) -> BoxFuture<'a, Result<Vec<StorePath>, CacheError>> {
        Box::pin(async move {
            let store = &self.cache.remote;
            let told = store.listing.tells(store, paths).await;
            self.lacks(paths, told).await
        })
    }

    fn missing_now<'a>(&'a self, paths: &'a [StorePath]) -> BoxFuture<'a, Result<Vec<StorePath>, CacheError>> {
        Box::pin(self.lacks(paths, vec![None; paths.len()]))
    }

    fn answers_hold(&self) -> Duration {
        ANSWERS_HOLD
    }

    fn touch(&self) -> Option<BoxFuture<'_, bool>> {
        let server = self.cache.remote.server.as_deref()?;
        Some(Box::pin(server.touch()))
    }

    fn forget(&self) {
        self.cache.remote.listing.forget();
    }

    fn add_realisations(self: Arc<Self>, info: PathInfo) -> BoxFuture<'static, Result<(), CacheError>> {
        Box::pin(async move { self.cache.add_realisations(&info).await })
    }

    fn push(self: Arc<Self>, push: Push) -> BoxFuture<'static, Result<Pushed, CacheError>> {
        Box::pin(async move { self.cache.upload(push).await })
    }
}

#[cfg(test)]
mod tests;
