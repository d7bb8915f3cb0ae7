//! Errors as one line of text, for logs, the queue's memory and the command line.

use std::error::Error;
use std::fmt::Write;

/// An error and what caused it, from the outside in: `open Nix database: permission denied`.
#[must_use]
pub fn one_line(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        // Writing to a string can't fail.
        let _ = write!(text, ": {inner}");
        cause = inner.source();
    }
    text
}
