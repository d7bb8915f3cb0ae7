//! The files of a cache in a directory, for those who care for it.
//!
//! The cache isn't opened: that sweeps what the service may be writing.

use std::fs::{self, Metadata};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::TEMP_DIR;
use super::temp::{self, TempFile, io_error, there};
use super::text::{self, read};
use crate::cache::care::{self, Chunks, Clock, Condition, Entry, Listed, Seconds, Shelf, Take, Text, Unfinished};
use crate::cache::{BoxFuture, CacheError, layout};
use crate::nix::StoreDir;

/// Names the files that are written here; should a crash leave one, it is swept a day later.
const CARE: &str = "care";

/// Files of a list that are handed out together.
const PAGE: usize = 1_000;

/// Bytes of a file that are read at once, and how many such pieces may wait.
const CHUNK: usize = 256 * 1024;
const CHUNKS_AHEAD: usize = 4;

/// A cache's directory.
pub struct FileShelf {
    dir: PathBuf,
    name: String,
}

impl FileShelf {
    /// The cache in a directory, which has to be one for that store.
    ///
    /// # Errors
    /// [`CacheError::OtherStore`], [`CacheError::NoCacheThere`], [`CacheError::Io`].
    pub fn open(dir: PathBuf, store_dir: &StoreDir) -> Result<Self, CacheError> {
        let name = dir.display().to_string();
        if !super::look::check_store(&dir, store_dir)? {
            return Err(CacheError::NoCacheThere { cache: name });
        }
        Ok(Self { dir, name })
    }

    /// Does on a thread what may take its time.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> Result<T, CacheError> + Send + 'static,
    ) -> Result<T, CacheError> {
        let dir = self.dir.clone();
        let done = spawn_blocking(move || work(&dir)).await;
        done.map_err(|_| CacheError::LostThread { action: "care for the cache" })?
    }
}

impl Shelf for FileShelf {
    fn name(&self) -> &str {
        &self.name
    }

    fn list<'a>(&'a self, what: Listed, take: Take<'a>) -> BoxFuture<'a, Result<(), CacheError>> {
        Box::pin(async move {
            let (pages, mut arriving) = mpsc::channel(2);
            let dir = self.dir.clone();
            let listing = spawn_blocking(move || list(&dir, what, &pages));
            while let Some(page) = arriving.recv().await {
                take(page);
            }
            listing.await.map_err(|_| CacheError::LostThread { action: "list the cache" })?
        })
    }

