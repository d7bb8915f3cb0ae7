//! Indirect roots: Nix keeps what a link elsewhere leads to, once it knows of the link by one of its own in `gcroots/auto`.
//! When the link elsewhere is gone, the next collection removes Nix's own.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::nix32;

/// Makes a link known to Nix, as its own commands do where there is no daemon; for who may write to `gcroots`. The others ask
/// the daemon ([`Daemon::add_indirect_root`](super::Daemon::add_indirect_root)). `state` is Nix's state directory, and `link`
/// absolute.
///
/// # Errors
/// What the system says.
pub fn add_indirect_root(state: &Path, link: &Path) -> io::Result<()> {
    let digits = nix32(&Sha256::digest(link.as_os_str().as_bytes()));
    // Nix reads whatever stands here. Its own names are shorter hashes of the same path.
    let registered = state.join("gcroots/auto").join(format!("storewatch-{}", &digits[..32]));
    match symlink(link, &registered) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && leads_to(&registered, link) => Ok(()),
        made => made,
    }
}

fn leads_to(registered: &Path, link: &Path) -> bool {
    fs::read_link(registered).is_ok_and(|target| target == link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_made_known_once() {
        let state = tempfile::tempdir().expect("a folder");
        let known = || {
            let listed = fs::read_dir(state.path().join("gcroots/auto")).expect("listed").flatten();
            let mut targets: Vec<_> = listed.map(|link| fs::read_link(link.path()).expect("a link")).collect();
            targets.sort();
            targets
        };
        assert!(add_indirect_root(state.path(), Path::new("/run/pins/1")).is_err(), "there is no such folder");
        fs::create_dir_all(state.path().join("gcroots/auto")).expect("a folder");
        for link in ["/run/pins/1", "/run/pins/1", "/run/pins/2"] {
            add_indirect_root(state.path(), Path::new(link)).expect("known");
        }
        assert_eq!(known(), [Path::new("/run/pins/1"), Path::new("/run/pins/2")]);
    }
}
