//! The encoder's bytes against those of `nix-store --dump`, by hash and size.

use crate::support::{Nix, ScratchStore, each_nix};
use sha2::{Digest, Sha256};
use std::convert::Infallible;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;
use storewatch::nix::NarHash;
use storewatch::nix::nar::{CHUNK, NarOptions, encode_hashed};

each_nix! {
    fn all_that_a_path_may_hold(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let root = store.root().join("tree");
        fs::create_dir_all(root.join("directory/empty")).unwrap();
        symlink("../../../etc/passwd", root.join("out")).unwrap();
        symlink("/etc", root.join("absolute")).unwrap();
        symlink("nothing here", root.join("dangling")).unwrap();
        symlink(".", root.join("directory/itself")).unwrap();
        for name in [&b"\xff\xfe"[..], b"\xc3\xa4", b"Z", b"a", b"-", b".hidden", b"a b\nc", b"a~nix~case~hack~1"] {
            fs::write(root.join(OsStr::from_bytes(name)), name).unwrap();
        }
        for mode in [0o444, 0o500, 0o555, 0o644, 0o655, 0o711, 0o4755] {
            let file = root.join(format!("mode-{mode:o}"));
            fs::write(&file, "x").unwrap();
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        }
        agrees(&store, &root);
        agrees(&store, &root.join("out"));
        agrees(&store, &root.join("directory/empty"));
        agrees(&store, &root.join("mode-555"));
    }

    fn sizes_around_padding_and_chunks(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let root = store.root().join("tree");
        fs::create_dir(&root).unwrap();
        let ends = (0..20).chain(CHUNK - 200..CHUNK - 80).step_by(3).chain([CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK]);
        for len in ends {
            let content: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
            fs::write(root.join(format!("{len}")), &content).unwrap();
        }
        agrees(&store, &root);
    }

    fn a_hundred_thousand_files_in_one_directory(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let root = store.root().join("tree");
        fs::create_dir(&root).unwrap();
        for n in 0..100_000 {
            File::create(root.join(format!("{n}"))).unwrap();
        }
        agrees(&store, &root);
    }

    fn deep_directories(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let root = store.root().join("tree");
        // As deep as Nix goes, which opens everything by its whole path.
        let mut at = root.clone();
        for _ in 0..500 {
            at.push("deep");
        }
        fs::create_dir_all(&at).unwrap();
        for directory in at.ancestors().take_while(|at| at.starts_with(&root)).step_by(20) {
            fs::write(directory.join("before"), "b").unwrap();
            fs::write(directory.join("eventually"), "e").unwrap();
        }
        agrees(&store, &root);
    }

    fn a_large_sparse_file(nix: Nix) {
        let store = ScratchStore::new(&nix);
        let root = store.root().join("sparse");
        let mebibytes = if std::env::var_os("CI").is_some() { 32 } else { 400 };
        File::create(&root).unwrap().set_len(mebibytes * 1024 * 1024 + 3).unwrap();
        agrees(&store, &root);
    }
}

#[track_caller]
fn agrees(store: &ScratchStore, path: &Path) {
    let ours = encode_hashed(path, &NarOptions { case_hack: false }, |_| Ok::<_, Infallible>(())).unwrap();
    assert_eq!(ours, dumped(store, path), "{}", path.display());
}

/// What Nix itself makes of it.
fn dumped(store: &ScratchStore, path: &Path) -> (NarHash, u64) {
    let mut dump = store
        .command("nix-store")
        .arg("--dump")
        .arg(path)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut output = dump.stdout.take().unwrap();
    let (mut hash, mut size, mut buffer) = (Sha256::new(), 0, vec![0; 64 * 1024]);
    loop {
        match output.read(&mut buffer).unwrap() {
            0 => break,
            len => {
                hash.update(&buffer[..len]);
                size += len as u64;
            }
        }
    }
    assert!(dump.wait().unwrap().success());
    (NarHash(hash.finalize().into()), size)
}
