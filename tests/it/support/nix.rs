//! Real Nix, of several versions, each in a store of a test's own.

use super::{Reader, Said, eventually, make_removable, scratch_folder};
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// What must not reach a test from who runs it.
pub const FOREIGN_VARIABLES: [&str; 6] =
    ["NIX_REMOTE", "NIX_CONFIG", "NIX_PATH", "NIX_PROFILES", "NIX_BIN_DIR", "NIX_LIBEXEC_DIR"];

/// One version of Nix: the folder of its commands.
#[derive(Debug, Clone)]
pub struct Nix {
    bin: PathBuf,
}

impl Nix {
    /// Nix 2.8, as Debian 12 has it: the oldest that storewatch knows. It deletes its WAL when it closes the database.
    pub fn v2_8() -> Option<Self> {
        Self::found("NIX_2_8_BIN", "nix-2.8", |version| version == (2, 8))
    }

    /// Nix of 2.26 or newer. It keeps its WAL, and its daemon speaks a protocol that storewatch knows.
    pub fn recent() -> Option<Self> {
        Self::found("NIX_NEW_BIN", "nix-new", |version| version >= (2, 26))
    }

    /// Where `variable` says, or where `tests/setup/all` puts it. Says so where there is none; in CI that is a failure.
    fn found(variable: &str, name: &str, fits: fn((u32, u32)) -> bool) -> Option<Self> {
        let bin = std::env::var_os(variable).map_or_else(|| tools().join(name).join("bin"), PathBuf::from);
        if !bin.join("nix-store").exists() {
            skipped(&format!("no {name} in {}; `tests/setup/all` installs it, or {variable} names it", bin.display()));
            return None;
        }
        let nix = Self { bin };
        let version = nix.version();
        assert!(fits(version), "{variable}: Nix {version:?} isn't the {name} that the tests mean");
        Some(nix)
    }

    /// Major and minor version.
    pub fn version(&self) -> (u32, u32) {
        // Without the dummy store, asking for the version makes a store where there is none.
        let mut command = Command::new(self.bin.join("nix-store"));
        let said = Said::by(command.arg("--version").env("NIX_REMOTE", "dummy://")).ok();
        // "nix-store (Nix) 2.26.3", with "pre…" or "+…" behind it in builds from source.
        let mut numbers = said.split([' ', '.']).filter_map(|word| word.trim().parse().ok());
        numbers.next().zip(numbers.next()).unwrap_or_else(|| panic!("no version: {said}"))
    }
}

/// A program that `variable` names, or that lies where `tests/setup` puts it.
pub fn tool(variable: &str, place: &str) -> Option<PathBuf> {
    let program = std::env::var_os(variable).map_or_else(|| tools().join(place), PathBuf::from);
    program.exists().then_some(program)
}

/// Where `tests/setup` puts its tools.
fn tools() -> PathBuf {
    let cache = || std::env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let home = || std::env::home_dir().unwrap_or_default().join(".cache");
    std::env::var_os("STOREWATCH_TEST_TOOLS")
        .map_or_else(|| cache().unwrap_or_else(home).join("storewatch-test-tools"), PathBuf::from)
}

/// Says that a test is left out, where everybody sees it: `make test` lists these lines at its end. In CI that is a
/// failure.
pub fn skipped(why: &str) {
    let line = left_out(why);
    assert!(std::env::var_os("CI").is_none(), "{line}");
}

/// As [`skipped`], for what CI can't have either.
pub fn left_out(why: &str) -> String {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let line = format!("skipped: {test}: {why}\n");
    // Not eprint!, which the test harness keeps to itself while a test passes.
    let _ = std::io::stderr().write_all(line.as_bytes());
    let list = Path::new(env!("CARGO_TARGET_TMPDIR")).join("skipped");
    let _ = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(list)
        .and_then(|mut list| list.write_all(line.as_bytes()));
    line
}

/// A Nix store of a test's own, with its own database and settings. No root needed; gone when dropped.
#[derive(Debug)]
pub struct ScratchStore {
    nix: Nix,
    folder: TempDir,
}

