//! Events by inotify.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use futures_core::Stream;
use inotify::{EventMask, EventOwned, EventStream, Inotify, WatchDescriptor, WatchMask};

use super::{Folder, Seen};

/// Room for a dozen events with the longest names, and for a hundred of the usual ones.
const BUFFER: usize = 4096;

/// After these, the watch tells nothing more of the path that was asked for.
const GONE: EventMask =
    EventMask::DELETE_SELF.union(EventMask::MOVE_SELF).union(EventMask::IGNORED).union(EventMask::UNMOUNT);

/// One inotify instance.
pub(super) struct Source {
    events: EventStream<[u8; BUFFER]>,
    /// What [`Source::ready`] has met, for [`Source::drain`] to look at.
    first: Option<io::Result<EventOwned>>,
    watches: Vec<(usize, WatchDescriptor, Folder)>,
}

impl Source {
    pub(super) fn new() -> io::Result<Self> {
        let events = Inotify::init()?.into_event_stream([0; BUFFER])?;
        Ok(Self { events, first: None, watches: Vec::new() })
    }

    pub(super) fn arm(&mut self, index: usize, folder: &Folder) -> io::Result<()> {
        // Neither CLOSE_WRITE nor ATTRIB: a reader of SQLite's makes the former (see the head of `wake`).
        let content = WatchMask::MODIFY | WatchMask::CREATE | WatchMask::DELETE | WatchMask::MOVE;
        let itself = WatchMask::DELETE_SELF | WatchMask::MOVE_SELF | WatchMask::ONLYDIR;
        let watch = self.events.watches().add(&folder.path, content | itself)?;
        self.watches.push((index, watch, folder.clone()));
        Ok(())
    }

    pub(super) fn disarm(&mut self, index: usize, _path: &Path) {
        let Some(place) = self.watches.iter().position(|(of, ..)| *of == index) else { return };
        let (_, watch, _) = self.watches.swap_remove(place);
        // Two folders may be one and the same by different names, and then share a watch.
        if !self.watches.iter().any(|(_, other, _)| *other == watch) {
            // It fails if the folder is gone, and the watch with it.
            let _gone = self.events.watches().remove(watch);
        }
    }

    /// Waits until there is an event, to be followed by [`Source::drain`]. Cancel-safe.
    pub(super) async fn ready(&mut self) {
        if self.first.is_none() {
            self.first = Some(std::future::poll_fn(|context| self.poll_event(context)).await);
        }
    }

    /// Tells all that is in the queue; an error is its end.
    pub(super) fn drain(&mut self, mut seen: impl FnMut(Seen)) -> io::Result<()> {
        loop {
            let event = match self.first.take() {
                Some(event) => event?,
                None => match self.poll_event(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(event) => event?,
                    Poll::Pending => return Ok(()),
                },
            };
            self.sort(&event, &mut seen);
        }
    }

    fn sort(&mut self, event: &EventOwned, seen: &mut impl FnMut(Seen)) {
        if event.mask.contains(EventMask::Q_OVERFLOW) {
            return seen(Seen::All);
        }
        let gone = event.mask.intersects(GONE);
        for (index, _, folder) in self.watches.iter().filter(|(_, watch, _)| *watch == event.wd) {
            if gone {
                seen(Seen::Gone(*index));
            } else if event.name.as_deref().is_some_and(|name| folder.cares_for(name)) {
                seen(Seen::Changed(*index));
            }
        }
        if gone {
            self.watches.retain(|(_, watch, _)| *watch != event.wd);
            // A folder that was only moved is still watched, where it isn't wanted.
            let _gone_already = self.events.watches().remove(event.wd.clone());
        }
    }

    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<io::Result<EventOwned>> {
        let next = Pin::new(&mut self.events).poll_next(context);
        next.map(|event| event.unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into())))
    }
}

/// The setting to raise, where that is what an error says: the kernel reports its limits by errors that mean something
/// else elsewhere.
pub(super) fn limit(error: &io::Error) -> Option<&'static str> {
    let errno = error.raw_os_error();
    if errno == Some(rustix::io::Errno::NOSPC.raw_os_error()) {
        Some("fs.inotify.max_user_watches")
    } else if errno == Some(rustix::io::Errno::MFILE.raw_os_error()) {
        Some("fs.inotify.max_user_instances")
    } else {
        None
    }
}
