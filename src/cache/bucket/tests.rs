//! What becomes of uploads that have begun and are not shown yet, with a bucket in memory.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use object_store::path::Path as Object;
use object_store::{ObjectStoreExt, PutPayload};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::code::Code;
use super::error::BucketError;
use super::send::refused;
use super::store::Store;
use crate::cache::http::Action;
use crate::cache::remote::Remote;
use crate::cache::unfinished::{Notes, Upload};
use crate::cache::{CacheError, Compression, StoredNar};
use crate::nix::NarHash;

/// For which an archive is sent.
const NARINFO: &str = "0123456789abcdfghijklmnpqrsvwxyz.narinfo";

/// A bucket in memory, and a folder for notes.
struct Host {
    dir: TempDir,
    store: Store,
    notes: Notes,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let notes = Notes::open(&dir.path().join("notes")).expect("a folder");
        Self { store: Store::in_memory(), notes, dir }
    }

    /// An archive that is there, and noted.
    async fn sent(&self, name: &str) -> Upload<Store> {
        let upload = self.notes.begin(&self.store, name.to_owned(), NARINFO).await.expect("noted");
        self.store.objects.put(&Object::from(name), PutPayload::from_static(b"x")).await.expect("put");
        upload
    }

    async fn has(&self, name: &str) -> bool {
        self.store.has(name).await.expect("asked")
    }

    fn notes(&self) -> Vec<PathBuf> {
        fs::read_dir(self.dir.path().join("notes")).expect("a folder").flatten().map(|note| note.path()).collect()
    }
}

/// Polls until it is so.
async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < Duration::from_secs(60), "waited for {what} in vain");
        sleep(Duration::from_millis(5)).await;
    }
}

fn refusal(status: u16, code: &str) -> CacheError {
    CacheError::from(Arc::new(BucketError::Refused {
        action: Action::Upload,
        bucket: "s3://b".to_owned(),
        status,
        code: Code::parse(code),
        says: String::new(),
        keys: None,
        retry_after: None,
    }))
}

#[tokio::test]
async fn a_note_is_gone_for_good_before_the_archive_is_let_go() {
    let host = Host::new();
    let mut going = tokio::task::JoinSet::new();
    for name in ["a", "b", "c"] {
        going.spawn(host.sent(name).await.let_go());
    }
    assert!(going.join_all().await.into_iter().all(|gone| gone.is_ok()));
    assert!(host.notes().is_empty());
    assert_eq!(host.notes.removals().await, (3, 3), "and the folder is synced");
    assert!(host.has("a").await && host.has("b").await && host.has("c").await);
}

#[tokio::test]
async fn what_can_not_be_let_go_is_taken_back() {
    let host = Host::new();
    let upload = host.sent("a").await;
    // No file can be removed where a folder is, by whomever.
    let note = host.notes().remove(0);
    fs::remove_file(&note).expect("removed");
    fs::create_dir(&note).expect("made");
    assert!(matches!(upload.let_go().await, Err(CacheError::Io { action: "remove a file in", .. })));
    eventually("the archive to be taken back", async || !host.has("a").await).await;
}

#[tokio::test]
async fn what_was_refused_for_certain_leaves_no_note_and_what_may_be_there_does() {
    let host = Host::new();
    let mut upload = host.sent("a").await;
    assert!(matches!(refused(&mut upload, refusal(503, "SlowDown")).await, CacheError::Bucket(_)));
    assert_eq!(host.notes().len(), 1);
    refused(&mut upload, refusal(403, "AccessDenied")).await;
    assert!(host.notes().is_empty());
    drop(upload);
    tokio::task::yield_now().await;
    assert!(host.has("a").await, "nothing is deleted where nothing was put");
}

#[tokio::test]
async fn an_upload_in_parts_is_aborted_though_its_name_comes_when_nobody_waits_any_more() {
    let host = Host::new();
    let object = Object::from("a");
    let mut upload = host.notes.begin(&host.store, object.to_string(), NARINFO).await.expect("noted");
    let (begun, beginning) = oneshot::channel::<String>();
    let pushing =
        tokio::spawn(
            async move { upload.begin_parts(async move { Ok(beginning.await.expect("a name")) }).await.map(drop) },
        );
    tokio::task::yield_now().await;
    pushing.abort();
    assert!(pushing.await.is_err_and(|end| end.is_cancelled()));
    let id = host.store.multiparts.create_multipart(&object).await.expect("begun");
    begun.send(id.clone()).expect("still wanted");
    eventually("the note to go", async || host.notes().is_empty()).await;
    let part = host.store.multiparts.put_part(&object, &id, 0, PutPayload::from_static(b"x")).await;
    assert!(part.is_err(), "it was aborted");
}

