//! Learning of new paths without the database: the store directory says what might be new, the Nix daemon what is valid.
//!
//! The names taken up are a table of the queue's, written together with the jobs. A name that isn't valid yet, since it is
//! being built, is not written down and asked about again at the next look. The directory is listed only when it has changed,
//! or once a minute, and the names are compared only then: at rest a look is one question to the file system, and one to the daemon where
//! something isn't valid yet.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::WATCHING_FROM_NOW_ON;
use crate::nix::{Daemon, DaemonError, StoreDir, StorePath, store_listing};
use crate::queue::{Admission, QueueError, QueueHandle, Routes, now};

/// Paths that are asked for and admitted together.
const BATCH: usize = 500;

/// Names that are compared at once with those seen before: the queue is kept from others for some 1 ms by that.
const PORTION: usize = 2_000;

/// What changes in a directory within this time after its time of change was read may leave that as it was: file systems
/// count in ticks, some in whole seconds.
const TICK: Duration = Duration::from_secs(2);

/// The directory is listed after so long in any case: what comes into a lower layer of an overlay leaves the time as it was.
const RELIST: Duration = Duration::from_secs(60);

/// The store directory, and a connection to the daemon.
pub(super) struct Listing {
    real_store: PathBuf,
    socket: PathBuf,
    store_dir: StoreDir,
    daemon: Daemon,
    /// Seconds since 1970: what was registered before watching began is for backfill.
    since: i64,
    /// `None` where it has to be listed.
    listed: Option<Listed>,
}

/// What the last listing has left.
struct Listed {
    /// When it was listed.
    at: Instant,
    /// When the directory had changed last; `None` where it may have changed since without another time.
    changed: Option<SystemTime>,
    /// Names that weren't valid.
    pending: Vec<StorePath>,
}

