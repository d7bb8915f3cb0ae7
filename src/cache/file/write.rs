//! Writing a path's files under temporary names, and what goes beside them. Everything here blocks.

use std::convert::Infallible;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::time::Instant;

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use tracing::debug;

use super::commit::Files;
use super::temp::{self, TempFile, io_error};
use super::{FileCache, FileOptions, TEMP_DIR, text};
use crate::cache::binary::RealisationFile;
use crate::cache::care::condemned_with;
use crate::cache::pack::{PackError, pack};
use crate::cache::{CacheError, Listed, NarReader, StoredNar, layout};
use crate::disk::SetAside;
use crate::limit::Tap;
use crate::nix::{PathInfo, StorePath};
use crate::report::one_line;

/// Bytes after which the system is told to begin to write an archive out: packing and the disk work side by side then.
const WRITE_OUT: u64 = 4 * 1024 * 1024;

/// Bytes of a log that are read at once.
const LOG_CHUNK: usize = 64 * 1024;

/// Archives from this size on (bytes, packed) are synced by the thread that wrote them, so that small ones needn't wait
/// for them in a group: a disk writes it in some 10 ms.
const SYNC_ALONE: u64 = 2 * 1024 * 1024;

impl FileCache {
    /// Writes archive and narinfo under temporary names. Blocks.
    pub(super) fn write(&self, info: &PathInfo, nar: NarReader, way_out: WayOut) -> Result<Written, CacheError> {
        let FileOptions { dir, binary, instance, place, .. } = &self.options;
        // It may have waited long for its turn, and others were admitted at the same time.
        let room = place.set_aside(info.nar_size)?;
        // Errors name the folder, not a file whose name is another at each try: who reads the log wants to be told once.
        let folder = dir.join(layout::NAR_DIR);
        let compression = binary.compression(info.nar_size);
        let drawn = binary.new_nar_name(info, compression);
        let url = drawn.map_err(io_error("draw a name for an archive in", &folder))?;
        let (nar_file, file) = TempFile::create(self.new_temp(), dir.join(&url))?;
        let out = GrowingFile { file, written: 0, on_its_way: 0, way_out, room, largest: self.options.largest };
        let (nar, listed) = binary.listed(nar);
        let began = Instant::now();
        let packed = pack(nar, compression, info.nar_size, out);
        let (packed, _) = packed.map_err(|error| match error {
            PackError::Nar(failure) => failure.into(),
            PackError::Write(source) => not_written(source, "write an archive in", &folder),
        })?;
        let nar_synced = packed.file_size >= SYNC_ALONE;
        if nar_synced {
            nar_file.sync()?;
        }
        binary.note_pace(&packed, began.elapsed());
        let listing = listed.and_then(Listed::take).and_then(|json| self.write_listing_if_it_can(info, &json));
        let stored = packed.stored_at(url);
        let narinfo = self.write_narinfo(temp::new_name(instance), info, &stored)?;
        Ok(Written { files: Files { nar: Some(nar_file), nar_synced, listing, narinfo }, stored })
    }

    fn write_narinfo(&self, name: String, info: &PathInfo, stored: &StoredNar) -> Result<TempFile, CacheError> {
        let FileOptions { dir, binary, .. } = &self.options;
        let target = dir.join(layout::narinfo_name(&info.path));
        // Mostly nothing, and what can't be read has nothing to be kept.
        let shown = text::read(&target).ok().flatten().map(|text| text.content).unwrap_or_default();
        let text = binary.narinfo_in_place_of(&shown, info, stored);
        TempFile::holding(dir.join(TEMP_DIR).join(name), target, text.as_bytes(), "write a narinfo in")
    }

    /// Writes a narinfo under a temporary name that names an archive of another path: the same content, which needn't be
    /// written again. `None` where that isn't there any more, or a prune is about to remove it (`care/prune`). Blocks.
    pub(super) fn write_beside(&self, info: &PathInfo, stored: &StoredNar) -> Result<Option<TempFile>, CacheError> {
        let FileOptions { dir, instance, place, .. } = &self.options;
        let is_whole = || fs::metadata(dir.join(&stored.url)).is_ok_and(|archive| archive.len() == stored.file_size);
        // In this order: an archive goes before what says that it will.
        if is_condemned(dir, &stored.url) || !is_whole() {
            return Ok(None);
        }
        place.admits(0)?;
        self.write_narinfo(temp::new_copy_name(instance), info, stored).map(Some)
    }

    /// Says that something is missing beside a path. Who reads the cache can do without, so it keeps no path back.
    fn lacks(&self, what: &str, whose: &StorePath, error: &CacheError) {
        debug!("{} lacks the {what} of {whose}: {}", self.options.dir.display(), one_line(error));
    }

