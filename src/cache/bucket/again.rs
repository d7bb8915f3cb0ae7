//! Asking a store again for what it didn't do, where the error says that it may the next time: for who cares for a cache, and asks
//! it for a hundred thousand things in a row, of which one in some thousands goes wrong. An upload has the queue instead, which
//! tries again as a whole.
//!
//! Everything that a [`super::BucketShelf`] asks for bears being asked for twice: reads, pages of lists, deletions, and what is
//! put whatever is there. What is put on a condition may be there already by a try whose answer was lost: who puts it so looks.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::error::BucketError;
use crate::cache::Class;

/// So often something is asked for that isn't answered: the pauses between come to some eight seconds.
const TRIES: u32 = 5;

/// The first pause; each one behind it is twice as long.
const FIRST: Duration = Duration::from_millis(500);

/// No pause is longer, whatever the answer says: somebody is waiting for the command.
const LONGEST: Duration = Duration::from_secs(60);

/// What a store didn't do, as often as it was asked.
#[derive(Debug, thiserror::Error)]
#[error("{object}{}", if *tries > 1 { format!(", asked for {tries} times") } else { String::new() })]
pub struct InVain {
    /// The object, or the list, relative to the cache.
    object: String,
    /// How often it was asked for.
    tries: u32,
    /// Why not, the last time.
    pub(super) source: Arc<BucketError>,
}

impl InVain {
    /// Of something that isn't worth another try.
    pub(super) fn once(object: &str, source: Arc<BucketError>) -> Self {
        Self { object: object.to_owned(), tries: 1, source }
    }

    /// What a person may do about it, where the error itself doesn't say.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        self.source.hint()
    }

    /// What the failure means.
    #[must_use]
    pub fn class(&self) -> Class {
        self.source.class()
    }
}

/// Asks for something that has to do with an object until it is done, or isn't worth another try.
pub(super) async fn again<T, F>(object: &str, request: impl Fn() -> F) -> Result<T, InVain>
where
    F: Future<Output = Result<T, Arc<BucketError>>>,
{
    Tries::default().ask(object, request).await
}

/// How often something has failed that is being asked for.
#[derive(Debug, Default)]
pub(super) struct Tries {
    failed: u32,
}

impl Tries {
    /// As [`again`], for who wants to know whether it went well at once.
    pub(super) async fn ask<T, F>(&mut self, object: &str, request: impl Fn() -> F) -> Result<T, InVain>
    where
        F: Future<Output = Result<T, Arc<BucketError>>>,
    {
        loop {
            match request().await {
                Ok(done) => return Ok(done),
                Err(error) => self.wait_after(object, error).await?,
            }
        }
    }

    /// Waits until it may be asked for again.
    ///
    /// # Errors
    /// [`InVain`] where it isn't worth it.
    pub(super) async fn wait_after(&mut self, object: &str, error: Arc<BucketError>) -> Result<(), InVain> {
        self.failed += 1;
        // Without randomness the pauses are equal, which is no reason to fail.
        let draw = getrandom::u32().unwrap_or(0);
        match pause(self.failed, &error, draw) {
            Some(pause) => sleep(pause).await,
            None => return Err(InVain { object: object.to_owned(), tries: self.failed, source: error }),
        }
        Ok(())
    }

    /// Whether a try has failed, of which it isn't known what it has done.
    pub(super) fn has_failed(&self) -> bool {
        self.failed > 0
    }

    /// Something has come of the last one, so it wasn't in vain.
    pub(super) fn begin_anew(&mut self) {
        self.failed = 0;
    }
}

/// How long to wait when something has failed so often, the last time by this; `None` if it isn't worth another try. `draw` is a
/// random number, by which the many requests that failed together don't come back together.
fn pause(failed: u32, error: &BucketError, draw: u32) -> Option<Duration> {
    if failed >= TRIES || !passes(error) {
        return None;
    }
    let longest = FIRST * (1 << (failed - 1));
    let pause = longest / 2 + (longest / 2).mul_f64(f64::from(draw) / f64::from(u32::MAX));
    Some(pause.max(error.retry_after().unwrap_or_default()).min(LONGEST))
}

/// Whether what failed may go well the next time, with nothing changed.
fn passes(error: &BucketError) -> bool {
    match error.class() {
        Class::Transient | Class::Unavailable | Class::Doubtful | Class::Throttled { .. } => {
            !error.is_not_implemented()
        }
        Class::NoRoomYet
        | Class::Permanent
        | Class::CacheWaits
        | Class::Credentials
        | Class::ToldByAnother
        | Class::ReferenceFirst
        | Class::NotWanted
        | Class::Vanished
        | Class::Cancelled => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::super::code::Code;
    use super::*;
    use crate::cache::http::Action;
    use crate::report::one_line;

    fn refused(status: u16, code: &str, retry_after: Option<u64>) -> BucketError {
        BucketError::Refused {
            action: Action::Fetch,
            bucket: "s3://b".to_owned(),
            status,
            code: Code::parse(code),
            says: String::new(),
            keys: None,
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    #[test]
    fn pauses_are_as_long_as_the_answer_says_or_else_double() {
        let of = |failed, retry_after, draw| pause(failed, &refused(503, "SlowDown", retry_after), draw);
        let milliseconds = |pause: Option<Duration>| pause.map(|pause| pause.as_millis());
        let longest = (1..=TRIES).map(|failed| milliseconds(of(failed, None, u32::MAX)));
        assert!(longest.eq([Some(500), Some(1_000), Some(2_000), Some(4_000), None]));
        assert_eq!(milliseconds(of(2, None, 0)), Some(500), "half of it is chance");
        assert_eq!(of(1, Some(7), 0), Some(Duration::from_secs(7)));
        assert_eq!(milliseconds(of(1, Some(0), u32::MAX)), Some(500), "none at all would be no pause");
        assert_eq!(of(1, Some(86_400), 0), Some(LONGEST));
    }

    #[test]
    fn only_what_passes_is_worth_another_try() {
        for (status, code, is_worth_it) in [
            (503, "SlowDown", true),
            (503, "", true),
            (500, "InternalError", true),
            (429, "", true),
            (403, "AccessDenied", false),
            (404, "NoSuchBucket", false),
            (501, "", false),
            (501, "NotImplemented", false),
            (400, "", false),
        ] {
            assert_eq!(pause(1, &refused(status, code, None), 0).is_some(), is_worth_it, "{status} {code}");
        }
        let odd = BucketError::OddName { bucket: "s3://b".to_owned(), problem: String::new() };
        assert_eq!(pause(1, &odd, 0), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_to_the_end_is_named() {
        let asked = AtomicU32::new(0);
        let failed = again("nar/a.nar.zst", || async {
            asked.fetch_add(1, Ordering::Relaxed);
            Err::<(), _>(Arc::new(refused(503, "SlowDown", None)))
        });
        let told = one_line(&failed.await.expect_err("it always fails"));
        assert_eq!(asked.into_inner(), TRIES);
        assert_eq!(told, "nar/a.nar.zst, asked for 5 times: read a file at s3://b: SlowDown (503)");
        let failed = again("a", || async { Err::<(), _>(Arc::new(refused(403, "AccessDenied", None))) }).await;
        assert!(one_line(&failed.expect_err("forbidden")).starts_with("a: read a file at s3://b: AccessDenied (403)"));
    }
}
