//! Readers that are slow. A server that goes on reading is waited for, however long it takes, and one that stops is given up; a
//! program has as long as the policy says.

use super::{assert_read_back, eventually_done, signing_key};
use crate::support::backend::{Backend, Program};
use crate::support::nix::Key;
use crate::support::wait::within;
use crate::support::{Fault, FlakyProxy, On, ScratchStore, Storewatch, expr};
use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use storewatch::cache::{BoxFuture, CacheError, CacheUrl, CallOff, Contents, NarStream, Push, Pushed, StoredNar};
use storewatch::config::{Config, Defaults, NixStore};
use storewatch::daemon::caches::{Allowances, CacheSurroundings, orders};
use storewatch::disk::Places;
use storewatch::limit::{Lane, Slots};
use storewatch::nix::{Database, NarHash};
use storewatch::queue::Queue;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, advance};

/// A server that takes nothing for so long is given up (`cache/http/movement`).
const TAKING: Duration = Duration::from_secs(30);

/// And so is one that has all of a request, and doesn't answer for so long.
const ANSWERING: Duration = Duration::from_secs(180);

/// So long a slow server takes for each of its sips. What lies between it and who sends, some MiB, it reads while nothing more
/// is sent.
const SIP: Duration = Duration::from_secs(1);

/// Bytes of a sip: a part of a large archive has more than fit into [`TAKING`].
const SIZE: u64 = 128 * 1024;

/// Bytes of the archive, which is sent in several parts where that is done.
const ARCHIVE: u64 = 12_000_000;

/// Bytes of one that doesn't lie in between as a whole: a server that goes on once nobody waits any more never has all of it.
const LARGE_ARCHIVE: u64 = 48_000_000;

pub fn a_reader_that_is_slower_than_a_time_out_is_waited_for_while_it_reads(backend: &Backend, store: &ScratchStore) {
    match backend {
        Backend::Program(program) => a_program_that_is_too_slow(backend, program, store),
        _ => a_server_that_reads_by_sips(backend, store),
    }
}

fn a_server_that_reads_by_sips(backend: &Backend, store: &ScratchStore) {
    let storewatch = Storewatch::new(store);
    let upload = Upload::new(backend, &storewatch, store, ARCHIVE);
    upload.proxy.fail(On::Puts("nar/"), Fault::Sips(SIZE));
    let sipping = async {
        let (began, mut seen) = (Instant::now(), 0);
        loop {
            eventually("the next sip", || upload.proxy.faults() > seen || upload.ended.get()).await;
            if upload.ended.get() {
                return began.elapsed();
            }
            seen = upload.proxy.faults();
            advance(SIP).await;
            upload.proxy.sip();
        }
    };
    let (pushed, took) = by_a_clock_that_stands_still(async { tokio::join!(upload.push(), sipping) });
    let pushed = pushed.unwrap();
    assert!(pushed.sent >= ARCHIVE && !pushed.deduplicated, "{pushed:?}");
    assert!(took > TAKING, "it took {took:?}");
    upload.proxy.pass();
    assert_read_back(backend, store, &upload.key.public, &[upload.path]);
    assert!(backend.has_just(1), "it was sent once");
}

pub fn a_reader_that_stops_is_given_up_and_nothing_is_left(backend: &Backend, store: &ScratchStore) {
    let storewatch = Storewatch::new(store);
    let upload = Upload::new(backend, &storewatch, store, LARGE_ARCHIVE);
    upload.proxy.fail(On::Puts("nar/"), Fault::StallAfter(1_000_000));
    let waiting = async {
        eventually("the stall", || upload.proxy.faults() > 0).await;
        let began = Instant::now();
        while !upload.ended.get() {
            advance(SIP).await;
            turn().await;
            assert!(began.elapsed() < 10 * ANSWERING, "it is waited for, for ever");
        }
        let took = began.elapsed();
        // It notices only now that nobody sends any more.
        upload.proxy.pass();
        eventually("nothing to be left", || backend.has_just(0)).await;
        took
    };
    let (pushed, took) = by_a_clock_that_stands_still(async { tokio::join!(upload.push(), waiting) });
    let error = format!("{:?}", pushed.unwrap_err());
    assert!(error.contains("Stalled") && took >= TAKING, "{error} after {took:?}");
    storewatch.policy(&backend.policy(&storewatch, store, &signing_key(&storewatch, &upload.key)));
    storewatch.cmd(&["push", &upload.path]).ok();
    assert_read_back(backend, store, &upload.key.public, &[upload.path]);
    assert!(backend.has_just(1));
}

