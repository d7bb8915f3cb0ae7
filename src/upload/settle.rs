//! Writing down what became of deliveries, and what that says of their caches.

use tokio::task::JoinError;

use super::deliver::{Landed, Verdict};
use super::note::{note_taking, note_waiting, tell};
use super::pause::UnderWay;
use super::target::Waits;
use super::{TaskEnd, Uploader};
use crate::queue::{Outcome, Queue, QueueError, now};

impl Uploader {
    /// Writes down what became of deliveries.
    pub(super) async fn settle(&mut self, ended: Vec<TaskEnd>) -> Result<(), QueueError> {
        let (mut outcomes, mut walks) = (Vec::with_capacity(ended.len()), Vec::new());
        for end in ended {
            let (task, landed) = match end {
                Ok(landed) => landed,
                Err(error) => (error.id(), Landed::from(outcome_of(&error))),
            };
            let Some(UnderWay { job, name, .. }) = self.claimed.remove(&task) else { continue };
            let Landed { outcome, cache, shown, walk } = landed;
            if !walk.is_empty() {
                walks.push((job.clone(), walk));
            }
            if let Some(state) = self.caches.get_mut(&job.cache) {
                let was_trial = state.ended(job.id);
                let is_told = match cache {
                    Verdict::ToldElsewhere => true,
                    Verdict::ToldOnce => job.attempts > 0,
                    _ => false,
                };
                let waits = match cache {
                    Verdict::Nothing | Verdict::ToldElsewhere | Verdict::ToldOnce => None,
                    Verdict::Faltered(why) => state.falter().then(|| Waits::out_of_reach(&why)),
                    Verdict::Waits(waits) => Some(waits),
                };
                if let Some(waits) = &waits {
                    note_waiting(&self.queue, job.cache, state, waits).await?;
                }
                let taking = shown.is_some_and(|shown| state.shown(shown));
                if taking {
                    note_taking(&self.queue, job.cache, state).await?;
                } else if was_trial && waits.is_none() {
                    state.tried_in_vain();
                }
                let outcome = if waits.is_some() { of_an_outage(outcome) } else { outcome };
                // What is wrong with the cache is told once, not for each path.
                let told = if waits.is_some() || is_told { &Outcome::Returned } else { &outcome };
                tell(&job, told, name.as_str());
                outcomes.push((job, outcome));
            } else {
                // The policy no longer names its cache; what was under way there is finished.
                tell(&job, &outcome, name.as_str());
                outcomes.push((job, outcome));
            }
        }
        let places: Vec<_> = outcomes.iter().map(|(job, _)| (job.cache, job.path.clone())).collect();
        self.queue.call(move |queue: &mut Queue| queue.settle(&outcomes, &walks, now())).await?;
        for (cache, path) in places {
            self.context.flights.forget(cache, &path);
        }
        Ok(())
    }
}

/// What becomes of a job where the cache as a whole is away. Counted as tries of the path, those of an outage would have it
/// given up at the first doubtful answer behind it, such as the time-out of a proxy whose server is just starting.
fn of_an_outage(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Retry { not_before, reason } => Outcome::Postponed { not_before, reason },
        outcome => outcome,
    }
}

/// What becomes of a job whose task did not end by itself.
fn outcome_of(error: &JoinError) -> Outcome {
    if error.is_cancelled() {
        return Outcome::Returned;
    }
    Outcome::Failed { reason: "its upload ended by a defect of storewatch; the log has more".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::{Delivery, Volume};
    use crate::upload::target::Ends;

    #[test]
    fn what_a_delivery_shows_of_its_cache_depends_on_how_it_ended() {
        let uploaded =
            Outcome::Delivered(Delivery::Uploaded { row: None, volume: Volume::default(), deduplicated: false });
        let landed = Landed::from(uploaded);
        assert_eq!(landed.shown, Some(Ends::Took));
        let retry = Outcome::Retry { not_before: 0, reason: "500".to_owned() };
        assert_eq!(Landed::from(retry).shown, None);
        assert_eq!(Landed::from(Outcome::Delivered(Delivery::AtUpstream)).shown, Some(Ends::Answered));
    }
}
