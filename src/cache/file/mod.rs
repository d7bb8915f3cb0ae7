//! A binary cache in a directory: `file:///DIR`.
//!
//! Every file appears whole: it is written in `.tmp`, synced, and renamed. `commit` says in which order, so that a
//! narinfo never stands without its archive or before its references. One that stands already gives way to the new one,
//! which keeps the signatures that others have made over the same. The same content is written once: another path's
//! narinfo names the archive that is there. What a crash leaves in `.tmp` is swept at
//! the next start of the same host, together with archives whose narinfo it kept from appearing; what a host leaves that
//! doesn't come back, or whose queue was replaced, by whoever opens the cache a day later.
//!
//! Deliberately absent: a memory of what is there. A look at the file costs some microseconds and is always right.

mod commit;
mod look;
mod shelf;
mod sweep;
mod temp;
mod text;
mod write;

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use self::commit::{Committer, Files};
use self::look::check_store;
pub use self::look::{look, try_out};
pub use self::shelf::FileShelf;
use self::sweep::sweep;
use self::temp::{TempFile, io_error};
use self::write::{WayOut, Written};
use super::binary::list;
use super::{BinaryCache, BoxFuture, Cache, CacheError, Hindrance, NarStream, Push, Pushed, layout};
use crate::disk::{NoRoom, Place};
use crate::limit::Tap;
use crate::nix::{PathInfo, StorePath};

/// Folder of the files that are being written.
const TEMP_DIR: &str = ".tmp";

/// What a cache in a directory is made of.
pub struct FileOptions {
    /// The directory; made if it is missing.
    pub dir: PathBuf,
    /// What it has in common with all binary caches.
    pub binary: BinaryCache,
    /// Tells this host's temporary files from another's: letters, digits and dashes.
    pub instance: String,
    /// The same directory, as one whose file system is watched: it takes what that admits.
    pub place: Arc<Place>,
    /// Bytes that a single archive may have at most, packed: one that is larger would be dropped as soon as the cache had
    /// anything else.
    pub largest: Option<u64>,
}

/// A binary cache in a directory.
pub struct FileCache {
    options: FileOptions,
    committer: Committer,
}

impl FileCache {
    /// Opens the cache, makes what is missing of it, and sweeps what an earlier run of `instance` left behind.
    /// It may be open already in this process.
    ///
    /// Call it within a tokio runtime; it blocks for the time of a few file operations.
    ///
    /// # Errors
    /// [`CacheError::OtherStore`] where the cache belongs to another store directory; [`CacheError::NoRoom`] where its file
    /// system is gone; [`CacheError::Io`].
    pub fn open(options: FileOptions) -> Result<Self, CacheError> {
        // Where its file system has gone, what it was mounted on is no place for it.
        options.place.look().map_err(NoRoom::from)?;
        let temp_dir = options.dir.join(TEMP_DIR);
        for dir in [&options.dir.join(layout::NAR_DIR), &temp_dir] {
            DirBuilder::new().recursive(true).create(dir).map_err(io_error("create", dir))?;
        }
        sweep(&options.dir, &options.instance)?;
        let committer = Committer::start(options.dir.clone());
        let cache = Self { options, committer };
        cache.agree_on_store()?;
        Ok(cache)
    }

    /// Reads `nix-cache-info`, or writes it.
    fn agree_on_store(&self) -> Result<(), CacheError> {
        let FileOptions { dir, binary, .. } = &self.options;
        if check_store(dir, &binary.store_dir)? {
            return Ok(());
        }
        let (info, target) = (binary.cache_info(), dir.join(layout::CACHE_INFO));
        TempFile::holding(self.new_temp(), target, info.as_bytes(), "write nix-cache-info in")?.publish_durably()?;
        temp::sync_dir(dir)
    }

    /// Where a file is written that nobody sees yet.
    fn new_temp(&self) -> PathBuf {
        self.options.dir.join(TEMP_DIR).join(temp::new_name(&self.options.instance))
    }
}

impl FileCache {
    /// Shows a path whose archive is there already.
    async fn publish_beside(
        self: Arc<Self>,
        info: &PathInfo,
        nar: NarStream,
        narinfo: TempFile,
        go_ahead: BoxFuture<'static, Result<(), Hindrance>>,
    ) -> Result<Pushed, CacheError> {
        // Given up, unless it is read: others wait for who has a seat in a reading.
        let nar = Some(nar).filter(|_| self.options.binary.layout.write_nar_listing);
        go_ahead.await?;
        Arc::clone(&self).copy_log(info).await?;
        self.committer.publish(Files { nar: None, nar_synced: true, listing: None, narinfo }).await?;
        // Not before: to wait for a turn and to read all of it may take longer than the time after which an archive that was
        // there goes.
        let read = match nar {
            Some(nar) => self.add_listing(info, nar).await,
            None => 0,
        };
        Ok(Pushed { read, sent: 0, deduplicated: true })
    }

