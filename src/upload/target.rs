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

use super::presence::Presence;
use crate::cache::{BoxFuture, Cache, CacheError, Class, Gate, Punctuality};
use crate::limit::Slots;
use crate::policy::CacheName;
use crate::queue::CacheId;

/// Opens a cache; asked again and again until it succeeds.
pub type Open = Arc<dyn Fn() -> BoxFuture<'static, Result<Arc<dyn Cache>, CacheError>> + Send + Sync>;

/// A cache that the policy names.
#[derive(Clone)]
pub struct Target {
    /// Its number in the queue.
    pub id: CacheId,
    /// Its name in the policy.
    pub name: CacheName,
    /// How many of its paths are read, packed and sent at once.
    pub uploads: usize,
    /// Opens it.
    pub open: Open,
}

/// So many requests in a row that a cache did not serve, and it is out of reach. One or two are chance.
const OUT_OF_REACH: u32 = 3;

/// The first pause before a cache that takes nothing is asked again.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// No pause is longer: a server that is back, or a disk that was cleared, is in use again within this time.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The pause of a cache that waits for credentials. Whether there are new ones is looked up on this host, so that a new
/// token is in use within seconds.
const SHORT_PAUSE: Duration = Duration::from_secs(2);

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

/// That a cache takes nothing for now.
#[derive(Debug)]
pub(super) struct Waits {
    pub(super) why: String,
    pub(super) pause: Pause,
    pub(super) ends: Ends,
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
            Class::Credentials => Pause::Short,
            Class::Throttled { after } => Pause::Told(after),
            _ => Pause::Growing,
        };
        Self { why: error.with_cure(), pause, ends: Ends::Opened, is_off: error.is_own_server() }
    }

    /// What it means that several requests in a row were not served.
    pub(super) fn out_of_reach(why: &str) -> Self {
        Self {
            why: format!("several requests in a row failed: {why}"),
            pause: Pause::Growing,
            ends: Ends::Answered,
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
        let (slots, punctuality, gate, waiting) = match known {
            Some(known) => (known.slots, known.punctuality, known.gate, known.waiting),
            None => (Slots::new(uploads), Punctuality::default(), Gate::default(), None),
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
        };
        state.hurry();
        state
    }

    pub(super) fn name(&self) -> &CacheName {
        &self.target.name
    }

    /// How many of its paths are read, packed and sent at once.
    pub(super) fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Notes which job tries it.
    pub(super) fn probe_with(&mut self, job: i64) {
        self.probe = Some(job);
    }

    /// A job claimed for it has come to its end.
    pub(super) fn ended(&mut self, job: i64) {
        self.under_way -= 1;
        self.probe.take_if(|probe| *probe == job);
    }

    /// What keeps jobs of it from being begun while it takes nothing; nothing keeps the one that tries it.
    pub(super) fn gate_for(&self, job: i64) -> Option<Gate> {
        (self.probe != Some(job)).then(|| self.gate.clone())
    }

    /// Whether it comes to passes in time.
    pub(super) fn punctuality(&self) -> &Punctuality {
        &self.punctuality
    }

    /// How many more jobs may be claimed for it, of `most` in all. A cache that took nothing is tried with one.
    pub(super) fn room(&self, most: usize) -> usize {
        match &self.waiting {
            None => most.saturating_sub(self.under_way),
            Some(waiting) if waiting.until <= Instant::now() && self.probe.is_none() => 1,
            Some(_) => 0,
        }
    }

    /// When it is to be tried again.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        // One that is being opened says so itself when it is.
        let can_be_tried = self.probe.is_none() && !matches!(self.stage, Stage::Opening(_));
        self.waiting.as_ref().filter(|_| can_be_tried).map(|waiting| waiting.until)
    }

    /// Tries it at once.
    pub(super) fn hurry(&mut self) {
        if let Some(waiting) = &mut self.waiting {
            waiting.until = Instant::now();
        }
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
    pub(super) fn opened(&mut self, cache: Arc<dyn Cache>) -> bool {
        self.stage = Stage::Open(Presence::new(cache));
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
mod tests {
    use super::*;

    fn target() -> Target {
        let open: Open = Arc::new(|| Box::pin(async { Err(CacheError::LostThread { action: "open" }) }));
        Target { id: CacheId(1), name: CacheName::new("team").expect("a name"), uploads: 4, open }
    }

    fn growing(why: &str) -> Waits {
        Waits { why: why.to_owned(), pause: Pause::Growing, ends: Ends::Took, is_off: false }
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_to_a_bound_and_the_first_success_ends_them() {
        let mut state = State::serve(target(), None);
        assert!(!state.falter() && !state.falter() && state.falter(), "out of reach at the third");
        let mut total = Duration::ZERO;
        for _ in 0..12 {
            state.wait(&growing("away"), u64::MAX);
            assert_eq!(state.room(256), 0, "nothing is claimed while it waits");
            let pause = state.retry_at().expect("a time") - Instant::now();
            assert!(pause >= FIRST_PAUSE && pause <= spread(LONGEST_PAUSE, 1023), "{pause:?}");
            total += pause;
            tokio::time::advance(pause).await;
            assert_eq!(state.room(256), 1, "then one job tries");
        }
        assert!(total > LONGEST_PAUSE * 5, "{total:?}: they have grown");
        assert!(!state.shown(Ends::Answered), "a full one still says what it has");
        assert!(state.shown(Ends::Took) && !state.shown(Ends::Took));
        assert_eq!(state.room(256), 256, "open wide again");
        assert!(!state.falter(), "counted from the beginning");
    }

    #[tokio::test(start_paused = true)]
    async fn what_many_jobs_report_at_once_is_one_failure_and_told_once() {
        let mut state = State::serve(target(), None);
        assert!(state.wait(&growing("away"), 0));
        for _ in 0..100 {
            assert!(!state.wait(&growing("away"), 0));
        }
        assert_eq!(state.retry_at().expect("a time") - Instant::now(), FIRST_PAUSE);
        assert!(state.wait(&growing("full"), 0), "another reason is news");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_that_was_asked_for_is_kept() {
        let mut state = State::serve(target(), None);
        state.wait(&Waits { pause: Pause::Told(Duration::from_secs(77)), ..growing("slow down") }, 0);
        assert_eq!(state.retry_at().expect("a time") - Instant::now(), Duration::from_secs(77));
        assert!(!state.shown(Ends::Took), "what began before it ends well, and says nothing of the pause");
        state.wait(&Waits { pause: Pause::Short, ..growing("no token") }, 0);
        assert_eq!(
            state.retry_at().expect("a time") - Instant::now(),
            Duration::from_secs(77),
            "nor does another trouble"
        );
        tokio::time::advance(Duration::from_secs(77)).await;
        assert!(state.shown(Ends::Took));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cache_is_tried_with_one_job_while_a_long_one_is_under_way_and_nothing_else_is_begun() {
        let mut state = State::serve(target(), None);
        state.under_way = 2;
        state.wait(&growing("away"), 0);
        tokio::time::advance(FIRST_PAUSE).await;
        assert_eq!(state.room(256), 1);
        state.probe_with(7);
        assert_eq!((state.room(256), state.retry_at()), (0, None), "one is enough");
        assert!(state.gate_for(7).is_none() && state.gate_for(8).is_some());
        state.ended(8);
        assert_eq!(state.room(256), 0, "that was another");
        state.ended(7);
        assert_eq!(state.room(256), 1);
    }

    #[tokio::test]
    async fn an_attempt_that_hung_is_not_taken_for_the_new_one() {
        let mut state = State::serve(target(), None);
        assert!(state.begin_to_open(1).is_some() && state.begin_to_open(2).is_none());
        let state = State::serve(target(), Some(state));
        assert!(!state.awaits(1) && state.presence().is_none());
    }
}
