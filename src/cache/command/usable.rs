//! Whether a program can be run, and whether nobody but root and this user could put another in its place, by any folder or
//! link on the way to it: it is run with this user's rights.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

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

/// No way has more links, as on Linux: one that leads back into itself has.
const MOST_LINKS: usize = 40;

/// Looks at a program, and at every folder and link on the way to it.
///
/// # Errors
/// What is wrong with it.
pub(super) fn usable(program: &Path) -> Result<(), String> {
    let metadata = fs::metadata(program).map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is no file".to_owned());
    }
    rustix::fs::accessat(CWD, program, Access::EXEC_OK, AtFlags::EACCESS)
        .map_err(|_| "it is not executable for the user that this runs as".to_owned())?;
    let own = geteuid().as_raw();
    if let Some(who) = Rights::of(&metadata).who_writes(own) {
        return Err(format!("{who} can write to it"));
    }
    for place in on_the_way(program)? {
        let seen = look_at(&place)?;
        if seen.is_symlink() {
            // Elsewhere whoever may write to the folder is all that matters.
            let is_in_sticky =
                place.parent().map(look_at).transpose()?.is_some_and(|folder| folder.mode() & STICKY != 0);
            if let Some(who) = Rights::of(&seen).anothers(own).filter(|_| is_in_sticky) {
                return Err(format!("{who} can let the link {} lead elsewhere", place.display()));
            }
        } else if let Some(who) = Rights::of(&seen).who_replaces(own) {
            return Err(format!("{who} can put another file in its place, in {}", place.display()));
        }
    }
    Ok(())
}

fn look_at(place: &Path) -> Result<fs::Metadata, String> {
    fs::symlink_metadata(place).map_err(|error| format!("{}: {error}", place.display()))
}

/// The folders in which something is looked up on the way to a file, from the root on, and the links that are followed.
fn on_the_way(file: &Path) -> Result<Vec<PathBuf>, String> {
    let steps =
        |path: &Path| path.components().rev().map(|step| step.as_os_str().to_owned()).collect::<Vec<OsString>>();
    let (mut at, mut left, mut links) = (PathBuf::from("/"), steps(file), 0);
    let mut places = Vec::new();
    while let Some(step) = left.pop() {
        match step.as_encoded_bytes() {
            b"/" => {
                at = PathBuf::from("/");
                continue;
            }
            b".." => {
                at.pop();
                continue;
            }
            b"." => continue,
            _ => {}
        }
        places.push(at.clone());
        let next = at.join(step);
        if !look_at(&next)?.is_symlink() {
            at = next;
            continue;
        }
        links += 1;
        if links > MOST_LINKS {
            return Err("too many links lead to it".to_owned());
        }
        left.extend(steps(&fs::read_link(&next).map_err(|error| format!("{}: {error}", next.display()))?));
        places.push(next);
    }
    Ok(places)
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
            self.anothers(own)
        }
    }

    /// Whose it is, if that is neither root nor the user of that number.
    fn anothers(&self, own: u32) -> Option<&'static str> {
        (self.owner != ROOT && self.owner != own).then_some("another user, whose it is,")
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