    /// Puts the list of its files beside a path that is shown, if that can be done. Returns the bytes that were read for it.
    async fn add_listing(self: Arc<Self>, info: &PathInfo, nar: NarStream) -> u64 {
        let mut read = 0;
        match list(nar, &mut read).await {
            Ok(Some(json)) => {
                let own = info.clone();
                // A thread that is lost takes with it what the path can do without.
                let _ = spawn_blocking(move || self.put_listing_if_it_can(&own, &json)).await;
            }
            Ok(None) => {}
            Err(error) => self.lacks_listing(info, &error),
        }
        read
    }

    /// Puts the log of a path's build there, if the cache wants that.
    async fn copy_log(self: Arc<Self>, info: &PathInfo) -> Result<(), CacheError> {
        let Some(derivation) = self.options.binary.logged(info).cloned() else { return Ok(()) };
        let put = spawn_blocking(move || self.put_log_if_it_can(&derivation)).await;
        put.map_err(|_| CacheError::LostThread { action: "copy a log" })?
    }
}

impl Cache for FileCache {
    fn missing<'a>(&'a self, paths: &'a [StorePath]) -> BoxFuture<'a, Result<Vec<StorePath>, CacheError>> {
        // Some microseconds a path, unless the file system hangs: then only this cache is to hang with it. The thread is one
        // of its own that ends, since the runtime's stay, and each keeps memory.
        let (dir, paths) = (self.options.dir.clone(), paths.to_vec());
        let look = move || paths.into_iter().filter_map(|path| lacks(&dir, path).transpose()).collect();
        let (answer, answered) = oneshot::channel();
        // Nobody waiting any more is fine; where the system gives no thread, the answer is lost and that is said.
        let _ = thread::Builder::new().name("look".to_owned()).spawn(move || answer.send(look()));
        Box::pin(
            async move { answered.await.unwrap_or(Err(CacheError::LostThread { action: "look for what is missing" })) },
        )
    }

    /// Its narinfo becomes young, as that of an upload is: who drops paths looks at that once more before each, and puts back
    /// what an upload needs that is under way still.
    fn note_use<'a>(&'a self, path: &'a StorePath) -> BoxFuture<'a, bool> {
        if self.options.largest.is_none() {
            return Box::pin(async { true });
        }
        let narinfo = self.options.dir.join(layout::narinfo_name(path));
        Box::pin(async move {
            let made_young = spawn_blocking(move || temp::make_young(&narinfo)).await;
            // Where another's file can't be made young, it is there all the same.
            !matches!(made_young, Ok(Err(error)) if error.kind() == ErrorKind::NotFound)
        })
    }

    fn add_realisations(self: Arc<Self>, info: PathInfo) -> BoxFuture<'static, Result<(), CacheError>> {
        Box::pin(async move {
            let files = self.options.binary.realisations(&info).await?;
            if files.is_empty() {
                return Ok(());
            }
            let put = spawn_blocking(move || self.put_realisations(files)).await;
            put.map_err(|_| CacheError::LostThread { action: "write realisations" })?
        })
    }

    fn push(self: Arc<Self>, mut push: Push) -> BoxFuture<'static, Result<Pushed, CacheError>> {
        Box::pin(async move {
            let known = push.recall().await?;
            let Push { info, nar, arrivals, go_ahead, contents, .. } = push;
            if let Some(known) = known {
                let (cache, own) = (Arc::clone(&self), info.clone());
                let narinfo = spawn_blocking(move || cache.write_beside(&own, &known)).await;
                let narinfo = narinfo.map_err(|_| CacheError::LostThread { action: "write a narinfo" })??;
                if let Some(narinfo) = narinfo {
                    return self.publish_beside(&info, nar, narinfo, go_ahead).await;
                }
            }
            let (place, nar_size) = (Arc::clone(&self.options.place), info.nar_size);
            let admitted = spawn_blocking(move || place.admits(nar_size)).await;
            admitted.map_err(|_| CacheError::LostThread { action: "look how much room there is" })??;
            let nar = nar.start().await?;
            let (cache, own) = (Arc::clone(&self), info.clone());
            // A push that is dropped, since the policy denies its path by now, leaves no thread behind that packs it to its
            // end.
            let (_ends_the_thread, dropped) = oneshot::channel();
            let way_out = WayOut { tap: Tap::of_this_task(), dropped };
            let written = spawn_blocking(move || cache.write(&own, nar, way_out)).await;
            let written = written.map_err(|_| CacheError::LostThread { action: "pack a path" })??;
            arrivals.await?;
            go_ahead.await?;
            Arc::clone(&self).copy_log(&info).await?;
            let Written { files, stored } = written;
            self.committer.publish(files).await?;
            contents.remember(info.nar_hash, &stored).await;
            Ok(Pushed { read: stored.nar_size, sent: stored.file_size, deduplicated: false })
        })
    }
}

/// The path, if the cache in that directory lacks it.
fn lacks(dir: &Path, path: StorePath) -> Result<Option<StorePath>, CacheError> {
    let file = dir.join(layout::narinfo_name(&path));
    match fs::metadata(&file) {
        // An empty narinfo is what a program that doesn't sync leaves after a power failure.
        Ok(metadata) => Ok((metadata.len() == 0).then_some(path)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Some(path)),
        Err(source) => Err(io_error("look for", &file)(source)),
    }
}

#[cfg(test)]
mod tests;
