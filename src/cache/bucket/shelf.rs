//! The objects of a cache in a bucket, for those who care for it.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use object_store::{GetResult, ObjectMeta, PutMode, UpdateVersion};
use tokio::sync::mpsc;
use tracing::debug;

use super::again::{InVain, Tries, again};
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
        let there = again(layout::CACHE_INFO, || store.text(layout::CACHE_INFO)).await?;
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
        let folders = match what {
            Listed::Below(folder) => BTreeSet::from([folder]),
            Listed::Everything => self.folder("", true, take).await?,
            Listed::Root => {
                self.folder("", true, take).await?;
                BTreeSet::new()
            }
        };
        for folder in folders {
            match self.folder(&format!("{folder}/"), false, take).await {
                // Its files are counted, no more.
                Err(error)
                    if what == Listed::Everything && error.source.is_odd_name() && !OF_ARCHIVES.contains(&folder) =>
                {
                    debug!("{} is not listed to its end: {}", self.store.name, one_line(&error.source));
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
    ) -> Result<BTreeSet<&'static str>, InVain> {
        let (mut token, mut folders, mut pages) = (None, BTreeSet::new(), Pages::default());
        let list = format!("the list of `{begin}`");
        loop {
            let page = || self.store.objects_page(begin, pass_over_folders, token.clone());
            let page = again(&list, page).await?;
            let is_empty = page.objects.is_empty() && page.folders.is_empty();
            let named = |meta: ObjectMeta| Some(entry(self.store.file(&meta.location)?.to_owned(), &meta));
            take(page.objects.into_iter().filter_map(named).collect());
            let is_there = |own: &&str| page.folders.iter().any(|folder| self.store.file(folder) == Some(own));
            folders.extend(layout::FOLDERS.into_iter().filter(is_there));
            let Some(next) = page.next else { return Ok(folders) };
            let ends = pages.next(Action::Missing, &self.store.name, &next, is_empty);
            ends.map_err(|error| InVain::once(&list, error))?;
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
        let content = Bytes::from(content);
        let mut tries = Tries::default();
        let keeps_conditions = self.keeps_conditions.get().copied();
        if keeps_conditions == Some(true) {
            let put = self.put_as(file, &content, &mode, &mut tries).await?;
            return self.is_ours(file, &content, put, &tries).await;
        }
        // A look just before is all that can be done where it doesn't, and as long as that isn't known.
        if !self.holds(file, condition).await? {
            return Ok(false);
        }
        if keeps_conditions == Some(false) || matches!(condition, Condition::Always) {
            return Ok(self.put_as(file, &content, &PutMode::Overwrite, &mut tries).await? == Put::New);
        }
        match self.put_as(file, &content, &mode, &mut tries).await {
            Err(error) if error.source.is_not_implemented() => {
                let _ = self.keeps_conditions.set(false);
                Ok(self.put_as(file, &content, &PutMode::Overwrite, &mut tries).await? == Put::New)
            }
            Ok(Put::New) => {
                // The condition doesn't hold any more. Who takes the same once more doesn't look at it.
                if let Ok(again) = self.put_as(file, &content, &mode, &mut Tries::default()).await {
                    let _ = self.keeps_conditions.set(again == Put::Exists);
                }
                Ok(true)
            }
            refused => {
                let put = refused?;
                let _ = self.keeps_conditions.set(true);
                self.is_ours(file, &content, put, &tries).await
            }
        }
    }

    async fn put_as(&self, file: &str, content: &Bytes, mode: &PutMode, tries: &mut Tries) -> Result<Put, InVain> {
        let kind = if layout::is_realisation(file) { layout::JSON_TYPE } else { layout::NARINFO_TYPE };
        let put = || self.store.put_as(file, content.clone().into(), kind, mode.clone());
        tries.ask(file, put).await
    }

    /// Whether what was put on a condition is there. The condition doesn't hold any more where an earlier try has put it, whose
    /// answer was lost.
    async fn is_ours(&self, file: &str, content: &Bytes, put: Put, tries: &Tries) -> Result<bool, CacheError> {
        if put == Put::New || !tries.has_failed() {
            return Ok(put == Put::New);
        }
        Ok(self.read_text(file).await?.is_some_and(|there| there.content == *content))
    }

    /// Whether a condition holds at this moment.
    async fn holds(&self, file: &str, condition: Condition<'_>) -> Result<bool, CacheError> {
        Ok(match condition {
            Condition::Always => true,
            Condition::Absent => again(file, || self.store.head(file)).await?.is_none(),
            Condition::Unchanged(text) => {
                self.read_text(file).await?.is_some_and(|there| there.content == text.content)
            }
        })
    }

    async fn read_text(&self, file: &str) -> Result<Option<Text>, CacheError> {
        let Some(Small { content, meta }) = again(file, || self.store.small(file)).await? else { return Ok(None) };
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
            let found = again(file, || self.store.head(file)).await?;
            Ok(found.map(|meta| entry(file.to_owned(), &meta)))
        })
    }

    fn read<'a>(&'a self, file: &'a str) -> BoxFuture<'a, Result<Option<Text>, CacheError>> {
        Box::pin(self.read_text(file))
    }

    fn stream<'a>(&'a self, file: &'a str) -> BoxFuture<'a, Result<Option<Chunks>, CacheError>> {
        Box::pin(async move {
            let Some(found) = again(file, || self.store.get(file)).await? else { return Ok(None) };
            let (chunks, arriving) = mpsc::channel(CHUNKS_AHEAD);
            let (store, file) = (self.store.clone(), file.to_owned());
            tokio::spawn(async move {
                if let Err(error) = hand_on(&store, &file, found, &chunks).await {
                    // Who reads it may have ended.
                    let _ = chunks.send(Err(error.into())).await;
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
        Box::pin(async move { Ok(again(file, || self.store.remove(file)).await?) })
    }

    fn unfinished(&self) -> BoxFuture<'_, Result<Vec<Unfinished>, CacheError>> {
        Box::pin(async move {
            let Some(uploads) = &self.store.uploads else { return Ok(Vec::new()) };
            // Others' uploads may lie beside the cache's, which are all of archives.
            let mut begun = uploads.list(self.store.file_prefix(), &format!("{}/", layout::NAR_DIR)).await?;
            begun.retain(|upload| layout::is_archive(&upload.name));
            Ok(begun)
        })
    }

    fn abandon<'a>(&'a self, upload: &'a Unfinished) -> BoxFuture<'a, Result<(), CacheError>> {
        Box::pin(async move {
            let object = self.store.object(&upload.name);
            Ok(again(&upload.name, || self.store.abort_parts(&object, &upload.id)).await?)
        })
    }
}

/// Hands a file on as it comes. What is cut is asked for from there on, as long as it is still the same file, and as often as
/// anything of it comes.
async fn hand_on(
    store: &Store,
    file: &str,
    mut found: GetResult,
    chunks: &mpsc::Sender<Result<Bytes, CacheError>>,
) -> Result<(), InVain> {
    let (whole, mut passed, mut tries) = (found.meta.clone(), 0, Tries::default());
    loop {
        let mut stream = found.into_stream();
        let cut = loop {
            match poll_fn(|context| stream.as_mut().poll_next(context)).await {
                None => return Ok(()),
                Some(Err(error)) => break unwrapped(Action::Fetch, &store.name, &error),
                Some(Ok(chunk)) => {
                    passed += chunk.len() as u64;
                    tries.begin_anew();
                    if chunks.send(Ok(chunk)).await.is_err() {
                        return Ok(());
                    }
                }
            }
        };
        if passed == whole.size {
            return Ok(());
        }
        tries.wait_after(file, Arc::clone(&cut)).await?;
        let rest = tries.ask(file, || store.get_from(file, passed)).await?;
        // Another one in its place, or none, is told by what cut this one.
        let is_same = |rest: &GetResult| rest.meta.e_tag == whole.e_tag && rest.meta.size == whole.size;
        found = rest.filter(is_same).ok_or_else(|| InVain::once(file, cut))?;
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
