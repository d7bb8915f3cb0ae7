//! Events by `notify`: FSEvents on macOS, kqueue there with the feature `macos_kqueue` and on the BSDs.
//!
//! kqueue tells of a folder's names coming and going, and of writes only to files that `notify` has opened: those that came
//! while it watched. This room opens none itself. Closing a descriptor of `db.sqlite` drops the locks that SQLite holds
//! for this very process, and a wake-up isn't worth a torn read; the timer does the rest there.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use notify::event::ModifyKind;
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use super::{Folder, Seen};

/// One watcher, which calls back on a thread of its own.
pub(super) struct Source {
    watcher: RecommendedWatcher,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    notify: Notify,
}

#[derive(Default)]
struct State {
    watched: Vec<Watched>,
    /// Events were lost.
    all: bool,
}

struct Watched {
    index: usize,
    folder: Folder,
    /// FSEvents names what it saw by real paths (`/private/tmp` for `/tmp`).
    real: PathBuf,
    changed: bool,
    gone: bool,
}

impl Source {
    pub(super) fn new() -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let told = Arc::clone(&shared);
        let watcher = notify::recommended_watcher(move |event| told.event(event)).map_err(io_error)?;
        Ok(Self { watcher, shared })
    }

    pub(super) fn arm(&mut self, index: usize, folder: &Folder) -> io::Result<()> {
        let real = folder.path.canonicalize()?;
        // It may be watched already, for another folder that is one and the same.
        if !self.shared.lock().watched.iter().any(|watched| watched.real == real) {
            self.watcher.watch(&real, RecursiveMode::NonRecursive).map_err(io_error)?;
        }
        let watched = Watched { index, folder: folder.clone(), real, changed: false, gone: false };
        self.shared.lock().watched.push(watched);
        Ok(())
    }

    pub(super) fn disarm(&mut self, index: usize, _path: &Path) {
        let real = {
            let mut state = self.shared.lock();
            let Some(place) = state.watched.iter().position(|watched| watched.index == index) else { return };
            let real = state.watched.swap_remove(place).real;
            if state.watched.iter().any(|other| other.real == real) {
                return;
            }
            real
        };
        // Without the lock: the call may wait for the thread that calls back. It fails if the folder is gone.
        let _gone = self.watcher.unwatch(&real);
    }

    /// Waits until there may be an event, to be followed by [`Source::drain`]. Cancel-safe.
    pub(super) async fn ready(&mut self) {
        self.shared.notify.notified().await;
    }

    /// Tells all that was seen.
    pub(super) fn drain(&mut self, mut seen: impl FnMut(Seen)) -> io::Result<()> {
        let mut gone = Vec::new();
        {
            let mut state = self.shared.lock();
            if std::mem::take(&mut state.all) {
                seen(Seen::All);
            }
            for watched in &mut state.watched {
                if watched.gone {
                    gone.push(watched.index);
                } else if std::mem::take(&mut watched.changed) {
                    seen(Seen::Changed(watched.index));
                }
            }
        }
        for index in gone {
            self.disarm(index, Path::new(""));
            seen(Seen::Gone(index));
        }
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under the lock leaves it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn event(&self, event: notify::Result<Event>) {
        let mut state = self.lock();
        match event {
            // What can't be told apart wakes: a look that finds nothing costs little.
            Err(_) => state.all = true,
            Ok(event) if event.need_rescan() => state.all = true,
            Ok(event) if !matters(event.kind) => return,
            Ok(event) => {
                let mut relevant = false;
                for watched in &mut state.watched {
                    for path in &event.paths {
                        relevant |= watched.take_note(event.kind, path);
                    }
                }
                if !relevant {
                    return;
                }
            }
        }
        drop(state);
        self.notify.notify_one();
    }
}

impl Watched {
    fn take_note(&mut self, kind: EventKind, path: &Path) -> bool {
        if path == self.real {
            self.gone |= matches!(kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)));
            // kqueue says no more than this of a name that came or went.
            self.changed = true;
            return true;
        }
        let cares =
            path.parent() == Some(&self.real) && path.file_name().is_some_and(|name| self.folder.cares_for(name));
        self.changed |= cares;
        cares
    }
}

/// The setting to raise, where that is what an error says.
pub(super) fn limit(error: &io::Error) -> Option<&'static str> {
    (error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error())).then_some("kern.maxfilesperproc")
}

/// Whether an event of that kind can mean a change; reading and `chmod` don't.
fn matters(kind: EventKind) -> bool {
    !matches!(kind, EventKind::Access(_) | EventKind::Modify(ModifyKind::Metadata(_)))
}

fn io_error(error: notify::Error) -> io::Error {
    match error.kind {
        notify::ErrorKind::Io(error) => error,
        notify::ErrorKind::PathNotFound => io::ErrorKind::NotFound.into(),
        notify::ErrorKind::MaxFilesWatch => rustix::io::Errno::MFILE.into(),
        _ => io::Error::other(error),
    }
}
