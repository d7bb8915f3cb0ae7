//! What crashes have left in a cache's `.tmp`.

use std::fs::{self, DirEntry, Metadata};
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use tracing::debug;

use super::temp::{self, io_error, there};
use super::{TEMP_DIR, layout, text};
use crate::cache::CacheError;
use crate::nix::HashPart;
use crate::report::one_line;

/// A file of another instance that nobody has written to for so long is nobody's: one that is being written is touched with
/// every chunk, and a finished one waits for minutes at most. A day is also more than two hosts' clocks are apart.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// Removes what an earlier run of this instance was writing when it was killed, and what other instances have left long
/// ago. What this process is writing stays: a cache is opened anew when the policy changes, with uploads under way.
///
/// A narinfo among it was never published. Its archive may have been: nothing names that any more, so it goes as well. Not
/// every file system keeps to that: after a power failure a file may have its old name and its new one, as on some that have
/// no journal, or are a server's. So an archive stays whose narinfo stands.
///
/// What another instance has left may be another user's, or be swept by another host at this moment: that it can't be
/// removed is no reason not to open the cache.
pub(super) fn sweep(dir: &Path, instance: &str) -> Result<(), CacheError> {
    let temp_dir = dir.join(TEMP_DIR);
    let entries = fs::read_dir(&temp_dir).map_err(io_error("list", &temp_dir))?;
    for entry in entries.flatten() {
        if temp::is_left_over(&entry.file_name().to_string_lossy(), instance) {
            remove_left_over(dir, &entry.path())?;
        } else if is_abandoned(&entry)
            && let Err(error) = remove_left_over(dir, &entry.path())
        {
            debug!("{}", one_line(&error));
        }
    }
    Ok(())
}

fn remove_left_over(dir: &Path, path: &Path) -> Result<(), CacheError> {
    let Some(start) = read_start(path)? else { return Ok(()) };
    let is_narinfo = start.starts_with("StorePath:") && !temp::says_nothing(path);
    let Some(archive) = is_narinfo.then(|| layout::archive_of(&start)).flatten() else { return remove(path) };
    // First of all: another host's that was only asleep may still be renamed, and then its archive must stay. It is removed
    // last, since nothing else tells that the archive is nobody's, should this process be killed here.
    let retired = temp::retired(path);
    if there(fs::rename(path, &retired), "rename", path)?.is_none() {
        // Another host is sweeping it, too.
        return Ok(());
    }
    if !is_shown(dir, &start, archive) {
        remove(&dir.join(archive))?;
    }
    remove(&retired)
}

fn remove(file: &Path) -> Result<(), CacheError> {
    there(fs::remove_file(file), "remove", file).map(drop)
}

/// The first lines of a file, enough to find in a narinfo where its archive is.
fn read_start(path: &Path) -> Result<Option<String>, CacheError> {
    let Some(file) = text::open(path)? else { return Ok(None) };
    let mut start = Vec::new();
    file.take(4096).read_to_end(&mut start).map_err(io_error("read", path))?;
    Ok(Some(String::from_utf8_lossy(&start).into_owned()))
}

/// Whether the narinfo that stands of the same path names that archive, or can't be read. What is kept in vain goes by a
/// prune.
fn is_shown(dir: &Path, narinfo: &str, archive: &str) -> bool {
    let path = layout::field_of(narinfo, "StorePath").and_then(|path| path.rsplit('/').next());
    let Some(hash) = path.and_then(HashPart::of_base_name) else { return false };
    match text::read(&dir.join(format!("{hash}{}", layout::NARINFO))) {
        Ok(Some(shown)) => layout::archive_of(&String::from_utf8_lossy(&shown.content)) == Some(archive),
        Ok(None) => false,
        Err(_) => true,
    }
}

