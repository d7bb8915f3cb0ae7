//! A binary cache in a directory: `file:///DIR`.
//!
//! Every file appears whole: it is written in `.tmp`, synced, and renamed. `commit` says in which order, so that a
//! narinfo never stands without its archive or before its references. What a crash leaves in `.tmp` is swept at
//! the next start of the same host, together with archives whose narinfo it kept from appearing; what a host leaves that
//! doesn't come back, or whose queue was replaced, by whoever opens the cache a day later.
//!
//! Deliberately absent: a memory of what is there. A look at the file costs some microseconds and is always right.

mod commit;
mod look;
mod shelf;
mod sweep;
mod temp;

use std::convert::Infallible;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::task::spawn_blocking;
use tracing::debug;

use self::commit::{Committer, Files};
use self::look::check_store;
pub use self::look::{look, try_out};
pub use self::shelf::FileShelf;
use self::sweep::sweep;
use self::temp::{TempFile, io_error};
use super::binary::RealisationFile;
use super::pack::{PackError, pack};
use super::{BinaryCache, BoxFuture, Cache, CacheError, Listed, NarReader, Push, Pushed, layout};
use crate::disk::{NoRoom, Place, SetAside};
use crate::limit::Tap;
use crate::nix::{PathInfo, StorePath};
use crate::report::one_line;

/// Folder of the files that are being written.
const TEMP_DIR: &str = ".tmp";

/// Bytes after which the system is told to begin to write an archive out: packing and the disk work side by side then.
const WRITE_OUT: u64 = 4 * 1024 * 1024;

/// Bytes of a log that are read at once.
const LOG_CHUNK: usize = 64 * 1024;

/// Archives from this size on (bytes, packed) are synced by the thread that wrote them, so that small ones needn't wait
/// for them in a group: a disk writes it in some 10 ms.
const SYNC_ALONE: u64 = 2 * 1024 * 1024;

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

    /// Writes archive and narinfo under temporary names. Blocks.
    fn write(&self, info: &PathInfo, nar: NarReader, way_out: WayOut) -> Result<Written, CacheError> {
        let FileOptions { dir, binary, place, .. } = &self.options;
        // It may have waited long for its turn, and others were admitted at the same time.
        let room = place.set_aside(info.nar_size)?;
        // Errors name the folder, not a file whose name is another at each try: who reads the log wants to be told once.
        let folder = dir.join(layout::NAR_DIR);
        let compression = binary.compression();
        let drawn = binary.new_nar_name(info, compression);
        let url = drawn.map_err(io_error("draw a name for an archive in", &folder))?;
        let (nar_file, file) = self.temp_file(dir.join(&url))?;
        let out = GrowingFile { file, written: 0, on_its_way: 0, way_out, room };
        let (nar, listed) = binary.listed(nar);
        let began = Instant::now();
        let packed = pack(nar, compression, info.nar_size, out);
        let (packed, _) = packed.map_err(|error| match error {
            PackError::Nar(failure) => failure.into(),
            PackError::Write(source) => not_written(source, "write an archive in", &folder),
        })?;
        let (nar_size, file_size) = (packed.nar_size, packed.file_size);
        let nar_synced = file_size >= SYNC_ALONE;
        if nar_synced {
            nar_file.sync()?;
        }
        binary.note_pace(&packed, began.elapsed());
        let listing = listed.and_then(Listed::take).and_then(|json| {
            let lacks = |error: &CacheError| self.lacks("list of the files", &info.path, error);
            self.write_listing(info, &json).inspect_err(lacks).ok()
        });
        let (narinfo, mut file) = self.temp_file(dir.join(layout::narinfo_name(&info.path)))?;
        let text = binary.narinfo(info, &packed.stored_at(url));
        file.write_all(text.as_bytes()).map_err(io_error("write a narinfo in", dir))?;
        temp::write_out(&file, 0);
        Ok(Written { files: Files { nar: nar_file, nar_synced, listing, narinfo }, nar_size, file_size })
    }

    /// Says that something is missing beside a path. Who reads the cache can do without, so it keeps no path back.
    fn lacks(&self, what: &str, whose: &StorePath, error: &CacheError) {
        debug!("{} lacks the {what} of {whose}: {}", self.options.dir.display(), one_line(error));
    }

    /// As [`FileCache::put_log`]; only that there is no room is a failure, since there is none for a path either.
    fn put_log_if_it_can(&self, derivation: &StorePath) -> Result<(), CacheError> {
        match self.put_log(derivation) {
            Err(error) if !matches!(error, CacheError::NoRoom(_)) => {
                self.lacks("log of the build", derivation, &error);
                Ok(())
            }
            put => put,
        }
    }

    /// Puts the log of a path's build there, if there is one and the cache lacks it. Blocks.
    fn put_log(&self, derivation: &StorePath) -> Result<(), CacheError> {
        let FileOptions { dir, binary, instance, place } = &self.options;
        let target = dir.join(layout::log_name(derivation));
        if target.exists() {
            return Ok(());
        }
        let Some(mut log) = binary.build_log(derivation) else { return Ok(()) };
        // How long it is shows when it is read.
        let mut room = place.set_aside(0)?;
        let mut grown = 0;
        let folder = dir.join(layout::LOG_DIR);
        DirBuilder::new().recursive(true).create(&folder).map_err(io_error("create", &folder))?;
        let temp = dir.join(TEMP_DIR).join(temp::new_log_name(instance));
        let (mut temp, mut file) = TempFile::create(temp, target)?;
        let mut chunk = vec![0; LOG_CHUNK];
        loop {
            match log.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => {
                    file.write_all(&chunk[..read]).map_err(io_error("write a log in", &folder))?;
                    grown += read as u64;
                    if grown >= WRITE_OUT {
                        room.took(std::mem::take(&mut grown))?;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    debug!("read the log of {derivation}: {error}");
                    return Ok(());
                }
            }
        }
        temp.sync()?;
        temp.publish()
    }

    /// Puts realisations there that the cache lacks. Blocks.
    fn put_realisations(&self, files: Vec<RealisationFile>) -> Result<(), CacheError> {
        let FileOptions { dir, instance, place, .. } = &self.options;
        for RealisationFile { folder, name, json } in files {
            let (folder, target) = (dir.join(folder), dir.join(name));
            if target.exists() {
                continue;
            }
            place.admits(0)?;
            DirBuilder::new().recursive(true).create(&folder).map_err(io_error("create", &folder))?;
            let temp = dir.join(TEMP_DIR).join(temp::new_name(instance));
            let (mut temp, mut file) = TempFile::create(temp, target)?;
            file.write_all(json.as_bytes()).map_err(io_error("write a realisation in", &folder))?;
            temp.sync()?;
            temp.publish()?;
            temp::sync_dir(&folder)?;
        }
        Ok(())
    }

    fn write_listing(&self, info: &PathInfo, json: &[u8]) -> Result<TempFile, CacheError> {
        let dir = &self.options.dir;
        let (listing, mut file) = self.temp_file(dir.join(layout::listing_name(&info.path)))?;
        file.write_all(json).map_err(io_error("write a listing in", dir))?;
        temp::write_out(&file, 0);
        Ok(listing)
    }
}

