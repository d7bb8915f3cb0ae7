use std::cell::Cell;
use std::convert::Infallible;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};

use bytes::Bytes;
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::*;

mod tree;

use tree::{Node, decode, nodes};

const PLAIN: NarOptions = NarOptions { case_hack: false };
const HACKED: NarOptions = NarOptions { case_hack: true };

fn encode_in_chunks<E>(
    chunk: usize,
    root: &Path,
    options: &NarOptions,
    emit: impl FnMut(Bytes) -> Result<(), E>,
) -> Result<(), NarError<E>> {
    encode::encode_in_chunks(chunk, root, options, &Cell::new(0), emit)
}

fn scratch() -> TempDir {
    tempfile::tempdir().expect("a scratch directory")
}

fn nar_in_chunks(chunk: usize, root: &Path, options: &NarOptions) -> Result<Vec<Bytes>, NarError<Infallible>> {
    let mut chunks = Vec::new();
    encode_in_chunks(chunk, root, options, |bytes| {
        chunks.push(bytes);
        Ok(())
    })?;
    Ok(chunks)
}

fn nar(root: &Path) -> Vec<u8> {
    nar_in_chunks(CHUNK, root, &PLAIN).expect("a NAR").concat()
}

/// A file's NAR, written down by hand: the words one by one.
#[test]
fn golden_file() {
    let dir = scratch();
    let file = dir.path().join("file");
    fs::write(&file, "hello").expect("written");
    let expected: &[u8] = b"\x0d\0\0\0\0\0\0\0nix-archive-1\0\0\0\
        \x01\0\0\0\0\0\0\0(\0\0\0\0\0\0\0\
        \x04\0\0\0\0\0\0\0type\0\0\0\0\
        \x07\0\0\0\0\0\0\0regular\0\
        \x08\0\0\0\0\0\0\0contents\
        \x05\0\0\0\0\0\0\0hello\0\0\0\
        \x01\0\0\0\0\0\0\0)\0\0\0\0\0\0\0";
    assert_eq!(nar(&file), expected);
}

/// Hashes that `nix-store --dump PATH | sha256sum` gave for the same trees (Nix 2.8.0 and 2.26.3).
#[test]
fn golden_hashes() {
    let dir = scratch();
    let at = |name: &str| dir.path().join(name);
    let hash = |name: &str| {
        let hash: String = Sha256::digest(nar(&at(name))).iter().map(|byte| format!("{byte:02x}")).collect();
        hash
    };

    fs::create_dir(at("empty")).expect("made");
    assert_eq!(hash("empty"), GOLDEN_EMPTY_DIRECTORY);

    fs::write(at("script"), "#!/bin/sh\n").expect("written");
    fs::set_permissions(at("script"), fs::Permissions::from_mode(0o555)).expect("made executable");
    assert_eq!(hash("script"), GOLDEN_EXECUTABLE);

    symlink("/nowhere/at all", at("link")).expect("linked");
    assert_eq!(hash("link"), GOLDEN_SYMLINK);

    fs::create_dir_all(at("tree/b/empty")).expect("made");
    fs::write(at("tree/b/nothing"), "").expect("written");
    fs::write(at("tree/B"), "12345678").expect("written");
    fs::write(at("tree").join(OsStr::from_bytes(b"\xff\xfe")), "123456789").expect("written");
    symlink("../..", at("tree/a")).expect("linked");
    assert_eq!(hash("tree"), GOLDEN_TREE);
}

const GOLDEN_EMPTY_DIRECTORY: &str = "a50a5ab6d992f5598edd92105059fae9acfc192981e08bd88534c2167e92526a";
const GOLDEN_EXECUTABLE: &str = "6283c1668260f903d1a895c0cd6b822fa4b68762bb0b17cedef2d39d97e26554";
const GOLDEN_SYMLINK: &str = "708da092a4b050977840d7003cf697903f78340b90b384c25ab6f0dfc60731bd";
const GOLDEN_TREE: &str = "0481c17f60c468021897d5bce8a27deef503da6d96087fb740af43bdf0c5d5b5";

#[test]
fn chunks_are_full_but_for_the_last() {
    let dir = scratch();
    for len in (0..200).chain([1000, 4096]) {
        fs::write(dir.path().join(format!("{len}")), vec![b'x'; len]).expect("written");
    }
    let whole = nar(dir.path());
    for chunk in [1, 7, 8, 64, 1000, 4096, whole.len(), whole.len() + 1] {
        let chunks = nar_in_chunks(chunk, dir.path(), &PLAIN).expect("a NAR");
        assert!(chunks.concat() == whole, "chunk length {chunk}");
        let (last, full) = chunks.split_last().expect("at least one chunk");
        assert!(full.iter().all(|bytes| bytes.len() == chunk) && (1..=chunk).contains(&last.len()));
    }
}

