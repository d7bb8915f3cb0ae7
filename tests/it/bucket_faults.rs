//! What goes wrong at an object store: it happens, ends, and everything arrives, in a sound cache.

use crate::backend_contract::eventually_done;
use crate::support::backend::bucket_policy;
use crate::support::nix::base_name;
use crate::support::s3::{BUCKET, Op, Trouble};
use crate::support::{FakeS3, Nix, Running, ScratchStore, Storewatch, expr};

/// Makes a test of each trouble. It happens to objects whose names have a part, when the cache is open and has a path.
macro_rules! each_trouble {
    ($($name:ident: $ops:expr, $part:expr, $trouble:expr, $left:expr;)+) => {$(
        #[test]
        fn $name() {
            it_arrives_after(&$ops, $part, $trouble, $left);
        }
    )+};
}

/// What may be left of uploads that failed.
#[derive(PartialEq, Eq)]
enum Left {
    Nothing,
    /// Archives, since their narinfos might have been there.
    Archives,
}

each_trouble! {
    slow_down: [Op::Put], "nar/", Trouble::Code(503, "SlowDown"), Left::Nothing;
    slow_down_on_400: [Op::Part], "nar/", Trouble::Code(400, "SlowDown"), Left::Nothing;
    slow_down_at_a_question: [Op::Head], "", Trouble::Code(503, ""), Left::Nothing;
    slow_down_at_a_narinfo: [Op::Put], ".narinfo", Trouble::Code(503, "SlowDown"), Left::Archives;
    an_internal_error: [Op::Put], "nar/", Trouble::Code(500, "InternalError"), Left::Nothing;
    an_internal_error_at_the_beginning_of_parts: [Op::Begin], "", Trouble::Code(500, "InternalError"), Left::Nothing;
    an_internal_error_when_parts_are_put_together: [Op::Complete], "", Trouble::Code(200, "InternalError"), Left::Nothing;
    an_internal_error_at_a_narinfo: [Op::Put], ".narinfo", Trouble::Code(500, "InternalError"), Left::Archives;
    a_request_time_out: [Op::Put], "nar/", Trouble::Code(400, "RequestTimeout"), Left::Nothing;
    a_request_time_out_of_a_part: [Op::Part], "", Trouble::Code(400, "RequestTimeout"), Left::Nothing;
    a_clock_that_is_wrong: [Op::Put, Op::Begin], "nar/", Trouble::Code(403, "RequestTimeTooSkewed"), Left::Nothing;
    a_narinfo_that_is_refused: [Op::Put], ".narinfo", Trouble::Code(403, "RequestTimeTooSkewed"), Left::Nothing;
    a_cut: [Op::Put], "nar/", Trouble::Cut, Left::Nothing;
    a_cut_of_a_part: [Op::Part], "", Trouble::Cut, Left::Nothing;
    a_cut_of_a_narinfo: [Op::Put], ".narinfo", Trouble::Cut, Left::Archives;
    a_stall: [Op::Put], "nar/", Trouble::Stall, Left::Nothing;
    a_stall_of_a_part: [Op::Part], "", Trouble::Stall, Left::Nothing;
    a_stall_of_a_narinfo: [Op::Put], ".narinfo", Trouble::Stall, Left::Nothing;
}

/// A service whose bucket is a cache already, with one path.
fn begun(storewatch: &Storewatch<'_>, fake: &FakeS3, store: &ScratchStore) -> (Running, String) {
    storewatch.policy(&bucket_policy(storewatch, fake.port(), fake.key()));
    fake.state().notes = Some(storewatch.state_dir().join("unfinished/team"));
    let mut running = storewatch.start();
    let path = store.build(&expr::script("first", "echo x > $out")).unwrap().remove(0);
    eventually_done(&mut running, storewatch, 1);
    (running, path)
}

