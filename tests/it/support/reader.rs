//! Nix as the reader of a cache: only what it can read back has been uploaded.

use super::nix::{base_name, nar_hash, nar_hashes};
use super::{Said, ScratchStore, make_removable, scratch_folder};
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

/// A second store with the same logical store directory as the first, and with nothing in it at first.
#[derive(Debug)]
pub struct Reader<'a> {
    original: &'a ScratchStore,
    folder: TempDir,
}

impl<'a> Reader<'a> {
    pub fn empty(original: &'a ScratchStore) -> Self {
        Self { original, folder: scratch_folder() }
    }

    /// By `nix copy --from`.
    pub fn copy_from(&self, cache_url: &str, public_key: &str, paths: &[String]) -> Result<(), String> {
        let mut command = self.command("nix", public_key);
        command.args(["copy", "--from", cache_url, "--to", &self.url()]).args(paths);
        Said::by(&mut command).result().map(drop)
    }

    /// By `nix-store --realise`, the cache being a substituter: what a build does to get what it needs.
    pub fn substitute(&self, cache_url: &str, public_key: &str, paths: &[String]) -> Result<(), String> {
        let mut command = self.command("nix-store", public_key);
        command.args(["--store", &self.url(), "--option", "substituters", cache_url, "--realise"]).args(paths);
        Said::by(&mut command).result().map(drop)
    }

    /// By `nix-build`, the cache being a substituter. The output paths, or what Nix said. Its own
    /// builders run in a sandbox, since the store's files aren't where they are said to be, and so see no file beside it.
    pub fn build(&self, cache_url: &str, public_key: &str, expression: &str) -> Result<Vec<String>, String> {
        let mut command = self.command("nix-build", public_key);
        command.args([
            "--store",
            &self.url(),
            "--option",
            "substituters",
            cache_url,
            "--no-out-link",
            "--expr",
            expression,
        ]);
        Said::by(&mut command).result().map(|stdout| stdout.lines().map(str::to_owned).collect())
    }

    /// Whether the path is valid here.
    pub fn valid(&self, path: &str) -> bool {
        let mut command = self.command("nix-store", "");
        Said::by(command.args(["--store", &self.url(), "--check-validity", path])).code == Some(0)
    }

    /// Whether all these paths are valid here.
    pub fn all_valid(&self, paths: &[String]) -> bool {
        let mut command = self.command("nix-store", "");
        Said::by(command.args(["--store", &self.url(), "--check-validity"]).args(paths)).code == Some(0)
    }

    /// Where a store path's files lie here.
    pub fn real_path(&self, path: &str) -> PathBuf {
        self.folder.path().join("store").join(base_name(path))
    }

    /// The hash of the NAR of what arrived, to compare with [`ScratchStore::content`].
    pub fn content(&self, path: &str) -> String {
        nar_hash(self.original, &self.real_path(path))
    }

    /// As [`Reader::content`], of several paths at once.
    pub fn contents(&self, paths: &[String]) -> Vec<String> {
        nar_hashes(self.original, paths.iter().map(|path| self.real_path(path)))
    }

    /// The store, as Nix names it.
    pub fn url(&self) -> String {
        let (logical, own) = (self.original.store_dir(), self.folder.path().display());
        format!("local?store={}&real={own}/store&state={own}/var", logical.display())
    }

    /// One of Nix's commands that trusts just this key, and remembers nothing of what other readers found.
    fn command(&self, name: &str, public_key: &str) -> Command {
        let mut command = self.original.command(name);
        command.env("HOME", self.folder.path());
        command.args(["--option", "require-sigs", "true", "--option", "trusted-public-keys", public_key]);
        command
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        make_removable(self.folder.path());
    }
}
