//! Content as it lies in a Nix store: this machine's own programs, libraries, headers and texts.
//!
//! What a compressor does with made-up bytes says little of what it does with real ones: random pieces, half of them
//! repeated, pack by 45 % and take zstd -3 three times as long a byte as a library does, so that nothing else shows.
//! So the content is cut out of `/usr`. Its files, put in the order of their names, are one long line; a path gets a
//! stretch of it, with the names that the files there have: most often a part of a package, and sometimes a part of a
//! large file. Where a stretch lies is drawn, always in the same way, so all of this is the same at each run on one
//! machine. On another one it is other content of the same kind.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::Random;

const ROOT: &str = "/usr";

/// Where programs, headers, libraries and texts are.
const FOLDERS: [&str; 4] = ["bin", "include", "lib", "share"];

/// With less than that (bytes), one path would be much like another.
const ENOUGH: u64 = 256 << 20;

/// The files of this machine, in one line.
pub struct Machine {
    /// Where each is, and where it begins in the line.
    files: Vec<(PathBuf, u64)>,
    len: u64,
}

impl Machine {
    /// Looks what there is.
    pub fn look() -> Self {
        let machine = Self::files_of(&FOLDERS, |_| true);
        assert!(machine.len >= ENOUGH, "{ROOT} holds too little to make paths of: {} bytes", machine.len);
        machine
    }

    /// Looks for files of one kind in these folders of `/usr`.
    pub fn files_of(folders: &[&str], is_wanted: fn(&Path) -> bool) -> Self {
        let mut machine = Self { files: Vec::new(), len: 0 };
        folders.iter().for_each(|folder| machine.add(&Path::new(ROOT).join(folder), is_wanted));
        assert!(machine.len > 0, "there are no such files in {folders:?} of {ROOT}");
        machine
    }

    fn add(&mut self, folder: &Path, is_wanted: fn(&Path) -> bool) {
        let mut entries: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().collect();
        entries.sort_unstable_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let Ok(metadata) = entry.metadata() else { continue };
            let for_all_to_read = metadata.mode() & 0o444 == 0o444;
            if metadata.is_dir() {
                self.add(&entry.path(), is_wanted);
            } else if metadata.is_file() && for_all_to_read && is_wanted(&entry.path()) {
                self.files.push((entry.path(), self.len));
                self.len += metadata.len();
            }
        }
    }

    /// Copies a stretch of so many bytes into a folder.
    pub fn copy_some(&self, len: u64, into: &Path, random: &mut Random) -> io::Result<()> {
        let mut from = random.below(self.len);
        let mut at = self.files.partition_point(|(_, begins)| *begins <= from) - 1;
        let mut left = len;
        while left > 0 {
            let (source, begins) = &self.files[at];
            let target = into.join(source.strip_prefix(ROOT).unwrap_or(source));
            left -= copy(source, from - begins, left, &target)?;
            at = (at + 1) % self.files.len();
            from = self.files[at].1;
        }
        Ok(())
    }
}

/// Copies up to `len` bytes of a file, with the permissions that Nix leaves. Returns how many there were.
fn copy(source: &Path, from: u64, len: u64, target: &Path) -> io::Result<u64> {
    target.parent().map_or(Ok(()), fs::create_dir_all)?;
    let mut file = File::open(source)?;
    let mode = file.metadata()?.mode() & 0o555;
    file.seek(SeekFrom::Start(from))?;
    let copied = io::copy(&mut file.take(len), &mut File::create(target)?)?;
    fs::set_permissions(target, fs::Permissions::from_mode(mode))?;
    Ok(copied)
}