struct Written {
    files: Files,
    nar_size: u64,
    file_size: u64,
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
            let Push { info, nar, arrivals, go_ahead, contents: _ } = push;
            let (place, nar_size) = (Arc::clone(&self.options.place), info.nar_size);
            let admitted = spawn_blocking(move || place.admits(nar_size)).await;
            admitted.map_err(|_| CacheError::LostThread { action: "look how much room there is" })??;
            let nar = nar.start().await?;
            let cache = Arc::clone(&self);
            let derivation = self.options.binary.logged(&info).cloned();
            // A push that is dropped, since the policy denies its path by now, leaves no thread behind that packs it to its
            // end.
            let (_ends_the_thread, dropped) = oneshot::channel();
            let way_out = WayOut { tap: Tap::of_this_task(), dropped };
            let written = spawn_blocking(move || cache.write(&info, nar, way_out)).await;
            let written = written.map_err(|_| CacheError::LostThread { action: "pack a path" })??;
            arrivals.await?;
            go_ahead.await?;
            if let Some(derivation) = derivation {
                let cache = Arc::clone(&self);
                let put = spawn_blocking(move || cache.put_log_if_it_can(&derivation)).await;
                put.map_err(|_| CacheError::LostThread { action: "copy a log" })??;
            }
            let Written { files, nar_size, file_size } = written;
            self.committer.publish(files).await?;
            Ok(Pushed { read: nar_size, sent: file_size, deduplicated: false })
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

/// A file into which an archive is packed: the system is told to write it out as it grows.
struct GrowingFile {
    file: File,
    written: u64,
    /// How much of it the system has been told to write out.
    on_its_way: u64,
    way_out: WayOut,
    room: SetAside,
}

/// Why a file could not be written: there is no room, by the thresholds or by the system.
fn not_written(source: io::Error, action: &'static str, folder: &Path) -> CacheError {
    source.downcast::<NoRoom>().map_or_else(io_error(action, folder), CacheError::from)
}

/// What the bytes of an archive go through.
struct WayOut {
    tap: Tap,
    /// Ends when nobody wants the file any more, and wakes who waits for a turn: that may be far off, in a pause.
    dropped: oneshot::Receiver<Infallible>,
}

impl GrowingFile {
    fn write_out(&mut self) {
        temp::write_out(&self.file, self.on_its_way);
        self.on_its_way = self.written;
    }
}

impl Write for GrowingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let WayOut { tap, dropped } = &mut self.way_out;
        let bytes = &bytes[..bytes.len().min(tap.piece())];
        let is_wanted = matches!(dropped.try_recv(), Err(TryRecvError::Empty));
        if !is_wanted || !tap.take_blocking(bytes.len(), dropped) {
            return Err(io::Error::other("its push was dropped"));
        }
        let written = self.file.write(bytes)?;
        self.written += written as u64;
        let grown = self.written - self.on_its_way;
        if grown >= WRITE_OUT {
            self.write_out();
            self.room.took(grown).map_err(io::Error::other)?;
        }
        Ok(written)
    }

    /// At its end.
    fn flush(&mut self) -> io::Result<()> {
        self.write_out();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cache::{Layout, Pace};
    use crate::disk::{Terms, Threshold, Thresholds, What};
    use crate::limit::{Lane, Rate, Rates, Shaper};
    use crate::nix::{SecretKey, StoreDir, StoreFacts};

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
        let mut out = GrowingFile { file, written: 0, on_its_way: 0, way_out, room };
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
        assert!(matches!(refused, CacheError::NoRoom(NoRoom::Short { .. })), "{refused}");
        cache.put_log_if_it_can(&derivation).expect_err("critical");
        let refused = cache.put_realisations(vec![file("a")]).expect_err("critical");
        assert!(matches!(refused, CacheError::NoRoom(NoRoom::Short { .. })), "{refused}");
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
