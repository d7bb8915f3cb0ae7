//! The objects of a bucket: what is asked for, put and deleted there, and what the answers mean. `build` makes one.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, GetOptions, GetRange, GetResult, ListResult, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMode, PutOptions, PutPayload,
};
use reqwest::Url;
use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::code::Code;
use super::error::{BucketError, unwrapped};
use super::listing::Listing;
use super::uploads::Uploads;
use super::wire::Wire;
use crate::cache::http::Action;
use crate::cache::remote::Put;
use crate::cache::unfinished::Place;
use crate::cache::{CacheError, layout};

/// What is put on a condition is put again after these pauses where another puts it at the same moment: by then one of the two
/// is there.
const CONFLICT_PAUSES: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(400), Duration::from_secs(1)];

/// Longest text that is read of an object, in bytes: a `nix-cache-info` has some lines.
pub(super) const LONGEST_TEXT: usize = 1024 * 1024;

/// A bucket. Cheap to clone.
#[derive(Clone)]
pub(in crate::cache) struct Store {
    pub(super) objects: Arc<dyn ObjectStore>,
    pub(super) multiparts: Arc<dyn MultipartStore>,
    pub(super) pages: Arc<dyn PaginatedListStore>,
    /// Those in parts that never ended; none where the store forgets them by itself.
    pub(super) uploads: Option<Arc<Uploads>>,
    /// As messages call it.
    pub(super) name: Arc<str>,
    pub(super) prefix: Arc<str>,
    /// The bucket's server, for who only wants to know how far it is; none of what is in memory.
    pub(super) server: Option<Arc<Wire>>,
    /// Held by parts that are on their way beside another of their upload.
    pub(super) spare: Arc<Semaphore>,
    /// Whether there is something to abort: Azure forgets what isn't put together by itself, after a week.
    pub(super) aborts: bool,
    /// Whether the store has said that it doesn't know how to put something on a condition.
    pub(super) only_overwrites: Arc<AtomicBool>,
    /// What has been seen in it.
    pub(super) listing: Arc<Listing>,
}

/// A page of a listing.
pub(super) struct Page {
    pub(super) objects: Vec<ObjectMeta>,
    /// Those that are passed over.
    pub(super) folders: Vec<Path>,
    /// By what the next page is asked for, if there is one.
    pub(super) next: Option<String>,
}

/// A small object and what it was when it was read.
pub(super) struct Small {
    pub(super) content: Vec<u8>,
    pub(super) meta: ObjectMeta,
}

impl Store {
    /// The object that a file of the cache's layout is.
    pub(super) fn object(&self, file: &str) -> Path {
        named(&format!("{}{file}", self.prefix))
    }

