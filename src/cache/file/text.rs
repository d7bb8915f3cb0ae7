//! Small files of a cache. Others may write to its directory, too: neither a pipe nor a file without end holds up who reads
//! there.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

use super::shelf::seconds;
use super::temp::{io_error, there};
use crate::cache::CacheError;
use crate::cache::care::{Edition, Text};

/// Longest text that is read, in bytes: as long as the narinfos that readers take.
pub(super) const LONGEST_TEXT: u64 = 1024 * 1024;

/// Opens a file, if it is there. A pipe, a device or a folder in its place is none.
pub(super) fn open(path: &Path) -> Result<Option<File>, CacheError> {
    // A pipe is opened at once then, instead of when somebody writes into it.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let Some(file) = there(opened, "open", path)? else { return Ok(None) };
    let is_file = file.metadata().map_err(io_error("look at", path))?.is_file();
    Ok(is_file.then_some(file))
}

/// A small file, if it is there; of one that is longer than texts are, so much that it can't be taken for one.
pub(super) fn read(path: &Path) -> Result<Option<Text>, CacheError> {
    let Some(file) = open(path)? else { return Ok(None) };
    let modified = seconds(file.metadata().and_then(|metadata| metadata.modified()).ok());
    let mut content = Vec::new();
    file.take(LONGEST_TEXT + 1).read_to_end(&mut content).map_err(io_error("read", path))?;
    Ok(Some(Text { content, modified, edition: Edition::default() }))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::cache::file::look::check_store;
    use crate::cache::layout::CACHE_INFO;
    use crate::nix::StoreDir;

    #[test]
    fn a_pipe_in_the_place_of_a_file_holds_nobody_up() {
        let dir = tempfile::tempdir().expect("a folder");
        let pipe = dir.path().join(CACHE_INFO);
        let made = Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs");
        assert!(made.success());
        let (answer, answered) = mpsc::channel();
        let own = dir.path().to_owned();
        thread::spawn(move || {
            let text = read(&own.join(CACHE_INFO)).expect("asked");
            let store = check_store(&own, &StoreDir::default()).expect("asked");
            answer.send((text.is_none(), store)).expect("heard");
        });
        let (is_none, is_cache) = answered.recv_timeout(Duration::from_secs(60)).expect("it isn't waited for");
        assert!(is_none && !is_cache);
    }

    #[test]
    fn no_more_is_read_than_a_text_can_have() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join(CACHE_INFO);
        // It has no blocks, so it takes no room.
        fs::write(&path, "StoreDir: /nix/store\n").expect("written");
        File::options().write(true).open(&path).expect("opened").set_len(1 << 40).expect("made longer");
        let text = read(&path).expect("asked").expect("there");
        assert_eq!(text.content.len() as u64, LONGEST_TEXT + 1);
        assert!(matches!(check_store(dir.path(), &StoreDir::default()), Err(CacheError::Malformed { .. })));
    }
}
