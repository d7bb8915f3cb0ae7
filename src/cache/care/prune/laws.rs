//! What holds of every cache in a directory after what was longest unread has been dropped from it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, FileTimes};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::prelude::*;

use crate::cache::care::inventory::{Mark, condemned_name, condemned_with, doomed_name};
use crate::cache::care::{
    Choice, Chunks, Clock, Condition, Entry, Listed, Owner, Pruned, Pruning, Shelf, Take, Text, Unfinished, prune,
    seconds, size,
};
use crate::cache::file::FileShelf;
use crate::cache::layout::PRUNED_DIR;
use crate::cache::{BoxFuture, CacheError};
use crate::nix::{HashPart, StoreDir};

const NOW: u32 = 1_000_000;
const GRACE: u32 = 600;

#[derive(Clone, Debug)]
struct Shown {
    /// Any may refer to any, also to what the cache never had.
    references: BTreeSet<usize>,
    size: usize,
    shown: u32,
    read: u32,
    is_under_way: bool,
}

fn cache() -> impl Strategy<Value = Vec<Shown>> {
    (1..10_usize).prop_flat_map(|count| {
        let age = || prop_oneof![1 => 0..GRACE, 4 => GRACE..100_000_u32];
        let references = proptest::collection::btree_set(0..count + 2, 0..3);
        let path = (references, 0..3_000_usize, age(), age(), proptest::bool::weighted(0.1));
        let path = path.prop_map(|(references, size, shown, read, is_under_way)| Shown {
            references,
            size,
            shown: NOW - shown,
            read: NOW - read,
            is_under_way,
        });
        proptest::collection::vec(path, count)
    })
}

fn base_name(place: usize) -> String {
    format!("{place:0>32}-p{place}")
}

fn hash(place: usize) -> HashPart {
    HashPart::of_base_name(&base_name(place)).expect("a hash part")
}

fn write(file: &Path, content: &[u8], shown: u32, read: u32) {
    fs::write(file, content).expect("written");
    let time = |seconds: u32| UNIX_EPOCH + Duration::from_secs(seconds.into());
    let times = FileTimes::new().set_modified(time(shown)).set_accessed(time(read));
    File::options().write(true).open(file).expect("opened").set_times(times).expect("times");
}

fn fill(dir: &Path, paths: &[Shown]) {
    fs::create_dir(dir.join("nar")).expect("a folder");
    fs::write(dir.join("nix-cache-info"), "StoreDir: /nix/store\n").expect("written");
    for (place, path) in paths.iter().enumerate() {
        let references: Vec<String> = path.references.iter().map(|place| base_name(*place)).collect();
        let text = format!(
            "StorePath: /nix/store/{}\nURL: nar/{place}.nar\nReferences: {}\n",
            base_name(place),
            references.join(" ")
        );
        write(&dir.join(format!("{}.narinfo", hash(place))), text.as_bytes(), path.shown, NOW);
        write(&dir.join(format!("nar/{place}.nar")), &vec![b'x'; path.size], path.shown, path.read);
    }
}

/// What is shown, each with its references.
fn shown(dir: &Path, count: usize) -> BTreeMap<usize, BTreeSet<usize>> {
    let references = |place: usize| {
        let text = fs::read_to_string(dir.join(format!("{}.narinfo", hash(place)))).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("References: ")).unwrap_or_default().to_owned();
        Some(line.split_whitespace().map(|name| name[..32].parse().expect("a number")).collect())
    };
    (0..count).filter_map(|place| Some((place, references(place)?))).collect()
}

fn pruning(needed: Vec<HashPart>, max_size: u64) -> Pruning {
    Pruning {
        choice: Choice::LongestUnread,
        needed,
        keep: None,
        max_size: Some(max_size),
        grace: GRACE,
        clock: Clock::Hosts(NOW),
        is_meant: true,
    }
}

