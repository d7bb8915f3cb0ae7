//! A binary cache on any web server that takes what is put there: `https://HOST/FOLDER`. nginx and Apache with WebDAV,
//! Caddy, Artifactory, Nexus and others do.
//!
//! An archive is sent as it is packed, under a name that no other upload has, then the narinfo that names it. Nothing is ever
//! overwritten but `nix-cache-info`, a narinfo or a list of files by its like: of two hosts that upload one path at the same
//! time the last wins, and both narinfos are true. The list of a path's files and the log of its build come last. What fails
//! on its way is deleted, as far as the server knows how (`cache/unfinished`); a reader never sees it anyway.
//!
//! Servers differ. One that doesn't know HEAD is asked for the first byte; one that wants sizes beforehand gets archives as
//! they are, not packed; one that lacks a folder is asked to make it.
//!
//! Deliberately absent: trying again, and listing what is there, for which there is no common way.

mod files;
mod look;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::Instant;
use tracing::{debug, info};

use self::files::{Files, Found};
pub use self::look::{look, try_out};
use super::binary::{RealisationFile, agree_on_store, list, whole_log};
use super::care::doomed_name;
use super::http::{Action, Body, HttpError, HttpOptions, Progress};
use super::pack::{Packed, Packing};
use super::unfinished::{Notes, Upload};
use super::{
    BinaryCache, BoxFuture, Cache, CacheError, Compression, Listed, NarStream, Push, Pushed, StoredNar, layout,
};
use crate::limit::{Lane, Tap};
use crate::nix::{PathInfo, StorePath};
use crate::report::one_line;

/// So long an answer that a path is there is believed. What removes paths from such a server does it by the day.
const ANSWERS_HOLD: Duration = Duration::from_secs(5 * 60);

/// So many files are asked for at once, each by a request of its own. Web servers of one's own are asked, not those of a
/// provider.
const ASKED_AT_ONCE: usize = 16;

/// The narinfo of a path that nobody has.
const NOBODYS_NARINFO: &str = "00000000000000000000000000000000.narinfo";

/// What a cache on a web server is made of.
#[derive(Clone)]
pub struct PutOptions {
    /// `https://HOST/FOLDER/`, with a slash at its end.
    pub endpoint: String,
    /// How to speak to it.
    pub http: HttpOptions,
    /// Whether this host uploads to itself.
    pub allow_self: bool,
}

/// A binary cache on a web server.
pub struct PutCache {
    files: Files,
    binary: Arc<BinaryCache>,
    /// Held by who has a log in memory, one for each lane: backfill may have to wait long until its log is sent.
    log_in_memory: [Mutex<()>; 2],
    notes: Notes,
    /// Ended when the cache is dropped: the next opening begins it anew.
    tidying: JoinSet<()>,
    /// Whether the server has been found to want sizes beforehand.
    wants_sizes: AtomicBool,
}

/// An archive that has arrived, and that no narinfo names yet.
struct Arrived {
    nar: StoredNar,
    upload: Upload<Files>,
    listing: Option<Vec<u8>>,
}

impl PutCache {
    /// Finds out whether the server lets us in and has a cache for this host's store, and makes it one if it is none. What an
    /// earlier run has left behind is deleted meanwhile.
    ///
    /// Call it within a tokio runtime.
    ///
    /// # Errors
    /// [`CacheError::Http`]; [`CacheError::OwnServer`]; [`CacheError::OtherStore`], [`CacheError::Malformed`].
    pub async fn open(options: PutOptions, binary: BinaryCache, unfinished: PathBuf) -> Result<Self, CacheError> {
        let mut cache = Self {
            files: Files::new(&options).await?,
            binary: Arc::new(binary),
            log_in_memory: Default::default(),
            notes: Notes::open(&unfinished)?,
            tidying: JoinSet::new(),
            wants_sizes: AtomicBool::new(false),
        };
        cache.agree_on_store().await?;
        cache.tidying.spawn(cache.notes.clone().tidy_up(cache.files.clone()));
        Ok(cache)
    }

