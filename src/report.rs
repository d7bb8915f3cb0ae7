//! Errors as one line of text, for logs, the queue's memory and the command line.

use std::error::Error;
use std::fmt::Write;

/// An error and what caused it, from the outside in: `open Nix database: permission denied`.
#[must_use]
pub fn one_line(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        // What SQLite's own error says, rusqlite's around it has said already.
        if !inner.is::<rusqlite::ffi::Error>() {
            // Writing to a string can't fail.
            let _ = write!(text, ": {inner}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_said_twice() {
        let database = rusqlite::Connection::open_in_memory().expect("a database");
        database.pragma_update(None, "query_only", true).expect("set");
        let error = database.execute("CREATE TABLE songs (title TEXT)", []).expect_err("refused");
        assert_eq!(one_line(&error), "attempt to write a readonly database");
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
        let bare = rusqlite::Error::SqliteFailure(code, None);
        assert_eq!(one_line(&bare).matches("database is locked").count(), 1);
    }
}