/// Lets all go but what is needed, as far as `max_size` wants.
fn pruned(dir: &Path, needed: Vec<HashPart>, max_size: u64, owner: &impl Owner) -> Result<Pruned, CacheError> {
    let pruning = pruning(needed, max_size);
    prune_now(Arc::new(shelf(dir)), &pruning, owner)
}

fn shelf(dir: &Path) -> FileShelf {
    FileShelf::open(dir.to_owned(), &StoreDir::default()).expect("a cache")
}

fn prune_now(shelf: Arc<dyn Shelf>, pruning: &Pruning, owner: &impl Owner) -> Result<Pruned, CacheError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(prune(&shelf, pruning, owner))
}

/// A directory on a file system that has no room for another file.
struct Full(FileShelf);

impl Shelf for Full {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn list<'a>(&'a self, what: Listed, take: Take<'a>) -> BoxFuture<'a, Result<(), CacheError>> {
        self.0.list(what, take)
    }

    fn find<'a>(&'a self, file: &'a str) -> BoxFuture<'a, Result<Option<Entry>, CacheError>> {
        self.0.find(file)
    }

    fn read<'a>(&'a self, file: &'a str) -> BoxFuture<'a, Result<Option<Text>, CacheError>> {
        self.0.read(file)
    }

    fn stream<'a>(&'a self, file: &'a str) -> BoxFuture<'a, Result<Option<Chunks>, CacheError>> {
        self.0.stream(file)
    }

    fn put<'a>(&'a self, _: &'a str, _: Vec<u8>, _: Condition<'a>) -> BoxFuture<'a, Result<bool, CacheError>> {
        let source = io::ErrorKind::StorageFull.into();
        Box::pin(async { Err(CacheError::Io { action: "create a file in", path: "/c".into(), source }) })
    }

    fn rename<'a>(
        &'a self,
        from: &'a str,
        text: Text,
        to: &'a str,
        condition: Condition<'a>,
    ) -> BoxFuture<'a, Result<bool, CacheError>> {
        self.0.rename(from, text, to, condition)
    }

    fn remove<'a>(&'a self, file: &'a str) -> BoxFuture<'a, Result<(), CacheError>> {
        self.0.remove(file)
    }

    fn unfinished(&self) -> BoxFuture<'_, Result<Vec<Unfinished>, CacheError>> {
        self.0.unfinished()
    }

    fn abandon<'a>(&'a self, upload: &'a Unfinished) -> BoxFuture<'a, Result<(), CacheError>> {
        self.0.abandon(upload)
    }
}

/// What an owner says and has heard.
#[derive(Default)]
struct Heard {
    needs: Vec<HashPart>,
    is_called_off: bool,
    hidden: Mutex<Vec<HashPart>>,
}

impl Owner for Heard {
    fn begins(&self, _step: &str) {}

    fn needed(&self) -> BoxFuture<'_, Vec<HashPart>> {
        Box::pin(async { self.needs.clone() })
    }

    fn hidden<'a>(&'a self, paths: &'a [HashPart]) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.hidden.lock().expect("not poisoned").extend(paths) })
    }

    fn is_called_off(&self) -> bool {
        self.is_called_off
    }
}

/// A path that needs another one, both old.
fn two_old_paths() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let old = |references: &[usize]| {
        let references = references.iter().copied().collect();
        Shown { references, size: 10, shown: NOW - 2 * GRACE, read: NOW - 2 * GRACE, is_under_way: false }
    };
    fill(dir.path(), &[old(&[1]), old(&[])]);
    dir
}

