//! Backfill: what is valid already, by the same policy, behind what is fresh.
//!
//! The scan goes through the Nix database by id and admits in batches, each together with how far it is, so that an
//! interrupted one goes on where it stopped. Beside a service the queue is left to that; alone, the uploader runs here,
//! under the same lock.

mod live;
mod scan;
mod site;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

pub use self::scan::Batch;
use self::scan::Scan;
use self::site::Site;
use super::signals::Signals;
use super::{DRAIN, ServiceError};
use crate::config::{Config, NixStore};
use crate::limit::Lane;
use crate::nix::StorePath;
use crate::policy::CacheName;
use crate::queue::{
    Admission, Distrust, Ended, Left, Queue, QueueHandle, Routes, Run, RunScope, RunSummary, Undelivered, now,
};

/// Who holds the lock as a backfill, and as a push; a service that starts meanwhile waits for it.
const ROLES: [&str; 2] = ["storewatch backfill", "storewatch push"];

/// How often it is asked whether the backfill is through: its end is noticed so much later, half of that in the middle.
const END_LOOK: Duration = Duration::from_millis(50);

/// What was named is queued within this time even where less was given, unless a disk is full.
const QUEUED_WITHIN: Duration = Duration::from_secs(30);

/// How often progress is summed up.
const LOOK: Duration = Duration::from_millis(200);

/// Summing up a million jobs takes a while; no more than this share of the time goes into it.
const LOOKS_SHARE: u32 = 20;

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// These paths; none for the whole store.
    pub paths: Vec<StorePath>,
    /// Only what was registered within so long.
    pub since: Option<Duration>,
    /// Only what garbage collection would keep.
    pub roots: bool,
    /// Only these of the caches that the policy says; none for all.
    pub to: Vec<CacheName>,
    /// Whether somebody named the paths to be uploaded now, whether or not a rule skips them.
    pub by_hand: bool,
    /// The policy file's fingerprint: by another one, what has been looked at is decided anew.
    pub policy: Option<String>,
    /// What isn't well in the caches that it is for, where these are to be repaired.
    pub distrust: Option<Distrust>,
}

/// How explicitly a path is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// It is to be uploaded now wherever it isn't denied: the cache shows what needs it.
    ToRepair,
    /// It is to be uploaded now, whatever skips it.
    ByHand,
    /// It was named.
    ByName,
    /// It is in the store.
    WithAll,
}

impl Asked {
    fn lane(self) -> Lane {
        match self {
            Self::ToRepair | Self::ByHand => Lane::Fresh,
            Self::ByName | Self::WithAll => Lane::Backfill,
        }
    }

    fn ended(self) -> Ended {
        match self {
            Self::ToRepair | Self::ByHand | Self::ByName => Ended::StartsAnew,
            Self::WithAll => Ended::StartsAnewUnlessEvicted,
        }
    }
}

impl Request {
    fn asked(&self) -> Asked {
        match self {
            _ if self.distrust.is_some() => Asked::ToRepair,
            _ if self.by_hand => Asked::ByHand,
            _ if self.paths.is_empty() => Asked::WithAll,
            _ => Asked::ByName,
        }
    }

    fn scope(&self) -> RunScope {
        RunScope {
            paths: self.paths.iter().map(|path| path.base_name().to_owned()).collect(),
            since: self.since.map(|since| since.as_secs()),
            roots: self.roots,
            to: self.to.iter().map(ToString::to_string).collect(),
            by_hand: self.by_hand,
            policy: self.policy.clone(),
        }
    }
}

/// What a backfill is made of.
pub struct Parts {
    /// The state directory.
    pub state_dir: PathBuf,
    /// The policy, and the caches.
    pub config: Config,
    /// The Nix store.
    pub nix: NixStore,
    /// What is asked for.
    pub request: Request,
    /// For how long at most; then what is left stays queued.
    pub timeout: Option<Duration>,
}

/// What happens on the way.
#[derive(Clone, Debug)]
pub enum Progress {
    /// It has begun.
    Began {
        /// Whether it goes on where an earlier one stopped.
        resumed: bool,
        /// Who works the queue off, if that isn't this process.
        beside: Option<String>,
    },
    /// Who worked the queue off has ended: this process goes on in its place.
    TookOver {
        /// Who that was, as it said itself: `storewatch run, process 4711`.
        beside: String,
    },
    /// How far it is.
    At {
        /// The last row looked at.
        row: i64,
        /// The last row to look at.
        to_row: i64,
        /// What has come of it so far.
        summary: RunSummary,
        /// What is still to be done, cache by cache.
        left: Vec<Left>,
        /// Bytes read so far by this process, also of what isn't through yet; `None` where another does the work.
        read: Option<u64>,
    },
    /// A signal ends it, or an error: what is under way here is finished, for so long at most.
    Ending {
        /// For how long.
        within: Duration,
    },
}

