//! The asynchronous way to the queue: one thread owns the database, everyone else sends it what to do.
//!
//! So no task of the runtime ever blocks on the disk, and the queue's own transactions never wait for each other.
//!
//! Where the disk is full, who wants to write waits, and tries again less and less often: nothing is lost by that, since a
//! verb does all or nothing, and what waits for it, such as the cursor, doesn't move. Who only reads isn't held up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;
use tracing::{info, warn};

use super::{Queue, QueueError};
use crate::report::one_line;

type Call = Box<dyn FnOnce(&mut Queue) + Send>;

/// Calls that may stand in line for the queue's thread; more than the actors ever have under way.
const BACKLOG: usize = 64;

/// How long is waited for room the first time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// No pause is longer: so soon a disk that was cleared is in use again.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Sends calls to the thread that owns the queue. Cheap to clone; the thread ends with the last clone.
#[derive(Clone)]
pub struct QueueHandle {
    calls: mpsc::Sender<Call>,
    /// How many wait for room.
    short_of_room: Arc<AtomicUsize>,
}

impl QueueHandle {
    /// Gives the queue to a thread of its own.
    ///
    /// # Errors
    /// [`QueueError::Closed`] where the system gives no thread.
    pub fn start(mut queue: Queue) -> Result<Self, QueueError> {
        let (calls, mut inbox) = mpsc::channel::<Call>(BACKLOG);
        thread::Builder::new()
            .name("queue".to_owned())
            .spawn(move || {
                while let Some(call) = inbox.blocking_recv() {
                    call(&mut queue);
                }
            })
            .map_err(|_| QueueError::Closed)?;
        Ok(Self { calls, short_of_room: Arc::default() })
    }

    /// Runs `verb` on the queue's thread and waits for what it returns; where the disk is full, again and again until there
    /// is room. So `verb` has to be such that what it did before it failed does no harm when it is done once more.
    ///
    /// Dropping the future doesn't take the call back: what was sent is done, unless there is no room for it.
    ///
    /// # Errors
    /// What `verb` returns; [`QueueError::Closed`] when the thread is gone.
    pub async fn call<T, F>(&self, verb: F) -> Result<T, QueueError>
    where
        T: Send + 'static,
        F: FnMut(&mut Queue) -> Result<T, QueueError> + Send + 'static,
    {
        let (mut verb, mut waiting, mut pause) = (verb, None, FIRST_PAUSE);
        loop {
            let (done, again) = self.send(verb).await?;
            let error = match done {
                Err(error) if error.is_about_room() => error,
                done => return done,
            };
            waiting.get_or_insert_with(|| WaitsForRoom::begin(&self.short_of_room, &error));
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            verb = again;
        }
    }

    /// As [`QueueHandle::call`], for what can be done without: it isn't tried again where the disk is full.
    ///
    /// # Errors
    /// As for [`QueueHandle::call`].
    pub async fn call_once<T, F>(&self, verb: F) -> Result<T, QueueError>
    where
        T: Send + 'static,
        F: FnMut(&mut Queue) -> Result<T, QueueError> + Send + 'static,
    {
        self.send(verb).await?.0
    }

    /// Whether somebody waits for room just now.
    #[must_use]
    pub fn is_short_of_room(&self) -> bool {
        self.short_of_room.load(Ordering::Relaxed) > 0
    }

    /// Returns what came of the call, and the verb.
    async fn send<T, F>(&self, mut verb: F) -> Result<(Result<T, QueueError>, F), QueueError>
    where
        T: Send + 'static,
        F: FnMut(&mut Queue) -> Result<T, QueueError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let call: Call = Box::new(move |queue| {
            let done = verb(queue);
            // Nobody waiting for the answer any more is fine.
            let _ = answer.send((done, verb));
        });
        self.calls.send(call).await.map_err(|_| QueueError::Closed)?;
        answered.await.map_err(|_| QueueError::Closed)
    }
}

/// Somebody who waits for room. The first one is told of, and that there is room again when nobody waits any more.
struct WaitsForRoom {
    all: Arc<AtomicUsize>,
}

impl WaitsForRoom {
    fn begin(all: &Arc<AtomicUsize>, error: &QueueError) -> Self {
        if all.fetch_add(1, Ordering::Relaxed) == 0 {
            let cure = error.hint().map_or_else(String::new, |hint| format!("; {hint}"));
            warn!("nothing can be queued, nor noted as done, and all of it waits: {}{cure}", one_line(error));
        }
        Self { all: Arc::clone(all) }
    }
}

impl Drop for WaitsForRoom {
    fn drop(&mut self) {
        if self.all.fetch_sub(1, Ordering::Relaxed) == 1 {
            info!("the queue waits for room no longer");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets the database have no more than so many pages from now on.
    fn pages(queue: &mut Queue, most: i64) -> Result<(), QueueError> {
        queue.db.pragma_update(None, "max_page_count", most).map_err(super::super::sqlite("bound it"))
    }

    fn write(queue: &mut Queue) -> Result<(), QueueError> {
        let sql = "INSERT OR REPLACE INTO meta (key, value) VALUES ('large', hex(zeroblob(1 << 20)))";
        queue.db.execute(sql, []).map(|_| ()).map_err(super::super::sqlite("write"))
    }

    #[tokio::test(start_paused = true)]
    async fn who_writes_waits_for_room_and_who_reads_does_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let queue = QueueHandle::start(Queue::open(dir.path()).expect("opened").queue).expect("a thread");
        queue.call(|queue| pages(queue, 1)).await.expect("bounded");
        let full = queue.call_once(write).await.expect_err("full");
        assert!(full.is_about_room() && full.hint().is_some(), "{full:?}");
        assert!(!queue.is_short_of_room());
        let own = queue.clone();
        let writing = tokio::spawn(async move { own.call(write).await });
        let own = queue.clone();
        let another = tokio::spawn(async move { own.call(write).await });
        while queue.short_of_room.load(Ordering::Relaxed) < 2 {
            tokio::task::yield_now().await;
        }
        queue.call(|queue| queue.counts().map(drop)).await.expect("read");
        assert!(!writing.is_finished());
        another.abort();
        queue.call(|queue| pages(queue, 1 << 20)).await.expect("there is room");
        writing.await.expect("no panic").expect("written");
        assert!(!queue.is_short_of_room(), "nor does who was dropped wait any more");
    }
}
