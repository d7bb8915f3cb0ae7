//! Which contents a cache was given, so that one is not sent again under another path's name.

use std::collections::{HashMap, HashSet};

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{CacheId, Queue, QueueError, sqlite};
use crate::nix::NarHash;

/// An archive that a cache was given, as its narinfo tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Where it lies, relative to the cache's root.
    pub url: String,
    /// How it is packed, in the narinfo's word.
    pub compression: String,
    /// SHA-256 of the file.
    pub file_hash: NarHash,
    /// Size of the file in bytes.
    pub file_size: u64,
    /// Size of the archive in bytes.
    pub nar_size: u64,
}

/// Archives of which this process doesn't know yet whether a narinfo names them, by cache and content: where they lie.
pub(super) type Expected = HashMap<(CacheId, NarHash), String>;

impl Queue {
    /// What a cache was given last of the content with that hash. It may have been removed there since. What is expected only
    /// is left out.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn content(&mut self, cache: CacheId, nar_hash: &NarHash) -> Result<Option<Content>, QueueError> {
        let content = |row: &Row<'_>| {
            Ok(Content {
                url: row.get(0)?,
                compression: row.get(1)?,
                file_hash: NarHash(row.get(2)?),
                file_size: row.get::<_, i64>(3)? as u64,
                nar_size: row.get::<_, i64>(4)? as u64,
            })
        };
        let sql =
            "SELECT url, compression, file_hash, file_size, nar_size FROM contents WHERE cache = ?1 AND nar_hash = ?2";
        let found = self
            .db
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_row(params![cache.0, nar_hash.0], content).optional())
            .map_err(sqlite("look a content up"))?;
        Ok(found.filter(|content| self.expected.get(&(cache, *nar_hash)) != Some(&content.url)))
    }

    /// Notes that a cache was given a content. What was expected of it needn't be written again.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn note_content(
        &mut self,
        cache: CacheId,
        nar_hash: &NarHash,
        content: &Content,
        now: i64,
    ) -> Result<(), QueueError> {
        match self.expected.remove(&(cache, *nar_hash)) {
            Some(expected) if expected == content.url => Ok(()),
            _ => self.write_content(cache, nar_hash, content, now),
        }
    }

    /// Notes that a cache was given a content, and that a narinfo is about to name it. Until [`Queue::note_content`] this
    /// process doesn't find it: it may have to be deleted. Later ones do.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn expect_content(
        &mut self,
        cache: CacheId,
        nar_hash: &NarHash,
        content: &Content,
        now: i64,
    ) -> Result<(), QueueError> {
        self.write_content(cache, nar_hash, content, now)?;
        self.expected.insert((cache, *nar_hash), content.url.clone());
        Ok(())
    }

    /// Forgets a content that was expected, unless another archive has taken its place.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn forget_expected(&mut self, cache: CacheId, nar_hash: &NarHash, url: &str) -> Result<(), QueueError> {
        if self.expected.get(&(cache, *nar_hash)).is_some_and(|expected| expected == url) {
            self.expected.remove(&(cache, *nar_hash));
        }
        let sql = "DELETE FROM contents WHERE cache = ?1 AND nar_hash = ?2 AND url = ?3";
        let values = params![cache.0, nar_hash.0, url];
        let forgotten = self.db.prepare_cached(sql).and_then(|mut statement| statement.execute(values));
        forgotten.map(drop).map_err(sqlite("forget a content"))
    }

    fn write_content(
        &mut self,
        cache: CacheId,
        nar_hash: &NarHash,
        content: &Content,
        now: i64,
    ) -> Result<(), QueueError> {
        let Content { url, compression, file_hash, file_size, nar_size } = content;
        let sql = "INSERT OR REPLACE INTO contents
             (cache, nar_hash, url, compression, file_hash, file_size, nar_size, noted)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        let (file_size, nar_size) = (*file_size as i64, *nar_size as i64);
        let values = params![cache.0, nar_hash.0, url, compression, file_hash.0, file_size, nar_size, now];
        let noted = self.db.prepare_cached(sql).and_then(|mut statement| statement.execute(values));
        noted.map(drop).map_err(sqlite("note a content"))
    }

    /// Forgets archives of a cache, by where they lay: they have been removed, or are to be sent again.
    ///
    /// # Errors
    /// [`QueueError::Sqlite`].
    pub fn forget_contents(&mut self, cache: CacheId, urls: &[String]) -> Result<(), QueueError> {
        self.at_once(|queue| forget_contents(&queue.db, cache, urls))
    }
}

