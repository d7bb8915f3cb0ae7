//! The objects of a cache in a bucket, for those who care for it.

use std::future::poll_fn;
use std::sync::Arc;

use object_store::{ObjectMeta, PutMode, UpdateVersion};
use tokio::sync::mpsc;

use super::BucketError;
use super::build::StoreOptions;
use super::error::unwrapped;
use super::store::{LONGEST_TEXT, Put, Store};
use crate::cache::binary::agree_on_store;
use crate::cache::care::{Chunks, Condition, Edition, Entry, Listed, Seconds, Shelf, Take, Text, Unfinished};
use crate::cache::http::Action;
use crate::cache::{BoxFuture, CacheError, layout};
use crate::nix::StoreDir;

/// Chunks of an object that may wait to be read.
const CHUNKS_AHEAD: usize = 4;

/// A cache's objects.
pub struct BucketShelf {
    store: Store,
}

impl BucketShelf {
    /// The cache in a bucket, which has to be one for that store.
    ///
    /// # Errors
    /// [`CacheError::OtherStore`], [`CacheError::NoCacheThere`], [`CacheError::Bucket`].
    pub async fn open(options: &StoreOptions, store_dir: &StoreDir) -> Result<Self, CacheError> {
        let shelf = Self::open_unchecked(options).await?;
        let store = &shelf.store;
        let there = store.text(layout::CACHE_INFO).await?;
        let text = there.ok_or_else(|| CacheError::NoCacheThere { cache: store.name.to_string() })?;
        agree_on_store(&text, store_dir, &store.name, &format!("{}/{}", store.name, layout::CACHE_INFO))?;
        Ok(shelf)
    }

    /// Whatever lies in a bucket.
    ///
    /// # Errors
    /// [`CacheError::Bucket`].
    pub async fn open_unchecked(options: &StoreOptions) -> Result<Self, CacheError> {
        Ok(Self { store: Store::new(options).await? })
    }

    async fn pages(&self, what: Listed, take: Take<'_>) -> Result<(), CacheError> {
        let mut token = None;
        loop {
            let (objects, next) = self.store.objects_page("", what == Listed::Root, token).await?;
            let named = |meta: ObjectMeta| Some(entry(self.store.file(&meta)?.to_owned(), &meta));
            take(objects.into_iter().filter_map(named).collect());
            match next {
                Some(next) => token = Some(next),
                None => return Ok(()),
            }
        }
    }

    async fn put_if(&self, file: &str, content: Vec<u8>, condition: Condition<'_>) -> Result<bool, CacheError> {
        let mode = match condition {
            Condition::Always => PutMode::Overwrite,
            Condition::Absent => PutMode::Create,
            Condition::Unchanged(Text { edition: Edition { e_tag, version }, .. }) => {
                PutMode::Update(UpdateVersion { e_tag: e_tag.clone(), version: version.clone() })
            }
        };
        if let Some(put) = self.store.put_if(file, content.clone().into(), layout::NARINFO_TYPE, mode).await? {
            return Ok(put == Put::New);
        }
        // A look just before is all that can be done.
        let there = self.read_text(file).await?;
        let holds = match condition {
            Condition::Always => true,
            Condition::Absent => there.is_none(),
            Condition::Unchanged(text) => there.is_some_and(|there| there.content == text.content),
        };
        if holds {
            self.store.put(file, content, layout::NARINFO_TYPE).await?;
        }
        Ok(holds)
    }

    async fn read_text(&self, file: &str) -> Result<Option<Text>, CacheError> {
        let Some(found) = self.store.get(file).await? else { return Ok(None) };
        let (modified, e_tag) = (seconds(&found.meta), found.meta.e_tag.clone());
        let edition = Edition { e_tag, version: found.meta.version.clone() };
        let (mut chunks, mut content) = (found.into_stream(), Vec::new());
        // What is longer is no narinfo, and what is read of it can't be taken for one.
        while content.len() <= LONGEST_TEXT
            && let Some(chunk) = poll_fn(|context| chunks.as_mut().poll_next(context)).await
        {
            content.extend_from_slice(&chunk.map_err(|error| self.failed(&error))?);
        }
        Ok(Some(Text { content, modified, edition }))
    }

    fn failed(&self, error: &object_store::Error) -> Arc<BucketError> {
        unwrapped(Action::Fetch, &self.store.name, error)
    }
}

impl Shelf for BucketShelf {
    fn name(&self) -> &str {
        &self.store.name
    }

    fn list<'a>(&'a self, what: Listed, take: Take<'a>) -> BoxFuture<'a, Result<(), CacheError>> {
        Box::pin(self.pages(what, take))
    }

    fn find<'a>(&'a self, file: &'a str) -> BoxFuture<'a, Result<Option<Entry>, CacheError>> {
        Box::pin(async move {
            let found = self.store.head(file).await?;
            Ok(found.map(|meta| entry(file.to_owned(), &meta)))
        })
    }

    fn read<'a>(&'a self, file: &'a str) -> BoxFuture<'a, Result<Option<Text>, CacheError>> {
        Box::pin(self.read_text(file))
    }

    fn stream<'a>(&'a self, file: &'a str) -> BoxFuture<'a, Result<Option<Chunks>, CacheError>> {
        Box::pin(async move {
            let Some(found) = self.store.get(file).await? else { return Ok(None) };
            let (mut stream, name) = (found.into_stream(), self.store.name.clone());
            let (chunks, arriving) = mpsc::channel(CHUNKS_AHEAD);
            tokio::spawn(async move {
                while let Some(chunk) = poll_fn(|context| stream.as_mut().poll_next(context)).await {
                    let chunk = chunk.map_err(|error| unwrapped(Action::Fetch, &name, &error).into());
                    let is_last = chunk.is_err();
                    if chunks.send(chunk).await.is_err() || is_last {
                        return;
                    }
                }
            });
            Ok(Some(arriving))
        })
    }

    fn put<'a>(
        &'a self,
        file: &'a str,
        content: Vec<u8>,
        condition: Condition<'a>,
    ) -> BoxFuture<'a, Result<bool, CacheError>> {
        Box::pin(self.put_if(file, content, condition))
    }

    fn remove<'a>(&'a self, file: &'a str) -> BoxFuture<'a, Result<(), CacheError>> {
        Box::pin(async move { Ok(self.store.delete(file).await?) })
    }

    fn unfinished(&self) -> BoxFuture<'_, Result<Vec<Unfinished>, CacheError>> {
        Box::pin(async move {
            let Some(uploads) = &self.store.uploads else { return Ok(Vec::new()) };
            Ok(uploads.list(self.store.file_prefix()).await?)
        })
    }

    fn abandon<'a>(&'a self, upload: &'a Unfinished) -> BoxFuture<'a, Result<(), CacheError>> {
        Box::pin(async move { Ok(self.store.abort(&self.store.object(&upload.name), &upload.id).await?) })
    }
}

fn seconds(meta: &ObjectMeta) -> Seconds {
    Seconds::try_from(meta.last_modified.timestamp()).unwrap_or(0)
}

fn entry(name: String, meta: &ObjectMeta) -> Entry {
    // Stores don't tell when an object was read.
    Entry { name, size: meta.size, modified: seconds(meta), read: seconds(meta) }
}
