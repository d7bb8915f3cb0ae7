//! The copy of a policy file that is edited in its place.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::PolicyCommandError;
use super::edit::system;

/// The file that is edited; deleted in the end, unless it was kept or has taken the policy's place. So are the folders that
/// were made for it.
pub(super) struct Copy {
    pub(super) path: PathBuf,
    /// From the innermost on.
    made: Vec<PathBuf>,
}

impl Copy {
    /// In the same folder, so that it can take the file's place in one step. For its author's eyes alone until then.
    pub(super) fn beside(target: &Path, text: &str) -> Result<Self, PolicyCommandError> {
        let folder = target.parent().unwrap_or(Path::new("/"));
        let made: Vec<PathBuf> = folder.ancestors().take_while(|above| !above.exists()).map(Path::to_owned).collect();
        // From here on they are removed again, whatever happens.
        let mut copy = Self { path: PathBuf::new(), made };
        fs::create_dir_all(folder).map_err(|source| system("make the folder", folder, source))?;
        // Copies that were kept have taken the first names.
        let names = (1..).map(|number| folder.join(format!(".policy-{number}.toml")));
        for path in names {
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(mut file) => {
                    copy.path = path;
                    file.write_all(text.as_bytes()).map_err(|source| system("write", &copy.path, source))?;
                    return Ok(copy);
                }
                Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(system("write into", folder, source)),
            }
        }
        unreachable!("there is no end of numbers")
    }

    pub(super) fn keep(mut self) -> PathBuf {
        std::mem::take(&mut self.path)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // Gone already where it has taken the policy's place.
            let _ = fs::remove_file(&self.path);
        }
        for folder in &self.made {
            // Not one in which there is anything.
            let _ = fs::remove_dir(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_that_were_made_for_nothing_are_removed_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let outer = dir.path().join("a");
        let target = outer.join("b/policy.toml");
        drop(Copy::beside(&target, "text").expect("a copy"));
        assert!(!outer.exists(), "nothing was written");
        let kept = Copy::beside(&target, "text").expect("a copy").keep();
        assert!(kept.exists() && fs::remove_file(kept).is_ok());
        drop(Copy::beside(&target, "text").expect("a copy"));
        assert!(target.parent().is_some_and(Path::exists), "those that were there before stay");
        // Nor is anything left where it couldn't be written.
        fs::write(outer.join("file"), "").expect("written");
        assert!(Copy::beside(&outer.join("file/below/policy.toml"), "text").is_err());
        assert!(outer.join("file").is_file());
    }
}
