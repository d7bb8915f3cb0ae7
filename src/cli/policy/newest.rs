//! The paths that Nix has registered last.

use crate::config::NixStore;
use crate::nix::{Database, DatabaseError, MalformedRow, PathInfo};

/// The paths registered last.
pub(super) struct Newest {
    /// The newest at the end, with their references. Where these can't be understood, no signature of the path can be verified,
    /// so there is none.
    pub(super) infos: Vec<PathInfo>,
    /// What of them can't be understood, one by one.
    pub(super) unclear: Vec<String>,
}

impl Newest {
    /// So many of them. The database is closed by then: whoever reads what is printed may take long, and it may be replaced
    /// meanwhile.
    ///
    /// # Errors
    /// [`DatabaseError::Replaced`] if that happens while it is read; what [`Database::open`] says, `Busy` or `Other`.
    pub(super) fn read(nix: &NixStore, wanted: usize) -> Result<Self, DatabaseError> {
        let database = Database::open(&nix.db_path(), &nix.logical)?;
        let last = database.last_id()?;
        // Garbage collection leaves gaps between the ids, so the window grows until enough are in it.
        let mut window = i64::try_from(wanted).unwrap_or(i64::MAX).max(1);
        let Rows { mut infos, malformed } = loop {
            let after = last.saturating_sub(window).max(0);
            let rows = Rows::behind(&database, after)?;
            if rows.infos.len() >= wanted || after == 0 {
                break rows;
            }
            window = window.saturating_mul(4);
        };
        let older = infos.len().saturating_sub(wanted);
        let first = infos.drain(..older).next_back().and_then(|info| info.id).unwrap_or(0);
        let malformed = malformed.into_iter().filter(|row| row.id > first);
        let mut unclear: Vec<String> =
            malformed.map(|row| format!("what can't be understood is passed over: {row}")).collect();
        for info in &mut infos {
            match info.id.map_or(Ok(Vec::new()), |id| database.references(id)) {
                Ok(references) => info.references = Some(references),
                Err(DatabaseError::Malformed { why, .. }) => {
                    info.sigs.clear();
                    let path = nix.logical.full(&info.path);
                    unclear.push(format!(
                        "no signature of {path} counts, since its references can't be understood: {why}"
                    ));
                }
                Err(error) => return Err(error),
            }
        }
        if database.replaced() {
            return Err(DatabaseError::Replaced { path: nix.db_path() });
        }
        Ok(Self { infos, unclear })
    }
}

/// Rows of the database, by ascending id.
#[derive(Default)]
struct Rows {
    infos: Vec<PathInfo>,
    malformed: Vec<MalformedRow>,
}

impl Rows {
    fn behind(database: &Database, mut after: i64) -> Result<Self, DatabaseError> {
        let mut rows = Self::default();
        loop {
            if database.replaced() {
                return Err(DatabaseError::Replaced { path: database.path().to_owned() });
            }
            let batch = database.batch(after, &database.limits())?;
            rows.infos.extend(batch.paths);
            rows.malformed.extend(batch.malformed);
            after = batch.reached;
            if batch.complete {
                return Ok(rows);
            }
        }
    }
}