    /// That of a file written just now. Where a server has the directory, the time is the server's; else it is this host's,
    /// and which it is can't be told.
    fn clock(&self) -> BoxFuture<'_, Option<Clock>> {
        Box::pin(async {
            let modified = self.blocking(|dir| {
                let temp = dir.join(TEMP_DIR).join(temp::new_copy_name(CARE));
                // Removed when it is dropped.
                let (_temp, file) = TempFile::create(temp, dir.join(CARE))?;
                file.metadata().and_then(|file| file.modified()).map_err(io_error("look at a file in", dir))
            });
            // Who may not write there, or has no room, goes by this host's.
            Some(Clock::Hosts(seconds(Some(modified.await.ok()?))))
        })
    }

    fn find<'a>(&'a self, file: &'a str) -> BoxFuture<'a, Result<Option<Entry>, CacheError>> {
        let name = file.to_owned();
        Box::pin(self.blocking(move |dir| {
            let found = there(fs::metadata(dir.join(&name)), "look for", &dir.join(&name))?;
            Ok(found.filter(Metadata::is_file).map(|metadata| entry(name, &metadata)))
        }))
    }

    fn read<'a>(&'a self, file: &'a str) -> BoxFuture<'a, Result<Option<Text>, CacheError>> {
        let name = file.to_owned();
        Box::pin(self.blocking(move |dir| read(&dir.join(name))))
    }

    fn stream<'a>(&'a self, file: &'a str) -> BoxFuture<'a, Result<Option<Chunks>, CacheError>> {
        let name = file.to_owned();
        Box::pin(async move {
            let path = self.dir.join(name);
            let own = path.clone();
            let opened = self.blocking(move |_| text::open(&own)).await?;
            let Some(mut file) = opened else { return Ok(None) };
            let (chunks, arriving) = mpsc::channel(CHUNKS_AHEAD);
            spawn_blocking(move || {
                loop {
                    let mut chunk = vec![0; CHUNK];
                    let read = match file.read(&mut chunk) {
                        Ok(0) => return,
                        Ok(read) => {
                            chunk.truncate(read);
                            Ok(Bytes::from(chunk))
                        }
                        Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                        Err(source) => Err(io_error("read", &path)(source)),
                    };
                    let is_last = read.is_err();
                    if chunks.blocking_send(read).is_err() || is_last {
                        return;
                    }
                }
            });
            Ok(Some(arriving))
        })
    }

    fn put<'a>(
        &'a self,
        file: &'a str,
        content: Vec<u8>,
        condition: Condition<'a>,
    ) -> BoxFuture<'a, Result<bool, CacheError>> {
        let name = file.to_owned();
        let expected = Expected::of(condition);
        Box::pin(self.blocking(move |dir| put(dir, &name, &content, &expected)))
    }

    fn rename<'a>(
        &'a self,
        from: &'a str,
        text: Text,
        to: &'a str,
        condition: Condition<'a>,
    ) -> BoxFuture<'a, Result<bool, CacheError>> {
        let (from, to) = (from.to_owned(), to.to_owned());
        let expected = Expected::of(condition);
        Box::pin(self.blocking(move |dir| rename(dir, &from, &text.content, &to, &expected)))
    }

    fn settle(&self) -> BoxFuture<'_, Result<(), CacheError>> {
        Box::pin(self.blocking(|dir| {
            let pruned = dir.join(layout::PRUNED_DIR);
            if pruned.exists() {
                temp::sync_dir(&pruned)?;
            }
            temp::sync_dir(dir)
        }))
    }

    fn remove<'a>(&'a self, file: &'a str) -> BoxFuture<'a, Result<(), CacheError>> {
        let name = file.to_owned();
        Box::pin(self.blocking(move |dir| {
            let path = dir.join(name);
            there(fs::remove_file(&path), "remove", &path).map(drop)
        }))
    }

    fn unfinished(&self) -> BoxFuture<'_, Result<Vec<Unfinished>, CacheError>> {
        Box::pin(self.blocking(|dir| {
            let temp_dir = dir.join(TEMP_DIR);
            let Some(entries) = there(fs::read_dir(&temp_dir), "list", &temp_dir)? else { return Ok(Vec::new()) };
            let unfinished = |file: fs::DirEntry| {
                let metadata = file.metadata().ok().filter(Metadata::is_file)?;
                let name = format!("{TEMP_DIR}/{}", file.file_name().to_str()?);
                let Entry { name, size, modified, .. } = entry(name, &metadata);
                Some(Unfinished { id: name.clone(), name, size: Some(size), modified })
            };
            Ok(entries.flatten().filter_map(unfinished).collect())
        }))
    }

    fn abandon<'a>(&'a self, upload: &'a Unfinished) -> BoxFuture<'a, Result<(), CacheError>> {
        self.remove(&upload.id)
    }
}

pub(super) fn seconds(time: Option<SystemTime>) -> Seconds {
    let since = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, care::seconds)
}

fn entry(name: String, metadata: &Metadata) -> Entry {
    let modified = seconds(metadata.modified().ok());
    // A file system that doesn't note reads has the time of the first or of none.
    let read = seconds(metadata.accessed().ok()).max(modified);
    Entry { name, size: metadata.len(), modified, read }
}

/// Sends what lies below a directory, a page at a time. Links are not followed: they may lead out of the cache.
fn list(root: &Path, what: Listed, pages: &mpsc::Sender<Vec<Entry>>) -> Result<(), CacheError> {
    let (mut folders, mut page) = (vec![String::new()], Vec::with_capacity(PAGE));
    while let Some(folder) = folders.pop() {
        let path = root.join(&folder);
        let Some(entries) = there(fs::read_dir(&path), "list", &path)? else { continue };
        for file in entries {
            let file = file.map_err(io_error("list", &path))?;
            // Nothing of a cache has such a name.
            let Some(name) = file.file_name().to_str().map(|name| format!("{folder}{name}")) else { continue };
            let Some(metadata) = there(file.metadata(), "look at", &file.path())? else { continue };
            if metadata.is_dir() && what == Listed::Everything && name != TEMP_DIR {
                folders.push(format!("{name}/"));
            } else if metadata.is_file() {
                page.push(entry(name, &metadata));
            }
            if page.len() == PAGE && pages.blocking_send(std::mem::take(&mut page)).is_err() {
                return Ok(());
            }
        }
    }
    // Who takes them may have ended, by a failure of its own.
    let _ = pages.blocking_send(page);
    Ok(())
}

/// What has to be there before something is put in its place.
enum Expected {
    Whatever,
    Nothing,
    This(Vec<u8>),
}

impl Expected {
    fn of(condition: Condition<'_>) -> Self {
        match condition {
            Condition::Always => Self::Whatever,
            Condition::Absent => Self::Nothing,
            Condition::Unchanged(text) => Self::This(text.content.clone()),
        }
    }
}