/// Why nothing can be learnt this way for now.
#[derive(Debug, thiserror::Error)]
pub enum ListingError {
    /// The daemon doesn't answer.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// The store directory can't be listed.
    #[error("list {dir}", dir = dir.display())]
    Store {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Nothing could be admitted.
    #[error(transparent)]
    Queue(#[from] QueueError),
}

impl Listing {
    /// Connects to the daemon. What was registered before the first time is for backfill.
    pub(super) async fn open(
        real_store: PathBuf,
        socket: PathBuf,
        store_dir: StoreDir,
        queue: &QueueHandle,
    ) -> Result<Self, ListingError> {
        let daemon = Daemon::connect(&socket, &store_dir).await?;
        let dir = store_dir.clone();
        let (since, is_first) = queue
            .call(move |queue| {
                if let Some(since) = queue.watched_since(&dir)? {
                    return Ok((since, false));
                }
                let since = now() / 1000;
                queue.begin_watching(&dir, since)?;
                Ok((since, true))
            })
            .await?;
        if is_first {
            info!("{WATCHING_FROM_NOW_ON}");
        }
        Ok(Self { real_store, socket, store_dir, daemon, since, listed: None })
    }

    /// Takes up what is new. Returns how many jobs that made.
    pub(super) async fn look(&mut self, queue: &QueueHandle, routes: &Routes) -> Result<u64, ListingError> {
        if self.daemon.is_broken() {
            self.daemon = Daemon::connect(&self.socket, &self.store_dir).await?;
        }
        // Whatever goes wrong on the way, the next look lists it anew.
        let before = self.listed.take();
        let trusted = before.as_ref().filter(|listed| listed.at.elapsed() < RELIST);
        let (known, known_at) = (trusted.and_then(|listed| listed.changed), trusted.map(|listed| listed.at));
        let (now, real_store) = (Instant::now(), self.real_store.clone());
        let listed = spawn_blocking(move || list_if_changed(&real_store, known)).await;
        let explain = |source| ListingError::Store { dir: self.real_store.clone(), source };
        let listed = listed.unwrap_or_else(|panic| Err(panic.into())).map_err(explain)?;
        let pending_before = before.map(|listed| listed.pending).unwrap_or_default();
        let (at, changed, asked) = match listed {
            Some((changed, names)) => (now, changed, unseen(queue, names).await?),
            None => (known_at.unwrap_or(now), known, pending_before.clone()),
        };
        let told: HashSet<StorePath> = pending_before.into_iter().collect();
        let (mut opened, mut pending) = (0, Vec::new());
        for names in asked.chunks(BATCH) {
            let (admitted, left) = self.take_up(names, &told, queue, routes).await?;
            opened += admitted;
            pending.extend(left);
        }
        self.listed = Some(Listed { at, changed, pending });
        Ok(opened)
    }

    /// Takes up those that are valid. Returns how many jobs that made, and which names are to be asked about again; of these,
    /// some have been `told` of before.
    async fn take_up(
        &mut self,
        names: &[StorePath],
        told: &HashSet<StorePath>,
        queue: &QueueHandle,
        routes: &Routes,
    ) -> Result<(u64, Vec<StorePath>), ListingError> {
        let valid = self.daemon.valid(names).await?;
        let mut wanted = Vec::new();
        let mut taken = Vec::with_capacity(valid.len());
        for path in valid {
            let info = match self.daemon.path_info(&path).await {
                Ok(Some(info)) => info,
                // Collected between the two questions.
                Ok(None) => continue,
                Err(error @ DaemonError::Malformed { .. }) => {
                    warn!(%path, "what the Nix daemon says of it can't be understood, it is passed over: {error}");
                    taken.push(path);
                    continue;
                }
                // It may be that path alone, and it may pass: the others are not to wait for it.
                Err(error @ DaemonError::Refused { .. }) => {
                    if !told.contains(&path) {
                        warn!(%path, "it is passed over for now: {error}");
                    }
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if info.registration_time >= self.since
                && let Ok(decision) = routes.policy.decide(&info, &self.store_dir)
            {
                debug!(%path, action = %decision.action(), rule = %decision.rule(), "decided");
                wanted.extend(routes.wanted(&info, &decision));
            }
            taken.push(path);
        }
        let left: HashSet<&StorePath> = taken.iter().collect();
        let left = names.iter().filter(|name| !left.contains(name)).cloned().collect();
        let opened = queue.call(move |queue| queue.admit_seen(&Admission::of_new(&wanted, now()), &taken)).await?;
        Ok((opened, left))
    }
}

/// Of the names in the store directory, those not seen before; names seen that are no longer there are forgotten. In portions,
/// so that nobody who claims or settles waits behind all of them.
async fn unseen(queue: &QueueHandle, listed: Vec<StorePath>) -> Result<Vec<StorePath>, QueueError> {
    let mut unseen: HashSet<&str> = listed.iter().map(StorePath::base_name).collect();
    let (mut gone, mut after) = (Vec::new(), String::new());
    loop {
        let seen = queue.call(move |queue| queue.seen_behind(&after, PORTION)).await?;
        let Some(last) = seen.last().cloned() else { break };
        gone.extend(seen.into_iter().filter(|name| !unseen.remove(name.as_str())));
        after = last;
    }
    for names in gone.chunks(PORTION) {
        let names = names.to_vec();
        queue.call(move |queue| queue.forget_seen(&names)).await?;
    }
    let is_unseen = |path: &StorePath| unseen.contains(path.base_name());
    Ok(listed.iter().filter(|path| is_unseen(path)).cloned().collect())
}

/// The names in the store directory, and when it had changed last, unless that is what is `known`. The time is `None` where
/// the directory may change again without another time. Blocks.
fn list_if_changed(
    real_store: &Path,
    known: Option<SystemTime>,
) -> std::io::Result<Option<(Option<SystemTime>, Vec<StorePath>)>> {
    // In this order: what comes in between is seen twice rather than never.
    let changed = fs::metadata(real_store)?.modified()?;
    if known == Some(changed) {
        return Ok(None);
    }
    let now = SystemTime::now();
    let names = store_listing::list(real_store)?.collect::<Result<_, _>>()?;
    let settled = now.duration_since(changed).is_ok_and(|ago| ago > TICK);
    Ok(Some((settled.then_some(changed), names)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Queue;

    #[tokio::test]
    async fn names_are_unseen_until_they_are_taken_up_and_again_once_they_had_gone() {
        let dir = tempfile::tempdir().expect("a folder");
        let queue = QueueHandle::start(Queue::open(dir.path()).expect("opened").queue).expect("a thread");
        // More than one portion.
        let path = StorePath::nth;
        let all = || (0..PORTION + 9).map(path);
        assert_eq!(unseen(&queue, all().collect()).await.expect("compared").len(), PORTION + 9);
        let most: Vec<_> = all().skip(1).collect();
        queue.call(move |queue| queue.admit_seen(&Admission::of_new(&[], now()), &most)).await.expect("noted");
        assert_eq!(unseen(&queue, all().collect()).await.expect("compared"), [path(0)]);
        let without_the_last = all().take(PORTION + 8).collect();
        assert_eq!(unseen(&queue, without_the_last).await.expect("compared"), [path(0)]);
        assert_eq!(unseen(&queue, all().collect()).await.expect("compared"), [path(0), path(PORTION + 8)]);
    }

    #[test]
    fn a_directory_is_listed_again_until_its_time_of_change_can_be_relied_on() {
        let store = tempfile::tempdir().expect("a folder");
        let name = "0123456789abcdfghijklmnpqrsvwxyz-a";
        fs::write(store.path().join(name), "").expect("a file");
        let list = |known| list_if_changed(store.path(), known).expect("listed");
        let set = |ago: Duration| {
            let folder = fs::File::open(store.path()).expect("opened");
            folder.set_modified(SystemTime::now() - ago).expect("a time");
        };
        set(Duration::ZERO);
        let (changed, names) = list(None).expect("never listed before");
        assert_eq!((changed, names.len()), (None, 1), "more may come in the same tick");
        set(TICK * 2);
        let (changed, _) = list(None).expect("it isn't known yet");
        assert!(changed.is_some() && list(changed).is_none());
        fs::remove_file(store.path().join(name)).expect("removed");
        assert!(list(changed).is_some_and(|(_, names)| names.is_empty()));
    }
}
