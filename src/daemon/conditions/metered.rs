//! Whether this host's connection is metered, as NetworkManager knows it.
//!
//! Asked by `busctl`, which comes with systemd and so is where NetworkManager mostly is, also in the `PATH` of NixOS's
//! services: one question every few seconds isn't worth a D-Bus library, which would be the largest of all that is linked
//! in.

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

/// Whether it is.
///
/// # Errors
/// Why it can't be told.
#[cfg(target_os = "linux")]
pub(super) async fn is_metered() -> Result<bool, String> {
    const QUESTION: [&str; 7] = [
        "--system",
        "--auto-start=no",
        "get-property",
        "org.freedesktop.NetworkManager",
        "/org/freedesktop/NetworkManager",
        "org.freedesktop.NetworkManager",
        "Metered",
    ];
    let untold = |why| format!("NetworkManager doesn't tell whether the connection is metered: {why}");
    let said = said_by("busctl", &QUESTION).await.map_err(untold)?;
    by_network_manager(&said)
}

/// Whether it is.
///
/// # Errors
/// Other systems have no program that tells it.
#[cfg(not(target_os = "linux"))]
pub(super) async fn is_metered() -> Result<bool, String> {
    Err("this system doesn't tell whether the connection is metered".to_owned())
}

/// The property is a number: `u 4`. NMMetered in NetworkManager's D-Bus reference: 0 unknown, 1 yes, 2 no, 3 and 4 the same
/// as a guess.
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux has it"))]
fn by_network_manager(said: &str) -> Result<bool, String> {
    match said.trim() {
        "u 1" | "u 3" => Ok(true),
        "u 2" | "u 4" => Ok(false),
        "u 0" => Err("NetworkManager doesn't know whether the connection is metered".to_owned()),
        _ => Err("NetworkManager says something else than whether the connection is metered".to_owned()),
    }
}

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

    #[test]
    fn guesses_count_and_what_is_unknown_is_said() {
        let says = |number| by_network_manager(&format!("u {number}\n"));
        assert_eq!([says(1), says(3), says(2), says(4)], [Ok(true), Ok(true), Ok(false), Ok(false)]);
        assert!(says(0).is_err() && says(5).is_err() && by_network_manager("").is_err());
    }

    #[tokio::test]
    async fn what_a_program_says_and_why_it_says_nothing() {
        assert_eq!(said_by("printf", &["u 4"]).await, Ok("u 4".to_owned()));
        assert_eq!(said_by("no-such-program", &[]).await, Err("`no-such-program` is not in PATH".to_owned()));
        let failed = said_by("sh", &["-c", "echo it is away >&2; exit 1"]).await;
        assert_eq!(failed, Err("`sh` failed: it is away".to_owned()));
    }
}
