//! Garbage collection roots, as the file system shows them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{StoreDir, StorePath};

/// Symlinks that a root may lead through before it reaches the store: Nix itself follows one for an indirect root, and
/// profiles add some. More is a loop.
const LONGEST_CHAIN: usize = 16;

/// The store paths that the links below `gcroots` and `profiles` of Nix's state directory lead to, without what running
/// programs hold. A path may come more than once; what can't be read is passed over, as Nix does.
///
/// # Errors
/// What the system says where `gcroots` itself can't be listed.
pub fn gc_roots(state: &Path, store_dir: &StoreDir, mut found: impl FnMut(StorePath)) -> io::Result<()> {
    let gcroots = state.join("gcroots");
    fs::read_dir(&gcroots)?;
    let mut folders = vec![gcroots, state.join("profiles")];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_symlink() {
                // `gcroots/profiles` leads to a folder that is walked anyway.
                if let Some(path) = follow(entry.path(), store_dir) {
                    found(path);
                }
            } else if let Some(path) = entry.file_name().to_str().and_then(|n| StorePath::from_base_name(n).ok()) {
                found(path);
            }
        }
    }
    Ok(())
}

/// Where a link leads to in the store, if it does.
fn follow(mut link: PathBuf, store_dir: &StoreDir) -> Option<StorePath> {
    for _ in 0..LONGEST_CHAIN {
        let target = fs::read_link(&link).ok()?;
        let target = link.parent()?.join(target);
        if let Ok(path) = store_dir.parse_below(&target) {
            return Some(path);
        }
        link = target;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn direct_indirect_and_profile_roots_are_found() {
        let dir = tempfile::tempdir().expect("a folder");
        let state = dir.path().join("var");
        let store_dir = StoreDir::new("/nix/store");
        let path = |n: u8| format!("{}-p{n}", char::from(b'0' + n).to_string().repeat(32));
        let full = |n: u8| format!("/nix/store/{}", path(n));
        for folder in ["gcroots/auto", "profiles/per-user/me"] {
            fs::create_dir_all(state.join(folder)).expect("a folder");
        }
        symlink(full(1), state.join("gcroots/direct")).expect("a link");
        symlink(full(2), dir.path().join("result")).expect("a link");
        symlink(dir.path().join("result"), state.join("gcroots/auto/x")).expect("a link");
        symlink("profile-1-link", state.join("profiles/profile")).expect("a link");
        symlink(format!("{}/bin/x", full(3)), state.join("profiles/profile-1-link")).expect("a link");
        fs::write(state.join("gcroots").join(path(4)), "").expect("a file");
        symlink("loop", state.join("gcroots/loop")).expect("a link");
        symlink("/nowhere", state.join("gcroots/dangling")).expect("a link");
        let mut roots = Vec::new();
        gc_roots(&state, &store_dir, |root| roots.push(root.base_name().to_owned())).expect("listed");
        roots.sort();
        roots.dedup();
        assert_eq!(roots, [path(1), path(2), path(3), path(4)]);
    }
}
