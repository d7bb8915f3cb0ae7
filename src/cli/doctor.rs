//! `storewatch doctor`

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::print::print;
use super::run::runtime;
use super::setup::View;
use super::waiting::telling;
use super::words::counted;
use super::{CliError, Global};
use crate::daemon::health::{Finding, Grade, Host, examine};

/// Examine everything that storewatch needs on this host, and say what to do where something is wrong.
///
/// It works beside a running service and without one. Run it as the user that the service runs as: it sees then what the
/// service sees. The exit code is 0 when there is no trouble, and 1 otherwise.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What `doctor --json` prints.
#[derive(Serialize)]
struct Report {
    troubles: usize,
    warnings: usize,
    findings: Vec<Finding>,
}

pub(super) fn run(global: &Global, args: &Args) -> Result<ExitCode, CliError> {
    let View { state_dir, config, without_state, .. } = View::find(global)?;
    let host = Host { state_dir, config: &config, without_state };
    let runtime = runtime()?;
    let step = Mutex::new(String::new());
    let set = |now: &str| now.clone_into(&mut step.lock().unwrap_or_else(PoisonError::into_inner));
    let get = || step.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let findings = runtime.block_on(telling(get, examine(&host, &set)));
    // What hangs on a dead file system is not waited for.
    runtime.shutdown_background();
    let count = |grade| findings.iter().filter(|finding| finding.grade == grade).count();
    let report = Report { troubles: count(Grade::Trouble), warnings: count(Grade::Warning), findings };
    print(args.json, &report, |out| write_text(out, &report))?;
    Ok(if report.troubles == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write_text(out: &mut impl Write, report: &Report) -> io::Result<()> {
    for Finding { grade, about, found, cure } in &report.findings {
        let grade = match grade {
            Grade::Ok => "ok",
            Grade::Warning => "warning",
            Grade::Trouble => "trouble",
        };
        writeln!(out, "{grade:8} {about}: {found}")?;
        if let Some(cure) = cure {
            writeln!(out, "         cure: {cure}")?;
        }
    }
    let (troubles, warnings) = (counted(report.troubles as u64, "trouble"), counted(report.warnings as u64, "warning"));
    writeln!(out, "{troubles}, {warnings}")
}