/// Makes a file young and renames it, which takes no room. In this order: what is hidden goes as long after as it is old, and
/// should this process be killed in between, its archive must not go at once. Where the file system or its owner doesn't let
/// us, it is copied.
///
/// Killed just after another host's narinfo was renamed that had come since this one was read, it stays hidden until it is
/// put back, or uploaded once more when something needs it.
fn rename(dir: &Path, from: &str, seen: &[u8], to: &str, expected: &Expected) -> Result<bool, CacheError> {
    let (source, target) = (dir.join(from), dir.join(to));
    let folder = target.parent().unwrap_or(dir);
    fs::create_dir_all(folder).map_err(io_error("create", folder))?;
    let is_young = temp::make_young(&source).is_ok();
    let renamed = match expected {
        _ if !is_young => false,
        Expected::Whatever => fs::rename(&source, &target).is_ok(),
        // Unlike a rename, this replaces nothing.
        Expected::Nothing => match fs::hard_link(&source, &target) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(false),
            linked => linked.is_ok(),
        },
        Expected::This(_) => false,
    };
    if !renamed {
        let is_put = put(dir, to, seen, expected)?;
        if is_put {
            there(fs::remove_file(&source), "remove", &source)?;
        }
        return Ok(is_put);
    }
    if matches!(expected, Expected::Whatever) && read(&target)?.is_none_or(|text| text.content != seen) {
        // It goes back, unless yet another one has come. Where that can't be told, for want of links, it may replace that one:
        // both are true, and it must not be lost.
        match fs::hard_link(&target, &source) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                there(fs::rename(&target, &source), "rename", &target)?
            }
            _ => there(fs::remove_file(&target), "remove", &target)?,
        };
        return Ok(false);
    }
    if matches!(expected, Expected::Nothing) {
        there(fs::remove_file(&source), "remove", &source)?;
    }
    Ok(true)
}

/// Writes aside and renames, after one more look.
fn put(dir: &Path, name: &str, content: &[u8], expected: &Expected) -> Result<bool, CacheError> {
    let target = dir.join(name);
    let folders = [dir.join(TEMP_DIR), target.parent().unwrap_or(dir).to_owned()];
    for folder in &folders {
        fs::create_dir_all(folder).map_err(io_error("create", folder))?;
    }
    // What is swept of it must not be taken for a narinfo whose archive nobody names.
    let (mut temp, mut file) = TempFile::create(folders[0].join(temp::new_copy_name(CARE)), target.clone())?;
    let written = file.write_all(content);
    written.map_err(io_error("write a file in", dir))?;
    match expected {
        Expected::Whatever => {}
        Expected::Nothing if target.exists() => return Ok(false),
        Expected::Nothing => {}
        Expected::This(seen) => {
            if read(&target)?.is_none_or(|text| text.content != *seen) {
                return Ok(false);
            }
            // Its age is that of the path, by which a prune goes.
            let metadata = fs::metadata(&target).map_err(io_error("look at", &target))?;
            let kept = metadata.modified().and_then(|modified| file.set_modified(modified));
            kept.map_err(io_error("set the time of a file in", dir))?;
        }
    }
    temp.sync()?;
    temp.publish()?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_took_the_place_of_a_narinfo_since_it_was_read_goes_back_there() {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join("a.narinfo"), "another host's").expect("written");
        let renamed = rename(dir.path(), "a.narinfo", b"what was read", "pruned/a", &Expected::Whatever);
        assert!(!renamed.expect("tried"));
        assert_eq!(fs::read(dir.path().join("a.narinfo")).expect("there"), b"another host's");
        assert!(!dir.path().join("pruned/a").exists());
        let renamed = rename(dir.path(), "a.narinfo", b"another host's", "pruned/a", &Expected::Whatever);
        assert!(renamed.expect("renamed") && dir.path().join("pruned/a").exists());
        assert!(!dir.path().join("a.narinfo").exists());
    }

    /// Whoever is killed between the two has hidden nothing that is old already.
    #[test]
    fn what_is_renamed_is_young_before_it_has_its_new_name() {
        let dir = tempfile::tempdir().expect("a folder");
        let source = dir.path().join("a.narinfo");
        fs::write(&source, "a").expect("written");
        let old = SystemTime::now() - Duration::from_secs(24 * 60 * 60);
        File::options().write(true).open(&source).expect("opened").set_modified(old).expect("made older");
        // It ends at the new name, where a folder stands.
        fs::create_dir_all(dir.path().join("pruned/a/in the way")).expect("a folder");
        assert!(rename(dir.path(), "a.narinfo", b"a", "pruned/a", &Expected::Whatever).is_err());
        let age = fs::metadata(&source).expect("there").modified().expect("a time").elapsed().unwrap_or_default();
        assert!(age < Duration::from_secs(60 * 60), "{age:?}");
    }
}
