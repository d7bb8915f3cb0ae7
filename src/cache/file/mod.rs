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
mod sweep;
mod temp;

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use sha2::{Digest, Sha256};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use zstd::stream::write::Encoder;

use self::commit::Committer;
use self::look::{check_room, check_store};
pub use self::look::{look, try_out};
use self::sweep::sweep;
use self::temp::{TempFile, io_error};
use super::layout::{self, StoredNar};
use super::{BoxFuture, Cache, CacheError, Compression, NarReader, Push, Pushed};
use crate::nix::{NarHash, PathInfo, SecretKey, StoreDir, StorePath};

/// Folder of the files that are being written.
const TEMP_DIR: &str = ".tmp";

/// Bytes gathered before they are hashed and written.
const WRITE_BUFFER: usize = 256 * 1024;

/// Bytes after which the system is told to begin to write an archive out: packing and the disk work side by side then.
const WRITE_OUT: u64 = 4 * 1024 * 1024;

/// Archives from this size on (bytes, packed) are synced by the thread that wrote them, so that small ones needn't wait
/// for them in a group: a disk writes it in some 10 ms.
const SYNC_ALONE: u64 = 2 * 1024 * 1024;

/// What a cache in a directory is made of.
pub struct FileOptions {
    /// The directory; made if it is missing.
    pub dir: PathBuf,
    /// The logical store directory of this host.
    pub store_dir: StoreDir,
    /// How archives are packed.
    pub compression: Compression,
    /// `Priority` of a new `nix-cache-info`.
    pub priority: u32,
    /// `WantMassQuery` of a new `nix-cache-info`.
    pub want_mass_query: bool,
    /// Signs the narinfos.
    pub key: SecretKey,
    /// Tells this host's temporary files from another's: letters, digits and dashes.
    pub instance: String,
    /// Takes nothing while less than so many per cent of the file system are free; 0 for no such limit.
    pub reserve_percent: u64,
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
    /// [`CacheError::OtherStore`] where the cache belongs to another store directory; [`CacheError::Io`].
    pub fn open(options: FileOptions) -> Result<Self, CacheError> {
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
        let FileOptions { dir, store_dir, want_mass_query, priority, .. } = &self.options;
        if check_store(dir, store_dir)? {
            return Ok(());
        }
        let path = dir.join(layout::CACHE_INFO);
        let (mut temp, mut file) = self.temp_file(path.clone())?;
        let text = layout::cache_info(store_dir, *want_mass_query, *priority);
        file.write_all(text.as_bytes()).map_err(io_error("write", &path))?;
        temp.sync()?;
        temp.publish()?;
        temp::sync_dir(dir)
    }

    fn temp_file(&self, target: PathBuf) -> Result<(TempFile, File), CacheError> {
        TempFile::create(self.options.dir.join(TEMP_DIR).join(temp::new_name(&self.options.instance)), target)
    }

    /// Writes archive and narinfo under temporary names. Blocks.
    fn write(&self, info: &PathInfo, nar: NarReader) -> Result<Written, CacheError> {
        let FileOptions { dir, store_dir, compression, key, .. } = &self.options;
        let mut suffix = [0; 5];
        getrandom::fill(&mut suffix).map_err(|error| {
            io_error("draw a name for", &dir.join(layout::NAR_DIR))(io::Error::other(error.to_string()))
        })?;
        let url = layout::nar_name(&info.nar_hash, suffix, *compression);
        let target = dir.join(&url);
        let (nar_file, file) = self.temp_file(target.clone())?;
        let buffer = Vec::with_capacity(WRITE_BUFFER);
        let hashing = HashingFile { file, hasher: Sha256::new(), written: 0, on_its_way: 0, buffer };
        // Errors name the folder, not a file whose name is another at each try: who reads the log wants to be told once.
        let folder = dir.join(layout::NAR_DIR);
        let (nar_size, hashing) = pack(nar, hashing, *compression, info.nar_size, &folder)?;
        let (file_hash, file_size) = hashing.finish().map_err(io_error("write an archive in", &folder))?;
        let nar_synced = file_size >= SYNC_ALONE;
        if nar_synced {
            nar_file.sync()?;
        }
        let stored = StoredNar { url, compression: *compression, file_hash, file_size, nar_size };
        let target = dir.join(layout::narinfo_name(&info.path));
        let (narinfo, mut file) = self.temp_file(target.clone())?;
        let text = layout::narinfo(store_dir, info, &stored, key);
        file.write_all(text.as_bytes()).map_err(io_error("write a narinfo in", dir))?;
        temp::write_out(&file, 0);
        Ok(Written { nar: nar_file, nar_synced, narinfo, file_size })
    }
}

