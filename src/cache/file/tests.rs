use std::fs::File;
use std::io::Write;
use std::time::Duration;

use super::write::GrowingFile;
use super::*;
use crate::cache::binary::RealisationFile;
use crate::cache::{CallOff, Compression, Contents, Layout, Pace, StoredNar};
use crate::disk::{Terms, Threshold, Thresholds, What};
use crate::limit::{Lane, Rate, Rates, Shaper, Slots};
use crate::nix::nar::registered;
use crate::nix::{NarHash, SecretKey, StoreDir, StoreFacts};

fn options(dir: &Path) -> FileOptions {
    FileOptions {
        dir: dir.to_owned(),
        binary: BinaryCache {
            store_dir: StoreDir::default(),
            layout: Layout::default(),
            key: SecretKey::generate("test-1").expect("randomness"),
            log_dir: PathBuf::new(),
            facts: StoreFacts::new(PathBuf::new(), PathBuf::new(), StoreDir::default()),
            pace: Pace::default(),
        },
        instance: "0123".to_owned(),
        place: Arc::new(Place::new(What::Cache("test".to_owned()), dir.to_owned(), Terms::default())),
        largest: None,
    }
}

#[tokio::test]
async fn what_is_asked_for_counts_as_used_where_that_decides_what_is_dropped() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = StorePath::from_base_name("00000000000000000000000000000000-a").expect("a path");
    let narinfo = dir.path().join(layout::narinfo_name(&path));
    let long_ago = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    fs::write(&narinfo, "any")
        .and_then(|()| File::options().write(true).open(&narinfo)?.set_modified(long_ago))
        .expect("old");
    let is_old = || fs::metadata(&narinfo).and_then(|narinfo| narinfo.modified()).expect("there") == long_ago;
    let unbounded = FileCache::open(options(dir.path())).expect("opened");
    assert!(unbounded.note_use(&path).await && is_old(), "its age is that of its upload");
    let bounded = FileCache::open(FileOptions { largest: Some(9), ..options(dir.path()) }).expect("opened");
    assert!(bounded.note_use(&path).await && !is_old());
    fs::remove_file(&narinfo).expect("removed");
    assert!(!bounded.note_use(&path).await, "it was dropped meanwhile");
}

#[tokio::test]
async fn opened_anew_it_leaves_running_uploads_alone_and_sweeps_what_a_crash_left() {
    let dir = tempfile::tempdir().expect("a folder");
    let first = FileCache::open(options(dir.path())).expect("opened");
    let (_under_way, _) = TempFile::create(first.new_temp(), dir.path().join("a")).expect("created");
    let temp_dir = dir.path().join(TEMP_DIR);
    for name in ["0123.deadbeef-1.0", "other.deadbeef-1.0"] {
        fs::write(temp_dir.join(name), "").expect("written");
    }
    let second = FileCache::open(options(dir.path())).expect("opened again");
    let (_its_own, _) = TempFile::create(second.new_temp(), dir.path().join("b")).expect("a name of its own");
    let names: Vec<_> = fs::read_dir(&temp_dir).expect("listed").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(!names.iter().any(|name| name == "0123.deadbeef-1.0"), "{names:?}");
}

/// A cache that was given one content.
struct Given(StoredNar);

impl Contents for Given {
    fn recall(&self, _: NarHash) -> BoxFuture<'_, Option<StoredNar>> {
        Box::pin(async { Some(self.0.clone()) })
    }

    fn remember(&self, _: NarHash, _: &StoredNar) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

