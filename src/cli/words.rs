//! Numbers as people write them.

/// `1 path`, `2 paths`.
pub(super) fn counted(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
