//! One run of a program, from its first line to its end.

use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdin, Command};
use tokio::time::{Instant, sleep_until, timeout};

use super::environment::environment;
use super::{CommandError, CommandOptions, check};
use crate::cache::{BoxFuture, CacheError, NarFailure, NarReader};
use crate::limit::Tap;
use crate::program::{Running, Tail};

/// What is read of a program's standard output at most (bytes): some thousand paths that are missing.
const LONGEST_OUTPUT: usize = 1024 * 1024;

/// When a program has ended, what it has written is read for so long. Its pipes end with it, unless something that it left
/// running in the background still holds them.
const LINGER: Duration = Duration::from_secs(2);

/// How a program has ended.
pub(super) struct Ended {
    pub(super) program: PathBuf,
    pub(super) status: ExitStatus,
    pub(super) output: Vec<u8>,
    pub(super) said: Tail,
}

/// A program at work. Its fields are dropped in this order: it is killed before its standard input ends, so that it never
/// takes a part of an archive for the whole.
struct AtWork<'r> {
    running: Running,
    feeding: BoxFuture<'r, Result<(), Unfed>>,
}

/// The archive has failed. The program's standard input is still open, and stays so until the program is killed.
struct Unfed {
    failure: NarFailure,
    _open: ChildStdin,
}

/// Runs the program, gives it the line and the archive, and waits for its end. It is looked at once more before that: somebody
/// may have put another in its place since the cache was opened.
///
/// Dropped, or where the archive fails, the program is killed, and never sees the archive's last chunk.
/// Only where this process itself is killed does its input end in the midst.
///
/// # Errors
/// [`CacheError::Nar`]; [`CacheError::Command`].
pub(super) async fn run(options: &CommandOptions, line: Vec<u8>, nar: Option<NarReader>) -> Result<Ended, CacheError> {
    let CommandOptions { program, args, timeout: within, .. } = options;
    check(program).await?;
    let mut command = Command::new(program);
    command.args(args).env_clear().envs(environment(options)).current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let failed = |action| {
        let program = program.clone();
        move |source| CommandError::Io { action, program, source }
    };
    let mut running = Running::start(&mut command).map_err(failed("start"))?;
    let (stdin, stdout, stderr) = (running.stdin(), running.stdout(), running.stderr());
    let (mut output, mut said) = (Vec::new(), Tail::default());
    let held = Held::default();
    let mut at_work = AtWork { running, feeding: Box::pin(feed(stdin, line, nar, held.clone())) };
    let mut hearing = Box::pin(async {
        let explained = async {
            // It only explains.
            let _ = said.read(stderr).await;
            Ok(())
        };
        tokio::try_join!(bounded(&mut output, stdout), explained).map(drop)
    });
    let at_its_end = async {
        let (mut fed, mut heard) = (false, false);
        let status = loop {
            tokio::select! {
                feeding = &mut at_work.feeding, if !fed => match feeding {
                    Ok(()) => fed = true,
                    Err(unfed) => {
                        at_work.running.kill();
                        return Err(unfed.failure.into());
                    }
                },
                hearing = &mut hearing, if !heard => {
                    hearing.map_err(|unheard| match unheard {
                        Unheard::TooMuch => CommandError::TooMuch { program: program.clone(), most: LONGEST_OUTPUT },
                        Unheard::Io(source) => failed("read the output of")(source),
                    })?;
                    heard = true;
                }
                status = at_work.running.wait() => break status.map_err(failed("wait for"))?,
            }
        };
        if !heard {
            // Over the time, what was read counts.
            let _ = timeout(LINGER, &mut hearing).await;
        }
        Ok::<_, CacheError>(status)
    };
    let ended = tokio::select! {
        ended = at_its_end => Some(ended),
        () = held.over(*within) => None,
    };
    drop(at_work);
    drop(hearing);
    match ended {
        Some(status) => Ok(Ended { program: program.clone(), status: status?, output, said }),
        None => Err(CommandError::TimedOut { program: program.clone(), timeout: *within }.into()),
    }
}