fn it_arrives_after(ops: &[Op], part: &'static str, trouble: Trouble, left: Left) {
    let Some(nix) = Nix::recent() else { return };
    let (store, fake) = (ScratchStore::new(&nix), FakeS3::start());
    let storewatch = Storewatch::new(&store);
    let (mut running, first) = begun(&storewatch, &fake, &store);
    fake.fail_at(ops, part, trouble);
    let mut paths = store.build(&expr::sized(6_000_000)).unwrap();
    paths.extend(store.build(&expr::many(2)).unwrap());
    running.eventually("the trouble", || fake.troubled() > 0);
    assert_eq!(storewatch.jobs("failed"), Vec::<serde_json::Value>::new());
    fake.pass();
    eventually_done(&mut running, &storewatch, 4);
    running.eventually("the rest to be taken back", || {
        let notes = std::fs::read_dir(storewatch.state_dir().join("unfinished/team")).unwrap();
        fake.state().multiparts.is_empty() && notes.count() == 0
    });
    running.stop();
    paths.push(first);
    assert_eq!(fake.state().store_paths(), paths.into_iter().collect());
    let alone = fake.assert_readable();
    assert!(alone.is_empty() || left == Left::Archives, "nobody names {alone:?}");
}

/// No trouble, there from the beginning: the bucket is made later.
#[test]
fn no_bucket_yet() {
    let Some(nix) = Nix::recent() else { return };
    let (store, fake) = (ScratchStore::new(&nix), FakeS3::start());
    fake.fail(&[Op::Get, Op::Put], Trouble::Code(404, "NoSuchBucket"));
    let storewatch = Storewatch::new(&store);
    storewatch.policy(&bucket_policy(&storewatch, fake.port(), fake.key()));
    let mut running = storewatch.start();
    store.build(&expr::many(2)).unwrap();
    running.eventually("the trouble", || fake.troubled() > 0);
    fake.pass();
    eventually_done(&mut running, &storewatch, 2);
    running.stop();
    fake.assert_sound();
}

/// What a store has done without saying so is done: the archive stays, and nothing is sent again.
#[test]
fn a_narinfo_that_arrived_without_an_answer_keeps_its_archive() {
    let Some(nix) = Nix::recent() else { return };
    let (store, fake) = (ScratchStore::new(&nix), FakeS3::start());
    let storewatch = Storewatch::new(&store);
    let (mut running, _) = begun(&storewatch, &fake, &store);
    fake.fail_at(&[Op::Put], ".narinfo", Trouble::CutAfterDone);
    store.build(&expr::sized(6_000_000)).unwrap();
    running.eventually("the trouble", || fake.troubled() > 0);
    running.eventually_logs("already there");
    eventually_done(&mut running, &storewatch, 2);
    running.stop();
    fake.assert_sound();
}

/// That a narinfo is there already doesn't mean that it is another's.
#[test]
fn a_narinfo_that_a_proxy_sends_twice_keeps_its_archive() {
    let Some(nix) = Nix::recent() else { return };
    let (store, fake) = (ScratchStore::new(&nix), FakeS3::start());
    let storewatch = Storewatch::new(&store);
    let (mut running, _) = begun(&storewatch, &fake, &store);
    fake.fail_at(&[Op::Put], ".narinfo", Trouble::Twice);
    store.build(&expr::many(2)).unwrap();
    eventually_done(&mut running, &storewatch, 3);
    assert!(fake.troubled() > 1);
    running.stop();
    fake.assert_sound();
}

/// Who is refused again and again has sent nothing, and leaves nothing: no notes in the state directory, which nothing
/// would remove.
#[test]
fn who_may_only_read_a_cache_leaves_nothing_behind() {
    let Some(nix) = Nix::recent() else { return };
    let (store, fake) = (ScratchStore::new(&nix), FakeS3::start());
    let storewatch = Storewatch::new(&store);
    let (running, _) = begun(&storewatch, &fake, &store);
    running.stop();
    let reader = fake.reader_key();
    storewatch.policy(&bucket_policy(&storewatch, fake.port(), &reader));
    let mut running = storewatch.start();
    store.build(&expr::sized(6_000_000)).unwrap();
    store.build(&expr::many(2)).unwrap();
    running.eventually("the reason in the status", || {
        storewatch.cache_status("team")["waiting_why"].as_str().is_some_and(|why| why.contains("upload at s3://"))
    });
    let asked = |op| fake.state().asked.get(&op).copied().unwrap_or(0);
    let before = asked(Op::Put) + asked(Op::Begin);
    running.eventually("another try", || asked(Op::Put) + asked(Op::Begin) > before + 1);
    running.eventually("no notes", || {
        std::fs::read_dir(storewatch.state_dir().join("unfinished/team")).unwrap().count() == 0
    });
    assert_eq!(asked(Op::Delete), 0, "nothing was sent that could be deleted");
    fake.allow_to_write(&reader);
    eventually_done(&mut running, &storewatch, 4);
    running.stop();
    fake.assert_sound();
}

