//! When a cache is asked, by whom, and how long its answers are believed.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Semaphore;

use super::*;
use crate::cache::{BoxFuture, Push, Pushed};

/// Lacks every path whose name begins with `lacking`, and answers when it is let. One that is called `just-brought` it has
/// not seen yet, until it looks.
struct Slow {
    asked: Mutex<Vec<usize>>,
    let_through: Semaphore,
    answers_hold: Duration,
    /// So often it fails first.
    fails: AtomicU32,
}

impl Slow {
    fn new(answers_hold: Duration, fails: u32) -> Arc<Self> {
        Arc::new(Self { asked: Mutex::default(), let_through: Semaphore::new(0), answers_hold, fails: fails.into() })
    }
}

impl Cache for Slow {
    fn missing<'a>(&'a self, paths: &'a [StorePath]) -> BoxFuture<'a, Result<Vec<StorePath>, CacheError>> {
        Box::pin(async move {
            self.asked.lock().expect("no panic").push(paths.len());
            self.let_through.acquire().await.expect("open").forget();
            let fails = |left: u32| left.checked_sub(1);
            if self.fails.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fails).is_ok() {
                return Err(CacheError::LostThread { action: "answer" });
            }
            let is_seen = |name: &str| !name.starts_with("lacking") && name != "just-brought";
            Ok(paths.iter().filter(|path| !is_seen(path.name())).cloned().collect())
        })
    }

    fn missing_now<'a>(&'a self, paths: &'a [StorePath]) -> BoxFuture<'a, Result<Vec<StorePath>, CacheError>> {
        Box::pin(async move {
            let mut missing = self.missing(paths).await?;
            missing.retain(|path| path.name() != "just-brought");
            Ok(missing)
        })
    }

    fn answers_hold(&self) -> Duration {
        self.answers_hold
    }

    fn push(self: Arc<Self>, _: Push) -> BoxFuture<'static, Result<Pushed, CacheError>> {
        unreachable!("nothing is pushed here")
    }
}

fn path(name: &str) -> StorePath {
    StorePath::from_base_name(&format!("0123456789abcdfghijklmnpqrsvwxyz-{name}")).expect("a legal name")
}

#[tokio::test]
async fn what_is_asked_while_a_question_is_under_way_goes_out_together() {
    let cache = Slow::new(Duration::ZERO, 0);
    let presence = Presence::new(cache.clone(), None);
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..100 {
        let presence = presence.clone();
        asking.spawn(async move {
            let asked = [path(&format!("there-{number}")), path(&format!("lacking-{number}"))];
            (presence.missing(&asked).await.ok(), asked)
        });
    }
    cache.let_through.add_permits(1_000);
    while let Some(answered) = asking.join_next().await {
        let (missing, [_, lacking]) = answered.expect("no panic");
        assert_eq!(missing, Some(vec![lacking]), "each is told of its own paths");
    }
    let asked = cache.asked.lock().expect("no panic").clone();
    assert_eq!(asked.iter().sum::<usize>(), 200, "{asked:?}");
    assert!(asked.len() < 10, "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_there_is_believed_for_a_while_and_what_is_missing_is_not() {
    let cache = Slow::new(Duration::from_secs(60), 0);
    cache.let_through.add_permits(1_000);
    let presence = Presence::new(cache.clone(), None);
    let asked = [path("there"), path("lacking")];
    let asked_so_far = || cache.asked.lock().expect("no panic").clone();
    for _ in 0..2 {
        assert_eq!(presence.missing(&asked).await.ok(), Some(vec![path("lacking")]));
    }
    assert_eq!(asked_so_far(), [2, 1]);
    presence.saw(&path("lacking"));
    assert_eq!(presence.missing(&asked).await.ok(), Some(vec![]), "it has just arrived");
    assert_eq!(asked_so_far(), [2, 1]);
    tokio::time::advance(Duration::from_secs(6)).await;
    assert_eq!(presence.missing_now(&asked).await.ok(), Some(vec![path("lacking")]), "somebody asks for it");
    assert_eq!(presence.missing_now(&asked[..1]).await.ok(), Some(vec![]), "as others have just now");
    assert_eq!(asked_so_far(), [2, 1, 2]);
    assert_eq!(presence.missing(&asked).await.ok(), Some(vec![path("lacking")]), "it isn't believed any more");
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(presence.missing(&asked).await.ok(), Some(vec![path("lacking")]));
    assert_eq!(asked_so_far(), [2, 1, 2, 1, 2], "a cache collects garbage, too");
    presence.forget();
    assert_eq!(presence.missing(&asked).await.ok(), Some(vec![path("lacking")]));
    assert_eq!(asked_so_far(), [2, 1, 2, 1, 2, 2], "something was removed");
}

#[tokio::test]
async fn one_failure_is_told_by_one() {
    let cache = Slow::new(Duration::ZERO, u32::MAX);
    let presence = Presence::new(cache.clone(), None);
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..50 {
        let presence = presence.clone();
        asking.spawn(async move { presence.missing(&[path(&format!("there-{number}"))]).await });
    }
    cache.let_through.add_permits(1_000);
    let (mut refused, mut others) = (0, 0);
    while let Some(answered) = asking.join_next().await {
        match answered.expect("no panic") {
            Err(Unanswered::Refused(_)) => refused += 1,
            Err(Unanswered::WithOthers) => others += 1,
            Ok(missing) => panic!("{missing:?} of a cache that fails"),
        }
    }
    let questions = cache.asked.lock().expect("no panic").len();
    assert_eq!((refused, others), (questions, 50 - questions));
    assert!(questions < 10, "{questions}");
}

#[tokio::test(start_paused = true)]
async fn who_has_an_archive_to_lose_asks_again_where_another_was_told() {
    let cache = Slow::new(Duration::ZERO, 1);
    cache.let_through.add_permits(1_000);
    let presence = Presence::new(cache.clone(), None);
    let (first, small, large) = ([path("there")], [path("lacking-a")], [path("lacking-b")]);
    let began = Instant::now();
    let (first, small, large) =
        tokio::join!(presence.missing(&first), presence.missing(&small), presence.missing_with_patience(&large));
    assert!(matches!(first, Err(Unanswered::Refused(_))));
    assert!(matches!(small, Err(Unanswered::WithOthers)));
    assert_eq!(large.ok(), Some(vec![path("lacking-b")]));
    assert!(began.elapsed() >= PATIENCE[0], "not back to back");
}
#[tokio::test]
async fn no_archive_is_thrown_away_for_what_has_come_since_the_cache_looked() {
    let cache = Slow::new(Duration::from_secs(300), 0);
    cache.let_through.add_permits(1_000);
    let presence = Presence::new(cache.clone(), None);
    let references = [path("there"), path("just-brought"), path("lacking")];
    let (looked_for, gone) = (presence.missing(&references).await, presence.missing_with_patience(&references).await);
    assert_eq!(looked_for.ok(), Some(vec![path("just-brought"), path("lacking")]), "it is asked for in vain, no more");
    assert_eq!(gone.ok(), Some(vec![path("lacking")]));
    let asked = cache.asked.lock().expect("no panic").clone();
    assert_eq!(asked, [3, 2, 2], "what is there is not asked for again");
}
