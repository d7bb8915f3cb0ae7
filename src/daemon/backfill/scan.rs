//! Going through what is valid, by the policy.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::live::{Live, LiveError};
use super::{Request, ServiceError};
use crate::config::NixStore;
use crate::nix::roots::gc_roots;
use crate::nix::{
    BatchLimits, Database, DatabaseError, PathInfo, Patience, StoreDir, StoreFacts, StorePath, store_listing,
};
use crate::queue::{PassedOver, Routes, Wanted, now};
use crate::report::one_line;

/// Rows of a batch: worth its transaction, and soon through.
const BATCH: BatchLimits = BatchLimits { rows: 2_000, time: Duration::from_millis(50) };

/// What is said while Nix writes its database.
const WAITS: &str = "the backfill waits";

/// Names that are asked for one by one and admitted together.
const NAMES: usize = 500;

/// Some paths, decided.
#[derive(Debug, Default)]
pub struct Batch {
    /// What is to be uploaded on its own account.
    pub wanted: Vec<Wanted>,
    /// Bytes of all that, as archives.
    pub nar_size: u64,
    /// What isn't: how many paths, and why.
    pub passed_over: Vec<(PassedOver, u64)>,
    /// How far the scan is with them.
    pub reached: i64,
}

/// What is gone through.
pub(super) struct Scan {
    source: Source,
    store_dir: StoreDir,
    /// Only what was registered since then, seconds since 1970.
    since: Option<i64>,
    by_hand: bool,
}

enum Source {
    /// The database, by row.
    Rows(Box<Rows>),
    /// Paths that were named, or all names of the store where the database can't be read: by their place.
    Names { names: Vec<StorePath>, facts: StoreFacts },
}

struct Rows {
    database: Database,
    /// The last row when it was opened.
    end: i64,
    live: Option<Live>,
}

impl Scan {
    /// Waits while Nix writes its database.
    pub(super) async fn open(nix: &NixStore, request: &Request) -> Result<Self, ServiceError> {
        let mut patience = Patience::of_one(WAITS);
        loop {
            let (nix, request) = (nix.clone(), request.clone());
            let opened = spawn_blocking(move || Self::open_once(&nix, &request)).await;
            match opened.map_err(|_| ServiceError::Panicked { part: "the scan" })? {
                Err(ServiceError::Database(error)) if error.is_busy() => sleep(patience.pause(&error)).await,
                opened => {
                    patience.rewarded();
                    return opened;
                }
            }
        }
    }

    fn open_once(nix: &NixStore, request: &Request) -> Result<Self, ServiceError> {
        let since = request.since.map(|since| now() / 1000 - i64::try_from(since.as_secs()).unwrap_or(i64::MAX / 2));
        let store_dir = nix.logical.clone();
        let facts = || StoreFacts::new(nix.db_path(), nix.socket.clone(), nix.logical.clone()).patient();
        let source = if request.paths.is_empty() {
            match Database::open(&nix.db_path(), &nix.logical) {
                Ok(database) => {
                    let live = if request.roots { Some(live_paths(nix, &database)?) } else { None };
                    let end = database.last_id()?;
                    Source::Rows(Box::new(Rows { database, end, live }))
                }
                Err(error) if error.is_denied() && !request.roots => {
                    tracing::warn!("the Nix daemon is asked instead, path by path: {}", one_line(&error));
                    Source::Names { names: all_names(nix)?, facts: facts() }
                }
                Err(error) => return Err(error.into()),
            }
        } else {
            Source::Names { names: request.paths.clone(), facts: facts() }
        };
        Ok(Self { source, store_dir, since, by_hand: request.by_hand })
    }

    /// How far it goes.
    pub(super) fn end(&self) -> i64 {
        match &self.source {
            Source::Rows(rows) => rows.end,
            Source::Names { names, .. } => i64::try_from(names.len()).unwrap_or(i64::MAX),
        }
    }

    /// From where to where to go, when an earlier one came to `reached` on its way to `end`: rows keep their numbers, names
    /// don't keep their places.
    pub(super) fn resume(&self, reached: i64, end: i64) -> (i64, i64) {
        match &self.source {
            Source::Rows(_) => (reached, end),
            Source::Names { .. } => (0, self.end()),
        }
    }

