//! Whether something keeps a path from being collected: a root among all that refers to it, directly or not.

use rusqlite::Connection;

use super::{Database, DatabaseError, row};
use crate::nix::StorePath;

/// So many referrers of a path are looked at. What was built just now has a handful; what thousands refer to is kept by one
/// of them, as good as certainly.
const MOST_REFERRERS: usize = 1_000;

impl Database {
    /// Whether the path is a root or needed by one. One that isn't valid is kept by nothing. Each query is a short read of
    /// its own, so what is said is true of no single moment, which is enough for an order. How many it takes is added to
    /// `queries`.
    ///
    /// # Errors
    /// `Busy` or `Other`, or `Malformed` for the row of a referrer.
    pub fn is_kept(
        &self,
        path: &StorePath,
        is_root: impl Fn(&StorePath) -> bool,
        queries: &mut usize,
    ) -> Result<bool, DatabaseError> {
        if is_root(path) {
            return Ok(true);
        }
        // Ids alone would do, but roots are known by their names.
        let mut seen = std::collections::HashSet::from([path.clone()]);
        let mut waiting = vec![path.clone()];
        while let Some(path) = waiting.pop() {
            *queries += 1;
            for referrer in self.referrers(&path)? {
                if is_root(&referrer) || seen.len() >= MOST_REFERRERS {
                    return Ok(true);
                }
                if seen.insert(referrer.clone()) {
                    waiting.push(referrer);
                }
            }
        }
        Ok(false)
    }

    /// The paths that refer to one, itself perhaps among them; none where it isn't valid. No more than matter.
    fn referrers(&self, path: &StorePath) -> Result<Vec<StorePath>, DatabaseError> {
        let full = self.store_dir.full(path);
        let read = self.reading("read referrers", |c| self.referrers_in(c, &full))?;
        read.map_err(|why| DatabaseError::Malformed { row: full, why })
    }

    fn referrers_in(&self, c: &Connection, full: &str) -> rusqlite::Result<Result<Vec<StorePath>, String>> {
        let sql = "SELECT path FROM Refs JOIN ValidPaths ON id = referrer
                   WHERE reference = (SELECT id FROM ValidPaths WHERE path = ?1) LIMIT ?2";
        let mut statement = c.prepare_cached(sql)?;
        let mut rows = statement.query(rusqlite::params![full, MOST_REFERRERS as i64 + 1])?;
        let mut referrers = Vec::new();
        while let Some(row) = rows.next()? {
            match row::store_path(row, 0, &self.store_dir) {
                Ok(referrer) => referrers.push(referrer),
                Err(why) => return Ok(Err(format!("a referrer: {why}"))),
            }
        }
        Ok(Ok(referrers))
    }
}