/// A cache that can't be read is no empty one: nothing of what others have put there is overwritten.
#[test]
fn who_may_write_and_not_read_is_told_so() {
    let Some(nix) = Nix::recent() else { return };
    let (store, fake) = (ScratchStore::new(&nix), FakeS3::start());
    let theirs = Storewatch::new(&store);
    theirs.policy(&bucket_policy(&theirs, fake.port(), fake.key()));
    let path = store.build(&expr::many(1)).unwrap().remove(0);
    theirs.cmd(&["push", &path]).ok();
    let before = fake.state().objects.clone();
    fake.fail(&[Op::Get, Op::Head], Trouble::Code(403, "AccessDenied"));
    let ours = Storewatch::new(&store);
    ours.policy(&bucket_policy(&ours, fake.port(), fake.key()));
    let said = ours.cmd(&["push", "--timeout", "1s", &path]);
    assert_eq!(said.code, Some(4), "{said:?}");
    assert!(said.stderr.contains("must be allowed to read"), "{said:?}");
    assert!(fake.state().objects == before);
    let said = ours.cmd(&["cache", "ping"]);
    assert_ne!(said.code, Some(0), "{said:?}");
    assert!(said.stdout.contains("must be allowed to read"), "{said:?}");
    assert!(fake.state().objects == before);
}

/// Amazon tells those who may not list a bucket that what isn't there is forbidden.
#[test]
fn a_cache_that_is_not_there_yet_may_look_forbidden() {
    let Some(nix) = Nix::recent() else { return };
    let (store, fake) = (ScratchStore::new(&nix), FakeS3::start());
    fake.state().hides_what_is_missing = true;
    let storewatch = Storewatch::new(&store);
    storewatch.policy(&bucket_policy(&storewatch, fake.port(), fake.key()));
    let ping = storewatch.cmd(&["cache", "ping"]).ok();
    assert!(ping.contains("lets us read and push; there is no cache in it yet"), "{ping}");
    assert!(storewatch.cmd(&["cache", "info", "team"]).ok().contains("there is no cache in it yet"));
    let mut running = storewatch.start();
    store.build(&expr::chain(2)).unwrap();
    eventually_done(&mut running, &storewatch, 2);
    running.stop();
    fake.assert_sound();

    let storewatch = Storewatch::new(&store);
    fake.state().objects.clear();
    storewatch.policy(&bucket_policy(&storewatch, fake.port(), &fake.reader_key()));
    let ping = storewatch.cmd(&["cache", "ping"]);
    assert!(ping.code == Some(1) && ping.stdout.contains("AccessDenied"), "{ping:?}");
}

/// Two builds of one path need not be the same, so only the list of the one whose narinfo is there is put there.
#[test]
fn the_list_of_files_is_that_of_the_archive_that_is_shown() {
    let Some(nix) = Nix::recent() else { return };
    let (store, fake) = (ScratchStore::new(&nix), FakeS3::start());
    let storewatch = Storewatch::new(&store);
    let (running, _) = begun(&storewatch, &fake, &store);
    running.stop();
    let policy = bucket_policy(&storewatch, fake.port(), fake.key());
    storewatch.policy(&policy.replace("region=garage", "region=garage&write-nar-listing=true"));
    let mut running = storewatch.start();
    fake.fail_at(&[Op::Put], ".narinfo", Trouble::Stall);
    let path = store.build(&expr::many(1)).unwrap().remove(0);
    running.eventually("its narinfo", || fake.troubled() > 0);
    let hash = base_name(&path)[..32].to_owned();
    let list = format!("{hash}.ls");
    {
        let mut state = fake.state();
        assert!(!state.objects.contains_key(&list), "nobody knows yet whose archive will be shown");
        // Another host is faster.
        let narinfo = format!("StorePath: {path}\nURL: nar/theirs\nReferences: \n");
        state.objects.insert(format!("{hash}.narinfo"), narinfo.into());
        state.objects.insert("nar/theirs".to_owned(), "theirs".into());
        state.objects.insert(list.clone(), "theirs".into());
    }
    fake.pass();
    eventually_done(&mut running, &storewatch, 2);
    running.stop();
    assert_eq!(fake.state().objects[&list].as_ref(), b"theirs");
    fake.assert_sound();
}

