//! Saying what is waited for: to who sits before a terminal, and in the log of what has started this.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Servers that are well answer within this time; who looks at nothing for longer wonders.
const SILENCE: Duration = Duration::from_secs(2);

/// Does some work, and says on standard error what is just waited for whenever that takes its time.
pub(super) async fn telling<T>(what: impl Fn() -> String, work: impl Future<Output = T>) -> T {
    telling_by(what, work, |text| eprintln!("waiting for {text}")).await
}

/// Tells the same thing once.
async fn telling_by<T>(what: impl Fn() -> String, work: impl Future<Output = T>, mut tell: impl FnMut(&str)) -> T {
    let mut work = pin!(work);
    let (mut told, mut seen, mut since) = (None, what(), Instant::now());
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = sleep_until(since + SILENCE) => {}
        }
        let now = what();
        if now == seen && told.as_ref() != Some(&now) {
            tell(&now);
            told = Some(now.clone());
        }
        (seen, since) = (now, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_takes_its_time_is_told_once() {
        let (step, told) = (RefCell::new("the daemon"), RefCell::new(Vec::new()));
        let work = async {
            sleep(SILENCE / 2).await;
            *step.borrow_mut() = "the caches";
            sleep(SILENCE * 20).await;
            *step.borrow_mut() = "the upstreams";
            sleep(SILENCE / 2).await;
            7
        };
        let tell = |text: &str| told.borrow_mut().push(text.to_owned());
        assert_eq!(telling_by(|| step.borrow().to_string(), work, tell).await, 7);
        assert_eq!(*told.borrow(), ["the caches"]);
    }
}
