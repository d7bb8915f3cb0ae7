//! Signals, as a stream of what they mean.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use tokio::sync::mpsc;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Finish what is under way and end.
    End,
    /// Read the policy file again.
    Reload,
}

/// Exit code after the second signal: as a shell shows it for who was ended by SIGINT.
const ENDED_AT_ONCE: i32 = 130;

/// Takes over SIGTERM, SIGINT and SIGHUP. A second SIGTERM or SIGINT ends the process on the spot, whatever it is doing:
/// the queue loses nothing by that.
///
/// # Errors
/// What the system says where a handler can't be installed.
pub fn listen() -> io::Result<mpsc::Receiver<Signal>> {
    let ending = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        // In this order: the first signal finds the flag down and raises it, the second finds it raised.
        flag::register_conditional_shutdown(signal, ENDED_AT_ONCE, Arc::clone(&ending))?;
        flag::register(signal, Arc::clone(&ending))?;
    }
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let (sender, receiver) = mpsc::channel(4);
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in &mut signals {
            let meaning = if signal == SIGHUP { Signal::Reload } else { Signal::End };
            if sender.blocking_send(meaning).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}
