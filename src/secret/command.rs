//! Secrets that a command hands out: a vault's client, a password manager, a script.
//!
//! The command runs in a process group of its own, which is killed as a whole when the time is over, when it writes too
//! much, or when nobody waits for it any longer.
//!
//! Deliberately absent: what it says on its standard error. That would explain a failure, but a command that fails may
//! well say a secret there, and nobody can tell it from the rest.

use std::io;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::error::{NoText, SecretError};
use super::text::LONGEST;

/// What the command writes to its standard output: at most [`LONGEST`] bytes.
pub(super) async fn output(argv: &[String], within: Duration) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let program = argv.first().map_or("", String::as_str);
    let failed = |action| {
        move |source: io::Error| SecretError::Command { action, program: program.to_owned(), source: Arc::new(source) }
    };
    let mut command = Command::new(program);
    command.args(argv.iter().skip(1)).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut running = Running(command.process_group(0).kill_on_drop(true).spawn().map_err(failed("start"))?);
    let stdout = running.0.stdout.take();
    let ended = timeout(within, async {
        let output = bounded(stdout).await.map_err(failed("read the output of"))?;
        if output.len() > LONGEST {
            let from = format!("the command {program}");
            return Err(SecretError::NoText { from, problem: NoText::TooLong });
        }
        let status = running.0.wait().await.map_err(failed("wait for"))?;
        Ok((output, status))
    });
    let Ok(ended) = ended.await else {
        return Err(SecretError::TimedOut { program: program.to_owned(), timeout: within });
    };
    let (output, status) = ended?;
    if !status.success() {
        return Err(SecretError::Failed { program: program.to_owned(), status: status.to_string() });
    }
    Ok(output)
}

/// A command that may still run; dropped, it and all that it has started are killed.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // As long as it has a number it hasn't been waited for, so nobody else can have that number.
        let pid = self.0.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // What is gone already needs no killing.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

/// Reads to the end, or one byte further than a secret can be. What is left unread has no reader then, and the command
/// ends by it or is killed.
async fn bounded(pipe: Option<impl AsyncRead + Unpin>) -> io::Result<Zeroizing<Vec<u8>>> {
    // As long as it can get from the start: growing would leave copies behind.
    let mut bytes = Zeroizing::new(vec![0; LONGEST + 1]);
    let mut filled = 0;
    if let Some(mut pipe) = pipe {
        while filled < bytes.len() {
            match pipe.read(&mut bytes[filled..]).await? {
                0 => break,
                read => filled += read,
            }
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}
