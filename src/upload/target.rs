//! A cache as the uploader sees it: opened or not, taking paths or not.
//!
//! ```text
//!            open ─ok─► taking ──some requests in a row not served──► waiting ──after a pause, with one job──► open
//!              │           ▲                                             │ ▲
//!              └─fails─────┼───────────────────────────────────────────►─┘ └─ fails: a longer pause
//!                          └──────────────────────the first success──────┘
//! ```

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::contents::Remembered;
use super::giving_way::{Line, Measuring};
use super::presence::Presence;
use crate::cache::bucket::BucketError;
use crate::cache::{BoxFuture, Cache, CacheError, Class, Gate, Punctuality};
use crate::limit::{Allowance, Shaper, Slots};
use crate::policy::CacheName;
use crate::queue::{CacheId, QueueHandle};

/// Opens a cache; asked again and again until it succeeds.
pub type Open = Arc<dyn Fn() -> BoxFuture<'static, Result<Arc<dyn Cache>, CacheError>> + Send + Sync>;

/// Has a cache asked again at once, whatever it has refused: somebody says that it was mended.
pub type Forgive = Arc<dyn Fn() + Send + Sync>;

/// A cache that the policy names.
#[derive(Clone)]
pub struct Target {
    /// Its number in the queue.
    pub id: CacheId,
    /// Its name in the policy.
    pub name: CacheName,
    /// What the policy says of it, as a hash: under another one, what has failed there is tried again.
    pub fingerprint: String,
    /// How many of its paths are read, packed and sent at once.
    pub uploads: usize,
    /// Whether it is reached over a line, whose limits then count for it, or is on a disk of this host.
    pub over_line: bool,
    /// How much backfill may still bring there, where it may have no more than a size.
    pub allowance: Option<Allowance>,
    /// Opens it.
    pub open: Open,
    /// Has what it refused forgotten.
    pub forgive: Forgive,
}

/// So many requests in a row that a cache did not serve, and it is out of reach. One or two are chance.
const OUT_OF_REACH: u32 = 3;

/// The first pause before a cache that takes nothing is asked again.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// No pause is longer: a server that is back, or a disk that was cleared, is in use again within this time.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The pause of a cache that waits for credentials, where nobody but this host is asked whether there are new ones: so a new
/// token is in use within seconds.
const SHORT_PAUSE: Duration = Duration::from_secs(2);

/// No server is left alone for longer because it says so: it may have meant something else, and nobody would know of it.
pub(super) const LONGEST_TOLD: Duration = Duration::from_secs(10 * 60);

/// How long a cache that takes nothing is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pause {
    /// Longer each time.
    Growing,
    /// Always as short.
    Short,
    /// As the cache has asked for.
    Told(Duration),
}

impl Pause {
    /// That of a cache that takes nothing before it is given other credentials. Who remembers what was refused looks on this
    /// host whether there are others. A bucket or a program is asked itself each time, mostly with a whole upload.
    pub(super) fn until_other_credentials(error: &CacheError) -> Self {
        match error {
            CacheError::Bucket(error) if !matches!(**error, BucketError::Secret(_)) => Self::Growing,
            CacheError::Command(_) => Self::Growing,
            _ => Self::Short,
        }
    }
}

/// That a cache takes nothing for now.
#[derive(Debug)]
pub(super) struct Waits {
    pub(super) why: String,
    pub(super) pause: Pause,
    pub(super) ends: Ends,
    /// It has no credentials, or none that it accepts.
    pub(super) lacks_credentials: bool,
    /// That is meant to be so, on this host.
    pub(super) is_off: bool,
}

/// What shows that a cache takes paths again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ends {
    /// That it can be opened, since it could not.
    Opened,
    /// That it serves a request, since it served none.
    Answered,
    /// Only that it takes a path: a full one still opens, and says what it has.
    Took,
}

impl Waits {
    /// What it means that a cache can't be opened.
    pub(super) fn unopened(error: &CacheError) -> Self {
        let pause = match error.class() {
            Class::Credentials => Pause::until_other_credentials(error),
            Class::Throttled { after } => Pause::Told(after.min(LONGEST_TOLD)),
            _ => Pause::Growing,
        };
        let lacks_credentials = error.class() == Class::Credentials;
        let why = error.with_cure();
        Self { why, pause, ends: Ends::Opened, lacks_credentials, is_off: error.is_own_server() }
    }

    /// What it means that several requests in a row were not served.
    pub(super) fn out_of_reach(why: &str) -> Self {
        Self {
            why: format!("several requests in a row failed: {why}"),
            pause: Pause::Growing,
            ends: Ends::Answered,
            lacks_credentials: false,
            is_off: false,
        }
    }
}