/// Within a transaction.
pub(super) fn forget_contents(db: &Connection, cache: CacheId, urls: &[String]) -> Result<(), QueueError> {
    let urls: HashSet<&str> = urls.iter().map(String::as_str).collect();
    let forgotten: rusqlite::Result<()> = (|| {
        // One look at all: there is no index by which to look for one.
        let mut all = db.prepare("SELECT nar_hash, url FROM contents WHERE cache = ?1")?;
        let rows = all.query_map([cache.0], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, String>(1)?)))?;
        let gone: Vec<Vec<u8>> = rows
            .filter_map(|row| row.map(|(hash, url)| urls.contains(&*url).then_some(hash)).transpose())
            .collect::<rusqlite::Result<_>>()?;
        let mut forget = db.prepare("DELETE FROM contents WHERE cache = ?1 AND nar_hash = ?2")?;
        gone.iter().try_for_each(|hash| forget.execute(params![cache.0, hash]).map(drop))
    })();
    forgotten.map_err(sqlite("forget contents"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_is_remembered_for_each_cache() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut queue = Queue::open(dir.path()).expect("opened").queue;
        let one = queue.cache_id("one", "file:///c").expect("a cache");
        let two = queue.cache_id("two", "file:///c").expect("a cache");
        let hash = NarHash([7; 32]);
        let content = |url: &str| Content {
            url: url.to_owned(),
            compression: "zstd".to_owned(),
            file_hash: NarHash([8; 32]),
            file_size: 60,
            nar_size: 120,
        };
        assert_eq!(queue.content(one, &hash).expect("asked"), None);
        queue.note_content(one, &hash, &content("nar/a"), 1).expect("noted");
        queue.note_content(one, &hash, &content("nar/b"), 2).expect("noted");
        assert_eq!(queue.content(one, &hash).expect("asked"), Some(content("nar/b")), "the newest counts");
        assert_eq!(queue.content(two, &hash).expect("asked"), None);
        queue.note_content(two, &hash, &content("nar/b"), 2).expect("noted");
        queue.forget_contents(two, &["nar/a".to_owned(), "nar/b".to_owned()]).expect("forgotten");
        assert_eq!(queue.content(two, &hash).expect("asked"), None);
        assert_eq!(queue.content(one, &hash).expect("asked"), Some(content("nar/b")), "another cache's");
    }

    #[test]
    fn what_is_expected_is_found_by_the_next_run_or_when_it_has_come() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut queue = Queue::open(dir.path()).expect("opened").queue;
        let cache = queue.cache_id("one", "file:///c").expect("a cache");
        let (hash, other) = (NarHash([7; 32]), NarHash([9; 32]));
        let content = |url: &str| Content {
            url: url.to_owned(),
            compression: "zstd".to_owned(),
            file_hash: NarHash([8; 32]),
            file_size: 60,
            nar_size: 120,
        };
        let found =
            |queue: &mut Queue, hash: NarHash| queue.content(cache, &hash).expect("asked").map(|found| found.url);
        queue.expect_content(cache, &hash, &content("nar/a"), 1).expect("noted");
        queue.expect_content(cache, &other, &content("nar/b"), 1).expect("noted");
        assert_eq!((found(&mut queue, hash), found(&mut queue, other)), (None, None));
        drop(queue);
        let mut queue = Queue::open(dir.path()).expect("opened").queue;
        assert_eq!(found(&mut queue, hash).as_deref(), Some("nar/a"), "the run that expected it has ended");
        // Two of one content at once: what becomes of one says nothing of the other.
        queue.expect_content(cache, &hash, &content("nar/c"), 2).expect("noted");
        queue.expect_content(cache, &hash, &content("nar/d"), 2).expect("noted");
        queue.forget_expected(cache, &hash, "nar/c").expect("forgotten");
        assert_eq!(found(&mut queue, hash), None, "the other is expected still");
        queue.note_content(cache, &hash, &content("nar/d"), 3).expect("noted");
        assert_eq!(found(&mut queue, hash).as_deref(), Some("nar/d"));
        queue.expect_content(cache, &hash, &content("nar/e"), 4).expect("noted");
        queue.forget_expected(cache, &hash, "nar/e").expect("forgotten");
        drop(queue);
        let mut queue = Queue::open(dir.path()).expect("opened").queue;
        assert_eq!(found(&mut queue, hash), None, "it was deleted");
        assert_eq!(found(&mut queue, other).as_deref(), Some("nar/b"));
    }
}