#[test]
fn what_is_hidden_is_told_although_the_rest_fails() {
    let (dir, owner) = (two_old_paths(), Heard::default());
    // Nobody's, and due.
    let (nobodys, mark) = (dir.path().join("nar/9.nar"), dir.path().join(doomed_name("nar/9.nar")));
    fs::create_dir(dir.path().join(PRUNED_DIR)).expect("a folder");
    for file in [&nobodys, &mark] {
        write(file, b"", NOW - 2 * GRACE, NOW - 2 * GRACE);
    }
    // Nothing can be put where the second one is to be kept.
    fs::create_dir_all(dir.path().join(condemned_name(Mark::of("nar/1.nar"), hash(1)))).expect("a folder");
    pruned(dir.path(), Vec::new(), 0, &owner).expect_err("half way");
    assert_eq!(*owner.hidden.lock().expect("not poisoned"), [hash(0)]);
    assert_eq!(shown(dir.path(), 2).into_keys().collect::<Vec<_>>(), [1]);
    assert!(!nobodys.exists() && !mark.exists(), "it makes room, without which nothing can be hidden");
    assert!(dir.path().join("nar/0.nar").exists() && dir.path().join("nar/1.nar").exists());
}

#[test]
fn what_an_upload_needs_by_the_end_is_put_back() {
    let (dir, owner) = (two_old_paths(), Heard { needs: vec![hash(1)], ..Heard::default() });
    let pruned = pruned(dir.path(), Vec::new(), 0, &owner).expect("pruned");
    assert_eq!((pruned.hidden, pruned.spared), (vec![hash(0)], 1));
    assert_eq!(*owner.hidden.lock().expect("not poisoned"), [hash(0)]);
    assert_eq!(shown(dir.path(), 2).into_keys().collect::<Vec<_>>(), [1]);
}

/// A host may remember it, and show it again.
#[test]
fn an_archive_that_nothing_names_is_doomed_before_it_goes() {
    let (dir, owner) = (two_old_paths(), Heard { needs: vec![hash(0)], ..Heard::default() });
    let (nobodys, mark) = (dir.path().join("nar/9.nar"), dir.path().join(doomed_name("nar/9.nar")));
    write(&nobodys, b"x", NOW - 2 * GRACE, NOW - 2 * GRACE);
    let prune = || pruned(dir.path(), Vec::new(), 1_000_000, &owner).expect("pruned");
    let first = prune();
    assert_eq!((first.orphans, first.freed_later, nobodys.exists(), mark.exists()), (0, 1, true, true));
    write(&mark, b"", NOW - GRACE + 1, NOW);
    assert_eq!((prune().orphans, nobodys.exists(), mark.exists()), (0, true, true), "not before its time");
    write(&mark, b"", NOW - GRACE, NOW);
    assert_eq!((prune().orphans, nobodys.exists(), mark.exists()), (1, false, false));
    // One that is named again isn't doomed any more.
    let mark = dir.path().join(doomed_name("nar/1.nar"));
    write(&mark, b"", NOW - GRACE, NOW);
    prune();
    assert!(dir.path().join("nar/1.nar").exists() && !mark.exists());
}

/// Sets the time of each file in `pruned/` whose name ends so.
fn date(dir: &Path, end: &str, time: u32) {
    for file in fs::read_dir(dir.join(PRUNED_DIR)).expect("listed").flatten() {
        if file.file_name().to_string_lossy().ends_with(end) {
            let modified = UNIX_EPOCH + Duration::from_secs(time.into());
            File::options().write(true).open(file.path()).expect("opened").set_modified(modified).expect("dated");
        }
    }
}

fn how_many_pruned(dir: &Path) -> usize {
    fs::read_dir(dir.join(PRUNED_DIR)).expect("listed").count()
}

