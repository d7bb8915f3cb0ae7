//! The walk over a tree, in the order of its NAR.

use std::cell::Cell;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::{AtFlags, CWD, Dir, DirEntry, FileType, Mode, OFlags, fstat, openat, readlinkat, statat};
use rustix::io::Errno;
use rustix::path::Arg;

use super::chunks::{CHUNK, Chunks, CopyError};
use super::{NarError, NarOptions};

const MAGIC: [u8; 24] = words(&["nix-archive-1"]);
const FILE: [u8; 64] = words(&["(", "type", "regular", "contents"]);
const EXECUTABLE: [u8; 96] = words(&["(", "type", "regular", "executable", "", "contents"]);
const SYMLINK: [u8; 64] = words(&["(", "type", "symlink", "target"]);
const DIRECTORY: [u8; 56] = words(&["(", "type", "directory"]);
const ENTRY: [u8; 48] = words(&["entry", "(", "name"]);
const NODE: [u8; 16] = words(&["node"]);
const CLOSE: [u8; 16] = words(&[")"]);

/// What Nix puts behind a name that clashes on a volume that ignores case; a number follows.
const CASE_HACK: &[u8] = b"~nix~case~hack~";

/// Directories kept open between the root and where the encoder stands. Deeper ones are closed while it is below them
/// and opened again on the way back. Nothing sensible in a store is as deep; the limit of 1024 descriptors that many
/// hosts set is shared with everything else in the process.
const OPEN_LEVELS: usize = 32;

/// Hands the NAR of what lies at `root` to `emit`, in order, in chunks of [`CHUNK`] bytes (the last one may be shorter).
///
/// `root` may be a directory, a file, or a symlink, which isn't followed. It works on the calling thread and blocks.
///
/// # Errors
/// [`NarError`], the first one met; `emit` isn't called again after it has failed.
pub fn encode<E>(
    root: &Path,
    options: &NarOptions,
    emit: impl FnMut(Bytes) -> Result<(), E>,
) -> Result<(), NarError<E>> {
    encode_in_chunks(CHUNK, root, options, &Cell::new(0), emit)
}

/// [`encode`] with another chunk length, so that a test meets every boundary without writing gigabytes, and with a
/// count of the files begun so far, for `emit` to look at.
pub(super) fn encode_in_chunks<E>(
    chunk: usize,
    root: &Path,
    options: &NarOptions,
    files: &Cell<u64>,
    emit: impl FnMut(Bytes) -> Result<(), E>,
) -> Result<(), NarError<E>> {
    let mut walk = Walk { root, options, files, out: Chunks::new(chunk, emit), levels: Vec::new() };
    match walk.run() {
        Ok(()) => walk.out.finish().map_err(NarError::Sink),
        Err(fault) => Err(walk.explain(fault)),
    }
}

struct Walk<'a, F> {
    root: &'a Path,
    options: &'a NarOptions,
    files: &'a Cell<u64>,
    out: Chunks<F>,
    /// The directories from the root to where the walk stands: a stack of our own, since a tree may be deeper than the
    /// thread's.
    levels: Vec<Level>,
}

/// A directory that the walk is in.
struct Level {
    /// `None` while the walk is far below it.
    dir: Option<Dir>,
    /// Device and inode of a directory that was closed, to know it again.
    closed: Option<(u64, u64)>,
    entries: std::vec::IntoIter<Entry>,
    /// The entry that the walk is at or below.
    at: Option<Entry>,
}

struct Entry {
    entry: DirEntry,
    /// Length of the name in the NAR, which has no case hack.
    len: usize,
}

impl Entry {
    fn nar_name(&self) -> &[u8] {
        &self.entry.file_name().to_bytes()[..self.len]
    }
}

