//! A bucket as the place of a cache's files.

use std::sync::Arc;

use bytes::Bytes;
use object_store::{ObjectMeta, PutMode, UpdateVersion};

use super::BucketError;
use super::send;
use super::store::{Small, Store};
use crate::cache::care::condemned_with;
use crate::cache::pack::Packing;
use crate::cache::remote::{Arrived, Departure, Put, Remote};
use crate::cache::{BinaryCache, CacheError, NarStream, StoredNar, layout};
use crate::nix::PathInfo;

/// So often a narinfo is read again that others write at the same moment.
const TRIES: u32 = 5;

impl Remote for Store {
    async fn has(&self, file: &str) -> Result<bool, CacheError> {
        Ok(self.size(file).await?.is_some())
    }

    /// Who may not list can't know what a prune is about.
    async fn keeps(&self, nar: &StoredNar) -> Result<bool, CacheError> {
        // In this order: an archive goes before what says that it will.
        let condemned = self.page(&condemned_with(&nar.url), None).await;
        // A page may be empty though others follow it.
        let is_to_stay = matches!(condemned, Ok((names, None)) if names.is_empty());
        Ok(is_to_stay && self.size(&nar.url).await? == Some(nar.file_size))
    }

    async fn add(&self, file: &str, content: Bytes, kind: &'static str) -> Result<(), CacheError> {
        self.put_where_none_is(file, content, kind).await?;
        Ok(())
    }

    async fn overwrite(&self, file: &str, content: Bytes, kind: &'static str) -> Result<(), CacheError> {
        Ok(self.put(file, content, kind).await?)
    }

    async fn send(&self, departure: &Departure<'_>, nar: NarStream) -> Result<Arrived<Self>, CacheError> {
        let compression = || departure.binary.compression(departure.info.nar_size);
        let (reader, mut sending) = departure.begin(self, nar, compression).await?;
        let nar_size = departure.info.nar_size;
        let packing = Packing::start(reader, sending.compression, nar_size);
        let packed = send::send(self, &sending.url, packing, nar_size, &mut sending.upload).await?;
        Ok(sending.arrived(packed))
    }

    async fn publish(
        &self,
        binary: &BinaryCache,
        info: &PathInfo,
        nar: &StoredNar,
        anew: bool,
    ) -> Result<Put, CacheError> {
        let file = layout::narinfo_name(&info.path);
        let put = if anew {
            put_in_place(self, &file, |shown| binary.narinfo_in_place_of(shown, info, nar)).await?
        } else {
            self.put_where_none_is(&file, binary.narinfo(info, nar), layout::NARINFO_TYPE).await?
        };
        self.listing.brought(&info.path);
        Ok(put)
    }

    fn is_certain(error: &CacheError) -> bool {
        matches!(error, CacheError::Bucket(error) if error.is_certain())
    }
}

/// Puts a narinfo in the place of the one that is there, of which `text` makes the new one. One that somebody else puts
/// there at the same moment is looked at, too, as far as the store knows how.
async fn put_in_place(store: &Store, file: &str, text: impl Fn(&[u8]) -> String) -> Result<Put, Arc<BucketError>> {
    for _ in 0..TRIES {
        // Those who may not list are told this of what isn't there, and those who may only write of everything.
        let shown = match store.small(file).await {
            Err(error) if error.may_be_missing() => None,
            shown => shown?,
        };
        let content = text(shown.as_ref().map_or(&[], |shown| &shown.content));
        let mode = match shown {
            Some(Small { meta: ObjectMeta { e_tag, version, .. }, .. }) => {
                PutMode::Update(UpdateVersion { e_tag, version })
            }
            None => PutMode::Create,
        };
        match store.put_if(file, content.clone().into(), layout::NARINFO_TYPE, mode).await? {
            Some(Put::New) => return Ok(Put::New),
            Some(Put::Exists) => {}
            None => return store.put(file, content, layout::NARINFO_TYPE).await.map(|()| Put::New),
        }
    }
    // Both are true.
    store.put(file, text(&[]), layout::NARINFO_TYPE).await.map(|()| Put::New)
}