    /// Reads `nix-cache-info`, or writes it and reads it back: a server may say yes to everything and keep nothing.
    async fn agree_on_store(&self) -> Result<(), CacheError> {
        let Self { files, binary, .. } = self;
        let text = match files.read(layout::CACHE_INFO).await? {
            Some(text) => text,
            None => {
                files.put(layout::CACHE_INFO, binary.cache_info(), layout::CACHE_INFO_TYPE).await?;
                // So that the first archives needn't find out one by one that it is missing.
                files.make_folder(&format!("{}/", layout::NAR_DIR), Instant::now()).await;
                files.read(layout::CACHE_INFO).await?.ok_or_else(|| {
                    let problem =
                        "it has taken `nix-cache-info` and does not give it back; does it keep what is put there?";
                    files.not_understood(Action::Read, problem)
                })?
            }
        };
        let root = files.url("");
        agree_on_store(
            &String::from_utf8_lossy(&text),
            &binary.store_dir,
            root.as_str(),
            files.url(layout::CACHE_INFO).as_str(),
        )?;
        Ok(self.refuse_who_has_everything().await?)
    }

    /// Whoever stands there may answer every question with a page, as some do for a while: what it says then is no reason to
    /// leave a path out.
    async fn refuse_who_has_everything(&self) -> Result<(), HttpError> {
        if !self.files.is_there(NOBODYS_NARINFO).await? {
            return Ok(());
        }
        let problem = "it has a file of every name, and so what is missing can't be learnt; let it answer 404 to what \
                       isn't there";
        Err(self.files.not_understood(Action::Look, problem))
    }

    async fn upload(&self, mut push: Push) -> Result<Pushed, CacheError> {
        let known = push.recall().await?;
        let Push { info, nar, arrivals, go_ahead, contents, .. } = push;
        let lane = nar.lane();
        if let Some(known) = known {
            // In this order: an archive goes before what says that it will.
            if self.is_to_stay(&known.url).await && self.files.has_whole(&known.url, known.file_size).await? {
                // Given up, unless it is read: others wait for who has a seat in a reading.
                let nar = Some(nar).filter(|_| self.binary.layout.write_nar_listing);
                go_ahead.await?;
                self.publish(&info, &known).await?;
                let mut read = 0;
                // Not before: to wait for a turn and to read all of it may take longer than the time after which an archive that
                // was there goes.
                let listing = async {
                    match nar {
                        Some(nar) => list(nar, &mut read).await,
                        None => Ok(None),
                    }
                };
                self.put_beside(&info, lane, listing).await;
                return Ok(Pushed { read, sent: 0, deduplicated: true });
            }
        }
        let Arrived { nar, upload, listing } = self.send(&info, nar).await?;
        arrivals.await?;
        go_ahead.await?;
        upload.let_go().await?;
        if let Err(error) = self.publish(&info, &nar).await {
            if is_certain(&error) {
                self.notes.take_back_unshown(&self.files, nar.url).await;
            }
            return Err(error.into());
        }
        contents.remember(info.nar_hash, &nar).await;
        // Not before: a log may have to wait long until it is sent, and the go-ahead holds for a moment.
        self.put_beside(&info, lane, async { Ok(listing) }).await;
        Ok(Pushed { read: nar.nar_size, sent: nar.file_size, deduplicated: false })
    }

    /// Whether no prune, by whoever has the files, is about to remove an archive (`care/prune`). Where that can't be learnt,
    /// it is sent again.
    async fn is_to_stay(&self, archive: &str) -> bool {
        self.files.is_there(&doomed_name(archive)).await.is_ok_and(|is_doomed| !is_doomed)
    }

