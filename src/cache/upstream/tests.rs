use super::*;

fn upstream() -> Upstream {
    Upstream { url: Url::parse("https://cache.example.com/").expect("a URL"), away: Mutex::default() }
}

fn hung() -> HttpError {
    HttpError::Stalled { action: Action::Upstream, host: "cache.example.com".to_owned(), after: AWAY }
}

#[tokio::test(start_paused = true)]
async fn an_upstream_is_back_when_it_answers_what_was_asked_after_it_went_away() {
    let (upstream, before) = (upstream(), Instant::now());
    tokio::time::advance(AWAY / 10).await;
    let begun = Instant::now();
    tokio::time::advance(AWAY / 10).await;
    let together = Instant::now();
    upstream.asked_in_vain(hung(), begun);
    upstream.answered(before);
    assert!(upstream.away().is_some(), "that was asked before");
    upstream.answered(together);
    assert!(upstream.away().is_none(), "it was one path, and the others are not to wait for it");
    upstream.asked_in_vain(hung(), Instant::now());
    tokio::time::advance(AWAY).await;
    upstream.answered(Instant::now());
    assert!(upstream.lock().is_none(), "so that it is told again when it goes away again");
}

#[tokio::test(start_paused = true)]
async fn a_question_in_vain_is_one_however_many_ask_meanwhile() {
    let upstream = upstream();
    for in_vain in 1..=3 {
        assert!(upstream.away().is_none(), "it may be asked again");
        for _ in 0..20 {
            let unanswered = upstream.asked_in_vain(hung(), Instant::now());
            assert_eq!(unanswered.away, Some(Away { in_vain, was_asked: true, again: AWAY }));
        }
        tokio::time::advance(AWAY / 3).await;
        let told = upstream.away().expect("it is left alone");
        assert_eq!(told.away, Some(Away { in_vain, was_asked: false, again: AWAY - AWAY / 3 }));
        tokio::time::advance(AWAY).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_was_asked_in_vain_less_often_is_waited_for() {
    let (gone, new) = (upstream(), upstream());
    gone.asked_in_vain(hung(), Instant::now());
    tokio::time::advance(AWAY).await;
    let (often, once) = (gone.asked_in_vain(hung(), Instant::now()), new.asked_in_vain(hung(), Instant::now()));
    let waited_for = likelier_to_return(Some(often), once);
    assert_eq!(waited_for.away.expect("it is away").in_vain, 1);
}

#[tokio::test(start_paused = true)]
async fn what_an_upstream_fails_is_counted_for_each_path() {
    let (Upstreams(shared), upstream) = (Upstreams::none(), upstream());
    let path = |name| StorePath::from_base_name(&format!("0123456789abcdfghijklmnpqrsvwxyz-{name}")).expect("a path");
    let (failing, other) = (path("failing"), path("other"));
    let counted = |path| shared.counted(path, upstream.asked_in_vain(hung(), Instant::now()));
    assert_eq!([counted(&failing).of_path, counted(&failing).of_path], [1, 2]);
    let known = shared.counted(&other, upstream.away().expect("it is left alone"));
    assert_eq!((known.of_path, known.away.map(|away| away.was_asked)), (0, Some(false)), "that is no question");
    let waited_for = likelier_to_return(Some(counted(&failing)), known);
    assert_eq!(waited_for.of_path, 0, "who may yet be answered");
    // Nothing is in the way any more.
    let http = Http::new(&HttpOptions::default()).await.expect("a client");
    assert!(!shared.ask(&http, &failing).await.expect("answered"));
    assert_eq!(counted(&failing).of_path, 1, "in a row");
}
