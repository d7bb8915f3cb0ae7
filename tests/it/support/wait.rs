//! Waiting for a condition. No test sleeps for a time that somebody guessed.

use std::time::{Duration, Instant};

/// Far beyond what anything here takes on a busy machine: only what never comes reaches it.
const DEADLINE: Duration = Duration::from_secs(60);

/// Often enough that a test isn't slowed down, seldom enough that two cores have time for what is waited for.
const INTERVAL: Duration = Duration::from_millis(10);

/// Waits until `condition` holds, and panics saying `what` was waited for where it never does.
#[track_caller]
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    eventually_or(what, condition, String::new);
}

/// As [`eventually`]; what `explain` says goes into the panic.
#[track_caller]
pub fn eventually_or(what: &str, condition: impl FnMut() -> bool, explain: impl FnOnce() -> String) {
    if !within(DEADLINE, condition) {
        panic!("waited {} s for {what}, in vain\n{}", DEADLINE.as_secs(), explain());
    }
}

/// Whether `condition` comes to hold before `deadline` is over.
pub fn within(deadline: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if began.elapsed() > deadline {
            return false;
        }
        std::thread::sleep(INTERVAL);
    }
}