#[test]
fn file_sizes_around_the_chunk_length() {
    let dir = scratch();
    let file = dir.path().join("file");
    let header = 24 + 64 + 8;
    for len in (CHUNK - header - 9..CHUNK - header + 9).chain(CHUNK - 1..=CHUNK + 1).chain([2 * CHUNK - header]) {
        let content: Vec<u8> = (0..len).map(|n| n as u8).collect();
        fs::write(&file, &content).expect("written");
        assert!(decode(&nar(&file)) == Node::File { executable: false, content }, "{len} bytes");
    }
}

#[test]
fn a_chunk_let_go_of_is_filled_again() {
    let dir = scratch();
    let file = dir.path().join("file");
    fs::write(&file, vec![1; 20 * CHUNK]).expect("written");
    let mut places = std::collections::HashSet::new();
    encode(&file, &PLAIN, |bytes| {
        places.insert(bytes.as_ptr());
        Ok::<_, Infallible>(())
    })
    .expect("a NAR");
    assert_eq!(places.len(), 1);
}

#[test]
fn the_hash_is_that_of_the_bytes() {
    let dir = scratch();
    let check = || {
        let mut bytes = Vec::new();
        let (hash, size) = encode_hashed(dir.path(), &PLAIN, |chunk| {
            bytes.extend_from_slice(&chunk);
            Ok::<_, Infallible>(())
        })
        .expect("a NAR");
        assert_eq!(size, bytes.len() as u64);
        assert_eq!(hash.0, <[u8; 32]>::from(Sha256::digest(&bytes)));
    };
    for len in [0, 1, CHUNK - 96, CHUNK, 3 * CHUNK + 5] {
        fs::write(dir.path().join("file"), vec![b'y'; len]).expect("written");
        check();
    }
    // Behind the large file many small ones, for which hashing goes to a second thread.
    for n in 0..500 {
        fs::write(dir.path().join(format!("small-{n}")), vec![b'z'; 3000]).expect("written");
        if n % 100 == 0 {
            check();
        }
    }
    check();
}

#[test]
fn a_sink_that_refuses_ends_it_also_with_a_second_thread() {
    let dir = scratch();
    for n in 0..500 {
        fs::write(dir.path().join(format!("small-{n}")), vec![b'z'; 3000]).expect("written");
    }
    let mut seen = 0;
    let error = encode_hashed(dir.path(), &PLAIN, |_| {
        seen += 1;
        if seen == 3 { Err("enough") } else { Ok(()) }
    })
    .expect_err("refused");
    assert!(matches!(error, NarError::Sink("enough")) && seen == 3);
}

#[test]
fn deeper_than_stack_and_descriptors() {
    const DEPTH: usize = 3000;
    let dir = scratch();
    let root = dir.path().join("deep");
    // Longer than any path may be, so it is made one level at a time, and taken away so.
    let mut fd = rustix::fs::open(dir.path(), rustix::fs::OFlags::RDONLY, 0.into()).expect("opened");
    let name = |level: usize| if level == 0 { "deep" } else { "d" };
    for level in 0..DEPTH {
        rustix::fs::mkdirat(&fd, name(level), 0o755.into()).expect("made");
        if level % 1000 == 0 {
            // Entries before and after the way down, so that each level goes on once it is back.
            rustix::fs::symlinkat("x", &fd, "a").expect("linked");
            rustix::fs::symlinkat("x", &fd, "z").expect("linked");
        }
        fd = rustix::fs::openat(&fd, name(level), rustix::fs::OFlags::RDONLY, 0.into()).expect("opened");
    }
    let bytes = nar(&root);
    for level in (0..DEPTH).rev() {
        fd = rustix::fs::openat(&fd, "..", rustix::fs::OFlags::RDONLY, 0.into()).expect("opened");
        rustix::fs::unlinkat(&fd, name(level), rustix::fs::AtFlags::REMOVEDIR).expect("removed");
        if level % 1000 == 0 {
            rustix::fs::unlinkat(&fd, "a", rustix::fs::AtFlags::empty()).expect("removed");
            rustix::fs::unlinkat(&fd, "z", rustix::fs::AtFlags::empty()).expect("removed");
        }
    }
    let (directory, entry, link) = (56 + 16, 48 + 16 + 16 + 16, 64 + 16 + 16);
    // The two symlinks beside the root are outside of it.
    let links = 2 * (DEPTH.div_ceil(1000) - 1);
    assert_eq!(bytes.len(), 24 + DEPTH * directory + (DEPTH - 1 + links) * entry + links * link);
}