struct Written {
    nar: TempFile,
    nar_synced: bool,
    narinfo: TempFile,
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

    fn push(self: Arc<Self>, push: Push) -> BoxFuture<'static, Result<Pushed, CacheError>> {
        Box::pin(async move {
            let Push { info, nar, arrivals, go_ahead } = push;
            check_room(&self.options.dir, self.options.reserve_percent, info.nar_size)?;
            let nar = nar.start().await?;
            let cache = Arc::clone(&self);
            let written = spawn_blocking(move || cache.write(&info, nar)).await;
            let written = written.map_err(|_| CacheError::LostThread { action: "pack a path" })??;
            arrivals.await?;
            go_ahead.await?;
            self.committer.publish(written.nar, written.nar_synced, written.narinfo).await?;
            Ok(Pushed { sent: written.file_size, deduplicated: false })
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

/// Packs an archive into a file; returns the archive's size.
fn pack(
    nar: NarReader,
    mut out: HashingFile,
    compression: Compression,
    expected_size: u64,
    folder: &Path,
) -> Result<(u64, HashingFile), CacheError> {
    match compression {
        Compression::None => {
            let size =
                nar.read_blocking(|chunk| out.write_all(chunk).map_err(io_error("write an archive in", folder)))?;
            Ok((size, out))
        }
        Compression::Zstd { level } => {
            let failed = |error| io_error("write an archive in", folder)(error);
            let mut encoder = Encoder::new(out, level).map_err(failed)?;
            if expected_size > 0 {
                // zstd takes as much memory as this size needs, which for a small archive is much less.
                encoder.set_pledged_src_size(Some(expected_size)).map_err(failed)?;
            }
            let read =
                nar.read_blocking(|chunk| encoder.write_all(chunk).map_err(io_error("write an archive in", folder)))?;
            Ok((read, encoder.finish().map_err(io_error("write an archive in", folder))?))
        }
    }
}

/// Hashes what goes into a file.
struct HashingFile {
    file: File,
    hasher: Sha256,
    written: u64,
    /// How much of it the system has been told to write out.
    on_its_way: u64,
    buffer: Vec<u8>,
}

impl HashingFile {
    fn flush_buffer(&mut self) -> io::Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        self.put(&buffer)?;
        self.buffer = buffer;
        self.buffer.clear();
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.written += bytes.len() as u64;
        self.file.write_all(bytes)?;
        if self.written - self.on_its_way >= WRITE_OUT {
            self.write_out();
        }
        Ok(())
    }

    fn write_out(&mut self) {
        temp::write_out(&self.file, self.on_its_way);
        self.on_its_way = self.written;
    }

    fn finish(mut self) -> io::Result<(NarHash, u64)> {
        self.flush_buffer()?;
        self.write_out();
        Ok((NarHash(self.hasher.finalize().into()), self.written))
    }
}

impl Write for HashingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + bytes.len() > WRITE_BUFFER {
            self.flush_buffer()?;
        }
        if bytes.len() >= WRITE_BUFFER {
            self.put(bytes)?;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(dir: &Path) -> FileOptions {
        FileOptions {
            dir: dir.to_owned(),
            store_dir: StoreDir::default(),
            compression: Compression::None,
            priority: 50,
            want_mass_query: true,
            key: SecretKey::generate("test-1").expect("randomness"),
            instance: "0123".to_owned(),
            reserve_percent: 0,
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