/// A failure at where the walk stands; [`Walk::explain`] adds the path, which nobody needs before.
enum Fault<E> {
    Io(&'static str, Errno),
    /// As `Io`, of an entry that isn't the one the walk is at, but its directory.
    InDirectory(&'static str, Errno),
    DirectoryChanged,
    Changed,
    Unsupported(&'static str),
    CaseClash(String),
    Sink(E),
}

impl<E> Fault<E> {
    /// A thing known to be of one kind can't be opened as one: it was replaced.
    fn open(errno: Errno) -> Self {
        match errno {
            Errno::LOOP | Errno::NOTDIR | Errno::NXIO => Self::Changed,
            _ => Self::Io("open", errno),
        }
    }
}

impl<E> From<CopyError<E>> for Fault<E> {
    fn from(error: CopyError<E>) -> Self {
        match error {
            CopyError::Read(errno) => Self::Io("read", errno),
            CopyError::Length => Self::Changed,
            CopyError::Sink(error) => Self::Sink(error),
        }
    }
}

impl<E, F: FnMut(Bytes) -> Result<(), E>> Walk<'_, F> {
    fn run(&mut self) -> Result<(), Fault<E>> {
        self.out.put(&MAGIC).map_err(Fault::Sink)?;
        let kind = kind_of(CWD, self.root)?;
        self.files.set(self.files.get() + 1);
        if let Some(level) = node(&mut self.out, self.options, CWD, self.root, kind)? {
            self.levels.push(level);
        }
        while let Some(level) = self.levels.last_mut() {
            level.at = level.entries.next();
            if level.at.is_some() {
                self.entry()?;
            } else {
                self.leave()?;
            }
        }
        Ok(())
    }

    /// Puts the next entry, or enters it if it is a directory.
    fn entry(&mut self) -> Result<(), Fault<E>> {
        let depth = self.levels.len();
        let Some(Level { dir: Some(dir), at: Some(entry), closed, .. }) = self.levels.last_mut() else { return Ok(()) };
        self.out.put(&ENTRY).map_err(Fault::Sink)?;
        self.out.put_word(entry.nar_name()).map_err(Fault::Sink)?;
        self.out.put(&NODE).map_err(Fault::Sink)?;
        let (name, fd) = (entry.entry.file_name(), dir.fd().map_err(|errno| Fault::InDirectory("list", errno))?);
        let kind = match entry.entry.file_type() {
            FileType::Unknown => kind_of(fd, name)?,
            kind => kind,
        };
        self.files.set(self.files.get() + 1);
        match node(&mut self.out, self.options, fd, name, kind)? {
            None => self.out.put(&CLOSE).map_err(Fault::Sink),
            Some(level) => {
                if depth >= OPEN_LEVELS {
                    *closed = Some(identity(fd)?);
                    self.levels[depth - 1].dir = None;
                }
                self.levels.push(level);
                Ok(())
            }
        }
    }

    /// Goes back up from a directory whose entries are all put.
    fn leave(&mut self) -> Result<(), Fault<E>> {
        let child = self.levels.pop();
        self.out.put(&CLOSE).map_err(Fault::Sink)?;
        let Some(parent) = self.levels.last_mut() else { return Ok(()) };
        self.out.put(&CLOSE).map_err(Fault::Sink)?;
        if let (Some(known), Some(child)) = (parent.closed.take(), child.and_then(|child| child.dir)) {
            let failed = |errno| Fault::InDirectory("open", errno);
            let fd = openat(child.fd().map_err(failed)?, c"..", DIRECTORY_FLAGS, Mode::empty()).map_err(failed)?;
            if identity(fd.as_fd())? != known {
                return Err(Fault::DirectoryChanged);
            }
            parent.dir = Some(Dir::new(fd).map_err(failed)?);
        }
        Ok(())
    }

    fn explain(&self, fault: Fault<E>) -> NarError<E> {
        let names = self.levels.iter().filter_map(|level| level.at.as_ref()).map(|at| at.entry.file_name().to_bytes());
        let mut path = self.root.to_owned();
        path.extend(names.map(OsStr::from_bytes));
        let directory = |path: PathBuf| match path.parent() {
            Some(parent) if path != self.root => parent.to_owned(),
            _ => path,
        };
        match fault {
            Fault::Io(action, errno) => NarError::Io { action, path, source: errno.into() },
            Fault::InDirectory(action, errno) => NarError::Io { action, path: directory(path), source: errno.into() },
            Fault::DirectoryChanged => NarError::Changed { path: directory(path) },
            Fault::Changed => NarError::Changed { path },
            Fault::Unsupported(kind) => NarError::Unsupported { path, kind },
            // Found while it is being listed, before it is on the stack.
            Fault::CaseClash(name) => NarError::CaseClash { directory: path, name },
            Fault::Sink(error) => NarError::Sink(error),
        }
    }
}

/// Puts a file or a symlink whole; of a directory the beginning, and gives back what is in it.
fn node<E, F: FnMut(Bytes) -> Result<(), E>>(
    out: &mut Chunks<F>,
    options: &NarOptions,
    parent: BorrowedFd<'_>,
    name: impl Arg,
    kind: FileType,
) -> Result<Option<Level>, Fault<E>> {
    match kind {
        FileType::RegularFile => {
            let file = openat(parent, name, FILE_FLAGS, Mode::empty()).map_err(Fault::open)?;
            put_file(out, &file)?;
            out.put(&CLOSE).map_err(Fault::Sink)?;
        }
        FileType::Symlink => {
            let target = readlinkat(parent, name, Vec::new()).map_err(|errno| match errno {
                Errno::INVAL => Fault::Changed,
                _ => Fault::Io("read link", errno),
            })?;
            out.put(&SYMLINK).map_err(Fault::Sink)?;
            out.put_word(target.to_bytes()).map_err(Fault::Sink)?;
            out.put(&CLOSE).map_err(Fault::Sink)?;
        }
        FileType::Directory => {
            let fd = openat(parent, name, DIRECTORY_FLAGS, Mode::empty()).map_err(Fault::open)?;
            out.put(&DIRECTORY).map_err(Fault::Sink)?;
            return list(fd, options).map(Some);
        }
        FileType::Fifo => return Err(Fault::Unsupported("fifo")),
        FileType::Socket => return Err(Fault::Unsupported("socket")),
        FileType::CharacterDevice => return Err(Fault::Unsupported("character device")),
        FileType::BlockDevice => return Err(Fault::Unsupported("block device")),
        FileType::Unknown => return Err(Fault::Unsupported("file of unknown kind")),
    }
    Ok(None)
}

fn put_file<E, F: FnMut(Bytes) -> Result<(), E>>(out: &mut Chunks<F>, file: &OwnedFd) -> Result<(), Fault<E>> {
    let stat = fstat(file).map_err(|errno| Fault::Io("look at", errno))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Fault::Changed);
    }
    let len = u64::try_from(stat.st_size).unwrap_or(0);
    let executable = Mode::from_raw_mode(stat.st_mode).contains(Mode::XUSR);
    out.put(if executable { &EXECUTABLE[..] } else { &FILE[..] }).map_err(Fault::Sink)?;
    out.put_len(len).map_err(Fault::Sink)?;
    out.put_file(file, len)?;
    out.pad(len).map_err(Fault::Sink)
}

