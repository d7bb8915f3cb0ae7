//! That the service can find nothing new for now, for those who look from outside.

use serde::Serialize;

use super::{Queue, QueueError};

/// Why nothing new can be found, as the service last said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FindsNothing {
    /// Since when (ms since 1970).
    pub since: i64,
    /// Why, and what to do, as the log says it.
    pub why: String,
}

impl Queue {
    /// Notes why nothing new can be found at `now` (ms since 1970); `None` where that is over. Where it is for another reason
    /// than before, it is so since the first of them.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn note_finds_nothing(&mut self, why: Option<&str>, now: i64) -> Result<(), QueueError> {
        let noted = match why {
            Some(why) => Some(format!("{} {why}", self.finds_nothing()?.map_or(now, |before| before.since))),
            None => None,
        };
        self.note("finds nothing", noted.as_deref(), "note whether anything new can be found")
    }

    /// Why nothing new can be found, if that was noted last.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn finds_nothing(&self) -> Result<Option<FindsNothing>, QueueError> {
        let noted = self.noted("finds nothing", "ask whether anything new can be found")?;
        Ok(noted.and_then(|noted| {
            let (since, why) = noted.split_once(' ')?;
            Some(FindsNothing { since: since.parse().ok()?, why: why.to_owned() })
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_found_since_the_first_reason_and_until_it_is_over() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut queue = Queue::open(dir.path()).expect("opened").queue;
        let beside = Queue::open_beside(dir.path()).expect("opened");
        let asked = || beside.finds_nothing().expect("asked");
        let is = |since, why: &str| Some(FindsNothing { since, why: why.to_owned() });
        assert_eq!(asked(), None);
        for (now, noted, expected) in [
            (1, Some("there is none"), is(1, "there is none")),
            (2, Some("it is locked"), is(1, "it is locked")),
            (3, None, None),
            (4, None, None),
            (5, Some("there is none"), is(5, "there is none")),
        ] {
            queue.note_finds_nothing(noted, now).expect("noted");
            assert_eq!(asked(), expected, "{now}");
        }
    }
}
