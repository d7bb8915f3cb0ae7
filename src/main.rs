//! The `storewatch` command.

use std::process::ExitCode;

/// Gives memory back that nobody needs any more, to the system and soon: glibc's keeps some megabytes for each thread that
/// ever packed. C libraries get theirs from it too.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    storewatch::cli::main()
}