/// A target and how it is doing.
pub(super) struct State {
    target: Target,
    slots: Slots,
    punctuality: Punctuality,
    stage: Stage,
    /// Jobs claimed for it.
    pub(super) under_way: usize,
    /// The job that tries it, while it takes nothing.
    probe: Option<i64>,
    /// Shut while it takes nothing, so that what is claimed already isn't begun.
    gate: Gate,
    /// Requests in a row that it did not serve.
    faltered: u32,
    waiting: Option<Waiting>,
    /// Nothing is to go there for now, which says nothing of how it is doing.
    is_paused: bool,
    /// What is known of the line to it, and who measures that.
    line: Line,
    measuring: Option<Measuring>,
}

enum Stage {
    Closed,
    /// Somebody waits for it to open: the number tells this attempt from an earlier one that still hangs.
    Opening(u64),
    Open(Presence),
}

struct Waiting {
    why: String,
    ends: Ends,
    /// The cache has asked for the pause itself.
    told: bool,
    pause: Duration,
    until: Instant,
}

impl State {
    /// Serves a target, with nothing under way; one that was served before keeps what it knows, but is opened anew.
    pub(super) fn serve(target: Target, known: Option<Self>) -> Self {
        let uploads = target.uploads;
        let (slots, punctuality, gate, waiting, line, measuring) = match known {
            Some(known) => (known.slots, known.punctuality, known.gate, known.waiting, known.line, known.measuring),
            None => (Slots::new(uploads), Punctuality::default(), Gate::default(), None, Line::default(), None),
        };
        // What is under way keeps what it has.
        slots.resize(uploads);
        let mut state = Self {
            target,
            slots,
            punctuality,
            stage: Stage::Closed,
            under_way: 0,
            probe: None,
            gate,
            faltered: 0,
            waiting,
            is_paused: false,
            line,
            measuring,
        };
        state.hurry();
        state
    }

    pub(super) fn name(&self) -> &CacheName {
        &self.target.name
    }

    /// Whether it is reached over a line.
    pub(super) fn is_over_line(&self) -> bool {
        self.target.over_line
    }

    /// How much backfill may still bring there, where it may have no more than a size.
    pub(super) fn allowance(&self) -> Option<&Allowance> {
        self.target.allowance.as_ref()
    }

    /// How many of its paths are to be under way at once, so that it is busy.
    pub(super) fn uploads(&self) -> usize {
        self.target.uploads
    }

    /// How many of its paths are read, packed and sent at once.
    pub(super) fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Notes which job tries it.
    pub(super) fn probe_with(&mut self, job: i64) {
        self.probe = Some(job);
    }

    /// A job claimed for it has come to its end. Returns whether it was the one that tried it.
    pub(super) fn ended(&mut self, job: i64) -> bool {
        self.under_way -= 1;
        self.probe.take_if(|probe| *probe == job).is_some()
    }

    /// It was tried with a path, and that has shown nothing of the cache: it isn't tried again at once, which would only
    /// use up the path's tries.
    pub(super) fn tried_in_vain(&mut self) {
        if let Some(waiting) = &mut self.waiting {
            waiting.until = waiting.until.max(Instant::now() + waiting.pause);
        }
    }

    /// What keeps jobs of it from being begun while it takes nothing; nothing keeps the one that tries it.
    pub(super) fn gate_for(&self, job: i64) -> Option<Gate> {
        (self.probe != Some(job)).then(|| self.gate.clone())
    }

    /// Whether it comes to passes in time.
    pub(super) fn punctuality(&self) -> &Punctuality {
        &self.punctuality
    }

    /// Lets nothing be claimed for it until it is told otherwise.
    pub(super) fn pause(&mut self, is_paused: bool) {
        self.is_paused = is_paused;
    }

    /// How many more jobs may be claimed for it, of `most` in all. A cache that took nothing is tried with one.
    pub(super) fn room(&self, most: usize) -> usize {
        match &self.waiting {
            _ if self.is_paused => 0,
            None => most.saturating_sub(self.under_way),
            Some(waiting) if waiting.until <= Instant::now() && self.probe.is_none() => 1,
            Some(_) => 0,
        }
    }

