//! Looking at a cache's directory without opening the cache: whoever opens it sweeps what an earlier run of the same
//! host has left, and beside a running service that would be what is under way.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use rustix::fs::{Access, AtFlags, CWD};

use super::TEMP_DIR;
use super::temp::{self, TempFile, io_error};
use super::text::{self, LONGEST_TEXT};
use crate::cache::binary::agree_on_store;
use crate::cache::{CacheError, CacheInfo, DirectoryInfo, Trial, layout};
use crate::disk::{Place, Room, nearest};
use crate::nix::StoreDir;

const NOT_THERE_YET: &str = "it isn't there yet; the first upload makes it";

/// Names the files that are written only to be removed; should a crash leave one, it is swept a day later.
const TRIAL: &str = "trial";

/// What there is to say of the cache in a directory.
///
/// # Errors
/// [`CacheError::Io`].
pub fn look(dir: &Path) -> Result<CacheInfo, CacheError> {
    let (there, _) = nearest(dir).map_err(io_error("look for", dir))?;
    let room = Room::of(there).map_err(io_error("ask for free space in", there))?;
    let text = cache_info(dir)?;
    let remark = text.is_none().then_some(NOT_THERE_YET);
    let text = text.unwrap_or_default();
    Ok(CacheInfo {
        substituter: Some(format!("file://{}", dir.display())),
        directory: Some(DirectoryInfo {
            path: dir.to_owned(),
            free_bytes: room.space.free,
            total_bytes: room.space.all,
        }),
        remark,
        ..CacheInfo::of_text(&text)
    })
}

/// Writes a small file into a cache's directory, which is that place, and removes it. A directory that isn't there yet is
/// not made: another one is, where it would be, and removed.
#[must_use]
pub fn try_out(place: &Place, store_dir: &StoreDir) -> Trial {
    let dir = place.path();
    let mut trial = Trial::default();
    let tried = if dir.exists() {
        let began = Instant::now();
        let written = check_store(dir, store_dir).and_then(|_| write_and_remove(dir));
        trial.round_trip = written.is_ok().then(|| began.elapsed());
        written
    } else {
        trial.remark = Some(NOT_THERE_YET);
        nearest(dir).map_err(io_error("look for", dir)).and_then(|(there, _)| make_and_remove(there))
    };
    trial.writes = Some(tried.is_ok());
    trial.troubles.extend(tried.err());
    trial.troubles.extend(place.admits(0).map_err(CacheError::from).err());
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

/// What is only asked for may be allowed and not be possible, as in `/proc`.
fn make_and_remove(folder: &Path) -> Result<(), CacheError> {
    let made = folder.join(temp::new_name(TRIAL));
    fs::create_dir(&made).map_err(io_error("create a folder in", folder))?;
    fs::remove_dir(&made).map_err(io_error("remove a folder from", folder))
}

fn may_write(folder: &Path) -> Result<(), CacheError> {
    let may = Access::WRITE_OK | Access::EXEC_OK;
    rustix::fs::accessat(CWD, folder, may, AtFlags::EACCESS).map_err(|errno| io_error("write to", folder)(errno.into()))
}

/// Whether the cache says which store it is for. It has to be this host's.
pub(super) fn check_store(dir: &Path, store_dir: &StoreDir) -> Result<bool, CacheError> {
    let Some(text) = cache_info(dir)? else { return Ok(false) };
    let file = dir.join(layout::CACHE_INFO).display().to_string();
    agree_on_store(&text, store_dir, &dir.display().to_string(), &file)?;
    Ok(true)
}

/// What a cache says of itself, if there is one.
fn cache_info(dir: &Path) -> Result<Option<String>, CacheError> {
    let file = dir.join(layout::CACHE_INFO);
    let Some(text) = text::read(&file)? else { return Ok(None) };
    if text.content.len() as u64 > LONGEST_TEXT {
        let problem = format!("it is longer than {} KiB: that is something else", LONGEST_TEXT >> 10);
        return Err(CacheError::Malformed { file: file.display().to_string(), problem });
    }
    Ok(Some(String::from_utf8_lossy(&text.content).into_owned()))
}
