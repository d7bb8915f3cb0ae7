//! The objects of a cache in a bucket, for those who care for it.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::sync::{Arc, OnceLock};

use object_store::{ObjectMeta, PutMode, UpdateVersion};
use tokio::sync::mpsc;
use tracing::debug;

use super::BucketError;
use super::build::StoreOptions;
use super::error::unwrapped;
use super::pages::Pages;
use super::store::{Small, Store};
use crate::cache::binary::agree_on_store;
use crate::cache::care::{Chunks, Clock, Condition, Edition, Entry, Listed, Seconds, Shelf, Take, Text, Unfinished};
use crate::cache::http::Action;
use crate::cache::remote::Put;
use crate::cache::{BoxFuture, CacheError, layout};
use crate::nix::StoreDir;
use crate::report::one_line;

/// Chunks of an object that may wait to be read.
const CHUNKS_AHEAD: usize = 4;

/// Folders in which nothing may be passed over: there are archives, and what keeps them.
const OF_ARCHIVES: [&str; 2] = [layout::NAR_DIR, layout::PRUNED_DIR];

/// A cache's objects.
pub struct BucketShelf {
    store: Store,
    /// Whether the store puts on a condition only what the condition holds for, once that has been tried: some say that they
    /// don't know conditions, and others take what they are given without a word.
    keeps_conditions: OnceLock<bool>,
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
        Ok(Self { store: Store::new(options).await?, keeps_conditions: OnceLock::new() })
    }

    /// The cache's own folders alone: what others keep beside them, however much it is, stands in nobody's way.
    async fn pages(&self, what: Listed, take: Take<'_>) -> Result<(), CacheError> {
        let folders = self.folder("", true, take).await?;
        for folder in folders.into_iter().filter(|_| what == Listed::Everything) {
            match self.folder(&format!("{folder}/"), false, take).await {
                // Its files are counted, no more.
                Err(error) if error.is_odd_name() && !OF_ARCHIVES.contains(&folder) => {
                    debug!("{} is not listed to its end: {}", self.store.name, one_line(&*error));
                }
                listed => drop(listed?),
            }
        }
        Ok(())
    }

    /// Hands out what begins like that, and returns which of the cache's folders were passed over, if folders are to be.
    async fn folder(
        &self,
        begin: &str,
        pass_over_folders: bool,
        take: Take<'_>,
    ) -> Result<BTreeSet<&'static str>, Arc<BucketError>> {
        let (mut token, mut folders, mut pages) = (None, BTreeSet::new(), Pages::default());
        loop {
            let page = self.store.objects_page(begin, pass_over_folders, token).await?;
            let is_empty = page.objects.is_empty() && page.folders.is_empty();
            let named = |meta: ObjectMeta| Some(entry(self.store.file(&meta.location)?.to_owned(), &meta));
            take(page.objects.into_iter().filter_map(named).collect());
            let is_there = |own: &&str| page.folders.iter().any(|folder| self.store.file(folder) == Some(own));
            folders.extend(layout::FOLDERS.into_iter().filter(is_there));
            let Some(next) = page.next else { return Ok(folders) };
            pages.next(Action::Missing, &self.store.name, &next, is_empty)?;
            token = Some(next);
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
        let put = async |mode| self.store.put_as(file, content.clone().into(), layout::NARINFO_TYPE, mode).await;
        let keeps_conditions = self.keeps_conditions.get().copied();
        if keeps_conditions == Some(true) {
            return Ok(put(mode).await? == Put::New);
        }
        // A look just before is all that can be done where it doesn't, and as long as that isn't known.
        if !self.holds(file, condition).await? {
            return Ok(false);
        }
        if keeps_conditions == Some(false) || matches!(condition, Condition::Always) {
            return Ok(put(PutMode::Overwrite).await? == Put::New);
        }
        match put(mode.clone()).await {
            Err(error) if error.is_not_implemented() => {
                let _ = self.keeps_conditions.set(false);
                Ok(put(PutMode::Overwrite).await? == Put::New)
            }
            Ok(Put::New) => {
                // The condition doesn't hold any more. Who takes the same once more doesn't look at it.
                if let Ok(again) = put(mode).await {
                    let _ = self.keeps_conditions.set(again == Put::Exists);
                }
                Ok(true)
            }
            refused => {
                refused?;
                let _ = self.keeps_conditions.set(true);
                Ok(false)
            }
        }
    }

    /// Whether a condition holds at this moment.
    async fn holds(&self, file: &str, condition: Condition<'_>) -> Result<bool, CacheError> {
        Ok(match condition {
            Condition::Always => true,
            Condition::Absent => self.store.head(file).await?.is_none(),
            Condition::Unchanged(text) => {
                self.read_text(file).await?.is_some_and(|there| there.content == text.content)
            }
        })
    }

    async fn read_text(&self, file: &str) -> Result<Option<Text>, CacheError> {
        let Some(Small { content, meta }) = self.store.small(file).await? else { return Ok(None) };
        let modified = seconds(&meta);
        Ok(Some(Text { content, modified, edition: Edition { e_tag: meta.e_tag, version: meta.version } }))
    }
}

impl Shelf for BucketShelf {
    fn name(&self) -> &str {
        &self.store.name
    }

    fn list<'a>(&'a self, what: Listed, take: Take<'a>) -> BoxFuture<'a, Result<(), CacheError>> {
        Box::pin(self.pages(what, take))
    }

    fn clock(&self) -> BoxFuture<'_, Option<Clock>> {
        let told = self.store.server.as_ref().and_then(|server| server.clock.now());
        Box::pin(async move { told.map(Clock::Servers) })
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
        Box::pin(async move { Ok(self.store.remove(file).await?) })
    }

    fn unfinished(&self) -> BoxFuture<'_, Result<Vec<Unfinished>, CacheError>> {
        Box::pin(async move {
            let Some(uploads) = &self.store.uploads else { return Ok(Vec::new()) };
            // Others' uploads may lie beside the cache's, which are all of archives.
            Ok(uploads.list(self.store.file_prefix(), &format!("{}/", layout::NAR_DIR)).await?)
        })
    }

    fn abandon<'a>(&'a self, upload: &'a Unfinished) -> BoxFuture<'a, Result<(), CacheError>> {
        Box::pin(async move { Ok(self.store.abort_parts(&self.store.object(&upload.name), &upload.id).await?) })
    }
}

fn seconds(meta: &ObjectMeta) -> Seconds {
    Seconds::try_from(meta.last_modified.timestamp()).unwrap_or(0)
}

fn entry(name: String, meta: &ObjectMeta) -> Entry {
    // Stores don't tell when an object was read.
    Entry { name, size: meta.size, modified: seconds(meta), read: seconds(meta) }
}

#[cfg(test)]
mod tests {
    use super::super::pages::tests::Endless;
    use super::*;

    #[tokio::test]
    async fn a_bucket_whose_pages_have_no_end_is_given_up() {
        let store = Store { pages: Arc::new(Endless::default()), ..Store::in_memory() };
        let shelf = BucketShelf { store, keeps_conditions: OnceLock::new() };
        let error = shelf.list(Listed::Everything, &mut drop).await.expect_err("it doesn't end");
        assert!(one_line(&error).contains("200 pages in a row are empty"), "{error}");
    }
}
