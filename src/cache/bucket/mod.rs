//! A binary cache in a bucket of an object store: `s3://BUCKET`, `gs://BUCKET`, `az://CONTAINER`.
//!
//! An archive is sent under a name that no other upload has, then the narinfo that names it, and nothing is ever
//! overwritten but a narinfo by its like, or by a good one if what it shows isn't well. Where the store knows how to put
//! only what isn't there, the first of two hosts that upload one path wins, and the other takes its archive back; elsewhere
//! the last wins, and both narinfos are true. The list of a path's files and the log of its build come last, the list only
//! from who has won: two builds of one path need not be the same. `unfinished` says what becomes of uploads that fail, are called off, or are cut by a crash.
//!
//! Deliberately absent: trying again, which the library would do too. What a failure means is said by [`BucketError`],
//! and the uploader draws the conclusion.

mod arriving;
mod azure;
mod build;
mod code;
mod credentials;
mod environment;
mod error;
mod google;
mod listing;
mod look;
mod near;
mod profile;
mod send;
mod shelf;
mod store;
mod uploads;
mod watched;
mod wire;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use object_store::{ObjectMeta, PutMode, UpdateVersion};
use tokio::sync::Mutex;
use tokio::task::{JoinSet, spawn_blocking};
use tracing::debug;

pub use self::build::{StoreKeys, StoreOptions};
pub use self::code::Code;
pub use self::error::BucketError;
use self::listing::Listing;
pub use self::look::{look, try_out};
pub use self::shelf::BucketShelf;
use self::store::{Put, Small, Store};
use super::binary::{RealisationFile, agree_on_store, list, whole_log};
use super::care::condemned_with;
use super::pack::Packing;
use super::unfinished::Notes;
use super::{BinaryCache, BoxFuture, Cache, CacheError, Class, Listed, Push, Pushed, StoredNar, layout};
use crate::limit::{Lane, Tap};
use crate::nix::{PathInfo, StorePath};
use crate::report::one_line;

/// So long an answer that a path is there is believed, and so long what a listing has shown is good for an answer: ten
/// minutes in all. What removes paths from a bucket does it by the day.
const ANSWERS_HOLD: Duration = Duration::from_secs(5 * 60);

/// So many paths are asked for at once, each by a request of its own.
const ASKED_AT_ONCE: usize = 32;

/// So often a narinfo is read again that others write at the same moment.
const TRIES: u32 = 5;

