//! Which realisations Nix has noted of a path (`src/libstore/ca-specific-schema.sql`). The tables are there only where Nix
//! was once run with `ca-derivations`: up to 2.34 `Realisations`, from 2.35 on `BuildTraceV3`.

use std::collections::BTreeMap;

use rusqlite::{Connection, Row};

use super::{Database, DatabaseError, row};
use crate::nix::{Derivation, Realisation, StorePath};

impl Database {
    /// What is noted of a path; `None` where there are no tables for it. A row that makes no sense is left out.
    ///
    /// # Errors
    /// `Busy` or `Other`.
    pub fn realisations(&self, path: &StorePath) -> Result<Option<Vec<Realisation>>, DatabaseError> {
        self.reading("read realisations", |c| {
            // Rows and what they depend on must be those of one moment.
            let transaction = c.unchecked_transaction()?;
            let mut found = None;
            if has_table(c, "Realisations")? {
                found.get_or_insert_with(Vec::new).extend(self.by_hash(c, path)?);
            }
            if has_table(c, "BuildTraceV3")? {
                found.get_or_insert_with(Vec::new).extend(self.by_path(c, path)?);
            }
            transaction.finish()?;
            Ok(found.map(|found: Vec<Realisation>| found.into_iter().filter(Realisation::is_legal).collect()))
        })
    }

    fn by_hash(&self, c: &Connection, path: &StorePath) -> rusqlite::Result<Vec<Realisation>> {
        let sql =
            "SELECT r.id, drvPath, outputName, signatures FROM Realisations r JOIN ValidPaths p ON p.id = outputPath
                   WHERE p.path = ?1 ORDER BY r.id";
        let mut statement = c.prepare_cached(sql)?;
        let mut rows = statement.query([self.store_dir.full(path)])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let depends_on = self.depends_on(c, row.get(0)?)?;
            let derivation = Derivation::Hash { hash: row.get(1)?, depends_on };
            found.push(Realisation {
                derivation,
                output: row.get(2)?,
                out_path: path.clone(),
                signatures: signatures(row, 3)?,
            });
        }
        Ok(found)
    }

    fn depends_on(&self, c: &Connection, id: i64) -> rusqlite::Result<BTreeMap<String, StorePath>> {
        let sql = "SELECT p.path, d.drvPath || '!' || d.outputName FROM RealisationsRefs
                   JOIN Realisations d ON d.id = realisationReference JOIN ValidPaths p ON p.id = d.outputPath
                   WHERE referrer = ?1";
        let mut statement = c.prepare_cached(sql)?;
        let mut rows = statement.query([id])?;
        let mut found = BTreeMap::new();
        while let Some(row) = rows.next()? {
            if let Ok(path) = row::store_path(row, 0, &self.store_dir) {
                found.insert(row.get(1)?, path);
            }
        }
        Ok(found)
    }

    /// There is no index by path: some ten milliseconds for a hundred thousand rows.
    fn by_path(&self, c: &Connection, path: &StorePath) -> rusqlite::Result<Vec<Realisation>> {
        let sql = "SELECT drvPath, outputName, signatures FROM BuildTraceV3 WHERE outputPath = ?1 ORDER BY id";
        let mut statement = c.prepare_cached(sql)?;
        let mut rows = statement.query([self.store_dir.full(path)])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let Ok(derivation) = StorePath::from_base_name(&row.get::<_, String>(0)?) else { continue };
            found.push(Realisation {
                derivation: Derivation::Path(derivation),
                output: row.get(1)?,
                out_path: path.clone(),
                signatures: signatures(row, 2)?,
            });
        }
        Ok(found)
    }
}

fn has_table(c: &Connection, name: &str) -> rusqlite::Result<bool> {
    c.prepare_cached("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?1")?.exists([name])
}

fn signatures(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<String>> {
    let text: Option<String> = row.get(column)?;
    Ok(text.iter().flat_map(|text| text.split_ascii_whitespace()).map(str::to_owned).collect())
}
