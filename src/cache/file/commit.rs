//! Group commit: what is ready at the same time is made durable together.
//!
//! All contents are synced; then the archives are renamed and their directory is synced; then the narinfos are renamed
//! and theirs is synced; only then are the pushes told. So whatever a power failure leaves, and in whatever order the
//! file system writes: a narinfo that is there has its archive. It has its references too, since a path comes here only
//! after their pushes were told.
//!
//! A push that was dropped meanwhile, since the policy denies its path by now, is left out of its group as long as its
//! narinfo isn't there.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::temp::TempFile;
use crate::cache::{CacheError, layout};

/// Paths that may wait for the next group.
const WAITING: usize = 256;

/// Threads that sync a group's files. A journalling file system commits once for all that wait at the same time.
const SYNCERS: usize = 4;

/// The files of a path, written under temporary names.
pub(super) struct Files {
    /// None where the archive stands already, as that of another path.
    pub(super) nar: Option<TempFile>,
    /// Whether the archive's content has been synced already.
    pub(super) nar_synced: bool,
    /// The list of its files, where the cache has that.
    pub(super) listing: Option<TempFile>,
    pub(super) narinfo: TempFile,
}

impl Files {
    /// Takes back what no narinfo stands for: an archive that none names, and a list of the files of a path that isn't shown.
    fn withdraw(&mut self) {
        self.nar.iter_mut().for_each(TempFile::withdraw);
        if !self.narinfo.is_there() {
            self.listing.iter_mut().for_each(TempFile::withdraw);
        }
    }
}

/// A path whose files are written, and whose references are published.
struct Ready {
    files: Files,
    done: oneshot::Sender<Result<(), CacheError>>,
}

/// Takes paths that are ready and publishes them in groups.
pub(super) struct Committer {
    inbox: mpsc::Sender<Ready>,
}

impl Committer {
    pub(super) fn start(cache_dir: PathBuf) -> Self {
        let (inbox, mut ready) = mpsc::channel::<Ready>(WAITING);
        let cache_dir = Arc::new(cache_dir);
        tokio::spawn(async move {
            let mut group = Vec::with_capacity(WAITING);
            while ready.recv_many(&mut group, WAITING).await > 0 {
                let members = std::mem::take(&mut group);
                let dir = Arc::clone(&cache_dir);
                // A panic in there drops the members, whose pushes then fail and are tried again.
                let _ = tokio::task::spawn_blocking(move || commit(&dir, members)).await;
            }
        });
        Self { inbox }
    }

    /// Publishes one path; returns when it is durable.
    pub(super) async fn publish(&self, files: Files) -> Result<(), CacheError> {
        let (done, published) = oneshot::channel();
        let stopped = || CacheError::LostThread { action: "publish a path" };
        self.inbox.send(Ready { files, done }).await.map_err(|_| stopped())?;
        published.await.map_err(|_| stopped())?
    }
}

fn commit(cache_dir: &Path, members: Vec<Ready>) {
    for Ready { files: Files { nar, narinfo, .. }, .. } in &members {
        nar.iter().for_each(TempFile::make_young);
        narinfo.make_young();
    }
    let members = sync_contents(members);
    let members = publish(members, |files| files.nar.as_mut(), &cache_dir.join(layout::NAR_DIR));
    for ready in publish(publish_lists(members), |files| Some(&mut files.narinfo), cache_dir) {
        // Nobody waiting any more is fine.
        let _ = ready.done.send(Ok(()));
    }
}

/// Renames the lists of files. Nix does without one, so that one that can't be published is no reason not to publish the path.
fn publish_lists(mut members: Vec<Ready>) -> Vec<Ready> {
    for ready in members.iter_mut().filter(|ready| !ready.done.is_closed()) {
        let _ = ready.files.listing.as_mut().map(TempFile::publish);
    }
    members
}

/// Renames one file of each member that has it into a directory and syncs that. One that can't be renamed fails alone.
fn publish(members: Vec<Ready>, file: fn(&mut Files) -> Option<&mut TempFile>, dir: &Path) -> Vec<Ready> {
    let mut published = Vec::with_capacity(members.len());
    for mut ready in members {
        if ready.done.is_closed() {
            ready.files.withdraw();
            continue;
        }
        match file(&mut ready.files).map_or(Ok(()), TempFile::publish) {
            Ok(()) => published.push(ready),
            Err(error) => {
                ready.files.withdraw();
                let _ = ready.done.send(Err(error));
            }
        }
    }
    let Err(source) = File::open(dir).and_then(|dir| dir.sync_all()) else { return published };
    for mut ready in published {
        if !ready.files.narinfo.is_published() {
            ready.files.withdraw();
        }
        // An error can't be copied, but every push has to hear of it.
        let source = io::Error::new(source.kind(), source.to_string());
        let _ = ready.done.send(Err(CacheError::Io { action: "sync", path: dir.to_owned(), source }));
    }
    Vec::new()
}

