use super::*;

/// The folder of the state directory of that name.
fn open(dir: &Path, name: &str) -> PinFolder {
    let state_dir = dir.join(name);
    fs::create_dir_all(&state_dir).expect("a state directory");
    PinFolder::open(dir, &state_dir, StoreDir::default()).expect("opened")
}

/// Pins just these paths. Returns the links that are new.
fn pin(folder: &mut PinFolder, wanted: &[StorePath]) -> Vec<PathBuf> {
    folder.pin_just(wanted).expect("pinned");
    let new = folder.unknown();
    new.iter().for_each(|pin| folder.note_known(&pin.path));
    new.into_iter().map(|pin| pin.link).collect()
}

fn pinned(folder: &PinFolder) -> Vec<StorePath> {
    folder.links.keys().cloned().collect()
}

#[test]
fn pins_outlive_the_process_and_numbers_are_used_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut folder = open(dir.path(), "a");
    assert!(pin(&mut folder, &[]).is_empty());
    assert!(!dir.path().join(PINS).exists(), "made before it is needed");
    let new = pin(&mut folder, &[StorePath::nth(1), StorePath::nth(2)]);
    assert_eq!(fs::read_link(&new[0]).expect("a link"), Path::new(&StoreDir::default().full(&StorePath::nth(1))));
    assert!(pin(&mut folder, &[StorePath::nth(2)]).is_empty());

    let mut again = open(dir.path(), "a");
    assert_eq!(pinned(&again), [StorePath::nth(2)]);
    assert_eq!(
        pin(&mut again, &[StorePath::nth(2), StorePath::nth(4)]),
        [new[1].clone(), new[0].clone()],
        "the number is free"
    );
    let third = pin(&mut again, &[StorePath::nth(2), StorePath::nth(4), StorePath::nth(5)]);
    assert_eq!(third, [new[0].with_file_name("2")]);
    assert!(new[1].is_symlink());
}

#[test]
fn a_state_directory_has_its_pins_by_its_place_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    pin(&mut open(dir.path(), "a"), &[StorePath::nth(1)]);
    fs::remove_dir(dir.path().join("a")).expect("gone");
    assert_eq!(pinned(&open(dir.path(), "a")), [StorePath::nth(1)]);
    symlink("a", dir.path().join("link")).expect("a link");
    assert_eq!(pinned(&open(dir.path(), "link")), [StorePath::nth(1)]);
    assert!(pinned(&open(dir.path(), "b")).is_empty());
}

#[test]
fn what_nix_was_never_told_of_is_released_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a folder");
    pin(&mut open(dir.path(), "a"), &[StorePath::nth(1)]);
    let mut folder = open(dir.path(), "a");
    folder.pin_just(&[StorePath::nth(1), StorePath::nth(2), StorePath::nth(3)]).expect("pinned");
    folder.note_known(&StorePath::nth(2));
    folder.release_unknown().expect("released");
    assert_eq!(pinned(&folder), [StorePath::nth(1), StorePath::nth(2)]);
    assert_eq!(pinned(&open(dir.path(), "a")), [StorePath::nth(1), StorePath::nth(2)]);
    let unknown: Vec<_> = folder.unknown().into_iter().map(|pin| pin.path).collect();
    assert_eq!(unknown, [StorePath::nth(1)], "it is told of what it may not know");
}

#[test]
fn what_is_no_pin_is_removed_or_passed_over() {
    let dir = tempfile::tempdir().expect("a folder");
    let link = pin(&mut open(dir.path(), "a"), &[StorePath::nth(1)]).remove(0);
    let another = StoreDir::default().full(&StorePath::nth(1));
    for (name, target) in [("7", "/elsewhere"), ("name", "/elsewhere"), ("8", &another), ("+9", &another)] {
        symlink(target, link.with_file_name(name)).expect("a link");
    }
    for folder in ["1", "other"] {
        fs::create_dir(link.with_file_name(folder)).expect("a folder");
    }
    let mut folder = open(dir.path(), "a");
    assert_eq!(pinned(&folder), [StorePath::nth(1)]);
    assert_eq!(entries(&folder.folder).expect("listed").len(), 3);
    // Made since by somebody else.
    for name in ["0", "2"] {
        let _ = symlink("/elsewhere", link.with_file_name(name));
    }
    pin(&mut folder, &[StorePath::nth(1), StorePath::nth(2)]);
    assert_eq!(pinned(&open(dir.path(), "a")), [StorePath::nth(1), StorePath::nth(2)]);

    fs::remove_dir_all(&folder.folder).expect("removed");
    fs::write(&folder.folder, "").expect("a file");
    assert!(pinned(&open(dir.path(), "a")).is_empty());
}

#[test]
fn all_are_released_whoever_pinned_them_and_as_far_as_can_be() {
    let dir = tempfile::tempdir().expect("a folder");
    assert_eq!(release_all(dir.path()).pins, 0);
    let left = pin(&mut open(dir.path(), "a"), &[StorePath::nth(1), StorePath::nth(2)])[0].with_file_name("0-folder");
    pin(&mut open(dir.path(), "b"), &[StorePath::nth(1)]);
    fs::create_dir(&left).expect("a folder");
    fs::write(dir.path().join("pins/file"), "").expect("a file");
    let elsewhere = dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).expect("a folder");
    fs::write(elsewhere.join("file"), "").expect("a file");
    symlink(&elsewhere, dir.path().join("pins/link")).expect("a link");
    let released = release_all(dir.path());
    assert_eq!(released.pins, 3);
    let told: Vec<_> = released.left.iter().map(|(there, _)| there).collect();
    assert_eq!(told, [&left]);
    assert!(elsewhere.join("file").exists(), "a link isn't followed");
    fs::remove_dir(&left).expect("removed");
    assert!(release_all(dir.path()).left.is_empty());
    assert!(!dir.path().join(PINS).exists());
}