    /// As [`FileCache::put_log`]; only that there is no room is a failure, since there is none for a path either.
    pub(super) fn put_log_if_it_can(&self, derivation: &StorePath) -> Result<(), CacheError> {
        match self.put_log(derivation) {
            Err(error) if !matches!(error, CacheError::NoRoom(_)) => {
                self.lacks("log of the build", derivation, &error);
                Ok(())
            }
            put => put,
        }
    }

    /// Writes the list of a path's files under a temporary name, if that can be done. Blocks.
    pub(super) fn write_listing_if_it_can(&self, info: &PathInfo, json: &[u8]) -> Option<TempFile> {
        self.write_listing(info, json).inspect_err(|error| self.lacks_listing(info, error)).ok()
    }

    /// Puts the list of a path's files there, if that can be done. Blocks.
    pub(super) fn put_listing_if_it_can(&self, info: &PathInfo, json: &[u8]) {
        let put = self.write_listing(info, json).and_then(TempFile::publish_durably);
        if let Err(error) = put {
            self.lacks_listing(info, &error);
        }
    }

    /// Says that a path has no list of its files beside it.
    pub(super) fn lacks_listing(&self, info: &PathInfo, error: &CacheError) {
        self.lacks("list of the files", &info.path, error);
    }

    /// Puts the log of a path's build there, if there is one and the cache lacks it. Blocks.
    pub(super) fn put_log(&self, derivation: &StorePath) -> Result<(), CacheError> {
        let FileOptions { dir, binary, instance, place, .. } = &self.options;
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
        let (temp, mut file) = TempFile::create(temp, target)?;
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
        temp.publish_durably()
    }

    /// Puts realisations there that the cache lacks. Blocks.
    pub(super) fn put_realisations(&self, files: Vec<RealisationFile>) -> Result<(), CacheError> {
        let FileOptions { dir, place, .. } = &self.options;
        for RealisationFile { folder, name, json } in files {
            let (folder, target) = (dir.join(folder), dir.join(name));
            if target.exists() {
                continue;
            }
            place.admits(0)?;
            DirBuilder::new().recursive(true).create(&folder).map_err(io_error("create", &folder))?;
            let temp = TempFile::holding(self.new_temp(), target, json.as_bytes(), "write a realisation in")?;
            temp.publish_durably()?;
            temp::sync_dir(&folder)?;
        }
        Ok(())
    }

    fn write_listing(&self, info: &PathInfo, json: &[u8]) -> Result<TempFile, CacheError> {
        let target = self.options.dir.join(layout::listing_name(&info.path));
        TempFile::holding(self.new_temp(), target, json, "write a listing in")
    }
}

/// Whether a prune has hidden a path with that archive, and is to remove it. Where that can't be learnt, it counts as such.
fn is_condemned(dir: &Path, archive: &str) -> bool {
    let begin = condemned_with(archive);
    match fs::read_dir(dir.join(layout::PRUNED_DIR)) {
        Ok(pruned) => pruned.flatten().any(|file| {
            let name = format!("{}/{}", layout::PRUNED_DIR, file.file_name().to_string_lossy());
            name.starts_with(&begin)
        }),
        Err(error) => error.kind() != ErrorKind::NotFound,
    }
}

/// What was written for a path, and is not shown yet.
pub(super) struct Written {
    pub(super) files: Files,
    pub(super) stored: StoredNar,
}

/// A file into which an archive is packed: the system is told to write it out as it grows.
pub(super) struct GrowingFile {
    pub(super) file: File,
    pub(super) written: u64,
    /// How much of it the system has been told to write out.
    pub(super) on_its_way: u64,
    pub(super) way_out: WayOut,
    pub(super) room: SetAside,
    /// Bytes that it may have.
    pub(super) largest: Option<u64>,
}

/// Why a file could not be written: there is no room, by the thresholds or by the system, or it is too large.
fn not_written(source: io::Error, action: &'static str, folder: &Path) -> CacheError {
    source.downcast::<CacheError>().unwrap_or_else(io_error(action, folder))
}

/// What the bytes of an archive go through.
pub(super) struct WayOut {
    pub(super) tap: Tap,
    /// Ends when nobody wants the file any more, and wakes who waits for a turn: that may be far off, in a pause.
    pub(super) dropped: oneshot::Receiver<Infallible>,
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
        if let Some(largest) = self.largest.filter(|largest| self.written + bytes.len() as u64 > *largest) {
            return Err(io::Error::other(CacheError::LargerThanCache { largest }));
        }
        let written = self.file.write(bytes)?;
        self.written += written as u64;
        let grown = self.written - self.on_its_way;
        if grown >= WRITE_OUT {
            self.write_out();
            self.room.took(grown).map_err(|error| io::Error::other(CacheError::from(error)))?;
        }
        Ok(written)
    }

    /// At its end.
    fn flush(&mut self) -> io::Result<()> {
        self.write_out();
        Ok(())
    }
}