    /// The file of the cache's layout that an object is.
    pub(super) fn file<'m>(&self, object: &'m Path) -> Option<&'m str> {
        object.as_ref().strip_prefix(&*self.prefix)
    }

    /// What the names of all objects of the cache begin with.
    pub(super) fn file_prefix(&self) -> &str {
        &self.prefix
    }

    /// The text of a file, if it is there.
    pub(in crate::cache) async fn text(&self, file: &str) -> Result<Option<String>, Arc<BucketError>> {
        let action = action_of(file);
        let failed = |error| unwrapped(action, &self.name, &error);
        let Some(found) = self.get(file).await? else { return Ok(None) };
        let (mut chunks, mut text) = (found.into_stream(), Vec::new());
        while let Some(chunk) = poll_fn(|context| chunks.as_mut().poll_next(context)).await {
            text.extend_from_slice(&chunk.map_err(failed)?);
            if text.len() > LONGEST_TEXT {
                let problem =
                    format!("{} is longer than {} KiB: that is something else", self.object(file), LONGEST_TEXT >> 10);
                let bucket = self.name.to_string();
                return Err(Arc::new(BucketError::NotUnderstood { action, bucket, problem }));
            }
        }
        Ok(Some(String::from_utf8_lossy(&text).into_owned()))
    }

    /// A small file, if it is there; of one that is longer than texts are, so much that it can't be taken for one.
    pub(super) async fn small(&self, file: &str) -> Result<Option<Small>, Arc<BucketError>> {
        let Some(found) = self.get(file).await? else { return Ok(None) };
        let meta = found.meta.clone();
        let (mut chunks, mut content) = (found.into_stream(), Vec::new());
        while content.len() <= LONGEST_TEXT
            && let Some(chunk) = poll_fn(|context| chunks.as_mut().poll_next(context)).await
        {
            content.extend_from_slice(&chunk.map_err(|error| unwrapped(action_of(file), &self.name, &error))?);
        }
        Ok(Some(Small { content, meta }))
    }

    /// A file, whose content is on its way, if it is there.
    pub(super) async fn get(&self, file: &str) -> Result<Option<GetResult>, Arc<BucketError>> {
        self.get_from(file, 0).await
    }

    /// The same, from a byte on.
    pub(super) async fn get_from(&self, file: &str, byte: u64) -> Result<Option<GetResult>, Arc<BucketError>> {
        let range = (byte > 0).then_some(GetRange::Offset(byte));
        match self.objects.get_opts(&self.object(file), GetOptions { range, ..GetOptions::default() }).await {
            Ok(found) => Ok(Some(found)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(unwrapped(action_of(file), &self.name, &error)),
        }
    }

    /// What there is to say of a file, if it is there. Unlike for [`Store::size`], one that must not be looked at is an
    /// error.
    pub(super) async fn head(&self, file: &str) -> Result<Option<ObjectMeta>, Arc<BucketError>> {
        match self.objects.head(&self.object(file)).await {
            Ok(found) => Ok(Some(found)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            // An answer to HEAD says no more, and the library hands it on as it is.
            Err(object_store::Error::PermissionDenied { .. }) => Err(Arc::new(BucketError::Refused {
                action: Action::Missing,
                bucket: self.name.to_string(),
                status: 403,
                code: Code::None,
                says: String::new(),
                keys: None,
                retry_after: None,
            })),
            Err(error) => Err(unwrapped(Action::Missing, &self.name, &error)),
        }
    }

    /// How many bytes a file has, if it is there. Those who may not list a bucket are told 403 of what is missing, so that
    /// counts as missing too: whether the credentials are good has been found out when the cache was opened.
    pub(super) async fn size(&self, file: &str) -> Result<Option<u64>, Arc<BucketError>> {
        match self.objects.head(&self.object(file)).await {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. } | object_store::Error::PermissionDenied { .. }) => Ok(None),
            Err(error) => Err(unwrapped(Action::Missing, &self.name, &error)),
        }
    }

    /// A page of the names in the cache's root that begin like that, and by what the next page is asked for, if there is
    /// one. Folders are passed over.
    pub(super) async fn page(
        &self,
        begin: &str,
        page_token: Option<String>,
    ) -> Result<(Vec<String>, Option<String>), Arc<BucketError>> {
        let Page { objects, next, .. } = self.objects_page(begin, true, page_token).await?;
        let names = objects.iter().filter_map(|object| object.location.filename().map(str::to_owned));
        Ok((names.collect(), next))
    }

    /// A page of the cache's objects whose names begin like that; those in folders among them, unless they are passed over.
    pub(super) async fn objects_page(
        &self,
        begin: &str,
        pass_over_folders: bool,
        page_token: Option<String>,
    ) -> Result<Page, Arc<BucketError>> {
        let delimiter = pass_over_folders.then(|| "/".into());
        let options = PaginatedListOptions { delimiter, page_token, ..PaginatedListOptions::default() };
        let listed = self.pages.list_paginated(Some(&format!("{}{begin}", self.prefix)), options).await;
        let listed = listed.map_err(|error| unwrapped(Action::Missing, &self.name, &error))?;
        let ListResult { objects, common_prefixes, .. } = listed.result;
        Ok(Page { objects, folders: common_prefixes, next: listed.page_token })
    }

    /// Puts a file, over one that is there.
    pub(super) async fn put(
        &self,
        file: &str,
        payload: impl Into<PutPayload>,
        kind: &'static str,
    ) -> Result<(), Arc<BucketError>> {
        self.put_as(file, payload.into(), kind, PutMode::Overwrite).await.map(drop)
    }

    /// Puts a file where none is; where the store doesn't know how, over what is there.
    pub(super) async fn put_where_none_is(
        &self,
        file: &str,
        payload: impl Into<PutPayload>,
        kind: &'static str,
    ) -> Result<Put, Arc<BucketError>> {
        let payload = payload.into();
        match self.put_if(file, payload.clone(), kind, PutMode::Create).await? {
            Some(put) => Ok(put),
            None => self.put_as(file, payload, kind, PutMode::Overwrite).await,
        }
    }

    /// Puts a file on that condition. `None` where the store has said that it knows none, now or before: nothing was put then.
    pub(super) async fn put_if(
        &self,
        file: &str,
        payload: PutPayload,
        kind: &'static str,
        mode: PutMode,
    ) -> Result<Option<Put>, Arc<BucketError>> {
        if self.only_overwrites.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let mut pauses = CONFLICT_PAUSES.into_iter();
        loop {
            match self.put_as(file, payload.clone(), kind, mode.clone()).await {
                Err(error) if error.is_not_implemented() => {
                    self.only_overwrites.store(true, Ordering::Relaxed);
                    return Ok(None);
                }
                // Who else has put it is known in a moment, and with that what becomes of this one.
                Err(error) if error.is_conflict() => match pauses.next() {
                    Some(pause) => sleep(pause).await,
                    None => return Err(error),
                },
                put => return put.map(Some),
            }
        }
    }

    /// As [`Store::put`], on that condition, as far as the store knows how.
    pub(super) async fn put_as(
        &self,
        file: &str,
        payload: PutPayload,
        kind: &'static str,
        mode: PutMode,
    ) -> Result<Put, Arc<BucketError>> {
        let has_condition = !matches!(mode, PutMode::Overwrite);
        let options = PutOptions { mode, attributes: content_type(kind), ..PutOptions::default() };
        match self.objects.put_opts(&self.object(file), payload, options).await {
            Ok(_) => Ok(Put::New),
            // What was to be replaced may be gone: that isn't as it was, either.
            Err(
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. }
                | object_store::Error::NotFound { .. },
            ) if has_condition => Ok(Put::Exists),
            Err(error) => Err(unwrapped(Action::Upload, &self.name, &error)),
        }
    }

    /// Takes an upload in parts back; that it isn't there any more is fine.
    pub(super) async fn abort_parts(&self, object: &Path, id: &str) -> Result<(), Arc<BucketError>> {
        match self.multiparts.abort_multipart(object, &id.to_owned()).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => match unwrapped(Action::Upload, &self.name, &error) {
                // Aborted already, or put together.
                error if error.is_gone() => Ok(()),
                error => Err(error),
            },
        }
    }

    /// Deletes a file; that it isn't there is fine.
    pub(super) async fn remove(&self, file: &str) -> Result<(), Arc<BucketError>> {
        self.delete_object(&self.object(file)).await
    }

    async fn delete_object(&self, object: &Path) -> Result<(), Arc<BucketError>> {
        match self.objects.delete(object).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(unwrapped(Action::Delete, &self.name, &error)),
        }
    }
}