/// Whether some instance has left that file long ago: its queue was replaced, or its host doesn't come back.
fn is_abandoned(entry: &DirEntry) -> bool {
    let name = entry.file_name();
    let number = name.to_str().and_then(|name| name.split('.').nth(2)).map(str::parse::<u64>);
    let age = || {
        let metadata = entry.metadata().ok().filter(Metadata::is_file)?;
        metadata.modified().ok()?.elapsed().ok()
    };
    matches!(number, Some(Ok(_))) && age().is_some_and(|age| age > ABANDONED)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs::File;
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn what_another_instance_has_left_is_swept_after_a_day() {
        let dir = tempfile::tempdir().expect("a folder");
        let (temp_dir, archive) = (dir.path().join(TEMP_DIR), dir.path().join("nar/0-1.nar"));
        fs::create_dir_all(&temp_dir).expect("a folder");
        fs::create_dir_all(dir.path().join("nar")).expect("a folder");
        fs::write(&archive, "").expect("written");
        let narinfo = "StorePath: /nix/store/00000000000000000000000000000000-a\nURL: nar/0-1.nar\n";
        // A log may say anything.
        // And what stands is only copied to be replaced.
        let other = dir.path().join("nar/0-2.nar");
        fs::write(&other, "").expect("written");
        let other_narinfo = "StorePath: /nix/store/00000000000000000000000000000000-b\nURL: nar/0-2.nar\n";
        let day = Duration::from_secs(24 * 60 * 60);
        let minute = Duration::from_secs(60);
        for (name, content, age) in [
            ("other.beef.0", "", day + minute),
            ("other.beef.1", narinfo, day + minute),
            ("other.beef.2", "", day - minute),
            ("notes", "", day + minute),
            ("other.beef.3.log", other_narinfo, day + minute),
            ("other.beef.4.copy", other_narinfo, day + minute),
        ] {
            let path = temp_dir.join(name);
            fs::write(&path, content).expect("written");
            let file = File::options().write(true).open(path).expect("opened");
            file.set_modified(SystemTime::now() - age).expect("made older");
        }
        sweep(dir.path(), "own").expect("swept");
        let names = fs::read_dir(&temp_dir).expect("listed").flatten().map(|entry| entry.file_name());
        assert_eq!(names.collect::<BTreeSet<_>>(), BTreeSet::from(["other.beef.2".into(), "notes".into()]));
        assert!(!archive.exists(), "its narinfo never stood");
        assert!(other.exists(), "a log is no narinfo, and a copy not one that never stood");
    }

    /// As a power failure leaves it on a file system whose renames aren't one step.
    #[test]
    fn the_archive_of_a_narinfo_that_stands_is_not_swept() {
        let dir = tempfile::tempdir().expect("a folder");
        let (temp, archive) = (dir.path().join(TEMP_DIR).join("own.beef.1"), dir.path().join("nar/0-1.nar"));
        let narinfo = "StorePath: /nix/store/00000000000000000000000000000000-a\nURL: nar/0-1.nar\n";
        let shown = dir.path().join("00000000000000000000000000000000.narinfo");
        for (stands, stays) in [(narinfo, true), (&narinfo.replace("0-1", "0-2"), false)] {
            for folder in [TEMP_DIR, "nar"] {
                fs::create_dir_all(dir.path().join(folder)).expect("a folder");
            }
            for (file, content) in [(&temp, narinfo), (&shown, stands), (&archive, "")] {
                fs::write(file, content).expect("written");
            }
            sweep(dir.path(), "own").expect("swept");
            assert_eq!((archive.exists(), temp.exists()), (stays, false), "{stands}");
        }
    }

    #[test]
    fn a_sweep_that_was_cut_short_is_done_by_the_next() {
        let dir = tempfile::tempdir().expect("a folder");
        let (temp_dir, archive) = (dir.path().join(TEMP_DIR), dir.path().join("nar/0-1.nar"));
        fs::create_dir_all(&temp_dir).expect("a folder");
        let narinfo = "StorePath: /nix/store/00000000000000000000000000000000-a\nURL: nar/0-1.nar\n";
        fs::write(temp_dir.join("own.beef.1"), narinfo).expect("written");
        // A folder can't be removed as a file is: it ends there, as by a kill.
        fs::create_dir_all(&archive).expect("a folder");
        for _ in 0..2 {
            assert!(sweep(dir.path(), "own").is_err());
            assert!(!temp_dir.join("own.beef.1").exists(), "who made it can't show it any more");
        }
        fs::remove_dir(&archive).expect("removed");
        fs::write(&archive, "").expect("written");
        sweep(dir.path(), "own").expect("swept");
        assert!(!archive.exists(), "its narinfo never stood");
        assert_eq!(fs::read_dir(&temp_dir).expect("listed").count(), 0);
    }
}