#[tokio::test]
async fn an_archive_that_is_there_is_named_before_the_path_is_read_for_its_list() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut options = options(&dir.path().join("cache"));
    options.binary.layout.write_nar_listing = true;
    let cache = Arc::new(FileCache::open(options).expect("opened"));
    let file = dir.path().join("a");
    let (info, _) = registered(&file, 100_000);
    let stored = StoredNar {
        url: "nar/others.nar".to_owned(),
        compression: Compression::None,
        file_hash: info.nar_hash,
        file_size: 3,
        nar_size: info.nar_size,
    };
    fs::write(dir.path().join("cache/nar/others.nar"), "cut").expect("written");
    let slots = Slots::new(1);
    let nar = || NarStream::new(file.clone(), &info, Lane::Fresh, slots.clone(), CallOff::default());
    // Another upload has the only slot, for as long as it likes.
    let others = nar().start().await.expect("begun");
    let push = Push {
        info: info.clone(),
        nar: nar(),
        arrivals: Box::pin(async { Ok(()) }),
        go_ahead: Box::pin(async { Ok(()) }),
        contents: Arc::new(Given(stored)),
        anew: false,
    };
    let pushing = tokio::spawn(cache.push(push));
    let narinfo = dir.path().join("cache").join(layout::narinfo_name(&info.path));
    let began = std::time::Instant::now();
    while !narinfo.exists() {
        assert!(began.elapsed() < Duration::from_secs(60), "it waits for its turn");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(others);
    assert_eq!(pushing.await.expect("no panic").expect("taken").read, info.nar_size);
    assert!(dir.path().join("cache").join(layout::listing_name(&info.path)).exists());
}

#[tokio::test]
async fn what_a_crash_leaves_of_a_path_that_names_anothers_archive_leaves_that_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let cache = FileCache::open(options(dir.path())).expect("opened");
    let path = StorePath::from_base_name("0123456789abcdfghijklmnpqrsvwxyz-a").expect("a path");
    let info = PathInfo {
        id: Some(1),
        path,
        nar_hash: NarHash([7; 32]),
        nar_size: 3,
        registration_time: 0,
        deriver: None,
        ultimate: true,
        sigs: Vec::new(),
        ca: None,
        references: Some(Vec::new()),
    };
    let stored = StoredNar {
        url: "nar/others.nar".to_owned(),
        compression: Compression::None,
        file_hash: info.nar_hash,
        file_size: 3,
        nar_size: 3,
    };
    assert!(cache.write_beside(&info, &stored).expect("looked").is_none(), "it isn't there");
    let archive = dir.path().join(&stored.url);
    fs::write(&archive, "cut").expect("written");
    let left = cache.write_beside(&info, &stored).expect("written").expect("it is there");
    // As an earlier run would have left it.
    let written = fs::read_dir(dir.path().join(TEMP_DIR)).expect("listed").flatten().next().expect("a file").path();
    let name = written.file_name().expect("a name").to_string_lossy().into_owned();
    let (_, number) = name.split_once('.').and_then(|(_, rest)| rest.split_once('.')).expect("a number");
    fs::rename(&written, dir.path().join(TEMP_DIR).join(format!("0123.beef-1.{number}"))).expect("renamed");
    drop((left, cache));
    FileCache::open(options(dir.path())).expect("opened again");
    assert_eq!(fs::read_dir(dir.path().join(TEMP_DIR)).expect("listed").count(), 0, "it is swept");
    assert!(archive.exists(), "another path has it");
}

#[tokio::test]
async fn who_drops_a_push_that_waits_for_its_turn_ends_its_thread() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("a");
    let shaper = Shaper::default();
    // As in a pause: the next turn would come in a quarter of an hour.
    shaper.set(&Rates { line: Rate::new(1), ..Rates::default() });
    let (push, dropped) = oneshot::channel();
    let way_out = WayOut { tap: shaper.tap("team", Lane::Fresh, true), dropped };
    let file = File::create(&path).expect("created");
    let room = options(dir.path()).place.set_aside(4096).expect("room");
    let mut out = GrowingFile { file, written: 0, on_its_way: 0, way_out, room, largest: None };
    let writing = spawn_blocking(move || out.write_all(&[0; 4096]));
    while fs::metadata(&path).expect("there").len() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(push);
    let ended = tokio::time::timeout(Duration::from_secs(60), writing).await;
    let failed = ended.expect("it waits for its turn").expect("no panic").expect_err("nobody wants it");
    assert_eq!(failed.to_string(), "its push was dropped");
}