/// The entries of a directory, in the order of the NAR.
fn list<E>(fd: OwnedFd, options: &NarOptions) -> Result<Level, Fault<E>> {
    let failed = |errno| Fault::Io("list", errno);
    let mut dir = Dir::new(fd).map_err(failed)?;
    let mut entries = Vec::new();
    while let Some(entry) = dir.read() {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let len = if options.case_hack { without_case_hack(name) } else { name.len() };
        entries.push(Entry { entry, len });
    }
    entries.sort_unstable_by(|a, b| a.nar_name().cmp(b.nar_name()));
    if let Some(pair) = entries.windows(2).find(|pair| pair[0].nar_name() == pair[1].nar_name()) {
        return Err(Fault::CaseClash(String::from_utf8_lossy(pair[0].nar_name()).into_owned()));
    }
    Ok(Level { dir: Some(dir), closed: None, entries: entries.into_iter(), at: None })
}

/// Length of a name without Nix's suffix, which Nix cuts off at its first occurrence.
fn without_case_hack(name: &[u8]) -> usize {
    name.windows(CASE_HACK.len()).position(|part| part == CASE_HACK).unwrap_or(name.len())
}

fn kind_of<E>(parent: BorrowedFd<'_>, name: impl Arg) -> Result<FileType, Fault<E>> {
    let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| Fault::Io("look at", errno))?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

/// Device and inode.
fn identity<E>(directory: BorrowedFd<'_>) -> Result<(u64, u64), Fault<E>> {
    let stat = fstat(directory).map_err(|errno| Fault::InDirectory("look at", errno))?;
    Ok((stat.st_dev as u64, stat.st_ino as u64))
}

/// `NONBLOCK` so that a fifo put in a file's place doesn't hold up the walk until someone writes to it.
const FILE_FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

const DIRECTORY_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW).union(OFlags::DIRECTORY);

/// Words of a NAR, each with its length in front and its padding behind, one after the other.
const fn words<const LEN: usize>(words: &[&str]) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    let (mut at, mut n) = (0, 0);
    while n < words.len() {
        let word = words[n].as_bytes();
        // No word here is longer than 255 bytes, so the other seven bytes of its length are zero.
        bytes[at] = word.len() as u8;
        let mut i = 0;
        while i < word.len() {
            bytes[at + 8 + i] = word[i];
            i += 1;
        }
        at += 8 + word.len().next_multiple_of(8);
        n += 1;
    }
    assert!(at == LEN, "the length of these words is another");
    bytes
}
