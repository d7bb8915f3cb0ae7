//! The flow of uploads, with a bucket in memory.

use std::path::PathBuf;
use std::sync::Mutex as Lock;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

use super::*;
use crate::cache::bucket::Store;
use crate::cache::pace::{Effort, Measured};
use crate::cache::{
    BoxFuture, CallOff, Class, Compression, Contents, Hindrance, Layout, Pace, Pass, Punctuality, Push, Pushed, layout,
};
use crate::limit::{Lane, Slots};
use crate::nix::nar::registered;
use crate::nix::{NarHash, SecretKey, StoreDir, StoreFacts, StorePath};

/// What a cache was given last.
#[derive(Default)]
struct Memory(Lock<Option<StoredNar>>);

impl Contents for Memory {
    fn recall(&self, _: NarHash) -> BoxFuture<'_, Option<StoredNar>> {
        Box::pin(async { self.0.lock().expect("a lock").clone() })
    }

    fn remember(&self, _: NarHash, nar: &StoredNar) -> BoxFuture<'_, ()> {
        *self.0.lock().expect("a lock") = Some(nar.clone());
        Box::pin(async {})
    }
}

/// A cache in memory, and a path.
struct Host {
    dir: TempDir,
    cache: Arc<RemoteCache<Store>>,
    info: PathInfo,
    memory: Arc<Memory>,
}

type Coming = BoxFuture<'static, Result<(), Hindrance>>;

/// Comes true at once.
fn now() -> Coming {
    Box::pin(async { Ok(()) })
}

impl Host {
    fn new() -> Self {
        Self::packing(Compression::default(), Pace::default())
    }

    fn packing(compression: Compression, pace: Pace) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let (info, _) = registered(&dir.path().join("a"), 100_000);
        let binary = BinaryCache {
            store_dir: StoreDir::default(),
            layout: Layout { write_build_logs: true, compression: Some(compression), ..Layout::default() },
            key: SecretKey::generate("host-1").expect("randomness"),
            log_dir: dir.path().join("log"),
            facts: StoreFacts::new(PathBuf::new(), PathBuf::new(), StoreDir::default()),
            pace,
        };
        let notes = Notes::open(&dir.path().join("notes")).expect("a folder");
        let cache = RemoteCache::new(Store::in_memory(), binary, notes);
        Self { dir, cache: Arc::new(cache), info, memory: Arc::default() }
    }

    fn nar(&self) -> NarStream {
        self.nar_in(Slots::new(1))
    }

    fn nar_in(&self, slots: Slots) -> NarStream {
        NarStream::new(self.dir.path().join("a"), &self.info, Lane::Fresh, slots, CallOff::default())
    }

    /// The same content as another path.
    fn other(&self) -> PathInfo {
        let path = StorePath::from_base_name("1123456789abcdfghijklmnpqrsvwxyz-b").expect("a legal name");
        PathInfo { path, ..self.info.clone() }
    }

    async fn push(
        &self,
        info: PathInfo,
        nar: NarStream,
        arrivals: Coming,
        go_ahead: Coming,
    ) -> Result<Pushed, CacheError> {
        let contents = Arc::clone(&self.memory) as _;
        self.cache.upload(Push { info, nar, arrivals, go_ahead, contents, anew: false }).await
    }

    /// Where the cache was last told that the content lies.
    fn archive(&self) -> String {
        let known = self.memory.0.lock().expect("a lock").clone();
        known.expect("given").url
    }

    /// What the narinfo of a path says.
    async fn narinfo(&self, path: &StorePath) -> Option<String> {
        self.cache.remote.shown(&layout::narinfo_name(path)).await.expect("asked")
    }
}

#[tokio::test]
async fn what_waits_for_its_turn_is_packed_as_the_link_is_found_to_be_meanwhile() {
    let host = Host::packing(Compression::AUTO, Pace::over_a_line());
    let slots = Slots::new(1);
    let Ok(turn) = host.nar_in(slots.clone()).start().await else { panic!("the only turn") };
    let mut push = std::pin::pin!(host.push(host.info.clone(), host.nar_in(slots), now(), now()));
    tokio::select! {
        biased;
        _ = &mut push => panic!("it has no turn"),
        () = std::future::ready(()) => {}
    }
    let took = |effort, busy, elapsed| {
        let measured = Measured { effort, nar_size: 20 << 20, busy, reading: Duration::ZERO, elapsed };
        host.cache.binary.pace.note(measured);
    };
    // Packers are what is waited for, until one archive is sent as it is, in no time.
    while let Compression::Auto { level } = host.cache.binary.compression(1 << 20) {
        took(Effort::Level(level), Duration::from_secs(1), Duration::from_secs(1));
    }
    took(Effort::AsItIs, Duration::ZERO, Duration::from_millis(1));
    drop(turn);
    push.await.expect("taken");
    assert!(host.archive().ends_with(".nar"), "{}", host.archive());
}