/// Why a backfill came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// There is nothing more to do.
    Through,
    /// A signal ended it. Asked for again, it goes on.
    Interrupted,
    /// Its time was over. Asked for again, it goes on.
    TimedOut,
}

/// How a backfill ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// What came of it.
    pub summary: RunSummary,
    /// Why it came to its end.
    pub end: End,
    /// Jobs that failed or are held.
    pub undelivered: Vec<Undelivered>,
    /// What stays queued, cache by cache.
    pub left: Vec<Left>,
}

impl Finished {
    /// One that ended before anything was asked for.
    fn before_it_began(end: End) -> Self {
        Self { summary: RunSummary::default(), end, undelivered: Vec::new(), left: Vec::new() }
    }
}

/// Runs a backfill to its end, until a signal, or until its time is over.
///
/// # Errors
/// [`ServiceError`].
pub async fn run(parts: Parts, mut tell: impl FnMut(Progress)) -> Result<Finished, ServiceError> {
    let Parts { state_dir, config, nix, request, timeout } = parts;
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let mut signals =
        super::signals::listen().map_err(|source| ServiceError::System { action: "handle signals", source })?;
    let role = ROLES[usize::from(request.by_hand)];
    // The disk of the queue may be full for long, or Nix be writing. What was named is queued first, however short the time,
    // so that nobody has to ask for it again, unless that takes too long by itself.
    let named_by = Instant::now() + QUEUED_WITHIN;
    let early = deadline.map(|deadline| if request.paths.is_empty() { deadline } else { deadline.max(named_by) });
    let mut site = tokio::select! {
        biased;
        site = Site::find(&state_dir, &nix, &config, role) => site?,
        end = ends_early(&mut signals, early) => return Ok(Finished::before_it_began(end)),
    };
    let queue = site.queue.clone();
    let routes = site.routes.clone().narrowed_to(&request.to);
    let beginning = async {
        let scan = Scan::open(&nix, &request).await?;
        if let Some(distrust) = request.distrust.clone() {
            let caches = Arc::clone(&routes.caches);
            let note =
                move |queue: &mut Queue| caches.values().try_for_each(|id| queue.distrust(*id, &distrust, now()));
            queue.call(note).await?;
        }
        let (scope, to_row) = (request.scope(), scan.end());
        let begun = queue.call(move |queue| queue.begin_run(&scope, to_row, now())).await?;
        Ok::<_, ServiceError>((scan, begun))
    };
    let (scan, (run, followed)) = tokio::select! {
        biased;
        begun = beginning => begun?,
        end = ends_early(&mut signals, early) => {
            site.leave(Duration::ZERO, None).await?;
            return Ok(Finished::before_it_began(end));
        }
    };
    tell(Progress::Began { resumed: run.resumed, beside: site.beside.clone() });
    let id = run.id;
    let (scan, run) = match find_place(scan, &site.queue, run).await {
        Ok(found) => found,
        Err(error) => return site.fail(error).await,
    };
    let to_row = run.to_row;
    let part =
        Scanning { queue: site.queue.clone(), nix: nix.clone(), request: request.clone(), routes, bell: site.bell() };
    let mut scanning = tokio::spawn(part.admit(scan, run));
    let mut scanned = false;
    let mut next_sum = Instant::now();
    // What was being sent is given back at the end, and nobody would know what it was waited for.
    let mut being_sent = BTreeMap::new();
    let followed_to_end = async {
        loop {
            tokio::select! {
                ended = &mut scanning, if !scanned => {
                    ended.map_err(|_| ServiceError::Panicked { part: "the scan" })??;
                    scanned = true;
                }
                () = signals.end() => return Ok(End::Interrupted),
                () = tokio::time::sleep(END_LOOK) => {}
            }
            let began = Instant::now();
            let through = scanned && !site.queue.call(move |queue| queue.run_is_open(id)).await?;
            // What was named is queued first, however short the time, so that nobody has to ask for it again.
            let is_over = deadline.is_some_and(|deadline| deadline <= began) && (scanned || request.paths.is_empty());
            if !through && !is_over && began < next_sum {
                continue;
            }
            let seen = move |queue: &mut Queue| Ok((queue.run_row(id)?, queue.run_summary(id)?, queue.left(id)?));
            let (row, summary, left) = site.queue.call(seen).await?;
            next_sum = Instant::now() + LOOK.max(began.elapsed() * LOOKS_SHARE);
            let open = summary.open;
            let read = site.working.as_ref().map(|working| working.tally.bytes());
            being_sent = left.iter().map(|left| (left.cache.clone(), left.being_sent)).collect();
            tell(Progress::At { row, to_row, summary, left, read });
            if scanned && open == 0 {
                return Ok(End::Through);
            }
            if is_over {
                return Ok(End::TimedOut);
            }
            let looking_after = async {
                site.shape(&config.schedule).await?;
                site.take_over(&state_dir, &nix, &config, role).await
            };
            tokio::select! {
                biased;
                took_over = looking_after => if let Some(beside) = took_over? { tell(Progress::TookOver { beside }) },
                // Where the disk is full, who writes into the queue waits for room.
                end = ends_early(&mut signals, early) => return Ok(end),
            }
        }
    };
    let ended: Result<End, ServiceError> = followed_to_end.await;
    scanning.abort();
    let end = match ended {
        Ok(end) => end,
        Err(error) => {
            if site.working.is_some() {
                tell(Progress::Ending { within: DRAIN });
            }
            return site.fail(error).await;
        }
    };
    let queue = site.queue.clone();
    // Whose time is over waits for nothing more.
    let within = if end == End::TimedOut { Duration::ZERO } else { DRAIN };
    if end == End::Interrupted && site.working.is_some() {
        tell(Progress::Ending { within });
    }
    site.leave(within, Some(&config.schedule)).await?;
    let finished = queue
        .call_once(move |queue| {
            let summary = queue.run_summary(id)?;
            // What was under way may have been the last.
            let end = if scanned && summary.open == 0 { End::Through } else { end };
            let mut left = queue.left(id)?;
            for left in &mut left {
                left.being_sent = being_sent.get(&left.cache).copied().unwrap_or_default();
            }
            let finished = Finished { summary, end, undelivered: queue.undelivered(id)?, left };
            let noted = if end == End::Through { queue.finish_run(id, now()) } else { Ok(()) };
            // Asked for again, it finds nothing to be done.
            noted.or_else(|error| if error.is_about_room() { Ok(()) } else { Err(error) })?;
            Ok(finished)
        })
        .await?;
    // Only now may another take it up.
    drop(followed);
    Ok(finished)
}