/// Syncs all files of a group, several at a time; those whose files can't be synced are told and left out.
fn sync_contents(members: Vec<Ready>) -> Vec<Ready> {
    let share = members.len().div_ceil(SYNCERS).max(1);
    let mut members: Vec<Option<Ready>> = members.into_iter().map(Some).collect();
    let sync_slice = |slice: &mut [Option<Ready>]| {
        for member in slice {
            let Some(ready) = member else { continue };
            let Files { nar, nar_synced, listing, narinfo } = &mut ready.files;
            let synced = nar.as_ref().filter(|_| !*nar_synced).map_or(Ok(()), TempFile::sync);
            // As with its being published: Nix does without one.
            *listing = listing.take().filter(|listing| listing.sync().is_ok());
            if let Err(error) = synced.and_then(|()| narinfo.sync())
                && let Some(failed) = member.take()
            {
                let _ = failed.done.send(Err(error));
            }
        }
    };
    std::thread::scope(|scope| {
        let mut slices = members.chunks_mut(share);
        let first = slices.next();
        for slice in slices {
            // The closure is lost where the system gives no thread; then its members' pushes fail and are tried again.
            let _ = std::thread::Builder::new().name("sync".to_owned()).spawn_scoped(scope, move || sync_slice(slice));
        }
        if let Some(slice) = first {
            sync_slice(slice);
        }
    });
    members.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::time::{Duration, SystemTime};

    use super::*;

    /// An empty archive and its narinfo, and who waits for them to be published.
    fn ready(dir: &Path) -> (Ready, oneshot::Receiver<Result<(), CacheError>>) {
        let temp = |name: &str, target: &str| TempFile::create(dir.join(name), dir.join(target)).expect("a file").0;
        let files = Files {
            nar: Some(temp("1", "nar/a.nar")),
            nar_synced: false,
            listing: Some(temp("3", "a.ls")),
            narinfo: temp("2", "a.narinfo"),
        };
        let (done, published) = oneshot::channel();
        (Ready { files, done }, published)
    }

    #[test]
    fn a_push_that_was_dropped_shows_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let nar_dir = dir.path().join(layout::NAR_DIR);
        fs::create_dir(&nar_dir).expect("a folder");
        let is_empty = || {
            let files = fs::read_dir(dir.path()).expect("listed").count();
            files == 1 && fs::read_dir(&nar_dir).expect("listed").count() == 0
        };
        let (member, published) = ready(dir.path());
        drop(published);
        commit(dir.path(), vec![member]);
        assert!(is_empty(), "before its group");
        let (member, published) = ready(dir.path());
        let members = publish_lists(publish(vec![member], |files| files.nar.as_mut(), &nar_dir));
        assert!(nar_dir.join("a.nar").exists() && dir.path().join("a.ls").exists());
        drop(published);
        drop(publish(members, |files| Some(&mut files.narinfo), dir.path()));
        assert!(is_empty(), "while its group is synced");
        // One that is shown already keeps its list.
        fs::write(dir.path().join("a.narinfo"), "").expect("written");
        let (member, published) = ready(dir.path());
        let members = publish_lists(publish(vec![member], |files| files.nar.as_mut(), &nar_dir));
        drop(published);
        drop(publish(members, |files| Some(&mut files.narinfo), dir.path()));
        assert!(dir.path().join("a.ls").exists() && !nar_dir.join("a.nar").exists());
    }

    #[tokio::test]
    async fn what_has_waited_is_young_when_it_is_shown() {
        let dir = tempfile::tempdir().expect("a folder");
        fs::create_dir(dir.path().join(layout::NAR_DIR)).expect("a folder");
        let written = |name: &str, target: &str| {
            let (temp, mut file) =
                TempFile::create(dir.path().join(name), dir.path().join(target)).expect("a temporary file");
            file.write_all(b"x").expect("written");
            file.set_modified(SystemTime::now() - Duration::from_secs(3600)).expect("an hour old");
            temp
        };
        let files = Files {
            nar: Some(written("1", "nar/a.nar")),
            nar_synced: false,
            listing: None,
            narinfo: written("2", "a.narinfo"),
        };
        Committer::start(dir.path().to_owned()).publish(files).await.expect("published");
        for name in ["nar/a.nar", "a.narinfo"] {
            let shown = fs::metadata(dir.path().join(name)).and_then(|metadata| metadata.modified()).expect("a time");
            let age = shown.elapsed().unwrap_or_default();
            assert!(age < Duration::from_secs(1800), "{name} is {age:?} old, and would be removed as nobody's");
        }
    }
}
