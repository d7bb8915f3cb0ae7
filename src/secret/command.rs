//! Secrets that a command hands out: a vault's client, a password manager, a script.
//!
//! The command runs in a process group of its own, which is killed as a whole when the time is over, when it writes too
//! much, or when nobody waits for it any longer. What it says on its standard error explains a failure, and is shown
//! only where no part of its output stands in it.

use std::collections::HashSet;
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

/// How much is kept of the end of what a command says on its standard error, in bytes.
const SAID_KEPT: usize = 4 * 1024;

/// How much of that is shown, in characters: the last lines of any client's complaint.
const SAID_SHOWN: usize = 300;

/// So many bytes of the output in what the command says count as a part of the secret. Fewer stand in any text.
const TELLING: usize = 8;

/// What the command writes to its standard output: at most [`LONGEST`] bytes.
pub(super) async fn output(argv: &[String], within: Duration) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let program = argv.first().map_or("", String::as_str);
    let failed = |action| {
        move |source: io::Error| SecretError::Command { action, program: program.to_owned(), source: Arc::new(source) }
    };
    let mut command = Command::new(program);
    command.args(argv.iter().skip(1)).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = Running(command.process_group(0).kill_on_drop(true).spawn().map_err(failed("start"))?);
    let (stdout, stderr) = (running.0.stdout.take(), running.0.stderr.take());
    let ended = timeout(within, async {
        let (output, said) = tokio::join!(bounded(stdout), tail(stderr));
        let output = output.map_err(failed("read the output of"))?;
        if output.len() > LONGEST {
            let from = format!("the command {program}");
            return Err(SecretError::NoText { from, problem: NoText::TooLong });
        }
        let status = running.0.wait().await.map_err(failed("wait for"))?;
        Ok((output, said.map_err(failed("read the errors of"))?, status))
    });
    let Ok(ended) = ended.await else {
        return Err(SecretError::TimedOut { program: program.to_owned(), timeout: within });
    };
    let (output, said, status) = ended?;
    if !status.success() {
        let said = explanation(&said, &output);
        return Err(SecretError::Failed { program: program.to_owned(), status: status.to_string(), said });
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

/// Reads to the end and keeps the last of it.
async fn tail(pipe: Option<impl AsyncRead + Unpin>) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut kept = Zeroizing::new(Vec::with_capacity(3 * SAID_KEPT));
    let mut chunk = Zeroizing::new([0; SAID_KEPT]);
    if let Some(mut pipe) = pipe {
        loop {
            let read = pipe.read(chunk.as_mut_slice()).await?;
            if read == 0 {
                break;
            }
            kept.extend_from_slice(&chunk[..read]);
            if kept.len() > 2 * SAID_KEPT {
                let surplus = kept.len() - SAID_KEPT;
                kept.drain(..surplus);
            }
        }
    }
    Ok(kept)
}

/// The end of what a command said, as the end of a message. What was cut off in front is longer than what is shown, so
/// that a secret can't stand half in what was looked at and half in what is shown.
fn explanation(said: &[u8], output: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()).collect();
    let line = words.join(" ");
    if line.is_empty() {
        return String::new();
    }
    if has_part_of(said, output.trim_ascii()) {
        return "; what it said is not shown, since there is some of its output in it".to_owned();
    }
    match line.char_indices().rev().nth(SAID_SHOWN) {
        Some((at, _)) => format!(": …{}", &line[at..]),
        None => format!(": {line}"),
    }
}

fn has_part_of(said: &[u8], output: &[u8]) -> bool {
    let length = output.len().min(TELLING);
    if length == 0 {
        return false;
    }
    let parts: HashSet<&[u8]> = said.windows(length).collect();
    output.windows(length).any(|part| parts.contains(part))
}