/// It is killed when its time is over, and the path arrives once it has enough.
fn a_program_that_is_too_slow(backend: &Backend, program: &Program, store: &ScratchStore) {
    let storewatch = Storewatch::new(store);
    let key = store.generate_key("team-1");
    let policy = backend.policy(&storewatch, store, &signing_key(&storewatch, &key)) + "gives = \"nar\"\n";
    storewatch.policy(&format!("{policy}timeout = \"1s\"\n"));
    program.instead("while [ \"$(head -c 1000 | wc -c)\" -gt 0 ]; do echo sip >> sips; sleep 0.05; done");
    let mut running = storewatch.start();
    let paths = store.build(&expr::sized(2_000_000)).unwrap();
    running.eventually_logs("did not end within 1 s and was killed");
    assert!(std::fs::read_to_string(program.beside("sips")).unwrap().lines().count() > 1);
    assert!(!backend.has_just(1));
    storewatch.policy(&policy);
    program.pass();
    eventually_done(&mut running, &storewatch, 1);
    running.stop();
    assert_read_back(backend, store, &key.public, &paths);
    assert!(backend.has_just(1));
}

/// A path on its way through a proxy, by the service's own code within this process.
struct Upload<'a> {
    proxy: FlakyProxy,
    storewatch: &'a Storewatch<'a>,
    store: &'a ScratchStore,
    key: Key,
    policy: String,
    path: String,
    ended: Cell<bool>,
}

impl<'a> Upload<'a> {
    fn new(backend: &Backend, storewatch: &'a Storewatch<'a>, store: &'a ScratchStore, bytes: u64) -> Self {
        let proxy = FlakyProxy::before(backend.port());
        let key = store.generate_key("team-1");
        let signed = format!("signing_key = {{ file = \"{}\" }}\n", signing_key(storewatch, &key).display());
        let policy = backend.policy_in_process(storewatch, proxy.port()) + &signed;
        let path = store.build(&expr::sized(bytes)).unwrap().remove(0);
        Self { proxy, storewatch, store, key, policy, path, ended: Cell::new(false) }
    }

    /// Opens the cache as the service does, and pushes the path.
    async fn push(&self) -> Result<Pushed, CacheError> {
        let Self { storewatch, store, policy, path, ended, .. } = self;
        let (defaults, variables) = (Defaults { state_dir: storewatch.state_dir() }, store.env());
        let check = |url: &str| CacheUrl::parse(url).map_err(|error| error.to_string());
        let config = Config::parse(policy, "policy.toml", &defaults, &check).unwrap();
        let variable = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
        let nix = NixStore::resolve(&config.store, variable).unwrap();
        let database = Database::open(&store.db_path(), &nix.logical).unwrap();
        let info = database.path_info(&nix.logical.parse(path).unwrap()).unwrap().unwrap();
        let mut queue = Queue::open(&defaults.state_dir).unwrap().queue;
        let (state_dir, instance) = (defaults.state_dir, queue.instance().unwrap());
        let surroundings =
            CacheSurroundings { state_dir, nix, instance, places: Places::default(), allowances: Allowances::new() };
        let (orders, _) = orders(&mut queue, &config, &surroundings).unwrap();
        let cache = (orders.targets[0].open)().await.unwrap();
        let nar = NarStream::new(PathBuf::from(path), &info, Lane::Fresh, Slots::new(1), CallOff::default());
        let now = || -> BoxFuture<'static, _> { Box::pin(async { Ok(()) }) };
        let push = Push { info, nar, arrivals: now(), go_ahead: now(), contents: Arc::new(Nothing), anew: false };
        let pushed = cache.push(push).await;
        ended.set(true);
        pushed
    }
}

/// No memory of what was pushed.
struct Nothing;

impl Contents for Nothing {
    fn recall(&self, _: NarHash) -> BoxFuture<'_, Option<StoredNar>> {
        Box::pin(async { None })
    }

    fn remember(&self, _: NarHash, _: &StoredNar) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

/// Sees it through while the clock goes on only where it is told to: what takes minutes takes a moment, and no machine is too
/// slow for it.
fn by_a_clock_that_stands_still<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let (over, held) = std::sync::mpsc::channel::<()>();
        // While a thread is at work, the clock doesn't go on by itself.
        spawn_blocking(move || held.recv());
        let done = work.await;
        drop(over);
        done
    })
}

/// As the support's, while all that is under way here goes on.
async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(60), "waited for {what}, in vain");
        turn().await;
    }
}

/// Gives what is under way here, and others, some real time.
async fn turn() {
    spawn_blocking(|| within(Duration::from_millis(5), || false)).await.unwrap();
}
