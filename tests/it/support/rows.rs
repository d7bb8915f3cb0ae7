//! Valid paths without files: rows in Nix's database, for what only asks about paths.

use super::ScratchStore;
use super::nix::base_name;
use rusqlite::{Connection, params};

impl ScratchStore {
    /// Registers so many paths that have no files, each with up to two of those before as references. Their hash parts
    /// are spread evenly, and always the same. Returns their base names.
    pub fn register_bare(&self, count: usize) -> Vec<String> {
        let mut database = Connection::open(self.db_path()).unwrap();
        database.pragma_update(None, "synchronous", "off").unwrap();
        let transaction = database.transaction().unwrap();
        let mut drawn = 0x9e37_79b9_7f4a_7c15_u64;
        // Marsaglia's xorshift.
        let mut draw = |below: usize| {
            drawn ^= drawn << 13;
            drawn ^= drawn >> 7;
            drawn ^= drawn << 17;
            (drawn >> 11) as usize % below
        };
        let alphabet = b"0123456789abcdfghijklmnpqrsvwxyz";
        let mut rows: Vec<(i64, String)> = Vec::with_capacity(count);
        for number in 0..count {
            let hash: String = (0..32).map(|_| char::from(alphabet[draw(32)])).collect();
            let path = format!("{}/{hash}-bare-{number}", self.store_dir().display());
            let sql = "INSERT INTO ValidPaths (path, hash, registrationTime, narSize) VALUES (?1, ?2, ?3, 1000)";
            let nar_hash = format!("sha256:{number:064x}");
            transaction.prepare_cached(sql).unwrap().execute(params![path, nar_hash, 1_700_000_000]).unwrap();
            let id = transaction.last_insert_rowid();
            for _ in 0..draw(3).min(number) {
                let reference = rows[draw(number)].0;
                let sql = "INSERT OR IGNORE INTO Refs VALUES (?1, ?2)";
                transaction.prepare_cached(sql).unwrap().execute(params![id, reference]).unwrap();
            }
            rows.push((id, path));
        }
        transaction.commit().unwrap();
        rows.iter().map(|(_, path)| base_name(path).to_owned()).collect()
    }
}
