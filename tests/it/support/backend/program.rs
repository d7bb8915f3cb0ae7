//! A program as a cache: `nix copy` into a directory, by the script in the manual.

use super::super::{CacheDir, ScratchStore};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The program, and what may be done instead of it.
pub struct Program {
    cache: CacheDir,
    folder: TempDir,
}

impl Program {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { cache: CacheDir::at(folder.path().join("cache")), folder }
    }

    pub fn cache(&self) -> CacheDir {
        self.cache.clone()
    }

    /// A file in the folder where it lies.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A policy with it as the cache `team`, which is signed for by that key.
    pub fn policy(&self, store: &ScratchStore, signing_key: &Path) -> String {
        let to = format!("{}?compression=zstd&secret-key={}", self.cache.url(), signing_key.display());
        let program = self.written(store);
        format!("version = 1\n[caches.team]\nurl = \"command://{}\"\nargs = [\"--to\", \"{to}\"]\n", program.display())
    }

    /// From now on, this is done in its place, in the folder where it lies.
    pub fn instead(&self, script: &str) {
        let beside = self.beside("instead.new");
        write_program(&beside, &format!("#!/bin/sh\ncd {} || exit 78\n{script}\n", self.folder.path().display()));
        std::fs::rename(beside, self.beside("instead")).unwrap();
    }

    /// From now on, it does its work.
    pub fn pass(&self) {
        std::fs::remove_file(self.beside("instead")).unwrap();
    }

    /// The script `nix-copy` of the manual, with this store's Nix in its `PATH`.
    fn written(&self, store: &ScratchStore) -> PathBuf {
        let (program, instead) = (self.beside("program"), self.beside("instead"));
        let script = documented("nix-copy", self.folder.path());
        let nix = store.command("nix");
        let bin = Path::new(nix.get_program()).parent().unwrap().to_owned();
        let text = format!(
            "#!/bin/sh\n[ -e {instead} ] && exec {instead} \"$@\"\nPATH={}:$PATH exec {} \"$@\"\n",
            bin.display(),
            script.display(),
            instead = instead.display()
        );
        write_program(&program, &text);
        program
    }
}

/// Writes the script that `docs/commands.md` calls so, as its reader does.
pub fn documented(name: &str, folder: &Path) -> PathBuf {
    let manual = include_str!("../../../../docs/commands.md");
    let script = manual
        .split("```sh\n")
        .skip(1)
        .filter_map(|behind| behind.split("```").next())
        .find(|script| script.contains(&format!("# {name}: ")));
    let file = folder.join(name);
    write_program(&file, script.unwrap_or_else(|| panic!("no script {name} in the manual")));
    file
}

/// Writes a file that can be run.
pub fn write_program(file: &Path, script: &str) {
    std::fs::write(file, script).unwrap();
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755)).unwrap();
}
