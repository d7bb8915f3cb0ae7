//! The `storewatch` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    storewatch::cli::main()
}
