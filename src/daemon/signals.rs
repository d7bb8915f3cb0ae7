//! Signals, as a stream of what they mean.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator;
use tokio::sync::mpsc;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Finish what is under way and end.
    End,
    /// Read the policy file again.
    Reload,
}

/// The signals that come, in order.
#[derive(Debug)]
pub struct Signals {
    receiver: mpsc::Receiver<Signal>,
    /// The policy is to be read again, which was said while only the end was waited for.
    reload: bool,
}

impl Signals {
    /// The next one. Cancel-safe.
    pub async fn next(&mut self) -> Signal {
        if std::mem::take(&mut self.reload) {
            return Signal::Reload;
        }
        // Nobody is left to send one only when the process ends.
        self.receiver.recv().await.unwrap_or(Signal::End)
    }

    /// Comes true when one says that it is to end; others are kept for who asks for the next. Cancel-safe.
    pub async fn end(&mut self) {
        while let Some(Signal::Reload) = self.receiver.recv().await {
            self.reload = true;
        }
    }
}

/// Exit code after the second signal: as a shell shows it for who was ended by SIGINT.
const ENDED_AT_ONCE: i32 = 130;

/// What comes so soon behind the first signal is that same one: `timeout` signals its child and then the child's group,
/// some microseconds later. Nobody who has changed their mind is as quick.
const SAME: Duration = Duration::from_millis(500);

/// Takes over SIGTERM, SIGINT and SIGHUP. A second SIGTERM or SIGINT ends the process on the spot, whatever it is doing:
/// the queue loses nothing by that.
///
/// # Errors
/// What the system says where a handler can't be installed.
pub fn listen() -> io::Result<Signals> {
    let at_once = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        flag::register_conditional_shutdown(signal, ENDED_AT_ONCE, Arc::clone(&at_once))?;
    }
    let mut signals = iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let (sender, receiver) = mpsc::channel(4);
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in &mut signals {
            let meaning = if signal == SIGHUP { Signal::Reload } else { Signal::End };
            if meaning == Signal::End {
                take_the_next_at_its_word(&at_once);
            }
            if sender.blocking_send(meaning).is_err() {
                return;
            }
        }
    })?;
    Ok(Signals { receiver, reload: false })
}

/// From a while on, the next signal ends the process. On a thread of its own, since this one has a signal to pass on.
fn take_the_next_at_its_word(at_once: &Arc<AtomicBool>) {
    let later = Arc::clone(at_once);
    let waiting = thread::Builder::new().name("second signal".to_owned()).spawn(move || {
        thread::sleep(SAME);
        later.store(true, Ordering::Relaxed);
    });
    if waiting.is_err() {
        at_once.store(true, Ordering::Relaxed);
    }
}