#[tokio::test]
async fn the_name_of_an_upload_in_parts_is_in_the_note() {
    let host = Host::new();
    let mut upload = host.sent("a").await;
    let id = host.store.multiparts.create_multipart(&Object::from("a")).await.expect("begun");
    let named = id.clone();
    assert_eq!(upload.begin_parts(async move { Ok(named) }).await.expect("begun"), id);
    let note = fs::read_to_string(&host.notes()[0]).expect("a note");
    assert_eq!(note.lines().collect::<Vec<_>>(), ["memory://b", "a", NARINFO, &id]);
    upload.take_back().await;
    assert!(host.notes().is_empty() && !host.has("a").await);
}

#[tokio::test]
async fn what_an_earlier_run_left_is_tidied_up_and_what_is_not_of_this_bucket_stays() {
    let host = Host::new();
    let left = |name: &str, text: &str| fs::write(host.dir.path().join("notes").join(name), text).expect("written");
    left("1.0", &format!("memory://b\na\n{NARINFO}\n"));
    left("1.1", &format!("memory://other\nb\n{NARINFO}\n"));
    left("1.2", "memory");
    let own = host.sent("c").await;
    for name in ["a", "b"] {
        host.store.objects.put(&Object::from(name), PutPayload::from_static(b"x")).await.expect("put");
    }
    host.notes.clone().tidy_up(host.store.clone()).await;
    assert!(!host.has("a").await && host.has("b").await && host.has("c").await);
    assert_eq!(host.notes().len(), 2, "that of the other bucket and that of this run");
    own.let_go().await.expect("let go");
}

/// A state directory that came back from a backup has notes of uploads that went well since.
#[tokio::test]
async fn an_archive_that_is_shown_by_now_stays_and_so_does_one_of_which_an_old_note_tells() {
    let host = Host::new();
    let archives = ["nar/shown.nar", "nar/anothers.nar", "nar/nobodys.nar", "nar/old.nar"];
    let narinfos =
        [NARINFO, NARINFO, "1123456789abcdfghijklmnpqrsvwxyz.narinfo", "1123456789abcdfghijklmnpqrsvwxyz.narinfo"];
    let text = format!("StorePath: /nix/store/0123456789abcdfghijklmnpqrsvwxyz-a\nURL: {}\n", archives[0]);
    host.store.put(NARINFO, text, "text/x-nix-narinfo").await.expect("put");
    for ((number, archive), narinfo) in archives.iter().enumerate().zip(narinfos) {
        host.store.put(archive, "x", "application/x-nix-nar").await.expect("put");
        let (note, object) = (host.dir.path().join(format!("notes/1.{number}")), host.store.object(archive));
        fs::write(&note, format!("memory://b\n{object}\n{narinfo}\n")).expect("written");
    }
    let old = fs::File::options().write(true).open(host.dir.path().join("notes/1.3")).expect("opened");
    old.set_modified(SystemTime::now() - Duration::from_secs(25 * 60 * 60)).expect("made old");
    host.notes.clone().tidy_up(host.store.clone()).await;
    let mut there = Vec::new();
    for archive in archives {
        there.push(host.has(archive).await);
    }
    assert_eq!(there, [true, false, false, true]);
    assert!(host.notes().is_empty());
}

#[tokio::test]
async fn an_empty_page_with_another_behind_it_says_nothing_of_what_a_prune_is_about() {
    let store = Store::in_memory();
    store.put("nar/a.nar", "x", "application/x-nix-nar").await.expect("put");
    let (file_hash, compression) = (NarHash([7; 32]), Compression::None);
    let nar = StoredNar { url: "nar/a.nar".to_owned(), compression, file_hash, file_size: 1, nar_size: 1 };
    assert!(store.keeps(&nar).await.expect("asked"));
    let pages = Arc::new(super::pages::tests::Endless::default());
    assert!(!Store { pages, ..store }.keeps(&nar).await.expect("asked"));
}