    /// What comes behind `after`, up to `end`; `None` when there is no more.
    pub(super) async fn batch(
        self,
        after: i64,
        end: i64,
        routes: Routes,
    ) -> Result<(Self, Option<Batch>), ServiceError> {
        if after >= end {
            return Ok((self, None));
        }
        let Self { source, store_dir, since, by_hand } = self;
        let decider = || Decider {
            store_dir: store_dir.clone(),
            since,
            by_hand,
            routes: routes.clone(),
            batch: Batch::default(),
            passed_over: BTreeMap::new(),
        };
        let (source, batch) = match source {
            Source::Rows(mut rows) => {
                let mut patience = Patience::of_one(WAITS);
                loop {
                    let decider = decider();
                    let read = spawn_blocking(move || {
                        let batch = rows.batch(after, end, decider);
                        (rows, batch)
                    });
                    let (back, batch) = read.await.map_err(|_| ServiceError::Panicked { part: "the scan" })?;
                    match batch {
                        Err(ServiceError::Database(error)) if error.is_busy() => {
                            sleep(patience.pause(&error)).await;
                            rows = back;
                        }
                        batch => {
                            patience.rewarded();
                            break (Source::Rows(back), batch?);
                        }
                    }
                }
            }
            Source::Names { names, facts } => {
                let batch = batch_of_names(&names, &facts, after, decider()).await?;
                (Source::Names { names, facts }, batch)
            }
        };
        Ok((Self { source, store_dir, since, by_hand }, Some(batch)))
    }
}

impl Rows {
    fn batch(&self, after: i64, end: i64, mut decider: Decider) -> Result<Batch, ServiceError> {
        let batch = self.database.batch(after, &BATCH)?;
        for mut info in batch.paths {
            let id = info.id.unwrap_or_default();
            let live = match &self.live {
                Some(live) => live.contains(id)?,
                None => true,
            };
            if live && id <= end {
                decider.decide(&mut info, |info| info.id.map_or(Ok(Vec::new()), |id| self.database.references(id)))?;
            }
        }
        Ok(decider.into_batch(if batch.complete { end } else { batch.reached.min(end) }))
    }
}

async fn batch_of_names(
    names: &[StorePath],
    facts: &StoreFacts,
    after: i64,
    mut decider: Decider,
) -> Result<Batch, ServiceError> {
    let from = usize::try_from(after).unwrap_or(usize::MAX).min(names.len());
    let to = names.len().min(from + NAMES);
    for name in &names[from..to] {
        if let Some(mut info) = facts.path_info(name).await? {
            decider.decide(&mut info, |info| Ok(info.references.clone().unwrap_or_default()))?;
        }
    }
    Ok(decider.into_batch(i64::try_from(to).unwrap_or(i64::MAX)))
}

/// Decides path by path and gathers what comes of it.
struct Decider {
    store_dir: StoreDir,
    since: Option<i64>,
    by_hand: bool,
    routes: Routes,
    batch: Batch,
    passed_over: BTreeMap<PassedOver, u64>,
}

impl Decider {
    fn decide(
        &mut self,
        info: &mut PathInfo,
        load: impl FnOnce(&PathInfo) -> Result<Vec<StorePath>, DatabaseError>,
    ) -> Result<(), DatabaseError> {
        if self.since.is_some_and(|since| info.registration_time < since) {
            return Ok(());
        }
        let decision = self.routes.policy.decide_loading(info, &self.store_dir, load)?;
        let wanted = if self.by_hand {
            self.routes.wanted_by_hand(info, &decision)
        } else {
            self.routes.wanted(info, &decision)
        };
        match wanted {
            Some(wanted) => {
                // Who has named it is told of every cache that doesn't get it.
                if let Some(off) = self.routes.off_beside(&decision).filter(|_| self.by_hand) {
                    *self.passed_over.entry(off).or_default() += 1;
                }
                self.batch.nar_size += info.nar_size;
                self.batch.wanted.push(wanted);
            }
            None => {
                let why = self.routes.why_not(info, &decision, &self.store_dir);
                *self.passed_over.entry(why).or_default() += 1;
            }
        }
        Ok(())
    }

    fn into_batch(self, reached: i64) -> Batch {
        Batch { reached, passed_over: self.passed_over.into_iter().collect(), ..self.batch }
    }
}

fn all_names(nix: &NixStore) -> Result<Vec<StorePath>, ServiceError> {
    let listed = store_listing::list(&nix.real).and_then(Iterator::collect);
    listed.map_err(|source| ServiceError::System { action: "list the Nix store", source })
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
