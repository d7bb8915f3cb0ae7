//! How this host is, as far as it matters to what may be sent: on a metered connection, on battery.
//!
//! Asked only where the policy makes something of it, on no thread of the runtime's own, and what can't be told is taken not
//! to be so, which is said once. Where it was told before, that stands: nobody pays for a question that failed.

mod answer;
mod metered;
mod power;

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::warn;

use crate::limit::{Conditions, Schedule};

/// Where Linux shows batteries and mains.
const POWER_SUPPLIES: &str = "/sys/class/power_supply";

/// What was found out; an error says why it can't be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Whether the connection is metered; `None`: nobody wants to know.
    pub metered: Option<Result<bool, String>>,
    /// Whether the host runs on battery likewise.
    pub battery: Option<Result<bool, String>>,
}

/// Looks as far as a schedule makes something of it.
pub async fn look(schedule: &Schedule) -> Found {
    let (metered, battery) = (schedule.metered.is_some(), schedule.battery.is_some());
    Found {
        metered: if metered { Some(metered::is_metered().await) } else { None },
        battery: if battery { Some(power::is_on_battery(Path::new(POWER_SUPPLIES)).await) } else { None },
    }
}

impl Found {
    /// What of it is so.
    #[must_use]
    pub fn conditions(&self) -> Conditions {
        self.after(Conditions::default())
    }

    /// What is so, where what isn't known is as it was.
    fn after(&self, before: Conditions) -> Conditions {
        let or_before = |found: &Option<Result<bool, String>>, before| match found {
            Some(Ok(found)) => *found,
            Some(Err(_)) => before,
            None => false,
        };
        Conditions {
            is_metered: or_before(&self.metered, before.is_metered),
            is_on_battery: or_before(&self.battery, before.is_on_battery),
        }
    }

    /// What can't be told, and why.
    fn troubles(&self) -> [Option<&String>; 2] {
        [&self.metered, &self.battery].map(|found| found.as_ref().and_then(|found| found.as_ref().err()))
    }
}

/// A look isn't begun sooner than so long after the one before: it may be a program that is run.
const INTERVAL: Duration = Duration::from_secs(10);

/// Looks again and again, on a task of its own.
pub(super) struct Lookout {
    found: watch::Receiver<Found>,
    finds: watch::Sender<Found>,
    conditions: Conditions,
    looking: Option<JoinHandle<()>>,
    looked: Option<Instant>,
    /// What couldn't be told, as it was said last.
    told: [Option<String>; 2],
}

impl Default for Lookout {
    fn default() -> Self {
        let (finds, found) = watch::channel(Found::default());
        let told = [None, None];
        Self { found, finds, conditions: Conditions::default(), looking: None, looked: None, told }
    }
}

impl Lookout {
    /// Begins to look, unless it is at it or has just done so.
    pub(super) fn look(&mut self, schedule: &Schedule) {
        if self.looked.is_none_or(|looked| looked.elapsed() >= INTERVAL) {
            self.begin(schedule);
        }
    }

    fn begin(&mut self, schedule: &Schedule) {
        let wants = schedule.metered.is_some() || schedule.battery.is_some();
        let knows = *self.found.borrow() != Found::default();
        if (!wants && !knows) || self.looking.as_ref().is_some_and(|looking| !looking.is_finished()) {
            return;
        }
        self.looked = Some(Instant::now());
        let (finds, schedule) = (self.finds.clone(), schedule.clone());
        self.looking = Some(tokio::spawn(async move {
            let found = look(&schedule).await;
            finds.send_if_modified(|before| std::mem::replace(before, found.clone()) != found);
        }));
    }

    /// Looks and waits for what is found.
    pub(super) async fn look_now(&mut self, schedule: &Schedule) {
        // One that is under way may ask for something else, or have been answered in another network.
        if let Some(looking) = self.looking.take() {
            looking.abort();
            let _ = looking.await;
        }
        self.begin(schedule);
        if let Some(looking) = self.looking.take() {
            // One that was lost has found nothing.
            let _ = looking.await;
        }
    }

    /// Waits until something else is found. Cancel-safe.
    pub(super) async fn changed(&mut self) {
        if self.found.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// What is so, by the last look. What can't be told is said once for each reason.
    pub(super) fn conditions(&mut self) -> Conditions {
        let found = self.found.borrow_and_update().clone();
        self.conditions = found.after(self.conditions);
        for (trouble, told) in found.troubles().into_iter().zip(&mut self.told) {
            if let Some(why) = trouble.filter(|why| told.as_ref() != Some(*why)) {
                warn!("{why}; it counts as it was told last, or as if it were not so");
                *told = Some(why.clone());
            }
        }
        self.conditions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_told_any_more_is_as_it_was() {
        let unknown = || Some(Err("no answer".to_owned()));
        let on = Found { metered: Some(Ok(true)), battery: Some(Ok(true)) }.conditions();
        assert_eq!(on, Conditions { is_metered: true, is_on_battery: true });
        assert_eq!(Found { metered: unknown(), battery: unknown() }.after(on), on);
        assert_eq!(Found { metered: unknown(), battery: unknown() }.conditions(), Conditions::default());
        assert_eq!(Found::default().after(on), Conditions::default(), "nobody wants to know");
    }

    #[tokio::test]
    async fn nothing_is_asked_that_nobody_wants_to_know() {
        let mut lookout = Lookout::default();
        lookout.look(&Schedule::default());
        assert!(lookout.looking.is_none());
        let found = look(&Schedule { battery: Some(crate::limit::Bandwidth::Nothing), ..Schedule::default() }).await;
        assert!(found.metered.is_none() && found.battery.is_some());
    }

    #[tokio::test]
    async fn who_looks_now_does_not_go_by_a_look_that_was_under_way() {
        let mut lookout = Lookout { looking: Some(tokio::spawn(std::future::pending())), ..Lookout::default() };
        let schedule = Schedule { battery: Some(crate::limit::Bandwidth::Nothing), ..Schedule::default() };
        let looked = tokio::time::timeout(Duration::from_secs(60), lookout.look_now(&schedule)).await;
        assert!(looked.is_ok(), "it waited for one that hangs");
        assert!(lookout.found.borrow().battery.is_some(), "it didn't look");
    }
}
