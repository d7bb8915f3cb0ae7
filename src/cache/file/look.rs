//! Looking at a cache's directory without opening the cache: whoever opens it sweeps what an earlier run of the same
//! host has left, and beside a running service that would be what is under way.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::Instant;

use rustix::fs::{Access, AtFlags, CWD};

use super::TEMP_DIR;
use super::temp::{self, TempFile, io_error};
use crate::cache::binary::agree_on_store;
use crate::cache::{CacheError, CacheInfo, DirectoryInfo, Trial, layout};
use crate::nix::StoreDir;

const NOT_THERE_YET: &str = "it isn't there yet; the first upload makes it";

/// Names the files that are written only to be removed; should a crash leave one, it is swept a day later.
const TRIAL: &str = "trial";

/// What there is to say of the cache in a directory.
///
/// # Errors
/// [`CacheError::Io`].
pub fn look(dir: &Path) -> Result<CacheInfo, CacheError> {
    let file = dir.join(layout::CACHE_INFO);
    let there = nearest(dir);
    let stat = rustix::fs::statvfs(there).map_err(|errno| io_error("ask for free space in", there)(errno.into()))?;
    let (text, remark) = match fs::read_to_string(&file) {
        Ok(text) => (text, None),
        Err(error) if error.kind() == ErrorKind::NotFound => (String::new(), Some(NOT_THERE_YET)),
        Err(source) => return Err(io_error("read", &file)(source)),
    };
    Ok(CacheInfo {
        substituter: Some(format!("file://{}", dir.display())),
        store_dir: layout::store_dir_of(&text).map(str::to_owned),
        priority: layout::field_of(&text, "Priority").and_then(|priority| priority.parse().ok()),
        directory: Some(DirectoryInfo {
            path: dir.to_owned(),
            want_mass_query: layout::field_of(&text, "WantMassQuery").map(|flag| flag == "1"),
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        }),
        remark,
        ..CacheInfo::default()
    })
}

/// Writes a small file into a cache's directory and removes it. A directory that isn't there yet is not made.
/// `reserve_percent` of its file system are to stay free.
#[must_use]
pub fn try_out(dir: &Path, store_dir: &StoreDir, reserve_percent: u64) -> Trial {
    let mut trial = Trial::default();
    let tried = if dir.exists() {
        let began = Instant::now();
        let written = check_store(dir, store_dir).and_then(|_| write_and_remove(dir));
        trial.round_trip = written.is_ok().then(|| began.elapsed());
        written
    } else {
        trial.remark = Some(NOT_THERE_YET);
        may_write(nearest(dir))
    };
    trial.writes = Some(tried.is_ok());
    trial.troubles.extend(tried.err());
    trial.troubles.extend(check_room(nearest(dir), reserve_percent, 0).err());
    trial
}

fn write_and_remove(dir: &Path) -> Result<(), CacheError> {
    let temp_dir = dir.join(TEMP_DIR);
    let folder = if temp_dir.is_dir() { &temp_dir } else { dir };
    // Removed when it is dropped.
    let (_temp, mut file) = TempFile::create(folder.join(temp::new_name(TRIAL)), folder.join(TRIAL))?;
    file.write_all(b"trial").map_err(io_error("write a file in", folder))?;
    // What an upload renames ends up in these two.
    let nar = dir.join(layout::NAR_DIR);
    [dir, &nar].into_iter().filter(|folder| folder.exists()).try_for_each(may_write)
}

fn may_write(folder: &Path) -> Result<(), CacheError> {
    let may = Access::WRITE_OK | Access::EXEC_OK;
    rustix::fs::accessat(CWD, folder, may, AtFlags::EACCESS).map_err(|errno| io_error("write to", folder)(errno.into()))
}

/// The directory, or the nearest above it that is there.
fn nearest(dir: &Path) -> &Path {
    dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"))
}

/// Whether the cache says which store it is for. It has to be this host's.
pub(super) fn check_store(dir: &Path, store_dir: &StoreDir) -> Result<bool, CacheError> {
    let path = dir.join(layout::CACHE_INFO);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(io_error("read", &path)(source)),
    };
    agree_on_store(&text, store_dir, &dir.display().to_string(), &path.display().to_string())?;
    Ok(true)
}

/// Whether an archive of that size (bytes), compressed or not, leaves so many per cent of the file system free.
pub(super) fn check_room(dir: &Path, needed_percent: u64, nar_size: u64) -> Result<(), CacheError> {
    if needed_percent == 0 {
        return Ok(());
    }
    let stat = rustix::fs::statvfs(dir).map_err(|errno| io_error("ask for free space in", dir)(errno.into()))?;
    let free = stat.f_bavail.saturating_sub(nar_size.div_ceil(stat.f_frsize.max(1)));
    let free_percent = free.saturating_mul(100) / stat.f_blocks.max(1);
    if free_percent >= needed_percent {
        return Ok(());
    }
    Err(CacheError::NoRoom { dir: dir.to_owned(), free_percent, needed_percent })
}