impl Place for Store {
    fn name(&self) -> &str {
        &self.name
    }

    /// Buckets of one name are different ones at different servers; Azure's account is part of its server's name.
    fn address(&self) -> String {
        match &self.server {
            Some(server) => format!("{} at {}", self.name, whose(&server.endpoint)),
            None => self.name.to_string(),
        }
    }

    fn noted(&self, file: &str) -> String {
        self.object(file).to_string()
    }

    async fn shown(&self, narinfo: &str) -> Result<Option<String>, CacheError> {
        Ok(self.text(narinfo).await?)
    }

    async fn abort(&self, object: &str, parts: &str) -> Result<(), CacheError> {
        if self.aborts {
            self.abort_parts(&named(object), parts).await?;
        }
        Ok(())
    }

    async fn delete(&self, object: &str) -> Result<(), CacheError> {
        Ok(self.delete_object(&named(object)).await?)
    }
}

/// Whose servers these are. Amazon has each bucket's name once, in whatever region: one that only the environment says, and
/// says otherwise for who runs a command by hand, makes no other bucket of it.
fn whose(endpoint: &Url) -> &str {
    let is_amazon = endpoint.host_str().is_some_and(|host| host.ends_with(AMAZON));
    if is_amazon { AMAZON.trim_start_matches('.') } else { endpoint.as_str().trim_end_matches('/') }
}