    /// When it is to be tried again.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        // One that is being opened says so itself when it is.
        let can_be_tried = !self.is_paused && self.probe.is_none() && !matches!(self.stage, Stage::Opening(_));
        self.waiting.as_ref().filter(|_| can_be_tried).map(|waiting| waiting.until)
    }

    /// Until when it has asked to be left alone, if it has.
    pub(super) fn told_until(&self) -> Option<Instant> {
        self.waiting.as_ref().filter(|waiting| waiting.told).map(|waiting| waiting.until)
    }

    /// Tries it at once, whatever it has asked for.
    pub(super) fn hurry(&mut self) {
        if let Some(waiting) = &mut self.waiting {
            waiting.until = Instant::now();
        }
    }

    /// The line to it may be another by now.
    pub(super) fn forget_line(&self) {
        self.line.forget();
    }

    /// Tries it at once, since somebody has asked for that: it may have been mended, and be asked what it has just refused.
    pub(super) fn hurry_by_hand(&mut self) {
        (self.target.forgive)();
        self.hurry();
    }

    /// What it is known to have, if it is open.
    pub(super) fn presence(&self) -> Option<&Presence> {
        match &self.stage {
            Stage::Open(presence) => Some(presence),
            Stage::Closed | Stage::Opening(_) => None,
        }
    }

    /// Begins to open it, as attempt number `attempt`, unless it is open or about to be.
    pub(super) fn begin_to_open(&mut self, attempt: u64) -> Option<Open> {
        if !matches!(self.stage, Stage::Closed) {
            return None;
        }
        self.stage = Stage::Opening(attempt);
        Some(Arc::clone(&self.target.open))
    }

    /// It is open. Returns whether it therefore takes paths again, which is news.
    pub(super) fn opened(&mut self, cache: Arc<dyn Cache>, queue: &QueueHandle, shaper: &Shaper) -> bool {
        // Kept when the cache takes nothing: what is under way goes on, and the line with it.
        self.measuring = Some(Measuring::start(&self.line, shaper, &self.target.name, &cache));
        let memory = Remembered { queue: queue.clone(), cache: self.target.id };
        self.stage = Stage::Open(Presence::new(cache, Some(memory)));
        self.shown(Ends::Opened)
    }

    /// Whether that attempt is the one that counts.
    pub(super) fn awaits(&self, attempt: u64) -> bool {
        matches!(self.stage, Stage::Opening(current) if current == attempt)
    }

    /// It did not serve a request. Returns whether it is out of reach by now.
    pub(super) fn falter(&mut self) -> bool {
        self.faltered += 1;
        // One that is tried with a single job has shown what there is to see.
        self.waiting.is_some() || self.faltered >= OUT_OF_REACH
    }

    /// It takes nothing: waits, and is opened anew then, since it may have been replaced meanwhile. Returns whether that
    /// is news.
    pub(super) fn wait(&mut self, waits: &Waits, draw: u64) -> bool {
        self.stage = Stage::Closed;
        let now = Instant::now();
        let before = self.waiting.take();
        let pause = match (waits.pause, &before) {
            (Pause::Told(pause), _) => pause,
            (Pause::Short, _) => SHORT_PAUSE,
            // Many jobs under way at once fail for one reason: that is one failure.
            (Pause::Growing, Some(before)) if before.until > now => before.pause,
            (Pause::Growing, Some(before)) => (before.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE),
            (Pause::Growing, None) => FIRST_PAUSE,
        };
        // What it takes to show that the first trouble is over is not less since there is a second one.
        let ends = before.as_ref().map_or(waits.ends, |before| before.ends.max(waits.ends));
        let asked_for = before.as_ref().filter(|before| before.told).map(|before| before.until);
        let news = before.is_none_or(|before| before.why != waits.why);
        self.gate.shut(true);
        let own = (matches!(waits.pause, Pause::Told(_)), now + spread(pause, draw));
        // Nor is a pause that was asked for cut short by it.
        let (told, until) = asked_for.filter(|asked_for| *asked_for > own.1).map_or(own, |asked_for| (true, asked_for));
        self.waiting = Some(Waiting { why: waits.why.clone(), ends, told, pause, until });
        news
    }

    /// Whether it takes nothing for now.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// There is nothing to try it with. Returns whether it is therefore taken to be well, which is news: if it isn't, the
    /// next path will show it. One that has to take a path to show it waits for one.
    pub(super) fn put_off(&mut self) -> bool {
        if let Some(waiting) = &mut self.waiting {
            waiting.until = Instant::now() + waiting.pause;
        }
        self.shown(Ends::Answered)
    }

    /// It has shown so much. Returns whether it therefore takes paths again, which is news.
    pub(super) fn shown(&mut self, what: Ends) -> bool {
        if what >= Ends::Answered {
            self.faltered = 0;
        }
        // A pause that was asked for is kept, whatever else that began before it comes to a good end meanwhile.
        let over = |waiting: &Waiting| waiting.ends <= what && (!waiting.told || waiting.until <= Instant::now());
        let news = self.waiting.take_if(|waiting| over(waiting)).is_some();
        self.gate.shut(self.waiting.is_some());
        news
    }
}

/// A pause made up to a fifth longer, so that the many hosts that lost one server don't all come back at once.
fn spread(pause: Duration, draw: u64) -> Duration {
    pause + pause.mul_f64((draw % 1024) as f64 / (5.0 * 1024.0))
}

#[cfg(test)]
mod tests;
