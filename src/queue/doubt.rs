//! Doubt in what caches are believed to have: somebody has removed something from one.
//!
//! Whoever works the queue off believes for some minutes that a path is in its cache. So whoever removes something says so
//! here first and admits paths afterwards, and whoever claims looks whether it was said in the same breath.

use super::{Queue, QueueError, sqlite};

impl Queue {
    /// Says that what is believed of any cache may be wrong by now.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn doubt(&mut self) -> Result<(), QueueError> {
        let said = self.db.execute(
            "INSERT INTO meta (key, value) VALUES ('doubts', '1')
             ON CONFLICT (key) DO UPDATE SET value = CAST(value AS INTEGER) + 1",
            [],
        );
        said.map(drop).map_err(sqlite("note a doubt"))
    }

    /// How often that was said.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn doubts(&mut self) -> Result<u64, QueueError> {
        let doubts = self.noted("doubts", "look for doubts")?;
        Ok(doubts.and_then(|doubts| doubts.parse().ok()).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubts_are_counted() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut queue = Queue::open(dir.path()).expect("opened").queue;
        let mut beside = Queue::open_beside(dir.path()).expect("opened");
        for said in 0..3 {
            assert_eq!(queue.doubts().expect("asked"), said);
            beside.doubt().expect("said");
        }
    }
}
