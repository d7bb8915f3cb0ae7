//! A binary cache in a directory: `file:///DIR`.
//!
//! Every file appears whole: it is written in `.tmp`, synced, and renamed. `commit` says in which order, so that a
//! narinfo never stands without its archive or before its references. The same content is written once: another path's
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
mod write;

use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Write};
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
    /// Bytes that the cache may have at most. Here that only means that no single archive may be larger; who keeps it so is
    /// another.
    pub max_size: Option<u64>,
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
        let path = dir.join(layout::CACHE_INFO);
        let (mut temp, mut file) = self.temp_file(path.clone())?;
        file.write_all(binary.cache_info().as_bytes()).map_err(io_error("write", &path))?;
        temp.sync()?;
        temp.publish()?;
        temp::sync_dir(dir)
    }

    fn temp_file(&self, target: PathBuf) -> Result<(TempFile, File), CacheError> {
        TempFile::create(self.options.dir.join(TEMP_DIR).join(temp::new_name(&self.options.instance)), target)
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
        let mut read = 0;
        let listing = match self.options.binary.layout.write_nar_listing {
            true => list(nar, &mut read).await?,
            // Given up: others wait for who has a seat in a reading.
            false => {
                drop(nar);
                None
            }
        };
        let (cache, own) = (Arc::clone(&self), info.clone());
        let listing = spawn_blocking(move || listing.and_then(|json| cache.write_listing_if_it_can(&own, &json))).await;
        let listing = listing.map_err(|_| CacheError::LostThread { action: "write a listing" })?;
        go_ahead.await?;
        Arc::clone(&self).copy_log(info).await?;
        self.committer.publish(Files { nar: None, nar_synced: true, listing, narinfo }).await?;
        Ok(Pushed { read, sent: 0, deduplicated: true })
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

    fn push(self: Arc<Self>, push: Push) -> BoxFuture<'static, Result<Pushed, CacheError>> {
        Box::pin(async move {
            let Push { info, nar, mut arrivals, go_ahead, contents } = push;
            let known = contents.recall(info.nar_hash).await;
            if let Some(known) = known {
                // The archive is looked for when that is over: it may take hours, in which a cache is pruned. Who waits has
                // no seat in a reading that others share.
                arrivals.as_mut().await?;
                arrivals = Box::pin(async { Ok(()) });
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
mod tests {
    use std::time::Duration;

    use super::write::GrowingFile;
    use super::*;
    use crate::cache::binary::RealisationFile;
    use crate::cache::{Compression, Layout, Pace, StoredNar};
    use crate::disk::{Terms, Threshold, Thresholds, What};
    use crate::limit::{Lane, Rate, Rates, Shaper};
    use crate::nix::{NarHash, SecretKey, StoreDir, StoreFacts};

    fn options(dir: &Path) -> FileOptions {
        FileOptions {
            dir: dir.to_owned(),
            binary: BinaryCache {
                store_dir: StoreDir::default(),
                layout: Layout::default(),
                key: SecretKey::generate("test-1").expect("randomness"),
                log_dir: PathBuf::new(),
                facts: StoreFacts::new(PathBuf::new(), PathBuf::new(), StoreDir::default()),
                pace: Pace::default(),
            },
            instance: "0123".to_owned(),
            place: Arc::new(Place::new(What::Cache("test".to_owned()), dir.to_owned(), Terms::default())),
            max_size: None,
        }
    }

    #[tokio::test]
    async fn opened_anew_it_leaves_running_uploads_alone_and_sweeps_what_a_crash_left() {
        let dir = tempfile::tempdir().expect("a folder");
        let first = FileCache::open(options(dir.path())).expect("opened");
        let (_under_way, _) = first.temp_file(dir.path().join("a")).expect("created");
        let temp_dir = dir.path().join(TEMP_DIR);
        for name in ["0123.deadbeef-1.0", "other.deadbeef-1.0"] {
            fs::write(temp_dir.join(name), "").expect("written");
        }
        let second = FileCache::open(options(dir.path())).expect("opened again");
        let (_its_own, _) = second.temp_file(dir.path().join("b")).expect("a name of its own");
        let names: Vec<_> = fs::read_dir(&temp_dir).expect("listed").flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(names.len(), 3, "{names:?}");
        assert!(!names.iter().any(|name| name == "0123.deadbeef-1.0"), "{names:?}");
    }

    #[tokio::test]
    async fn what_a_crash_leaves_of_a_path_that_names_anothers_archive_leaves_that_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let cache = FileCache::open(options(dir.path())).expect("opened");
        let path = StorePath::from_base_name("0123456789abcdfghijklmnpqrsvwxyz-a").expect("a path");
        let info = PathInfo {
            id: Some(1),
            path,
            nar_hash: NarHash([7; 32]),
            nar_size: 3,
            registration_time: 0,
            deriver: None,
            ultimate: true,
            sigs: Vec::new(),
            ca: None,
            references: Some(Vec::new()),
        };
        let stored = StoredNar {
            url: "nar/others.nar".to_owned(),
            compression: Compression::None,
            file_hash: info.nar_hash,
            file_size: 3,
            nar_size: 3,
        };
        assert!(cache.write_beside(&info, &stored).expect("looked").is_none(), "it isn't there");
        let archive = dir.path().join(&stored.url);
        fs::write(&archive, "cut").expect("written");
        let left = cache.write_beside(&info, &stored).expect("written").expect("it is there");
        // As an earlier run would have left it.
        let written = fs::read_dir(dir.path().join(TEMP_DIR)).expect("listed").flatten().next().expect("a file").path();
        let name = written.file_name().expect("a name").to_string_lossy().into_owned();
        let (_, number) = name.split_once('.').and_then(|(_, rest)| rest.split_once('.')).expect("a number");
        fs::rename(&written, dir.path().join(TEMP_DIR).join(format!("0123.beef-1.{number}"))).expect("renamed");
        drop((left, cache));
        FileCache::open(options(dir.path())).expect("opened again");
        assert_eq!(fs::read_dir(dir.path().join(TEMP_DIR)).expect("listed").count(), 0, "it is swept");
        assert!(archive.exists(), "another path has it");
    }

    #[tokio::test]
    async fn who_drops_a_push_that_waits_for_its_turn_ends_its_thread() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("a");
        let shaper = Shaper::default();
        // As in a pause: the next turn would come in a quarter of an hour.
        shaper.set(&Rates { line: Rate::new(1), ..Rates::default() });
        let (push, dropped) = oneshot::channel();
        let way_out = WayOut { tap: shaper.tap("team", Lane::Fresh, true), dropped };
        let file = File::create(&path).expect("created");
        let room = options(dir.path()).place.set_aside(4096).expect("room");
        let mut out = GrowingFile { file, written: 0, on_its_way: 0, way_out, room, max_size: None };
        let writing = spawn_blocking(move || out.write_all(&[0; 4096]));
        while fs::metadata(&path).expect("there").len() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(push);
        let ended = tokio::time::timeout(Duration::from_secs(60), writing).await;
        let failed = ended.expect("it waits for its turn").expect("no panic").expect_err("nobody wants it");
        assert_eq!(failed.to_string(), "its push was dropped");
    }

    #[tokio::test]
    async fn logs_and_realisations_are_not_written_where_it_is_critical() {
        let dir = tempfile::tempdir().expect("a folder");
        let all = Threshold::Percent(100);
        let terms = Terms { thresholds: Thresholds { low: all, critical: all }, reserve: None };
        let place = Arc::new(Place::new(What::Cache("test".to_owned()), dir.path().to_owned(), terms));
        let mut options = options(dir.path());
        options.binary.log_dir = dir.path().join("logs");
        let derivation = StorePath::from_base_name("00000000000000000000000000000000-a.drv").expect("a path");
        fs::create_dir_all(options.binary.log_dir.join("drvs/00")).expect("a folder");
        fs::write(options.binary.log_dir.join("drvs/00/000000000000000000000000000000-a.drv"), "said")
            .expect("written");
        let cache = FileCache::open(FileOptions { place, ..options }).expect("opened");
        let file = |name: &str| RealisationFile {
            folder: "realisations".to_owned(),
            name: format!("realisations/{name}"),
            json: "{}".to_owned(),
        };
        let refused = cache.put_log(&derivation).expect_err("critical");
        assert!(matches!(refused, CacheError::NoRoom(NoRoom::Short(_))), "{refused}");
        cache.put_log_if_it_can(&derivation).expect_err("critical");
        let refused = cache.put_realisations(vec![file("a")]).expect_err("critical");
        assert!(matches!(refused, CacheError::NoRoom(NoRoom::Short(_))), "{refused}");
        assert!(!dir.path().join("log").exists() && !dir.path().join("realisations").exists());
        fs::create_dir(dir.path().join("realisations")).expect("a folder");
        fs::write(dir.path().join("realisations/a"), "").expect("written");
        cache.put_realisations(vec![file("a")]).expect("what is there need not be written");
    }

    #[tokio::test]
    async fn a_log_that_can_not_be_written_keeps_no_path_back() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut options = options(dir.path());
        options.binary.log_dir = dir.path().join("logs");
        let derivation = StorePath::from_base_name("00000000000000000000000000000000-a.drv").expect("a path");
        fs::create_dir_all(options.binary.log_dir.join("drvs/00")).expect("a folder");
        fs::write(options.binary.log_dir.join("drvs/00/000000000000000000000000000000-a.drv"), "said")
            .expect("written");
        let cache = FileCache::open(options).expect("opened");
        // As where `log` belongs to another user.
        fs::write(dir.path().join(layout::LOG_DIR), "").expect("written");
        cache.put_log(&derivation).expect_err("no folder");
        cache.put_log_if_it_can(&derivation).expect("the path is shown without it");
    }

    #[tokio::test]
    async fn a_cache_of_another_store_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join(layout::CACHE_INFO), "StoreDir: /gnu/store\n").expect("written");
        let refused = FileCache::open(options(dir.path())).err().expect("refused");
        assert!(matches!(refused, CacheError::OtherStore { .. }), "{refused}");
        fs::write(dir.path().join(layout::CACHE_INFO), "nonsense\n").expect("written");
        let refused = FileCache::open(options(dir.path())).err().expect("refused");
        assert!(matches!(refused, CacheError::Malformed { .. }), "{refused}");
    }
}
