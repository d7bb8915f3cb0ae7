//! `storewatch unpin`

use std::io::{self, Write};
use std::process::ExitCode;

use super::setup::{client_state_dir, runtime_dir};
use super::words::counted;
use super::{CliError, Global};
use crate::daemon::SERVICE_ROLE;
use crate::pins::{Released, release_all};
use crate::queue::StateLock;

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
    if let Ok(Some(holder)) = StateLock::holder(&client_state_dir(global)?)
        && holder.starts_with(SERVICE_ROLE)
    {
        eprintln!("note: {holder} goes on, and pins what is queued if its policy says so");
    }
    Ok(if left.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
