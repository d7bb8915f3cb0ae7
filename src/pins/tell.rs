//! Lets Nix know of the links that pin: by what stands in its own state directory, or by its daemon where that is another
//! user's. A link that can't be made known costs the others nothing.

use std::io::{self, ErrorKind};
use std::path::Path;

use super::folder::PinFolder;
use crate::nix::{Daemon, DaemonError, StoreDir, StorePath, add_indirect_root};

/// Why Nix doesn't know of a link.
#[derive(Debug, thiserror::Error)]
pub(super) enum TellError {
    /// By its state directory.
    #[error("make a pin known to Nix")]
    Register(#[source] io::Error),
    /// By its daemon.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
}

/// Of some links Nix could not be told.
#[derive(Debug, thiserror::Error)]
#[error("{links} of the pins could not be made known to Nix")]
pub(super) struct Untold {
    links: usize,
    /// Why not, of the first one.
    source: TellError,
}

/// Adds up what became of the links.
#[derive(Default)]
struct Told(Option<Untold>);

impl Told {
    fn note(&mut self, folder: &mut PinFolder, path: &StorePath, told: Result<(), TellError>) {
        match told {
            Ok(()) => folder.note_known(path),
            Err(error) => self.failed(1, error),
        }
    }

    fn failed(&mut self, links: usize, source: TellError) {
        self.0.get_or_insert(Untold { links: 0, source }).links += links;
    }

    fn end(self) -> Result<(), Untold> {
        self.0.map_or(Ok(()), Err)
    }
}

/// Tells Nix by its state directory of all links that it may not know of. `None` where that is another user's. Blocks.
pub(super) fn by_state_dir(folder: &mut PinFolder, nix_state: &Path) -> Option<Result<(), Untold>> {
    let mut told = Told::default();
    for pin in folder.unknown() {
        match add_indirect_root(nix_state, &pin.link) {
            Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
                return None;
            }
            added => told.note(folder, &pin.path, added.map_err(TellError::Register)),
        }
    }
    Some(told.end())
}

/// Tells the Nix daemon at `socket` of all links that it may not know of. May be dropped at any time.
pub(super) async fn by_daemon(folder: &mut PinFolder, socket: &Path, store_dir: &StoreDir) -> Result<(), Untold> {
    let mut told = Told::default();
    let pins = folder.unknown();
    if pins.is_empty() {
        return Ok(());
    }
    let mut daemon = match Daemon::connect(socket, store_dir).await {
        Ok(daemon) => daemon,
        Err(error) => {
            told.failed(pins.len(), error.into());
            return told.end();
        }
    };
    for (nth, pin) in pins.iter().enumerate() {
        match daemon.add_indirect_root(&pin.link).await {
            Err(error) if error.is_broken() => {
                told.failed(pins.len() - nth, error.into());
                break;
            }
            added => told.note(folder, &pin.path, added.map_err(TellError::Daemon)),
        }
    }
    told.end()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_link_that_cannot_be_made_known_costs_the_others_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let auto = dir.path().join("gcroots/auto");
        fs::create_dir_all(&auto).expect("a folder");
        let open = || PinFolder::open(dir.path(), dir.path(), StoreDir::default()).expect("opened");
        let mut folder = open();
        folder.pin_just(&[StorePath::nth(1), StorePath::nth(2), StorePath::nth(3)]).expect("pinned");
        assert!(by_state_dir(&mut folder, dir.path()).expect("its own").is_ok());
        let first = fs::read_dir(&auto).expect("listed").flatten().next().expect("one");
        // In the way, as if the disk refused it.
        fs::remove_file(first.path()).expect("removed");
        fs::create_dir(first.path()).expect("in the way");

        let mut again = open();
        let untold = by_state_dir(&mut again, dir.path()).expect("its own").expect_err("one is in the way");
        assert_eq!(untold.to_string(), "1 of the pins could not be made known to Nix");
        assert_eq!(again.unknown().len(), 1);
        again.pin_just(&[StorePath::nth(1), StorePath::nth(2), StorePath::nth(3), StorePath::nth(4)]).expect("pinned");
        assert!(by_state_dir(&mut again, dir.path()).expect("its own").is_err());
        assert_eq!(again.unknown().len(), 1, "the new one is known");
    }
}