impl ScratchStore {
    pub fn new(nix: &Nix) -> Self {
        Self::with_settings(nix, "")
    }

    /// With more lines for its `nix.conf`, such as `use-sqlite-wal = false`.
    pub fn with_settings(nix: &Nix, settings: &str) -> Self {
        let store = Self { nix: nix.clone(), folder: scratch_folder() };
        for name in ["store", "conf", "home"] {
            std::fs::create_dir(store.root().join(name)).unwrap();
        }
        let ours = "build-users-group =\nsandbox = false\nsubstituters =\nbuilders =\ntrusted-users = *\n\
                    experimental-features = nix-command\nfsync-metadata = false\n";
        std::fs::write(store.root().join("conf/nix.conf"), format!("{ours}{settings}\n")).unwrap();
        Said::by(store.command("nix-store").arg("--init")).ok();
        store
    }

    /// The folder that holds all of it.
    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    pub fn store_dir(&self) -> PathBuf {
        self.root().join("store")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.root().join("var")
    }

    pub fn db_path(&self) -> PathBuf {
        self.state_dir().join("db/db.sqlite")
    }

    /// The variables by which a program finds this store.
    pub fn env(&self) -> [(&'static str, OsString); 7] {
        let folder = |name| self.root().join(name).into_os_string();
        [
            ("NIX_STORE_DIR", folder("store")),
            ("NIX_STATE_DIR", folder("var")),
            ("NIX_LOG_DIR", folder("log")),
            ("NIX_CONF_DIR", folder("conf")),
            ("NIX_LOCALSTATE_DIR", folder("local")),
            ("NIX_USER_CONF_FILES", OsString::new()),
            ("HOME", folder("home")),
        ]
    }

    /// One of Nix's commands, at work on this store.
    pub fn command(&self, name: &str) -> Command {
        self.command_of(&self.nix, name)
    }

    /// One of another Nix's commands, at work on this store.
    pub fn command_of(&self, nix: &Nix, name: &str) -> Command {
        let mut command = Command::new(nix.bin.join(name));
        FOREIGN_VARIABLES.iter().chain(&["XDG_CACHE_HOME", "XDG_CONFIG_HOME"]).for_each(|name| {
            command.env_remove(name);
        });
        command.envs(self.env());
        command
    }

    /// Builds an expression without a root for it; the output paths, or what Nix said.
    pub fn build(&self, expression: &str) -> Result<Vec<String>, String> {
        built(&mut self.command("nix-build"), expression)
    }

    /// Adds a file or folder as a source.
    pub fn add(&self, path: &Path) -> String {
        Said::by(self.command("nix-store").arg("--add").arg(path)).ok().trim().to_owned()
    }

    /// Keeps paths from the garbage collector.
    pub fn keep(&self, paths: &[String]) {
        for (number, path) in paths.iter().enumerate() {
            let root = self.root().join(format!("root-{number}-{}", base_name(path)));
            Said::by(self.command("nix-store").args(["--realise", path, "--add-root"]).arg(root)).ok();
        }
    }

    /// Collects all that nothing keeps.
    pub fn gc(&self) {
        Said::by(self.command("nix-store").arg("--gc")).ok();
    }

    /// Deletes just these paths.
    pub fn delete(&self, paths: &[String]) {
        Said::by(self.command("nix-store").arg("--delete").args(paths)).ok();
    }

    pub fn valid(&self, path: &str) -> bool {
        Said::by(self.command("nix-store").args(["--check-validity", path])).code == Some(0)
    }

    pub fn query_references(&self, path: &str) -> Vec<String> {
        lines(&Said::by(self.command("nix-store").args(["--query", "--references", path])).ok())
    }

    /// The path and all it references, directly or not; references first.
    pub fn query_closure(&self, path: &str) -> Vec<String> {
        lines(&Said::by(self.command("nix-store").args(["--query", "--requisites", path])).ok())
    }

    /// The hash of a path's NAR as it is on disk now, whatever the database says.
    pub fn content(&self, path: &str) -> String {
        nar_hash(self, Path::new(path))
    }

    /// As [`ScratchStore::content`], of several paths at once.
    pub fn contents(&self, paths: &[String]) -> Vec<String> {
        nar_hashes(self, paths.iter().map(PathBuf::from))
    }

    /// A new key pair, as Nix makes them.
    pub fn generate_key(&self, name: &str) -> Key {
        let (secret, public) = (self.root().join(format!("{name}.sec")), self.root().join(format!("{name}.pub")));
        Said::by(self.command("nix-store").args(["--generate-binary-cache-key", name]).args([&secret, &public])).ok();
        Key { public: std::fs::read_to_string(public).unwrap().trim().to_owned(), secret }
    }

    /// Copies paths with their closures into a binary cache by Nix itself, signed with `key`.
    pub fn copy_to(&self, cache_url: &str, key: &Key, paths: &[String]) {
        let to = format!("{cache_url}?secret-key={}", key.secret.display());
        Said::by(self.command("nix").args(["copy", "--to", &to]).args(paths)).ok();
    }

    /// Brings paths into this store from a binary cache, as substitutes.
    pub fn substitute(&self, cache_url: &str, public_key: &str, paths: &[String]) -> Result<(), String> {
        let options = ["--option", "substituters", cache_url, "--option", "trusted-public-keys", public_key];
        let mut command = self.command("nix-store");
        Said::by(command.arg("--realise").args(paths).args(options)).result().map(drop)
    }

    /// Reads paths with their closures from a cache into an empty store of the same name, signatures required.
    pub fn read_back(&self, cache_url: &str, public_key: &str, paths: &[String]) -> Result<Reader<'_>, String> {
        let reader = Reader::empty(self);
        reader.copy_from(cache_url, public_key, paths).map(|()| reader)
    }

