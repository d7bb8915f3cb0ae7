//! How much of what is queued is kept from the garbage collector.

use toml::Spanned;

use super::super::problems::Problems;
use crate::policy::{BadSize, ByteSize};

/// The word for none.
const NONE: &str = "none";

/// No file system is larger, and SQLite counts no further.
const MOST: u64 = i64::MAX as u64;

/// A size, or `none`.
pub(super) fn pin(text: &Spanned<String>, problems: &mut Problems<'_>) -> Option<ByteSize> {
    let written = text.get_ref().trim();
    if written == NONE {
        return None;
    }
    let why = match ByteSize::parse(written) {
        Ok(ByteSize(0)) => "write \"none\" where nothing is to be pinned".to_owned(),
        Ok(ByteSize(bytes)) if bytes > MOST => "no disk has so much".to_owned(),
        Ok(size) => return Some(size),
        Err(BadSize::TooLarge(_)) => "no disk has so much".to_owned(),
        Err(error @ (BadSize::NoUnit(_) | BadSize::BadUnit(_))) => error.to_string(),
        Err(_) => "write \"none\", or a whole number and a unit, such as \"10 GiB\"".to_owned(),
    };
    problems.add(text.span(), format!("`pin` can not be `{written}`: {why}"));
    None
}