/// What the names of all Amazon's servers end with.
const AMAZON: &str = ".amazonaws.com";

/// The object of that very name: a derivation's may have a `?` in it, which the library would write otherwise.
fn named(name: &str) -> Path {
    // No cache has a file of a name that it doesn't take, nor has a bucket an object of the one that it makes of it.
    Path::parse(name).unwrap_or_else(|_| Path::from(name))
}

/// What a store is told that an object holds, as Nix tells it.
pub(super) fn content_type(kind: &'static str) -> Attributes {
    Attributes::from_iter([(Attribute::ContentType, kind)])
}

/// What a file is read for, as messages say it.
fn action_of(file: &str) -> Action {
    if file == layout::CACHE_INFO { Action::Configuration } else { Action::Fetch }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use object_store::list::PaginatedListResult;
    use object_store::memory::InMemory;

    use super::super::send::SPARE;
    use super::*;
    use crate::cache::remote::ANSWERS_HOLD;

    /// The pages of a bucket of which nothing was ever pruned.
    struct NothingPruned;

    #[async_trait]
    impl PaginatedListStore for NothingPruned {
        async fn list_paginated(
            &self,
            begin: Option<&str>,
            _: PaginatedListOptions,
        ) -> object_store::Result<PaginatedListResult> {
            assert!(begin.is_some_and(|begin| begin.starts_with("pruned/")), "{begin:?} can't be listed here");
            let (objects, common_prefixes, extensions) = Default::default();
            Ok(PaginatedListResult { result: ListResult { objects, common_prefixes, extensions }, page_token: None })
        }
    }

    impl Store {
        /// A bucket in memory, `memory://b`.
        pub(in crate::cache) fn in_memory() -> Self {
            let memory = Arc::new(InMemory::new());
            Self {
                objects: Arc::clone(&memory) as _,
                multiparts: memory,
                pages: Arc::new(NothingPruned),
                uploads: None,
                name: "memory://b".into(),
                prefix: "".into(),
                server: None,
                spare: Arc::new(Semaphore::new(SPARE)),
                aborts: true,
                only_overwrites: Arc::default(),
                listing: Arc::new(Listing::new(ANSWERS_HOLD)),
            }
        }
    }

    #[tokio::test]
    async fn no_text_is_read_that_is_none() {
        let store = Store::in_memory();
        let file = layout::CACHE_INFO;
        assert_eq!(store.text(file).await.expect("asked"), None);
        for (bytes, fits) in [(LONGEST_TEXT, true), (LONGEST_TEXT + 1, false)] {
            store.put(file, vec![b'x'; bytes], "text/plain").await.expect("put");
            let read = store.text(file).await;
            assert_eq!(read.is_ok_and(|text| text.is_some_and(|text| text.len() == bytes)), fits);
        }
    }

    #[test]
    fn a_bucket_of_amazons_is_the_same_in_whatever_region() {
        let whose_is = |endpoint: &str| whose(&Url::parse(endpoint).expect("an address")).to_owned();
        for region in ["us-east-1", "eu-west-1"] {
            assert_eq!(whose_is(&format!("https://s3.{region}.amazonaws.com")), "amazonaws.com");
        }
        for other in
            ["https://garage.example.com", "http://garage.example.com:3900", "https://amazonaws.com.example.com"]
        {
            assert_eq!(whose_is(other), other);
        }
    }
}