/// Amazon says so of two that come at once, and that it is to be asked again: it is no outage.
#[test]
fn a_conflict_of_two_is_asked_about_again_at_once() {
    let Some(nix) = Nix::recent() else { return };
    let (store, fake) = (ScratchStore::new(&nix), FakeS3::start());
    let storewatch = Storewatch::new(&store);
    let (mut running, _) = begun(&storewatch, &fake, &store);
    fake.fail_once(&[Op::Put], ".narinfo", Trouble::Code(409, "ConditionalRequestConflict"));
    store.build(&expr::many(1)).unwrap();
    eventually_done(&mut running, &storewatch, 2);
    assert!(fake.troubled() > 0 && !running.log().contains("will try again"), "{}", running.log());
    running.stop();
    fake.assert_sound();
}

/// Logs are for people; that one can't be put there is no reason to keep a path back.
#[test]
fn a_log_that_is_refused_keeps_no_path_back() {
    let Some(nix) = Nix::recent() else { return };
    let (store, fake) = (ScratchStore::new(&nix), FakeS3::start());
    let storewatch = Storewatch::new(&store);
    let policy = bucket_policy(&storewatch, fake.port(), fake.key());
    storewatch.policy(&policy.replace("region=garage", "region=garage&write-build-logs=true"));
    let mut running = storewatch.start();
    for (number, trouble) in [(403, "AccessDenied"), (413, "EntityTooLarge"), (400, "Whatever")].into_iter().enumerate()
    {
        fake.fail_at(&[Op::Put], "log/", Trouble::Code(trouble.0, trouble.1));
        store.build(&expr::script("talking", &format!("echo said; echo {number} > $out"))).unwrap();
        eventually_done(&mut running, &storewatch, number + 1);
        assert!(fake.troubled() > number as u64, "the log was sent");
    }
    running.stop();
    fake.assert_sound();
}

/// Of a bucket whose server is another by now, or that the policy doesn't name any more, nothing is deleted anywhere else; it is
/// told, and tidied up when it is back.
#[test]
fn what_was_cut_is_taken_back_where_it_was_sent_and_nowhere_else() {
    let Some(nix) = Nix::recent() else { return };
    let (store, fake, other) = (ScratchStore::new(&nix), FakeS3::start(), FakeS3::start());
    let storewatch = Storewatch::new(&store);
    let (mut running, _) = begun(&storewatch, &fake, &store);
    fake.fail(&[Op::Part], Trouble::Stall);
    store.build(&expr::sized(6_000_000)).unwrap();
    let notes = || {
        let notes = std::fs::read_dir(storewatch.state_dir().join("unfinished/team")).unwrap().flatten();
        notes.map(|note| std::fs::read_to_string(note.path()).unwrap()).collect::<Vec<_>>()
    };
    running.eventually("a note of an upload in parts", || notes().iter().any(|note| note.lines().count() == 4));
    running.kill9();
    let noted = notes();
    fake.pass();

    storewatch.policy(&bucket_policy(&storewatch, other.port(), other.key()));
    let mut running = storewatch.start();
    running.eventually_logs(&format!("may have left something in s3://{BUCKET} at http://127.0.0.1:{},", fake.port()));
    running.stop();
    assert_eq!((notes(), fake.state().multiparts.len()), (noted.clone(), 1));

    let elsewhere = storewatch.cache_at("elsewhere").url();
    let policy = format!("version = 1\n[caches.elsewhere]\nurl = \"{elsewhere}\"\n");
    storewatch.policy(&policy);
    let mut running = storewatch.start();
    let told = "for the cache team any more";
    running.eventually_logs(told);
    storewatch.policy(&format!("{policy}# As before.\n"));
    running.eventually_logs("has changed and is in force");
    assert_eq!(running.log().matches(told).count(), 1, "it is no news");
    running.stop();
    assert_eq!(notes(), noted);

    storewatch.policy(&bucket_policy(&storewatch, fake.port(), fake.key()));
    let mut running = storewatch.start();
    running.eventually("the rest to be taken back", || fake.state().multiparts.is_empty() && notes().is_empty());
    running.stop();
}
