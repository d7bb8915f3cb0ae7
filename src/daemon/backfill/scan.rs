//! Going through what is valid, by the policy.

use std::collections::BTreeMap;
use std::time::Duration;

use super::live::{Live, LiveError};
use super::{Request, ServiceError};
use crate::config::NixStore;
use crate::nix::roots::gc_roots;
use crate::nix::{BatchLimits, Database, DatabaseError, PathInfo, StoreDir, StorePath};
use crate::queue::{Routes, Wanted, now};

/// Rows of a batch: worth its transaction, and soon through.
const BATCH: BatchLimits = BatchLimits { rows: 2_000, time: Duration::from_millis(50) };

/// Some rows, decided.
#[derive(Debug, Default)]
pub struct Batch {
    /// What is to be uploaded on its own account.
    pub wanted: Vec<Wanted>,
    /// Bytes of all that, as archives.
    pub nar_size: u64,
    /// What isn't: how many paths by which rule.
    pub skipped: Vec<(String, u64)>,
    /// The last row.
    pub reached: i64,
}

/// The database, and what of it is asked for.
pub(super) struct Scan {
    database: Database,
    store_dir: StoreDir,
    /// Only these; none for all.
    paths: Vec<StorePath>,
    /// Only what was registered since then, seconds since 1970.
    since: Option<i64>,
    live: Option<Live>,
}

impl Scan {
    pub(super) fn open(nix: &NixStore, request: &Request) -> Result<Self, ServiceError> {
        let database = Database::open(&nix.db_path(), &nix.logical)?;
        let since = request.since.map(|since| now() / 1000 - i64::try_from(since.as_secs()).unwrap_or(i64::MAX / 2));
        let live = if request.roots { Some(live_paths(nix, &database)?) } else { None };
        Ok(Self { database, store_dir: nix.logical.clone(), paths: request.paths.clone(), since, live })
    }

    /// The last row to look at.
    pub(super) fn last_id(&self) -> Result<i64, ServiceError> {
        Ok(self.database.last_id()?)
    }

    /// The next rows behind `after`, up to `to_row`; `None` when there are no more. Blocks.
    pub(super) fn batch(&mut self, after: i64, to_row: i64, routes: &Routes) -> Result<Option<Batch>, ServiceError> {
        if after >= to_row {
            return Ok(None);
        }
        let (infos, reached) = if self.paths.is_empty() {
            let batch = self.database.batch(after, &BATCH)?;
            (batch.paths, if batch.complete { to_row } else { batch.reached.min(to_row) })
        } else {
            let named = self.paths.iter().filter_map(|path| self.database.path_info(path).transpose());
            (named.collect::<Result<_, _>>()?, to_row)
        };
        let mut decided = Batch { reached, ..Batch::default() };
        let mut skipped = BTreeMap::new();
        for mut info in infos {
            if self.is_asked_for(&info, to_row)? {
                self.decide(&mut info, routes, &mut decided, &mut skipped)?;
            }
        }
        decided.skipped = skipped.into_iter().collect();
        Ok(Some(decided))
    }

    fn is_asked_for(&self, info: &PathInfo, to_row: i64) -> Result<bool, ServiceError> {
        let id = info.id.unwrap_or_default();
        let in_time = self.since.is_none_or(|since| info.registration_time >= since);
        if !in_time || id > to_row {
            return Ok(false);
        }
        match &self.live {
            Some(live) => Ok(live.contains(id)?),
            None => Ok(true),
        }
    }

    fn decide(
        &self,
        info: &mut PathInfo,
        routes: &Routes,
        batch: &mut Batch,
        skipped: &mut BTreeMap<String, u64>,
    ) -> Result<(), DatabaseError> {
        let load = |info: &PathInfo| info.id.map_or(Ok(Vec::new()), |id| self.database.references(id));
        let decision = routes.policy.decide_loading(info, &self.store_dir, load)?;
        match routes.wanted(info, &decision) {
            Some(wanted) => {
                batch.nar_size += info.nar_size;
                batch.wanted.push(wanted);
            }
            None => *skipped.entry(decision.rule().to_string()).or_default() += 1,
        }
        Ok(())
    }
}

fn live_paths(nix: &NixStore, database: &Database) -> Result<Live, ServiceError> {
    let explain = |error| match error {
        LiveError::Database(error) => ServiceError::Database(error),
        LiveError::Queue(error) => ServiceError::Queue(error),
    };
    let live = Live::new()?;
    let mut trouble = None;
    let listed = gc_roots(&nix.state, &nix.logical, |root| {
        if let Err(error) = live.add(database, &root) {
            trouble = Some(error);
        }
    });
    listed.map_err(|source| ServiceError::System { action: "list the garbage collection roots", source })?;
    trouble.map_or(Ok(()), Err).and_then(|()| live.close(database)).map_err(explain)?;
    Ok(live)
}