/// It may be others', whoever has written the narinfo.
#[test]
fn what_a_narinfo_names_outside_the_folder_of_archives_is_left_alone() {
    let dir = two_old_paths();
    let theirs = dir.path().join("backups/disk.img");
    fs::create_dir(dir.path().join("backups")).expect("a folder");
    write(&theirs, &[b'x'; 1_000], NOW - 2 * GRACE, NOW - 2 * GRACE);
    let narinfo = dir.path().join(format!("{}.narinfo", hash(0)));
    let text = fs::read_to_string(&narinfo).expect("there").replace("nar/0.nar", "backups/disk.img");
    write(&narinfo, text.as_bytes(), NOW - 2 * GRACE, NOW);
    fs::remove_file(dir.path().join("nar/0.nar")).expect("removed");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let bytes = runtime.block_on(size(&shelf(dir.path()))).expect("listed");
    assert!(bytes < 1_000, "{bytes} bytes are counted as the cache's");

    let prune = || pruned(dir.path(), Vec::new(), 0, &Heard::default()).expect("pruned");
    let first = prune();
    assert_eq!((first.paths, first.freed_later, first.elsewhere), (2, 10, vec!["backups/disk.img".to_owned()]));
    assert!(!dir.path().join(doomed_name("backups/disk.img")).exists(), "nothing is said of it either");
    date(dir.path(), "", NOW - GRACE);
    let second = prune();
    assert_eq!((second.archives, second.elsewhere.len()), (vec!["nar/1.nar".to_owned()], 1));
    assert!(theirs.exists());
    assert_eq!(how_many_pruned(dir.path()), 0, "nothing waits for what doesn't go");
    // As if an earlier release had doomed it.
    write(&dir.path().join(doomed_name("backups/disk.img")), b"", NOW - GRACE, NOW);
    assert!(prune().archives.is_empty() && theirs.exists());
}

/// A narinfo of another program's may name it by more than its name.
#[test]
fn what_may_be_the_archive_of_something_shown_is_nobodys_orphan() {
    let dir = two_old_paths();
    let (archive, mark) = (dir.path().join("nar/9.nar"), dir.path().join(doomed_name("nar/9.nar")));
    fs::create_dir(dir.path().join(PRUNED_DIR)).expect("a folder");
    let narinfo = dir.path().join(format!("{}.narinfo", hash(0)));
    for (url, stays) in [("nar/9.nar?hash=x", true), ("nar/%39.nar", true), ("nar/8.nar?hash=x", false)] {
        [&archive, &mark].into_iter().for_each(|file| write(file, b"", NOW - 2 * GRACE, NOW - 2 * GRACE));
        let text = format!("StorePath: /nix/store/{}\nURL: {url}\nReferences: \n", base_name(0));
        write(&narinfo, text.as_bytes(), NOW, NOW);
        pruned(dir.path(), Vec::new(), 1_000_000, &Heard::default()).expect("pruned");
        assert_eq!(archive.exists(), stays, "{url}");
    }
}

