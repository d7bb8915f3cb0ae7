//! How the watched file systems are off, for those who look from outside.

use rusqlite::params;
use serde::Serialize;

use super::{Queue, QueueError, sqlite};

/// A watched file system, as whoever works the queue off last said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DiskView {
    /// What lies there: `store`, `state directory`, `cache NAME`.
    pub place: String,
    /// Where that is.
    pub path: String,
    /// `ok`, `low` or `critical`: how it was when it was last seen.
    pub level: String,
    /// Since when (ms since 1970) it has been so, or can't be seen.
    pub since: i64,
    /// What was free at that time, in words.
    pub found: String,
    /// Why it can't be seen, if so.
    pub unseen: Option<String>,
}

impl Queue {
    /// Notes how all that are watched are off; what isn't among them is forgotten. One that is off as before stays so
    /// since the time that was noted then, whatever this one's `since`.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn note_disks(&mut self, disks: &[DiskView]) -> Result<(), QueueError> {
        let before = self.disks()?;
        let tx = self.begin().map_err(sqlite("begin to note the disks"))?;
        let noted: rusqlite::Result<()> = (|| {
            tx.execute("DELETE FROM disks", [])?;
            let mut insert = tx.prepare_cached(
                "INSERT OR REPLACE INTO disks (place, path, level, since, found, unseen) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?;
            for disk in disks {
                let DiskView { place, path, level, since, found, unseen } = disk;
                let is_same = |known: &&DiskView| {
                    (&known.place, &known.path, &known.level) == (place, path, level)
                        && known.unseen.is_some() == unseen.is_some()
                };
                let since = before.iter().find(is_same).map_or(*since, |known| known.since);
                insert.execute(params![place, path, level, since, found, unseen])?;
            }
            Ok(())
        })();
        noted.and_then(|()| tx.commit()).map_err(sqlite("note the disks"))
    }

    /// How those that are watched are off.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn disks(&self) -> Result<Vec<DiskView>, QueueError> {
        let mut statement = self
            .db
            .prepare_cached("SELECT place, path, level, since, found, unseen FROM disks ORDER BY rowid")
            .map_err(sqlite("list the disks"))?;
        statement
            .query_map([], |row| {
                Ok(DiskView {
                    place: row.get(0)?,
                    path: row.get(1)?,
                    level: row.get(2)?,
                    since: row.get(3)?,
                    found: row.get(4)?,
                    unseen: row.get(5)?,
                })
            })
            .and_then(Iterator::collect)
            .map_err(sqlite("list the disks"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_as_it_is_since_it_became_so() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut queue = Queue::open(dir.path()).expect("opened").queue;
        let disk = |place: &str, level: &str, since| DiskView {
            place: place.to_owned(),
            path: "/a".to_owned(),
            level: level.to_owned(),
            since,
            found: format!("{since} free"),
            unseen: None,
        };
        queue.note_disks(&[disk("store", "ok", 1), disk("cache a", "low", 1)]).expect("noted");
        queue.note_disks(&[disk("store", "ok", 2), disk("cache b", "low", 2)]).expect("noted");
        let store = DiskView { since: 1, ..disk("store", "ok", 2) };
        assert_eq!(queue.disks().expect("listed"), [store.clone(), disk("cache b", "low", 2)]);
        let unseen = DiskView { unseen: Some("gone".to_owned()), ..disk("cache b", "low", 3) };
        queue.note_disks(&[disk("store", "low", 3), unseen.clone()]).expect("noted");
        assert_eq!(queue.disks().expect("listed"), [disk("store", "low", 3), unseen]);
    }
}
