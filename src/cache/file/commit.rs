//! Group commit: what is ready at the same time is made durable together.
//!
//! The order within a group keeps the cache whole through a power failure: all contents are synced, then the archives
//! are renamed, then the narinfos, and only when both directories are synced are the pushes told. A crash on the way
//! leaves a cache in which a narinfo may lack its reference only where the file system reorders renames, and only until
//! the jobs, which are not done then, are worked off again.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::temp::{TempFile, sync_dir};
use crate::cache::{CacheError, layout};

/// Paths that may wait for the next group.
const WAITING: usize = 256;

/// Threads that sync a group's files. A journalling file system commits once for all that wait at the same time.
const SYNCERS: usize = 4;

/// A path whose files are written, and whose references are published.
pub(super) struct Ready {
    pub(super) nar: TempFile,
    /// Whether the archive's content has been synced already.
    pub(super) nar_synced: bool,
    pub(super) narinfo: TempFile,
    pub(super) done: oneshot::Sender<Result<(), CacheError>>,
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
    pub(super) async fn publish(&self, nar: TempFile, nar_synced: bool, narinfo: TempFile) -> Result<(), CacheError> {
        let (done, published) = oneshot::channel();
        let stopped = || crate::cache::NarFailure::Cancelled;
        self.inbox.send(Ready { nar, nar_synced, narinfo, done }).await.map_err(|_| stopped())?;
        published.await.map_err(|_| stopped())?
    }
}

fn commit(cache_dir: &std::path::Path, members: Vec<Ready>) {
    let mut members = sync_contents(members);
    // One that can't be published fails alone; the others go on.
    let mut publish = |file: fn(&mut Ready) -> &mut TempFile| {
        for index in (0..members.len()).rev() {
            if let Err(error) = file(&mut members[index]).publish() {
                let failed = members.remove(index);
                let _ = failed.done.send(Err(error));
            }
        }
    };
    publish(|ready| &mut ready.nar);
    publish(|ready| &mut ready.narinfo);
    let synced = sync_dir(&cache_dir.join(layout::NAR_DIR)).and_then(|()| sync_dir(cache_dir));
    match synced {
        Ok(()) => members.into_iter().for_each(|ready| drop(ready.done.send(Ok(())))),
        Err(CacheError::Io { action, path, source }) => {
            for ready in members {
                let source = std::io::Error::new(source.kind(), source.to_string());
                let _ = ready.done.send(Err(CacheError::Io { action, path: path.clone(), source }));
            }
        }
        Err(_) => {}
    }
}

/// Syncs all files of a group, several at a time; those whose files can't be synced are told and left out.
fn sync_contents(members: Vec<Ready>) -> Vec<Ready> {
    let share = members.len().div_ceil(SYNCERS).max(1);
    let mut members: Vec<Option<Ready>> = members.into_iter().map(Some).collect();
    let sync_slice = |slice: &mut [Option<Ready>]| {
        for member in slice {
            let Some(ready) = member else { continue };
            let nar = if ready.nar_synced { Ok(()) } else { ready.nar.sync() };
            if let Err(error) = nar.and_then(|()| ready.narinfo.sync())
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
            scope.spawn(move || sync_slice(slice));
        }
        if let Some(slice) = first {
            sync_slice(slice);
        }
    });
    members.into_iter().flatten().collect()
}
