//! A binary cache on any web server that takes what is put there: `https://HOST/FOLDER`. nginx and Apache with WebDAV,
//! Caddy, Artifactory, Nexus and others do.
//!
//! How paths are put there is said by `cache/remote`. Nothing can be put only where nothing is: of two hosts that upload one
//! path at the same time the last wins, and both narinfos are true. What fails on its way is deleted, as far as the server
//! knows how; a reader never sees it anyway.
//!
//! Servers differ. One that doesn't know HEAD is asked for the first byte; one that wants sizes beforehand gets archives as
//! they are, not packed; one that lacks a folder is asked to make it.
//!
//! Deliberately absent: trying again, and listing what is there, for which there is no common way.

mod files;
mod look;
mod remote;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use self::files::{Files, Found};
pub use self::look::{look, try_out};
use super::binary::agree_on_store;
use super::http::{Action, HttpError, HttpOptions};
use super::remote::{ANSWERS_HOLD, RemoteCache, ask_each};
use super::unfinished::Notes;
use super::{BinaryCache, BoxFuture, Cache, CacheError, Push, Pushed, layout};
use crate::nix::{PathInfo, StorePath};

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
    cache: RemoteCache<Files>,
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
        let files = Files::new(&options).await?;
        let notes = Notes::open(&unfinished)?;
        read_or_write_info(&files, &binary).await?;
        refuse_who_has_everything(&files).await?;
        Ok(Self { cache: RemoteCache::new(files, binary, notes) })
    }
}

/// Reads `nix-cache-info`, or writes it and reads it back: a server may say yes to everything and keep nothing.
async fn read_or_write_info(files: &Files, binary: &BinaryCache) -> Result<(), CacheError> {
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
    let (text, root, file) = (String::from_utf8_lossy(&text), files.url(""), files.url(layout::CACHE_INFO));
    agree_on_store(&text, &binary.store_dir, root.as_str(), file.as_str())
}

/// Whoever stands there may answer every question with a page, as some do for a while: what it says then is no reason to
/// leave a path out.
async fn refuse_who_has_everything(files: &Files) -> Result<(), HttpError> {
    if !files.is_there(NOBODYS_NARINFO).await? {
        return Ok(());
    }
    let problem =
        "it has a file of every name, and so what is missing can't be learnt; let it answer 404 to what isn't there";
    Err(files.not_understood(Action::Look, problem))
}

impl Cache for PutCache {
    fn missing<'a>(&'a self, paths: &'a [StorePath]) -> BoxFuture<'a, Result<Vec<StorePath>, CacheError>> {
        Box::pin(async move {
            let files = &self.cache.remote;
            let ask = |narinfo: String| {
                let files = files.clone();
                async move { Ok(files.look(&narinfo).await?) }
            };
            let found = ask_each(paths.iter().map(layout::narinfo_name).collect(), ASKED_AT_ONCE, ask).await?;
            if found.iter().any(|found| *found != Found::Nothing) {
                refuse_who_has_everything(files).await?;
            }
            let lacks = |found: &Found| !matches!(found, Found::Some(_));
            Ok(paths.iter().zip(found).filter(|(_, found)| lacks(found)).map(|(path, _)| path.clone()).collect())
        })
    }

    fn answers_hold(&self) -> Duration {
        ANSWERS_HOLD
    }

    fn touch(&self) -> Option<BoxFuture<'_, bool>> {
        Some(Box::pin(self.cache.remote.touch()))
    }

    fn add_realisations(self: Arc<Self>, info: PathInfo) -> BoxFuture<'static, Result<(), CacheError>> {
        Box::pin(async move { self.cache.add_realisations(&info).await })
    }

    fn push(self: Arc<Self>, push: Push) -> BoxFuture<'static, Result<Pushed, CacheError>> {
        Box::pin(async move { self.cache.upload(push).await })
    }
}
