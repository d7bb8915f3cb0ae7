use super::*;
use crate::cache::http::HttpError;
use crate::secret::SecretError;

fn target() -> Target {
    let open: Open = Arc::new(|| Box::pin(async { Err(CacheError::LostThread { action: "open" }) }));
    Target {
        id: CacheId(1),
        name: CacheName::new("team").expect("a name"),
        fingerprint: String::new(),
        uploads: 4,
        over_line: true,
        allowance: None,
        open,
        forgive: Arc::new(|| ()),
    }
}

fn growing(why: &str) -> Waits {
    Waits { why: why.to_owned(), pause: Pause::Growing, ends: Ends::Took, lacks_credentials: false, is_off: false }
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
async fn a_path_that_tried_it_in_vain_does_not_try_it_again_at_once() {
    let mut state = State::serve(target(), None);
    state.wait(&growing("away"), 0);
    tokio::time::advance(FIRST_PAUSE).await;
    state.under_way = 1;
    state.probe_with(7);
    assert!(state.ended(7));
    assert_eq!(state.room(256), 1);
    state.tried_in_vain();
    assert_eq!(state.room(256), 0);
    assert_eq!(state.retry_at().expect("a time") - Instant::now(), FIRST_PAUSE);
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

#[test]
fn who_is_sent_an_upload_to_refuse_is_asked_less_and_less_often() {
    let bucket = |error| CacheError::Bucket(Arc::new(error));
    let refused = bucket(BucketError::NoCredentials { bucket: "s3://b".to_owned(), problem: String::new() });
    let missing = || SecretError::Empty { from: "F".to_owned() };
    let of = |error: &CacheError| {
        assert_eq!(error.class(), Class::Credentials);
        Waits::unopened(error).pause
    };
    assert_eq!(of(&refused), Pause::Growing);
    assert_eq!(of(&bucket(BucketError::Secret(missing()))), Pause::Short, "only a file is looked at");
    assert_eq!(of(&HttpError::StillRefused { why: String::new() }.into()), Pause::Short);
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_was_asked_for_is_kept() {
    let mut state = State::serve(target(), None);
    state.wait(&Waits { pause: Pause::Told(Duration::from_secs(77)), ..growing("slow down") }, 0);
    assert_eq!(state.retry_at().expect("a time") - Instant::now(), Duration::from_secs(77));
    assert!(!state.shown(Ends::Took), "what began before it ends well, and says nothing of the pause");
    state.wait(&Waits { pause: Pause::Short, ..growing("no token") }, 0);
    assert_eq!(state.retry_at().expect("a time") - Instant::now(), Duration::from_secs(77), "nor does another trouble");
    assert_eq!(state.told_until(), state.retry_at(), "and it is told until when");
    tokio::time::advance(Duration::from_secs(77)).await;
    assert!(state.shown(Ends::Took));

    state.wait(&Waits { pause: Pause::Told(Duration::from_secs(77)), ..growing("slow down") }, 0);
    let forgiven = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mended = Arc::clone(&forgiven);
    state.target.forgive = Arc::new(move || mended.store(true, std::sync::atomic::Ordering::Relaxed));
    state.hurry_by_hand();
    assert_eq!(state.room(256), 1, "unless somebody wants it tried at once");
    assert!(forgiven.load(std::sync::atomic::Ordering::Relaxed), "whatever it has refused");
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

#[tokio::test(start_paused = true)]
async fn what_is_paused_is_given_nothing_and_is_no_worse_for_it() {
    let mut state = State::serve(target(), None);
    state.pause(true);
    assert_eq!(state.room(256), 0);
    state.pause(false);
    assert_eq!(state.room(256), 256);
    state.wait(&growing("away"), 0);
    tokio::time::advance(FIRST_PAUSE).await;
    state.pause(true);
    assert_eq!((state.room(256), state.retry_at()), (0, None), "not tried either, nor looked at in vain");
    state.pause(false);
    assert_eq!(state.room(256), 1);
}

#[tokio::test]
async fn an_attempt_that_hung_is_not_taken_for_the_new_one() {
    let mut state = State::serve(target(), None);
    assert!(state.begin_to_open(1).is_some() && state.begin_to_open(2).is_none());
    let state = State::serve(target(), Some(state));
    assert!(!state.awaits(1) && state.presence().is_none());
}
