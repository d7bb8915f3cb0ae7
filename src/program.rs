//! Programs of others that are run.
//!
//! Each gets a process group of its own, which is killed as a whole when nobody waits for it any longer, so that nothing
//! of what it has started is left either. What it leaves running when it ends by itself stays: that is its own affair. What
//! it says on its standard error explains a failure.

use std::io;
use std::process::ExitStatus;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use zeroize::Zeroizing;

/// How much of the end of what a program says is looked at for what to show, in bytes. As much before it is kept to know
/// the secrets by that reach into it: none that a message may repeat is longer.
const SAID_KEPT: usize = 4 * 1024;

/// How much of that is shown, in characters: the last lines of any client's complaint.
const SAID_SHOWN: usize = 300;

/// A program that may still run; dropped, it and all that it has started are killed.
#[derive(Debug)]
pub struct Running(Child);

impl Running {
    /// Starts it, in a process group of its own.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        command.process_group(0).kill_on_drop(true).spawn().map(Self)
    }

    /// Its standard input, the first time it is asked for, if that is a pipe.
    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.0.stdin.take()
    }

    /// Its standard output likewise.
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.0.stdout.take()
    }

    /// Its standard error likewise.
    pub fn stderr(&mut self) -> Option<ChildStderr> {
        self.0.stderr.take()
    }

    /// Waits for its end. It may be dropped at any time, and asked for again.
    ///
    /// # Errors
    /// What the system says.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.0.wait().await
    }

    /// Kills it and all that it has started, unless it has ended.
    pub fn kill(&self) {
        // As long as it has a number it hasn't been waited for, so nobody else can have that number.
        let pid = self.0.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // What is gone already needs no killing.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The end of what a program says on a pipe. There may be a secret in it, so it is wiped.
#[derive(Debug)]
pub struct Tail {
    said: Zeroizing<Vec<u8>>,
    /// Whether something before that was cut off, perhaps in the middle of a secret.
    is_cut: bool,
}

impl Default for Tail {
    fn default() -> Self {
        // As long as it gets: growing would leave copies behind.
        Self { said: Zeroizing::new(Vec::with_capacity(4 * SAID_KEPT)), is_cut: false }
    }
}

impl Tail {
    /// Reads to the pipe's end. What was read stays where it is dropped before that.
    ///
    /// # Errors
    /// What the system says.
    pub async fn read(&mut self, pipe: Option<impl AsyncRead + Unpin>) -> io::Result<()> {
        let Some(mut pipe) = pipe else { return Ok(()) };
        let mut chunk = Zeroizing::new([0; SAID_KEPT]);
        loop {
            let read = pipe.read(chunk.as_mut_slice()).await?;
            if read == 0 {
                return Ok(());
            }
            self.said.extend_from_slice(&chunk[..read]);
            if self.said.len() > 3 * SAID_KEPT {
                let surplus = self.said.len() - 2 * SAID_KEPT;
                self.said.drain(..surplus);
                self.is_cut = true;
            }
        }
    }

    /// The end of a message: `: …`, or nothing where nothing was said. `blacken` takes out what nobody is to see. Where
    /// something was cut off, the end of a secret may stand in front, which nothing can tell any more; so as much as any
    /// secret has is left out there.
    #[must_use]
    pub fn explanation(&self, blacken: impl Fn(&str) -> String) -> String {
        let text = blacken(&String::from_utf8_lossy(&self.said));
        let left_out = if self.is_cut { SAID_KEPT.min(text.len()) } else { 0 };
        let text = String::from_utf8_lossy(&text.as_bytes()[left_out..]);
        let words: Vec<&str> =
            text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()).collect();
        let line = words.join(" ");
        if line.is_empty() {
            return line;
        }
        match line.char_indices().rev().nth(SAID_SHOWN) {
            Some((at, _)) => format!(": …{}", &line[at..]),
            None => format!(": {line}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Progress bars are mostly white space: joined, all that is kept of them would be shown, from its first byte on.
    #[tokio::test]
    async fn no_end_of_a_secret_stands_where_something_was_cut_off() {
        let secret = "correct horse\nbattery staple";
        let explanation = |said: Vec<u8>| async move {
            let mut tail = Tail::default();
            tail.read(Some(said.as_slice())).await.expect("read");
            tail.explanation(|text| text.replace(secret, "[secret]"))
        };
        for behind in (0..4 * SAID_KEPT).step_by(7) {
            let said = format!("{}{secret}{}over quota", "x".repeat(3 * SAID_KEPT), " ".repeat(behind));
            let told = explanation(said.into_bytes()).await;
            assert!(told.ends_with("over quota") && !told.contains("staple"), "{behind}: {told}");
        }
        assert_eq!(explanation(b"no room\nleft".to_vec()).await, ": no room left");
        let long = explanation(" ä".repeat(4 * SAID_KEPT).into_bytes()).await;
        assert!(long.starts_with(": …") && long.chars().count() < SAID_SHOWN + 10, "{long}");
    }
}