    /// Sends an archive, and again where the server has shown what it takes for that.
    async fn send(&self, info: &PathInfo, mut nar: NarStream) -> Result<Arrived, CacheError> {
        let (mut was_packed, mut had_folder) = (true, false);
        loop {
            let (again, began) = (nar.again(), Instant::now());
            let sent = self.send_once(info, nar).await;
            match &sent {
                Err(CacheError::Http(HttpError::Status { status: 411, .. })) if was_packed && info.nar_size > 0 => {
                    was_packed = false;
                    if !self.wants_sizes.swap(true, Ordering::Relaxed) {
                        info!("{} wants to be told sizes beforehand: it gets archives unpacked", self.files.url(""));
                    }
                }
                Err(CacheError::Http(error)) if !had_folder => {
                    had_folder = true;
                    if !self.files.has_made_the_folder(error, &format!("{}/", layout::NAR_DIR), began).await {
                        return sent;
                    }
                }
                _ => return sent,
            }
            nar = again;
        }
    }

    async fn send_once(&self, info: &PathInfo, nar: NarStream) -> Result<Arrived, CacheError> {
        let (reader, listed) = self.binary.listed(nar.start().await?);
        // Held until all of it is sent, and not while references are waited for.
        let _slot = reader.slot();
        // Not before its turn has come: until then others show what the link is like.
        let wants_sizes = self.wants_sizes.load(Ordering::Relaxed);
        let compression = if wants_sizes { Compression::None } else { self.binary.compression() };
        let url = self.binary.new_nar_name(info, compression).map_err(|source| CacheError::Io {
            action: "draw a name for an archive in",
            path: self.files.path(),
            source,
        })?;
        let mut upload = self.notes.begin(&self.files, url.clone()).await?;
        // What isn't packed is as long, and hashes to the same, as Nix has registered: the reader sees to that.
        let as_registered = Packed {
            compression,
            file_hash: info.nar_hash,
            file_size: info.nar_size,
            nar_size: info.nar_size,
            took: None,
        };
        let as_registered = Some(as_registered).filter(|_| compression == Compression::None && info.nar_size > 0);
        let began = Instant::now();
        let body = match as_registered {
            Some(_) => Body::new(Bytes::new(), reader),
            None => Body::packed(Packing::start(reader, compression, info.nar_size)),
        };
        let progress = body.progress();
        let length = as_registered.map(|packed| packed.file_size);
        if let Err(error) = self.files.put_archive(&url, body, length).await {
            // Only of that it is certain: a proxy may cut a body with 400 or 413 when what stands behind it has some of the file.
            if error.is_about_credentials() {
                upload.nothing_was_taken().await;
            }
            return Err(progress.failure().map_or_else(|| error.into(), CacheError::from));
        }
        let packed = self.all_of_it(&progress, as_registered)?;
        self.binary.note_pace(&packed, began.elapsed());
        Ok(Arrived { nar: packed.stored_at(url), upload, listing: listed.and_then(Listed::take) })
    }

    /// What an archive came to that the server says it has.
    fn all_of_it(&self, progress: &Progress, as_registered: Option<Packed>) -> Result<Packed, HttpError> {
        let packed = match as_registered {
            Some(packed) => Some(packed).filter(|packed| progress.offered() == packed.file_size),
            None => progress.packed(),
        };
        packed.ok_or_else(|| {
            self.files.not_understood(Action::Put, "it says that it has everything, before all of it was sent")
        })
    }

    /// Puts beside a path that is shown what goes with it. Who reads the cache can do without, so a failure is only noted.
    async fn put_beside(
        &self,
        info: &PathInfo,
        lane: Lane,
        listing: impl Future<Output = Result<Option<Vec<u8>>, CacheError>>,
    ) {
        let lacks = |what: &str, error: &CacheError| {
            debug!("{} lacks the {what} of {}: {}", self.files.url(""), info.path, one_line(error));
        };
        if let Err(error) = self.put_listing(info, listing).await {
            lacks("list of the files", &error);
        }
        if let Err(error) = self.put_log(info, lane).await {
            lacks("log of the build", &error);
        }
    }

    /// Puts the list of a path's files there, if there is one.
    async fn put_listing(
        &self,
        info: &PathInfo,
        listing: impl Future<Output = Result<Option<Vec<u8>>, CacheError>>,
    ) -> Result<(), CacheError> {
        let Some(json) = listing.await? else { return Ok(()) };
        Ok(self.files.put(&layout::listing_name(&info.path), json, layout::JSON_TYPE).await?)
    }