#[test]
fn what_no_nar_can_hold_is_named() {
    let dir = scratch();
    fs::create_dir(dir.path().join("sub")).expect("made");
    let socket = dir.path().join("sub/socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("made");
    let error = nar_in_chunks(CHUNK, dir.path(), &PLAIN).expect_err("refused");
    assert!(matches!(&error, NarError::Unsupported { path, kind: "socket" } if *path == socket), "{error}");
    assert_eq!(
        error.to_string(),
        format!("`{}` is a socket, and a NAR holds only files, directories and symlinks", socket.display())
    );
}

#[test]
fn a_root_that_is_gone_is_told_from_a_fault() {
    let dir = scratch();
    let root = dir.path().join("root");
    let error = nar_in_chunks(CHUNK, &root, &PLAIN).expect_err("nothing there");
    assert!(error.is_root_gone(&root), "{error}");
    assert_eq!(error.to_string(), format!("look at `{}`", root.display()));

    // Removed while it is read: the directory is known, the files are gone.
    fs::create_dir(&root).expect("made");
    for name in ["a", "b"] {
        fs::write(root.join(name), vec![0; 1000]).expect("written");
    }
    let error = encode_in_chunks(500, &root, &PLAIN, |_| {
        let _ = fs::remove_dir_all(&root);
        Ok::<_, Infallible>(())
    })
    .expect_err("gone");
    assert!(error.is_root_gone(&root), "{error}");

    let error = encode(&root, &PLAIN, |_| Err("full")).expect_err("nothing there");
    assert!(error.is_root_gone(&root));
    fs::create_dir(&root).expect("made");
    let error = encode(&root, &PLAIN, |_| Err("full")).expect_err("the sink refuses");
    assert!(matches!(error, NarError::Sink("full")) && !error.is_root_gone(&root));
}

#[test]
fn a_file_that_grows_or_shrinks_is_noticed() {
    let dir = scratch();
    let file = dir.path().join("file");
    for (before, after) in [(1000, 999), (1000, 1001), (1000, 0), (0, 1), (5000, 4096), (5000, 9000)] {
        fs::write(&file, vec![0; before]).expect("written");
        let mut first = true;
        // Changed once the first bytes are out, which is before the length is compared.
        let outcome = encode_in_chunks(8, dir.path(), &PLAIN, |chunk| {
            if first && chunk.starts_with(b"contents") {
                first = false;
                fs::OpenOptions::new()
                    .write(true)
                    .open(&file)
                    .and_then(|file| file.set_len(after))
                    .expect("another length");
            }
            Ok::<_, Infallible>(())
        });
        assert!(
            matches!(&outcome, Err(NarError::Changed { path }) if *path == file),
            "{before} to {after}: {outcome:?}"
        );
    }
}

#[test]
fn a_symlink_put_in_a_directorys_place_is_not_followed() {
    let dir = scratch();
    let root = dir.path().join("root");
    let sub = root.join("sub");
    for elsewhere in ["directory", "file"] {
        fs::create_dir_all(&sub).expect("made");
        fs::create_dir_all(dir.path().join("directory")).expect("made");
        fs::write(dir.path().join("file"), "secret").expect("written");
        // Between the listing of the root and the opening of the directory.
        let outcome = encode_in_chunks(8, &root, &PLAIN, |chunk| {
            if chunk.starts_with(b"name") && fs::remove_dir(&sub).is_ok() {
                symlink(dir.path().join(elsewhere), &sub).expect("linked");
            }
            Ok::<_, Infallible>(())
        });
        assert!(matches!(&outcome, Err(NarError::Changed { path }) if *path == sub), "{outcome:?}");
        fs::remove_file(&sub).expect("removed");
    }
}

#[test]
fn the_case_hack_is_undone_where_asked() {
    let dir = scratch();
    for name in ["B", "a", "A~nix~case~hack~1", "c~nix~case~hack~"] {
        fs::write(dir.path().join(name), "").expect("written");
    }
    let names = |options| {
        let Node::Directory(entries) = decode(&nar_in_chunks(CHUNK, dir.path(), options).expect("a NAR").concat())
        else {
            panic!("a directory");
        };
        entries.into_iter().map(|(name, _)| String::from_utf8(name).expect("UTF-8")).collect::<Vec<_>>()
    };
    assert_eq!(names(&HACKED), ["A", "B", "a", "c"]);
    assert_eq!(names(&PLAIN), ["A~nix~case~hack~1", "B", "a", "c~nix~case~hack~"]);

    fs::write(dir.path().join("a~nix~case~hack~2"), "").expect("written");
    let error = nar_in_chunks(CHUNK, dir.path(), &HACKED).expect_err("a clash");
    assert!(matches!(&error, NarError::CaseClash { directory, name } if directory == dir.path() && name == "a"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_goes_in_comes_out(node in nodes(), chunk in 1..300usize) {
        let dir = scratch();
        let root = dir.path().join("root");
        node.write(&root);
        let bytes = nar_in_chunks(chunk, &root, &PLAIN).expect("a NAR").concat();
        prop_assert_eq!(decode(&bytes), node);
    }
}