/// Waits until a signal or the time ends it.
async fn ends_early(signals: &mut Signals, deadline: Option<Instant>) -> End {
    let time_is_over = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = signals.end() => End::Interrupted,
        () = time_is_over => End::TimedOut,
    }
}

/// Finds out from where to where a backfill goes in what is there now.
async fn find_place(scan: Scan, queue: &QueueHandle, run: Run) -> Result<(Scan, Run), ServiceError> {
    let (scan, row, to_row) = scan.resume(&run).await?;
    if (row, to_row) != (run.row, run.to_row) {
        queue.call(move |queue| queue.place_run(run.id, row, to_row)).await?;
    }
    Ok((scan, Run { row, to_row, ..run }))
}

/// What the scan of a backfill needs.
struct Scanning {
    queue: QueueHandle,
    nix: NixStore,
    request: Request,
    routes: Routes,
    bell: Option<Arc<Notify>>,
}

impl Scanning {
    /// Reads, decides and admits, batch by batch.
    async fn admit(self, mut scan: Scan, mut run: Run) -> Result<(), ServiceError> {
        let asked = self.request.asked();
        loop {
            let (read, batch) = match scan.batch(run.row, run.to_row, self.routes.clone()).await {
                Err(ServiceError::Database(error)) if error.is_replaced() => {
                    scan = Scan::open(&self.nix, &self.request).await?;
                    (scan, run) = find_place(scan, &self.queue, run).await?;
                    continue;
                }
                read => read?,
            };
            scan = read;
            let Some(batch) = batch else { return Ok(()) };
            (run.row, run.mark) = (batch.reached, batch.mark.clone());
            let id = run.id;
            self.queue
                .call(move |queue| {
                    let admission = Admission {
                        lane: asked.lane(),
                        ended: asked.ended(),
                        needed: matches!(asked, Asked::ToRepair | Asked::ByHand),
                        run: Some(id),
                        wanted: &batch.wanted,
                        now: now(),
                    };
                    let reached = (batch.reached, batch.mark.as_ref());
                    queue.advance_run(id, reached, &admission, &batch.passed_over)
                })
                .await?;
            if let Some(bell) = &self.bell {
                bell.notify_one();
            }
        }
    }
}

/// What a backfill would do, path by path, without doing it.
///
/// # Errors
/// [`ServiceError`].
pub async fn dry_run(
    nix: &NixStore,
    request: &Request,
    routes: &Routes,
    mut tell: impl FnMut(&Batch),
) -> Result<(), ServiceError> {
    let mut scan = Scan::open(nix, request).await?;
    let (mut row, end) = (0, scan.end());
    let routes = routes.clone().narrowed_to(&request.to);
    loop {
        let (read, batch) = scan.batch(row, end, routes.clone()).await?;
        scan = read;
        let Some(batch) = batch else { return Ok(()) };
        row = batch.reached;
        tell(&batch);
    }
}
