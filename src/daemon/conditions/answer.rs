//! What a program answers that is asked how this host is.

use std::io::ErrorKind;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::Command;

use crate::program::{Running, Tail};

/// A program that takes longer to say one word hangs.
const TIMEOUT: Duration = Duration::from_secs(5);

/// More (bytes) isn't read of what it says.
const LONGEST_ANSWER: u64 = 4096;

/// What a program says.
///
/// # Errors
/// Why it says nothing.
#[cfg_attr(not(any(target_os = "linux", target_os = "macos")), allow(dead_code, reason = "there is none to ask"))]
pub(super) async fn said_by(program: &str, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(arguments).env("LC_ALL", "C");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = Running::start(&mut command).map_err(|error| match error.kind() {
        ErrorKind::NotFound => format!("`{program}` is not in PATH"),
        _ => format!("start `{program}`: {error}"),
    })?;
    let (out, err) = (running.stdout(), running.stderr());
    let (mut said, mut complaint) = (String::new(), Tail::default());
    let ended = async {
        if let Some(out) = out {
            out.take(LONGEST_ANSWER).read_to_string(&mut said).await?;
        }
        complaint.read(err).await?;
        running.wait().await
    };
    match tokio::time::timeout(TIMEOUT, ended).await {
        Ok(Ok(status)) if status.success() => Ok(said),
        Ok(Ok(_)) => Err(format!("`{program}` failed{}", complaint.explanation(str::to_owned))),
        Ok(Err(error)) => Err(format!("`{program}`: {error}")),
        Err(_) => Err(format!("`{program}` says nothing for {} s", TIMEOUT.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_program_says_and_why_it_says_nothing() {
        assert_eq!(said_by("printf", &["u 4"]).await, Ok("u 4".to_owned()));
        assert_eq!(said_by("no-such-program", &[]).await, Err("`no-such-program` is not in PATH".to_owned()));
        let failed = said_by("sh", &["-c", "echo it is away >&2; exit 1"]).await;
        assert_eq!(failed, Err("`sh` failed: it is away".to_owned()));
    }
}