#[tokio::test]
async fn content_that_was_removed_while_references_were_waited_for_is_sent_again() {
    let host = Host::new();
    let first = host.push(host.info.clone(), host.nar(), now(), now()).await.expect("taken");
    assert!(first.sent > 0 && !first.deduplicated);
    let (store, archive) = (host.cache.remote.clone(), host.archive());
    let gone = archive.clone();
    let arrivals: Coming = Box::pin(async move {
        Place::delete(&store, &gone).await.expect("deleted");
        Ok(())
    });
    let again = host.push(host.other(), host.nar(), arrivals, now()).await.expect("taken");
    assert!(again.sent > 0 && !again.deduplicated);
    let narinfo = host.narinfo(&host.other().path).await.expect("a narinfo");
    assert!(host.archive() != archive && narinfo.contains(&format!("URL: {}\n", host.archive())), "{narinfo}");
    assert!(host.cache.remote.has(&host.archive()).await.expect("asked"));

    let third = host.push(host.other(), host.nar(), now(), now()).await.expect("taken");
    assert_eq!(third, Pushed { read: 0, sent: 0, deduplicated: true }, "while it is there, it isn't");

    let cut = host.archive();
    host.cache.remote.overwrite(&cut, vec![7; 10].into(), layout::NAR_TYPE).await.expect("put");
    let path = StorePath::from_base_name("3123456789abcdfghijklmnpqrsvwxyz-c").expect("a legal name");
    let fourth = PathInfo { path, ..host.info.clone() };
    let fourth = host.push(fourth, host.nar(), now(), now()).await.expect("taken");
    assert!(fourth.sent > 0 && host.archive() != cut, "what is there is something else");
}

#[tokio::test]
async fn who_has_the_content_already_keeps_nobody_waiting_who_reads_it() {
    let host = Host::new();
    host.push(host.info.clone(), host.nar(), now(), now()).await.expect("taken");
    let (pass, punctual) = (Pass::default(), Punctuality::default());
    let (own, others) = (pass.seat(&punctual), pass.seat(&punctual));
    let theirs = host.nar().seated(Some(others));
    // The other cache begins to read while this one is about to show the path.
    let go_ahead: Coming = Box::pin(async move {
        theirs.start().await.expect("begun");
        Ok(())
    });
    let pushed = host.push(host.other(), host.nar().seated(Some(own)), now(), go_ahead).await.expect("taken");
    assert!(pushed.deduplicated && !punctual.is_late(), "it was waited for");
}

#[tokio::test]
async fn a_log_that_backfill_is_held_back_with_holds_no_fresh_path_up() {
    let host = Host::new();
    let derivation = StorePath::from_base_name("2123456789abcdfghijklmnpqrsvwxyz-a.drv").expect("a legal name");
    let log = host.dir.path().join("log/drvs/21/23456789abcdfghijklmnpqrsvwxyz-a.drv");
    std::fs::create_dir_all(log.parent().expect("a folder")).expect("made");
    std::fs::write(&log, "it is built").expect("written");
    let info = PathInfo { deriver: Some(derivation.clone()), ..host.info.clone() };
    let _backfill = host.cache.log_in_memory[Lane::Backfill as usize].lock().await;
    let pushed = tokio::time::timeout(Duration::from_secs(60), host.push(info, host.nar(), now(), now())).await;
    pushed.expect("it waited").expect("taken");
    let log = host.cache.remote.text(&layout::log_name(&derivation)).await;
    assert_eq!(log.expect("asked").as_deref(), Some("it is built"));
}

#[tokio::test]
async fn nothing_is_shown_of_an_archive_that_can_not_be_let_go() {
    let host = Host::new();
    let notes = host.dir.path().join("notes");
    // No file can be removed where a folder is, by whomever.
    let go_ahead: Coming = Box::pin(async move {
        for note in std::fs::read_dir(notes).expect("a folder").flatten() {
            std::fs::remove_file(note.path()).expect("removed");
            std::fs::create_dir(note.path()).expect("made");
        }
        Ok(())
    });
    let failed = host.push(host.info.clone(), host.nar(), now(), go_ahead).await.expect_err("not let go");
    assert_eq!(failed.class(), Class::CacheWaits, "{failed}");
    assert_eq!(host.narinfo(&host.info.path).await, None);
}

#[tokio::test]
async fn who_waits_for_references_holds_no_slot() {
    let host = Host::new();
    let slots = Slots::new(1);
    let other = host.nar_in(slots.clone());
    let arrivals: Coming = Box::pin(async move {
        other.start().await.map(drop).expect("begun");
        Ok(())
    });
    let push = host.push(host.info.clone(), host.nar_in(slots), arrivals, now());
    let pushed = tokio::time::timeout(Duration::from_secs(60), push).await.expect("it held the slot").expect("taken");
    assert!(pushed.sent > 0 && host.narinfo(&host.info.path).await.is_some());
}

#[tokio::test]
async fn answers_stand_in_the_order_of_the_questions_and_a_failure_ends_them() {
    let (asking, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let counts = Arc::new((asking, most));
    let ask = |file: String| {
        let counts = Arc::clone(&counts);
        async move {
            let (asking, most) = &*counts;
            most.fetch_max(asking.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            let number: usize = file.parse().map_err(|_| CacheError::LostThread { action: "ask" })?;
            // Who was asked later answers sooner.
            for _ in number..20 {
                tokio::task::yield_now().await;
            }
            asking.fetch_sub(1, Ordering::Relaxed);
            Ok(number)
        }
    };
    let files = (0..20).map(|number: usize| number.to_string());
    let answers = ask_each(files.clone().collect(), 4, ask).await.expect("answered");
    assert_eq!(answers, Vec::from_iter(0..20));
    assert_eq!(counts.1.load(Ordering::Relaxed), 4);
    let failed = ask_each(files.chain(["x".to_owned()]).collect(), 4, ask).await;
    assert!(matches!(failed, Err(CacheError::LostThread { action: "ask" })));
}