#[tokio::test]
async fn logs_and_realisations_are_not_written_where_it_is_critical() {
    let dir = tempfile::tempdir().expect("a folder");
    let all = Threshold::Percent(100);
    let terms = Terms { thresholds: Thresholds { low: all, critical: all }, reserve: None };
    let place = Arc::new(Place::new(What::Cache("test".to_owned()), dir.path().to_owned(), terms));
    let mut options = options(dir.path());
    options.binary.log_dir = dir.path().join("logs");
    let derivation = StorePath::from_base_name("00000000000000000000000000000000-a.drv").expect("a path");
    fs::create_dir_all(options.binary.log_dir.join("drvs/00")).expect("a folder");
    fs::write(options.binary.log_dir.join("drvs/00/000000000000000000000000000000-a.drv"), "said").expect("written");
    let cache = FileCache::open(FileOptions { place, ..options }).expect("opened");
    let file = |name: &str| RealisationFile {
        folder: "realisations".to_owned(),
        name: format!("realisations/{name}"),
        json: "{}".to_owned(),
    };
    let refused = cache.put_log(&derivation).expect_err("critical");
    assert!(matches!(refused, CacheError::NoRoom(NoRoom::Short(_))), "{refused}");
    cache.put_log_if_it_can(&derivation).expect_err("critical");
    let refused = cache.put_realisations(vec![file("a")]).expect_err("critical");
    assert!(matches!(refused, CacheError::NoRoom(NoRoom::Short(_))), "{refused}");
    assert!(!dir.path().join("log").exists() && !dir.path().join("realisations").exists());
    fs::create_dir(dir.path().join("realisations")).expect("a folder");
    fs::write(dir.path().join("realisations/a"), "").expect("written");
    cache.put_realisations(vec![file("a")]).expect("what is there need not be written");
}

#[tokio::test]
async fn a_log_that_can_not_be_written_keeps_no_path_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut options = options(dir.path());
    options.binary.log_dir = dir.path().join("logs");
    let derivation = StorePath::from_base_name("00000000000000000000000000000000-a.drv").expect("a path");
    fs::create_dir_all(options.binary.log_dir.join("drvs/00")).expect("a folder");
    fs::write(options.binary.log_dir.join("drvs/00/000000000000000000000000000000-a.drv"), "said").expect("written");
    let cache = FileCache::open(options).expect("opened");
    // As where `log` belongs to another user.
    fs::write(dir.path().join(layout::LOG_DIR), "").expect("written");
    cache.put_log(&derivation).expect_err("no folder");
    cache.put_log_if_it_can(&derivation).expect("the path is shown without it");
}

#[tokio::test]
async fn a_cache_of_another_store_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(dir.path().join(layout::CACHE_INFO), "StoreDir: /gnu/store\n").expect("written");
    let refused = FileCache::open(options(dir.path())).err().expect("refused");
    assert!(matches!(refused, CacheError::OtherStore { .. }), "{refused}");
    fs::write(dir.path().join(layout::CACHE_INFO), "nonsense\n").expect("written");
    let refused = FileCache::open(options(dir.path())).err().expect("refused");
    assert!(matches!(refused, CacheError::Malformed { .. }), "{refused}");
}

#[test]
fn where_no_cache_can_be_made_is_told_before_the_first_upload() {
    let dir = tempfile::tempdir().expect("a folder");
    let tried = |dir: &Path| {
        let place = Place::new(What::Cache("test".to_owned()), dir.to_owned(), Terms::default());
        try_out(&place, &StoreDir::default())
    };
    assert_eq!(tried(&dir.path().join("a/b")).writes, Some(true));
    assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 0, "nothing is made, and nothing is left");
    let file = dir.path().join("file");
    fs::write(&file, "").expect("written");
    for below in [file.clone(), file.join("below")] {
        let trial = tried(&below);
        let hint = trial.troubles[0].hint();
        assert_eq!(trial.writes, Some(false));
        assert!(hint.is_some_and(|hint| hint.contains("a file is where a folder should be")), "{:?}", trial.troubles);
    }
    if cfg!(target_os = "linux") {
        assert_eq!(tried(Path::new("/proc/cache")).writes, Some(false));
    }
}