/// A clock that was a year ahead has given them their times.
#[test]
fn what_is_dated_far_ahead_keeps_no_cache_from_fitting() {
    let dir = two_old_paths();
    let here = seconds(SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970"));
    let ahead = here + 365 * 24 * 60 * 60;
    for place in 0..2 {
        for file in [format!("{}.narinfo", hash(place)), format!("nar/{place}.nar")] {
            let file = dir.path().join(file);
            write(&file, &fs::read(&file).expect("there"), ahead, ahead);
        }
    }
    let terms = |max_size| Pruning { clock: Clock::Hosts(here), ..pruning(Vec::new(), max_size) };
    let prune = |max_size| prune_now(Arc::new(shelf(dir.path())), &terms(max_size), &Heard::default()).expect("pruned");
    assert_eq!(prune(1_000_000).hidden, [], "there is room for it");
    assert_eq!(prune(0).hidden.len(), 2);
    // What was hidden by that clock is there for a grace period by the right one.
    date(dir.path(), "", ahead);
    let second = prune(0);
    assert_eq!((second.archives.len(), second.freed_later), (0, 20));
    date(dir.path(), "-archive", here - GRACE);
    let third = prune(0);
    assert_eq!((third.archives.len(), how_many_pruned(dir.path())), (2, 0));
}

#[test]
fn what_is_uploaded_anew_leaves_what_was_pruned_its_time() {
    let dir = two_old_paths();
    let kept = dir.path().join(condemned_name(Mark::of("nar/2.nar"), hash(1)));
    fs::create_dir(dir.path().join(PRUNED_DIR)).expect("a folder");
    write(&kept, b"StorePath: /nix/store/x\nURL: nar/2.nar\nReferences: \n", NOW, NOW);
    let shelf = FileShelf::open(dir.path().to_owned(), &StoreDir::default()).expect("a cache");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let back = |hash| runtime.block_on(super::put_back(&shelf, hash, Mark::of("nar/2.nar"))).expect("asked");
    assert!(!back(hash(1)) && kept.exists());
    fs::remove_file(dir.path().join(format!("{}.narinfo", hash(1)))).expect("removed");
    assert!(back(hash(1)) && !kept.exists());
}

#[test]
fn on_a_full_disk_paths_are_hidden_and_their_archives_doomed_all_the_same() {
    let dir = two_old_paths();
    let full = Arc::new(Full(shelf(dir.path())));
    // As an earlier prune has made it.
    fs::create_dir(dir.path().join(PRUNED_DIR)).expect("a folder");
    let gone = prune_now(full, &pruning(Vec::new(), 0), &|_: &str| ()).expect("pruned");
    assert_eq!(gone.hidden.len(), 2);
    assert_eq!(shown(dir.path(), 2).len(), 0);
    for place in 0..2 {
        let archive = format!("nar/{place}.nar");
        let begin = condemned_with(&archive);
        let mut pruned = fs::read_dir(dir.path().join(PRUNED_DIR)).expect("listed").flatten();
        let dooms = pruned.any(|file| format!("{PRUNED_DIR}/{}", file.file_name().display()).starts_with(&begin));
        assert!(dooms && dir.path().join(archive).exists(), "nobody may show it again, for a grace period");
    }
}

#[test]
fn nothing_goes_once_it_is_called_off() {
    let (dir, owner) = (two_old_paths(), Heard { is_called_off: true, ..Heard::default() });
    assert_eq!(pruned(dir.path(), Vec::new(), 0, &owner).expect("ended").hidden, []);
    assert_eq!(shown(dir.path(), 2).len(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn what_stays_has_the_references_that_it_had(paths in cache(), max_size in 0..20_000_u64) {
        let dir = tempfile::tempdir().expect("a folder");
        fill(dir.path(), &paths);
        let before = shown(dir.path(), paths.len());
        let under_way: Vec<usize> = (0..paths.len()).filter(|place| paths[*place].is_under_way).collect();
        let needed = under_way.iter().map(|place| hash(*place)).collect();
        let pruned = pruned(dir.path(), needed, max_size, &|_: &str| ()).expect("pruned");
        let after = shown(dir.path(), paths.len());

        let gone: BTreeSet<HashPart> = pruned.hidden.iter().copied().collect();
        for (place, references) in &before {
            prop_assert_eq!(after.contains_key(place), !gone.contains(&hash(*place)), "{} is told of", place);
            if after.contains_key(place) {
                let lost = references.iter().find(|reference| before.contains_key(reference) && !after.contains_key(reference));
                prop_assert_eq!(lost, None, "{} stays without it", place);
                let archive = dir.path().join(format!("nar/{place}.nar"));
                prop_assert!(archive.exists());
            }
            let age = NOW - paths[*place].shown.max(paths[*place].read);
            prop_assert!(after.contains_key(place) || age >= GRACE, "{} was used just now", place);
        }
        prop_assert!(under_way.iter().all(|place| after.contains_key(place)));
        // What goes was read no later than any top that stays and could have gone.
        let last_use = |place: &usize| paths[*place].shown.max(paths[*place].read);
        let is_needed = |place: &usize| after.iter().any(|(other, references)| other != place && references.contains(place));
        let tops = after.keys().filter(|place| !is_needed(place) && !paths[**place].is_under_way);
        let referred = |place: &usize| before.iter().any(|(other, references)| other != place && references.contains(place));
        if let Some(oldest) = tops.filter(|place| !referred(place)).map(last_use).min() {
            let lone = before.keys().filter(|place| !after.contains_key(place) && !referred(place));
            prop_assert!(lone.map(last_use).all(|used| used <= oldest));
        }
    }
}
