//! What a command has found, for people or for programs.

use std::io::{self, Write};

use serde::Serialize;

use super::CliError;

/// Prints JSON, or what `text` writes.
///
/// # Errors
/// [`CliError::System`].
pub(super) fn print<T: Serialize>(
    json: bool,
    value: &T,
    text: impl FnOnce(&mut io::StdoutLock<'_>) -> io::Result<()>,
) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    let written = if json {
        serde_json::to_writer_pretty(&mut out, value).map_err(io::Error::from).and_then(|()| writeln!(out))
    } else {
        text(&mut out)
    };
    written.map_err(|source| CliError::System { action: "print what was found", source })
}
