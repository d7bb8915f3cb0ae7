//! The asynchronous way to the queue: one thread owns the database, everyone else sends it what to do.
//!
//! So no task of the runtime ever blocks on the disk, and the queue's own transactions never wait for each other.

use std::thread;

use tokio::sync::{mpsc, oneshot};

use super::{Queue, QueueError};

type Call = Box<dyn FnOnce(&mut Queue) + Send>;

/// Calls that may stand in line for the queue's thread; more than the actors ever have under way.
const BACKLOG: usize = 64;

/// Sends calls to the thread that owns the queue. Cheap to clone; the thread ends with the last clone.
#[derive(Clone)]
pub struct QueueHandle {
    calls: mpsc::Sender<Call>,
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
        Ok(Self { calls })
    }

    /// Runs `verb` on the queue's thread and waits for what it returns.
    ///
    /// Dropping the future doesn't take the call back: what was sent is done.
    ///
    /// # Errors
    /// What `verb` returns; [`QueueError::Closed`] when the thread is gone.
    pub async fn call<T, F>(&self, verb: F) -> Result<T, QueueError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Queue) -> Result<T, QueueError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let call: Call = Box::new(move |queue| {
            // Nobody waiting for the answer any more is fine.
            let _ = answer.send(verb(queue));
        });
        self.calls.send(call).await.map_err(|_| QueueError::Closed)?;
        answered.await.map_err(|_| QueueError::Closed)?
    }
}
