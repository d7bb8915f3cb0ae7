//! `storewatch unpin`

use std::io::{self, Write};
use std::process::ExitCode;

use super::setup::{client_state_dir, runtime_dir, state_dir as own_state_dir};
use super::words::counted;
use super::{CliError, Global};
use crate::daemon::SERVICE_ROLE;
use crate::pins::{Released, release_all};
use crate::queue::{Pinned, Queue, QueueError, StateLock};
use crate::report::one_line;

/// Let the garbage collector have what was queued and pinned, when storewatch is to leave this host.
///
/// Nothing is dropped from the queue. A running service pins again what its policy says: stop it first, or set
/// `pin = "none"` in the policy, which releases all pins by itself.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Release all pins of this user's services.
    #[arg(long, required = true)]
    all: bool,
}

pub(super) fn run(global: &Global, _: &Args) -> Result<ExitCode, CliError> {
    // Without a place for them, nothing was ever pinned.
    let Released { pins, left } = runtime_dir(global).map(|dir| release_all(&dir)).unwrap_or_default();
    writeln!(io::stdout(), "{} released", counted(pins, "pin"))
        .map_err(|source| CliError::System { action: "print what was released", source })?;
    for (there, error) in &left {
        eprintln!("error: {} can't be released: {error}", there.display());
    }
    let state_dir = client_state_dir(global)?;
    match StateLock::holder(&state_dir) {
        // It notes by itself what is pinned.
        Ok(Some(holder)) if holder.starts_with(SERVICE_ROLE) => {
            eprintln!("note: {holder} goes on, and pins what is queued if its policy says so");
        }
        Err(_) => {}
        // Another user's queue, which is looked at where this one has none, goes by another's pins.
        Ok(_) if own_state_dir(global)? != state_dir => {}
        Ok(_) => {
            let pinned = left.is_empty().then_some(Pinned { paths: 0, bytes: 0 });
            match Queue::open_beside(&state_dir).and_then(|mut queue| queue.note_pinned(pinned)) {
                Ok(()) | Err(QueueError::NoQueue { .. }) => {}
                Err(error) => {
                    eprintln!("note: `status` may go on to show them until the next start: {}", one_line(&error))
                }
            }
        }
    }
    Ok(if left.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