    /// Puts the log of a path's build there, if this host has one and the server lacks it. One of a lane is in memory at a time.
    async fn put_log(&self, info: &PathInfo, lane: Lane) -> Result<(), CacheError> {
        let Some(derivation) = self.binary.logged(info) else { return Ok(()) };
        let (binary, whose) = (Arc::clone(&self.binary), derivation.clone());
        // Most have none, and needn't be asked for or wait for others.
        let is_here = spawn_blocking(move || binary.build_log(&whose).is_some()).await;
        let file = layout::log_name(derivation);
        if !is_here.map_err(|_| CacheError::LostThread { action: "open a log" })? || self.files.has(&file).await? {
            return Ok(());
        }
        let _alone = self.log_in_memory[lane as usize].lock().await;
        // Another output of the same build may have brought it meanwhile.
        if !self.files.has(&file).await?
            && let Some(text) = whole_log(&self.binary, derivation).await?
        {
            self.files.put(&file, text, layout::LOG_TYPE).await?;
        }
        Ok(())
    }

    /// Shows a path, by the narinfo that names its archive.
    async fn publish(&self, info: &PathInfo, nar: &StoredNar) -> Result<(), HttpError> {
        let narinfo = self.binary.narinfo(info, nar);
        self.files.put(&layout::narinfo_name(&info.path), narinfo, layout::NARINFO_TYPE).await
    }
}

/// Whether the server certainly didn't take what was put there. Where a proxy has sent it twice, the second may be told 408 or
/// 423 since the server is still at work with the first. 409 here means that the file's folder is missing, which is certain;
/// an object store says it of two that come at once (`bucket/error`), where it isn't.
fn is_certain(error: &HttpError) -> bool {
    matches!(error, HttpError::Status { status: 400..=407 | 409..=422 | 424..=499, .. })
}

impl Cache for PutCache {
    fn missing<'a>(&'a self, paths: &'a [StorePath]) -> BoxFuture<'a, Result<Vec<StorePath>, CacheError>> {
        Box::pin(async move {
            let mut found = vec![Found::Nothing; paths.len()];
            let (mut asking, mut next) = (JoinSet::new(), paths.iter().enumerate());
            loop {
                while asking.len() < ASKED_AT_ONCE
                    && let Some((place, path)) = next.next()
                {
                    let (files, narinfo) = (self.files.clone(), layout::narinfo_name(path));
                    asking.spawn(Tap::of_this_task().scope(async move { (place, files.look(&narinfo).await) }));
                }
                match asking.join_next().await {
                    Some(Ok((place, file))) => found[place] = file?,
                    Some(Err(_)) => return Err(CacheError::LostThread { action: "look for what is missing" }),
                    None => break,
                }
            }
            if found.iter().any(|found| *found != Found::Nothing) {
                self.refuse_who_has_everything().await?;
            }
            let lacks = |found: &Found| !matches!(found, Found::Some(_));
            Ok(paths.iter().zip(found).filter(|(_, found)| lacks(found)).map(|(path, _)| path.clone()).collect())
        })
    }

    fn answers_hold(&self) -> Duration {
        ANSWERS_HOLD
    }

    fn touch(&self) -> Option<BoxFuture<'_, bool>> {
        Some(Box::pin(self.files.touch()))
    }

    fn add_realisations(self: Arc<Self>, info: PathInfo) -> BoxFuture<'static, Result<(), CacheError>> {
        Box::pin(async move {
            for RealisationFile { name, json, .. } in self.binary.realisations(&info).await? {
                if !self.files.has(&name).await? {
                    self.files.put(&name, json, layout::JSON_TYPE).await?;
                }
            }
            Ok(())
        })
    }

    fn push(self: Arc<Self>, push: Push) -> BoxFuture<'static, Result<Pushed, CacheError>> {
        Box::pin(async move { self.upload(push).await })
    }
}
