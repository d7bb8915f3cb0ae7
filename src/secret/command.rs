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

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::error::{NoText, SecretError};
use super::text::LONGEST;
use crate::program::{Running, Tail};

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
    let mut running = Running::start(&mut command).map_err(failed("start"))?;
    let (stdout, stderr) = (running.stdout(), running.stderr());
    let mut said = Tail::default();
    let ended = timeout(within, async {
        let (output, heard) = tokio::join!(bounded(stdout), said.read(stderr));
        let output = output.map_err(failed("read the output of"))?;
        if output.len() > LONGEST {
            let from = format!("the command {program}");
            return Err(SecretError::NoText { from, problem: NoText::TooLong });
        }
        let status = running.wait().await.map_err(failed("wait for"))?;
        heard.map_err(failed("read the errors of"))?;
        Ok((output, status))
    });
    let Ok(ended) = ended.await else {
        return Err(SecretError::TimedOut { program: program.to_owned(), timeout: within });
    };
    let (output, status) = ended?;
    if !status.success() {
        let said = explanation(&said, &output);
        return Err(SecretError::Failed { program: program.to_owned(), status: status.to_string(), said });
    }
    Ok(output)
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

/// The end of what a command said, as the end of a message.
fn explanation(said: &Tail, output: &[u8]) -> String {
    if has_part_of(said.bytes(), output.trim_ascii()) {
        return "; what it said is not shown, since there is some of its output in it".to_owned();
    }
    said.explanation()
}

fn has_part_of(said: &[u8], output: &[u8]) -> bool {
    let length = output.len().min(TELLING);
    if length == 0 {
        return false;
    }
    let parts: HashSet<&[u8]> = said.windows(length).collect();
    output.windows(length).any(|part| parts.contains(part))
}
