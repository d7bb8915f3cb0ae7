//! Names that tell what this process has begun from what an earlier one has left behind.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Tells this run's names from those of earlier ones. A process number doesn't: in a container it is always the same.
static RUN: LazyLock<String> = LazyLock::new(|| match getrandom::u64() {
    Ok(drawn) => format!("{drawn:016x}"),
    Err(_) => std::process::id().to_string(),
});

/// Counts the names of this process, over all its caches: two of them may lie in one directory.
static COUNT: AtomicU64 = AtomicU64::new(0);

/// A name that nothing else has: `RUN.NUMBER`.
pub(super) fn new_name() -> String {
    format!("{}.{}", *RUN, COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Whether this process gave that name.
pub(super) fn is_own(name: &str) -> bool {
    name.strip_prefix(RUN.as_str()).is_some_and(|rest| rest.starts_with('.'))
}
