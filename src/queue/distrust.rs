//! Paths of which a cache shows what isn't well: its narinfo can't be used, or the archive that it names.
//!
//! Such a path is uploaded although the cache shows it, and what is uploaded takes the place of what is shown, at the
//! end. Nothing is taken away beforehand, so that whatever keeps the path back (the policy, a pause, a full disk, a
//! crash) leaves the cache as it was. It is noted before the path is admitted, and forgotten when the path has been
//! uploaded.

use rusqlite::{Transaction, params};

use super::contents::forget_contents;
use super::work::execute;
use super::{CacheId, Queue, QueueError, sqlite};
use crate::nix::StorePath;

/// What somebody has found not to be well in a cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distrust {
    /// Paths that are to be uploaded even if it shows them.
    pub paths: Vec<StorePath>,
    /// Archives that nobody can use, by where they lie: no other path is to name one.
    pub archives: Vec<String>,
}

impl Queue {
    /// Notes what isn't well in a cache, and that what is believed of caches may be wrong. All or nothing.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`]; then nothing has changed.
    pub fn distrust(&mut self, cache: CacheId, distrust: &Distrust, now: i64) -> Result<(), QueueError> {
        self.at_once(|queue| {
            forget_contents(&queue.db, cache, &distrust.archives)?;
            let mut note = queue
                .db
                .prepare_cached("INSERT OR REPLACE INTO distrusted (path, cache, noted) VALUES (?1, ?2, ?3)")
                .map_err(sqlite("note what isn't well"))?;
            for path in &distrust.paths {
                note.execute(params![path.base_name(), cache.0, now]).map_err(sqlite("note what isn't well"))?;
            }
            drop(note);
            queue.doubt()
        })
    }
}

impl Queue {
    /// Of these paths those of which a cache shows what isn't well.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn distrusted(&self, cache: CacheId, paths: &[StorePath]) -> Result<Vec<StorePath>, QueueError> {
        let mut asked = self
            .db
            .prepare_cached("SELECT 1 FROM distrusted WHERE path = ?1 AND cache = ?2")
            .map_err(sqlite("look what isn't well"))?;
        let mut distrusted = Vec::new();
        for path in paths {
            if asked.exists(params![path.base_name(), cache.0]).map_err(sqlite("look what isn't well"))? {
                distrusted.push(path.clone());
            }
        }
        Ok(distrusted)
    }
}

/// Whether what the cache shows of that job's path isn't well.
pub(super) fn is_distrusted(tx: &Transaction<'_>, job: i64) -> Result<bool, QueueError> {
    tx.prepare_cached("SELECT 1 FROM distrusted WHERE (path, cache) = (SELECT path, cache FROM jobs WHERE id = ?1)")
        .and_then(|mut statement| statement.exists([job]))
        .map_err(sqlite("look whether a path is to be uploaded anew"))
}

/// It has been uploaded since that was noted (ms since 1970). What was noted later, of what was uploaded perhaps, stays.
pub(super) fn trust(tx: &Transaction<'_>, job: i64, noted: i64) -> Result<(), QueueError> {
    execute(
        tx,
        "DELETE FROM distrusted WHERE (path, cache) = (SELECT path, cache FROM jobs WHERE id = ?1) AND noted = ?2",
        params![job, noted],
    )
}

/// Forgets what was noted before then (ms since 1970) and has no job that could still mend it.
pub(super) fn forget_distrusted(tx: &Transaction<'_>, before: i64) -> Result<(), QueueError> {
    execute(
        tx,
        "DELETE FROM distrusted WHERE noted < ?1
           AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.path = distrusted.path AND j.cache = distrusted.cache
                             AND j.state IN (0, 1, 3, 4))",
        [before],
    )
}
