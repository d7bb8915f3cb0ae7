//! Going through what is valid, by the policy.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::live::{Live, LiveError};
use super::{Asked, Request, ServiceError};
use crate::config::NixStore;
use crate::nix::roots::gc_roots;
use crate::nix::{
    Database, DatabaseError, FactsError, PathInfo, Patience, RowMark, StoreDir, StoreFacts, StorePath, store_listing,
};
use crate::queue::{Mark, PassedOver, QueueError, Routes, Run, Wanted, Why, now};
use crate::report::one_line;

/// What is said while Nix writes its database.
const WAITS: &str = "the backfill waits";

/// Why what can't be understood is passed over, where nobody has named it.
const UNCLEAR: &str = "which `backfill --dry-run` names one by one";

/// What can be done about what the Nix daemon refuses to tell of.
const REFUSED: &str = "ask again, since that may pass";

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
    /// What can't be understood of what nobody has named, one by one; it is among what is passed over, too.
    pub unclear: Vec<String>,
    /// How far the scan is with them.
    pub reached: i64,
    /// By what the database is recognised that it has come so far in; `None` for names.
    pub mark: Option<Mark>,
}

/// What is gone through.
pub(super) struct Scan {
    source: Source,
    store_dir: StoreDir,
    /// Only what was registered since then, seconds since 1970.
    since: Option<i64>,
    asked: Asked,
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
                Ok(scan) => {
                    patience.rewarded();
                    return Ok(scan);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn open_once(nix: &NixStore, request: &Request) -> Result<Self, ServiceError> {
        let since = request.since.map(|since| now() / 1000 - i64::try_from(since.as_secs()).unwrap_or(i64::MAX / 2));
        let store_dir = nix.logical.clone();
        let facts = || nix.facts().patient();
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
        Ok(Self { source, store_dir, since, asked: request.asked() })
    }

    /// How far it goes.
    pub(super) fn end(&self) -> i64 {
        match &self.source {
            Source::Rows(rows) => rows.end,
            Source::Names { names, .. } => i64::try_from(names.len()).unwrap_or(i64::MAX),
        }
    }

    /// From where to where to go with a backfill that has come as far as it says: rows keep their numbers as long as the
    /// database is the same, names don't keep their places. What was registered since it began is looked at, too.
    pub(super) async fn resume(self, run: &Run) -> Result<(Self, i64, i64), ServiceError> {
        let Self { source, store_dir, since, asked } = self;
        let (source, row, to_row) = match source {
            Source::Rows(rows) => {
                let mark = run.mark.clone();
                let look = move |rows: &Rows| match &mark {
                    Some(mark) => Ok(rows.database.row_mark(mark.row)?),
                    None => Ok(None),
                };
                let (rows, found) = ask(rows, look).await?;
                let end = rows.end;
                if is_of_another_database(run, end, found.as_ref()) {
                    tracing::warn!(
                        "the Nix database isn't the one any more of which this backfill has looked at a part: it begins anew"
                    );
                    (Source::Rows(rows), 0, end)
                } else {
                    (Source::Rows(rows), run.row, end.max(run.to_row))
                }
            }
            Source::Names { names, facts } => {
                let end = i64::try_from(names.len()).unwrap_or(i64::MAX);
                (Source::Names { names, facts }, 0, end)
            }
        };
        Ok((Self { source, store_dir, since, asked }, row, to_row))
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
        let Self { source, store_dir, since, asked } = self;
        let decider = {
            let store_dir = store_dir.clone();
            move || Decider {
                store_dir: store_dir.clone(),
                since,
                asked,
                routes: routes.clone(),
                batch: Batch::default(),
                passed_over: BTreeMap::new(),
            }
        };
        let (source, batch) = match source {
            Source::Rows(rows) => {
                let (rows, batch) = ask(rows, move |rows| rows.batch(after, end, decider())).await?;
                (Source::Rows(rows), batch)
            }
            Source::Names { names, facts } => {
                let batch = batch_of_names(&names, &facts, after, decider()).await?;
                (Source::Names { names, facts }, batch)
            }
        };
        Ok((Self { source, store_dir, since, asked }, Some(batch)))
    }
}

impl Rows {
    fn batch(&self, after: i64, end: i64, mut decider: Decider) -> Result<Batch, ServiceError> {
        if self.database.replaced() {
            return Err(DatabaseError::Replaced { path: self.database.path().to_owned() }.into());
        }
        let batch = self.database.batch(after, &self.database.limits())?;
        batch.tell_malformed();
        let is_asked_for =
            |id: i64| Ok::<_, QueueError>(id <= end && self.live.as_ref().map_or(Ok(true), |live| live.contains(id))?);
        for row in &batch.malformed {
            if is_asked_for(row.id)? && row.registration_time.is_none_or(|time| decider.is_late_enough(time)) {
                decider.pass_over_unclear(row.to_string());
            }
        }
        for mut info in batch.paths {
            if is_asked_for(info.id.unwrap_or_default())? {
                decider.decide(&mut info, |info| self.database.references_of(info))?;
            }
        }
        let reached = if batch.complete { end } else { batch.reached.min(end) };
        let mark = self.database.last_row_mark(reached)?.map(Mark::from);
        Ok(Batch { mark, ..decider.into_batch(reached) })
    }
}

/// Asks the database on a thread that may wait, again and again while Nix writes. One that was replaced has to be opened
/// anew, which is the caller's matter.
async fn ask<T: Send + 'static>(
    mut rows: Box<Rows>,
    question: impl Fn(&Rows) -> Result<T, ServiceError> + Send + Sync + 'static,
) -> Result<(Box<Rows>, T), ServiceError> {
    let (question, mut patience) = (Arc::new(question), Patience::of_one(WAITS));
    loop {
        let question = Arc::clone(&question);
        let asked = spawn_blocking(move || {
            let answer = question(&rows);
            (rows, answer)
        });
        let (back, answer) = asked.await.map_err(|_| ServiceError::Panicked { part: "the scan" })?;
        match answer {
            Err(ServiceError::Database(error)) if error.is_busy() && !error.is_replaced() => {
                sleep(patience.pause(&error)).await;
                rows = back;
            }
            Ok(answer) => {
                patience.rewarded();
                return Ok((back, answer));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether the rows that a backfill has looked at are another database's than that whose last id is `last_id`, and which has
/// `found` where the backfill's mark was. What is not there any more says nothing: garbage collection takes rows.
fn is_of_another_database(run: &Run, last_id: i64, found: Option<&RowMark>) -> bool {
    last_id < run.row || run.mark.as_ref().zip(found).is_some_and(|(mark, found)| mark.is_other_than(found))
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
        match facts.path_info(name).await {
            Ok(Some(mut info)) => {
                decider.decide(&mut info, |info| Ok(Some(info.references.clone().unwrap_or_default())))?;
            }
            Ok(None) => {}
            Err(error) if error.is_of_the_path() => {
                tracing::warn!(path = %name, "it is passed over: {}", one_line(&error));
                decider.pass_over(&error);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(decider.into_batch(i64::try_from(to).unwrap_or(i64::MAX)))
}

/// Decides path by path and gathers what comes of it.
struct Decider {
    store_dir: StoreDir,
    since: Option<i64>,
    asked: Asked,
    routes: Routes,
    batch: Batch,
    passed_over: BTreeMap<PassedOver, u64>,
}

impl Decider {
    /// Whether what was registered then (seconds since 1970) is asked for.
    fn is_late_enough(&self, registered: i64) -> bool {
        self.since.is_none_or(|since| registered >= since)
    }

    fn decide(
        &mut self,
        info: &mut PathInfo,
        load: impl FnOnce(&PathInfo) -> Result<Option<Vec<StorePath>>, DatabaseError>,
    ) -> Result<(), DatabaseError> {
        if !self.is_late_enough(info.registration_time) {
            return Ok(());
        }
        let decision = self.routes.policy.decide_loading(info, &self.store_dir, load)?;
        let wanted = match self.asked {
            Asked::ToRepair => self.routes.wherever_not_denied(info, &decision),
            Asked::ByHand => self.routes.wanted_by_hand(info, &decision),
            Asked::ByName | Asked::WithAll => self.routes.wanted(info, &decision),
        };
        match wanted {
            Some(wanted) => {
                // Whoever asked for it is told of every cache that doesn't get it.
                if let Some(off) = self.routes.off_beside(&decision) {
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

    /// Passes over what isn't known well enough to be decided. What was named is summed up with the reason; of the others there
    /// may be any number, so these are only counted.
    fn pass_over_unclear(&mut self, what: String) {
        let by = if self.asked == Asked::WithAll {
            self.batch.unclear.push(what);
            UNCLEAR.to_owned()
        } else {
            what
        };
        *self.passed_over.entry(PassedOver { by, why: Why::Unclear }).or_default() += 1;
    }

    /// Passes over what Nix gives no answer about. What the daemon refuses to tell of may be told the next time.
    fn pass_over(&mut self, error: &FactsError) {
        let what = one_line(error);
        if error.is_malformed() {
            return self.pass_over_unclear(what);
        }
        let by = if self.asked == Asked::WithAll { REFUSED.to_owned() } else { format!("{what}; {REFUSED}") };
        *self.passed_over.entry(PassedOver { by, why: Why::Refused }).or_default() += 1;
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

#[cfg(test)]
mod tests;