/// Writes the line, then the archive. A program that reads no more needs no more: that is no failure, and how it ends
/// says whether it has taken the path.
async fn feed(stdin: Option<ChildStdin>, line: Vec<u8>, nar: Option<NarReader>, held: Held) -> Result<(), Unfed> {
    let Some(mut stdin) = stdin else { return Ok(()) };
    if stdin.write_all(&line).await.is_err() {
        return Ok(());
    }
    let Some(mut nar) = nar else { return Ok(()) };
    let tap = Tap::of_this_task();
    loop {
        match nar.next().await {
            Ok(Some(chunk)) if write_through(&tap, &mut stdin, &chunk, &held).await.is_ok() => {}
            Ok(_) => return Ok(()),
            Err(failure) => return Err(Unfed { failure, _open: stdin }),
        }
    }
}

/// Writes as the tap lets it through.
async fn write_through(tap: &Tap, stdin: &mut ChildStdin, mut left: &[u8], held: &Held) -> io::Result<()> {
    while !left.is_empty() {
        let (piece, rest) = left.split_at(tap.piece().min(left.len()));
        held.while_it_lasts(tap.take(piece.len())).await;
        stdin.write_all(piece).await?;
        left = rest;
    }
    Ok(())
}

/// How long a program was given nothing since nothing might be sent, which is not its fault.
#[derive(Clone, Default)]
struct Held(Arc<Mutex<(Duration, Option<Instant>)>>);

impl Held {
    /// Counts while something lasts.
    async fn while_it_lasts(&self, waiting: impl Future<Output = ()>) {
        self.lock().1 = Some(Instant::now());
        waiting.await;
        let mut held = self.lock();
        let passed = held.1.take().map_or(Duration::ZERO, |since| since.elapsed());
        held.0 += passed;
    }

    /// Comes true when more than `within` has passed beside that.
    async fn over(&self, within: Duration) {
        let began = Instant::now();
        loop {
            let (held, since) = *self.lock();
            let end = began + within + held + since.map_or(Duration::ZERO, |since| since.elapsed());
            if end <= Instant::now() {
                return;
            }
            sleep_until(end).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, (Duration, Option<Instant>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a program's output was not read to its end.
enum Unheard {
    TooMuch,
    Io(io::Error),
}

/// Reads to the end.
async fn bounded(output: &mut Vec<u8>, pipe: Option<impl AsyncRead + Unpin>) -> Result<(), Unheard> {
    let Some(mut pipe) = pipe else { return Ok(()) };
    let mut chunk = [0; 4096];
    loop {
        match pipe.read(&mut chunk).await.map_err(Unheard::Io)? {
            0 => return Ok(()),
            read => output.extend_from_slice(&chunk[..read]),
        }
        if output.len() > LONGEST_OUTPUT {
            return Err(Unheard::TooMuch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{CallOff, NarStream};
    use crate::limit::{Lane, Slots};
    use crate::nix::nar::registered;

    #[tokio::test]
    async fn the_input_is_still_open_when_the_archive_has_failed() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("a");
        let (info, _) = registered(&file, 4 << 20);
        std::fs::write(&file, vec![8; 4 << 20]).expect("written");
        let nar = NarStream::new(file, &info, Lane::Fresh, Slots::new(1), CallOff::default());
        let mut command = Command::new("sh");
        command.args(["-c", "cat > /dev/null; echo ended"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut running = Running::start(&mut command).expect("started");
        let (stdin, stdout) = (running.stdin(), running.stdout());
        let nar = nar.start().await.expect("begun");
        let fed = feed(stdin, b"line\n".to_vec(), Some(nar), Held::default()).await;
        let Err(unfed) = fed else { panic!("an altered archive was handed over") };
        running.kill();
        drop(unfed);
        let mut said = Vec::new();
        assert!(bounded(&mut said, stdout).await.is_ok());
        assert_eq!(said, b"", "it saw an end");
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_in_which_nothing_may_be_sent_is_not_the_programs() {
        let (held, began) = (Held::default(), Instant::now());
        let feeding = held.while_it_lasts(tokio::time::sleep(Duration::from_secs(7200)));
        let (over, ()) = tokio::join!(
            async {
                held.over(Duration::from_secs(60)).await;
                began.elapsed()
            },
            feeding
        );
        assert!((7260..7262).contains(&over.as_secs()), "{over:?}");
    }
}