/// A binary cache in a bucket.
pub struct BucketCache {
    store: Store,
    binary: Arc<BinaryCache>,
    /// Held by who has a log in memory, one for each lane: backfill may have to wait long until its log is sent.
    log_in_memory: [Mutex<()>; 2],
    notes: Notes,
    /// Ended when the cache is dropped: the next opening begins it anew.
    tidying: JoinSet<()>,
    listing: Listing,
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
        let mut cache = Self {
            store,
            binary: Arc::new(binary),
            log_in_memory: Default::default(),
            notes,
            tidying: JoinSet::new(),
            listing: Listing::new(ANSWERS_HOLD),
        };
        cache.agree_on_store().await?;
        cache.tidying.spawn(cache.notes.clone().tidy_up(cache.store.clone()));
        Ok(cache)
    }

    /// Reads `nix-cache-info`, or writes it. So wrong credentials are told apart from an empty cache.
    async fn agree_on_store(&self) -> Result<(), CacheError> {
        let forbidden = match self.store.text(layout::CACHE_INFO).await {
            Ok(Some(text)) => {
                let name = &self.store.name;
                return agree_on_store(&text, &self.binary.store_dir, name, &format!("{name}/{}", layout::CACHE_INFO));
            }
            Ok(None) => None,
            // Those who may not list are told this of what isn't there; who may not read would take it for an empty cache.
            Err(error) if error.may_be_missing() => match look::lets_read(&self.store).await {
                Ok(true) => Some(error),
                Ok(false) => return Err(error.into()),
                Err(refused) if refused.class() == Class::Credentials => return Err(error.into()),
                Err(failed) => return Err(failed.into()),
            },
            Err(error) => return Err(error.into()),
        };
        let info = self.binary.cache_info();
        let put = self.store.put_where_none_is(layout::CACHE_INFO, info, layout::CACHE_INFO_TYPE).await;
        match (put, forbidden) {
            (Ok(Put::New | Put::Exists), _) => Ok(()),
            (Err(error), Some(forbidden)) if error.class() == Class::Credentials => Err(forbidden.into()),
            (Err(error), _) => Err(error.into()),
        }
    }

    /// Puts a narinfo in the place of the one that is there, of which `text` makes the new one. One that somebody else puts
    /// there at the same moment is looked at, too, as far as the store knows how.
    async fn put_in_place(&self, file: &str, text: impl Fn(&[u8]) -> String) -> Result<Put, Arc<BucketError>> {
        for _ in 0..TRIES {
            // Those who may not list are told this of what isn't there, and those who may only write of everything.
            let shown = match self.store.small(file).await {
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
            match self.store.put_if(file, content.clone().into(), layout::NARINFO_TYPE, mode).await? {
                Some(Put::New) => return Ok(Put::New),
                Some(Put::Exists) => {}
                None => return self.store.put(file, content, layout::NARINFO_TYPE).await.map(|()| Put::New),
            }
        }
        // Both are true.
        self.store.put(file, text(&[]), layout::NARINFO_TYPE).await.map(|()| Put::New)
    }

    async fn upload(&self, mut push: Push) -> Result<Pushed, CacheError> {
        let known = push.recall().await?;
        let Push { info, nar, arrivals, go_ahead, contents, anew } = push;
        let lane = nar.lane();
        if let Some(known) = known {
            // In this order: an archive goes before what says that it will.
            if self.is_to_stay(&known.url).await && self.store.size(&known.url).await? == Some(known.file_size) {
                // Given up, unless it is read: others wait for who has a seat.
                let nar = Some(nar).filter(|_| self.binary.layout.write_nar_listing);
                go_ahead.await?;
                let put = self.publish(&info, &known, anew).await?;
                let mut read = 0;
                let listing = async {
                    let Some(nar) = nar.filter(|_| put == Put::New) else { return Ok(None) };
                    list(nar, &mut read).await
                };
                self.put_beside(&info, lane, listing).await;
                return Ok(Pushed { read, sent: 0, deduplicated: true });
            }
        }
        let reader = nar.start().await?;
        let (reader, listed) = self.binary.listed(reader);
        let slot = reader.slot();
        // Not before its turn has come: until then others show what the link is like.
        let compression = self.binary.compression();
        let url = self.binary.new_nar_name(&info, compression).map_err(|source| CacheError::Io {
            action: "draw a name for an archive in",
            path: PathBuf::from(&*self.store.name),
            source,
        })?;
        let object = self.store.object(&url).to_string();
        let mut upload = self.notes.begin(&self.store, object.clone()).await?;
        let began = Instant::now();
        let packing = Packing::start(reader, compression, info.nar_size);
        let packed = send::send(&self.store, &url, packing, info.nar_size, &mut upload).await?;
        self.binary.note_pace(&packed, began.elapsed());
        // Its parts are sent, so that nothing of it is held any more.
        drop(slot);
        arrivals.await?;
        go_ahead.await?;
        upload.let_go().await?;
        let stored = packed.stored_at(url);
        let put = match self.publish(&info, &stored, anew).await {
            Ok(put) => put,
            Err(error) => {
                if error.is_certain() {
                    self.notes.take_back_unshown(&self.store, object).await;
                }
                return Err(error.into());
            }
        };
        let deduplicated = put == Put::Exists && self.shows_another(&info, &stored).await;
        let listing = if deduplicated {
            // Another host was faster.
            self.notes.take_back_unshown(&self.store, object).await;
            None
        } else {
            contents.remember(info.nar_hash, &stored).await;
            listed.and_then(Listed::take)
        };
        self.put_beside(&info, lane, async { Ok(listing) }).await;
        Ok(Pushed { read: packed.nar_size, sent: packed.file_size, deduplicated })
    }

    /// Whether no prune is about to remove an archive (`care/prune`). Who may not list can't know, and sends it again.
    async fn is_to_stay(&self, archive: &str) -> bool {
        let pruned = self.store.page(&condemned_with(archive), None).await;
        pruned.is_ok_and(|(names, _)| names.is_empty())
    }

    /// Whether the narinfo that is there names another archive. It may be our own, where a proxy has sent it twice since it
    /// heard nothing of the first time; where that can't be learnt, the archive had better stay.
    async fn shows_another(&self, info: &PathInfo, nar: &StoredNar) -> bool {
        let there = self.store.text(&layout::narinfo_name(&info.path)).await;
        there.is_ok_and(|text| text.is_some_and(|text| layout::field_of(&text, "URL") != Some(nar.url.as_str())))
    }

    /// Puts beside a path that is shown what goes with it. Who reads the cache can do without, so a failure is only noted.
    async fn put_beside(
        &self,
        info: &PathInfo,
        lane: Lane,
        listing: impl Future<Output = Result<Option<Vec<u8>>, CacheError>>,
    ) {
        let lacks = |what: &str, error: &CacheError| {
            debug!("{} lacks the {what} of {}: {}", self.store.name, info.path, one_line(error));
        };
        if let Err(error) = self.put_listing(info, listing).await {
            lacks("list of the files", &error);
        }
        if let Err(error) = self.put_log(info, lane).await {
            lacks("log of the build", &error);
        }
    }

    /// Puts the list of a path's files there, if there is one, over what another build of that path may have left.
    async fn put_listing(
        &self,
        info: &PathInfo,
        listing: impl Future<Output = Result<Option<Vec<u8>>, CacheError>>,
    ) -> Result<(), CacheError> {
        let Some(json) = listing.await? else { return Ok(()) };
        Ok(self.store.put(&layout::listing_name(&info.path), json, layout::JSON_TYPE).await?)
    }

    /// Puts the log of a path's build there, if there is one and the bucket lacks it. One of a lane is in memory at a time.
    async fn put_log(&self, info: &PathInfo, lane: Lane) -> Result<(), CacheError> {
        let Some(derivation) = self.binary.logged(info) else { return Ok(()) };
        let (binary, whose) = (Arc::clone(&self.binary), derivation.clone());
        // Most have none, and needn't be asked for or wait for others.
        let is_here = spawn_blocking(move || binary.build_log(&whose).is_some()).await;
        if !is_here.map_err(|_| CacheError::LostThread { action: "open a log" })? {
            return Ok(());
        }
        let file = layout::log_name(derivation);
        if self.store.has(&file).await? {
            return Ok(());
        }
        let _alone = self.log_in_memory[lane as usize].lock().await;
        // Another output of the same build may have brought it meanwhile.
        if self.store.has(&file).await? {
            return Ok(());
        }
        let Some(text) = whole_log(&self.binary, derivation).await? else { return Ok(()) };
        self.store.put_where_none_is(&file, text, layout::LOG_TYPE).await?;
        Ok(())
    }

    /// Shows a path, by the narinfo that names its archive; with `anew`, in the place of what is shown.
    async fn publish(&self, info: &PathInfo, nar: &StoredNar, anew: bool) -> Result<Put, Arc<BucketError>> {
        let file = layout::narinfo_name(&info.path);
        let put = if anew {
            self.put_in_place(&file, |shown| self.binary.narinfo_in_place_of(shown, info, nar)).await?
        } else {
            self.store.put_where_none_is(&file, self.binary.narinfo(info, nar), layout::NARINFO_TYPE).await?
        };
        self.listing.brought(&info.path);
        Ok(put)
    }

    /// Which of these paths the bucket lacks. Asks for those of which it isn't known whether they are there, by their places.
    async fn lacks(&self, paths: &[StorePath], mut told: Vec<Option<bool>>) -> Result<Vec<StorePath>, CacheError> {
        let unknown: Vec<usize> = (0..paths.len()).filter(|place| told[*place].is_none()).collect();
        let (mut asking, mut unknown) = (JoinSet::new(), unknown.into_iter());
        loop {
            while asking.len() < ASKED_AT_ONCE
                && let Some(place) = unknown.next()
            {
                let (store, narinfo) = (self.store.clone(), layout::narinfo_name(&paths[place]));
                asking.spawn(Tap::of_this_task().scope(async move { (place, store.has(&narinfo).await) }));
            }
            match asking.join_next().await {
                Some(Ok((place, has))) => told[place] = Some(has?),
                Some(Err(_)) => return Err(CacheError::LostThread { action: "look for what is missing" }),
                None => break,
            }
        }
        Ok(paths.iter().zip(told).filter(|(_, there)| *there == Some(false)).map(|(path, _)| path.clone()).collect())
    }
}

impl Cache for BucketCache {
    fn missing<'a>(&'a self, paths: &'a [StorePath]) -> BoxFuture<'a, Result<Vec<StorePath>, CacheError>> {
        Box::pin(async move {
            let told = self.listing.tells(&self.store, paths).await;
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
        let server = self.store.server.as_deref()?;
        Some(Box::pin(server.touch()))
    }

    fn forget(&self) {
        self.listing.forget();
    }

    fn add_realisations(self: Arc<Self>, info: PathInfo) -> BoxFuture<'static, Result<(), CacheError>> {
        Box::pin(async move {
            for RealisationFile { name, json, .. } in self.binary.realisations(&info).await? {
                if !self.store.has(&name).await? {
                    self.store.put_where_none_is(&name, json, layout::JSON_TYPE).await?;
                }
            }
            Ok(())
        })
    }

    fn push(self: Arc<Self>, push: Push) -> BoxFuture<'static, Result<Pushed, CacheError>> {
        Box::pin(async move { self.upload(push).await })
    }
}

#[cfg(test)]
mod tests;
