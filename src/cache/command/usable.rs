//! Whether a program can be run, and whether nobody but root and this user could put another in its place: it is run with
//! this user's rights.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD};
use rustix::process::geteuid;

/// Others may write.
const OTHERS_WRITE: u32 = 0o002;

/// The group may write.
const GROUP_WRITES: u32 = 0o020;

/// In such a folder, each may only replace what is his own.
const STICKY: u32 = 0o1000;

/// Whose everything is.
const ROOT: u32 = 0;

/// Looks at a program, and at the folders in which it and what it links to lie.
///
/// # Errors
/// What is wrong with it.
pub(super) fn usable(program: &Path) -> Result<(), String> {
    let look = |path: &Path| fs::metadata(path).map_err(|error| error.to_string());
    let metadata = look(program)?;
    if !metadata.is_file() {
        return Err("it is no file".to_owned());
    }
    rustix::fs::accessat(CWD, program, Access::EXEC_OK, AtFlags::EACCESS)
        .map_err(|_| "it is not executable for the user that this runs as".to_owned())?;
    let own = geteuid().as_raw();
    if let Some(who) = Rights::of(&metadata).who_writes(own) {
        return Err(format!("{who} can write to it"));
    }
    let target = program.canonicalize().map_err(|error| error.to_string())?;
    for folder in [program, &target].into_iter().filter_map(|file| file.parent()) {
        if let Some(who) = Rights::of(&look(folder)?).who_replaces(own) {
            return Err(format!("{who} can put another file in its place, in {}", folder.display()));
        }
    }
    Ok(())
}

/// Who may do what to a file or a folder.
struct Rights {
    mode: u32,
    owner: u32,
    group: u32,
}

impl Rights {
    fn of(metadata: &fs::Metadata) -> Self {
        Self { mode: metadata.mode(), owner: metadata.uid(), group: metadata.gid() }
    }

    /// Who can write to it beside root and the user of that number.
    fn who_writes(&self, own: u32) -> Option<&'static str> {
        if self.mode & OTHERS_WRITE != 0 {
            Some("everybody on this host")
        } else if self.mode & GROUP_WRITES != 0 && self.group != ROOT {
            Some("its group")
        } else {
            (self.owner != ROOT && self.owner != own).then_some("another user, whose it is,")
        }
    }

    /// Who can replace what lies in that folder and is root's or that user's.
    fn who_replaces(&self, own: u32) -> Option<&'static str> {
        let mode = if self.mode & STICKY == 0 { self.mode } else { self.mode & !(OTHERS_WRITE | GROUP_WRITES) };
        Self { mode, ..*self }.who_writes(own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_known_who_could_change_a_program() {
        let (me, other, wheel, users) = (1000, 1001, 0, 100);
        let rights = |mode, owner, group| Rights { mode, owner, group };
        let (everybody, the_group, its_owner) =
            (Some("everybody on this host"), Some("its group"), Some("another user, whose it is,"));
        for (file, who) in [
            (rights(0o755, me, users), None),
            (rights(0o555, ROOT, users), None),
            (rights(0o775, ROOT, wheel), None),
            (rights(0o757, me, users), everybody),
            (rights(0o775, me, users), the_group),
            (rights(0o755, other, users), its_owner),
        ] {
            assert_eq!(file.who_writes(me), who);
        }
        for (folder, who) in [
            (rights(0o755, ROOT, wheel), None),
            (rights(0o1777, ROOT, wheel), None),
            (rights(0o1775, ROOT, users), None),
            (rights(0o777, ROOT, wheel), everybody),
            (rights(0o775, ROOT, users), the_group),
            (rights(0o755, other, users), its_owner),
        ] {
            assert_eq!(folder.who_replaces(me), who);
        }
    }
}
