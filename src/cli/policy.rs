use super::{CliError, Global};
use std::process::ExitCode;
/// x
#[derive(clap::Args, Debug)]
pub(super) struct Args {}
pub(super) fn run(_g: &Global, _a: Args) -> Result<ExitCode, CliError> {
    Ok(ExitCode::SUCCESS)
}