    /// Starts a daemon for this store on a socket of its own.
    pub fn daemon(&self) -> Daemon<'_> {
        let mut command = self.command("nix-daemon");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut daemon = Daemon { store: self, child: command.spawn().unwrap() };
        let socket = daemon.socket();
        eventually("the Nix daemon's socket", || {
            assert!(daemon.child.try_wait().unwrap().is_none(), "nix-daemon ended");
            UnixStream::connect(&socket).is_ok()
        });
        daemon
    }
}

impl Drop for ScratchStore {
    fn drop(&mut self) {
        make_removable(self.root());
    }
}

/// A key pair for signing: the file of the secret half, and the public half as `trusted-public-keys` takes it.
#[derive(Debug)]
pub struct Key {
    pub secret: PathBuf,
    pub public: String,
}

/// A Nix daemon that serves a scratch store until it is dropped.
#[derive(Debug)]
pub struct Daemon<'a> {
    store: &'a ScratchStore,
    child: Child,
}

impl Daemon<'_> {
    pub fn socket(&self) -> PathBuf {
        self.store.state_dir().join("daemon-socket/socket")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// For `NIX_REMOTE`.
    pub fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Builds as a client of the daemon does.
    pub fn build(&self, expression: &str) -> Result<Vec<String>, String> {
        built(self.store.command("nix-build").env("NIX_REMOTE", self.url()), expression)
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(self.socket());
    }
}

/// The hash of the NAR of what lies at `real_path`.
pub fn nar_hash(store: &ScratchStore, real_path: &Path) -> String {
    Said::by(store.command("nix-hash").args(["--type", "sha256"]).arg(real_path)).ok().trim().to_owned()
}

/// The hashes of the NARs of several things.
pub fn nar_hashes(store: &ScratchStore, real_paths: impl Iterator<Item = PathBuf>) -> Vec<String> {
    lines(&Said::by(store.command("nix-hash").args(["--type", "sha256"]).args(real_paths)).ok())
}

/// A store path without the store's folder.
pub fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn built(nix_build: &mut Command, expression: &str) -> Result<Vec<String>, String> {
    Said::by(nix_build.args(["--no-out-link", "--expr", expression])).result().map(|stdout| lines(&stdout))
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}
