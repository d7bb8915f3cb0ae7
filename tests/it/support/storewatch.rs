//! The program under test, with folders of its own.

use super::nix::{FOREIGN_VARIABLES, base_name};
use super::wait::eventually_or;
use super::{CacheDir, Said, ScratchStore, scratch_folder};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use tempfile::TempDir;

/// A user without rights, whom nothing belongs to.
pub const NOBODY: u32 = 65_534;

/// So many lines of its log go into the panic of a test.
const TAIL: usize = 40;

/// storewatch for one scratch store: its state directory and its policy, which outlive its processes.
#[derive(Debug)]
pub struct Storewatch<'a> {
    store: &'a ScratchStore,
    folder: TempDir,
    runs: Cell<u32>,
    variables: RefCell<BTreeMap<&'static str, String>>,
}

impl<'a> Storewatch<'a> {
    /// With the built-in policy, until there is another.
    pub fn new(store: &'a ScratchStore) -> Self {
        let folder = scratch_folder();
        for name in ["state", "etc", "run", "home"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        Self { store, folder, runs: Cell::new(0), variables: RefCell::default() }
    }

    /// Sets a variable for all its processes to come.
    pub fn set(&self, name: &'static str, value: &str) {
        self.variables.borrow_mut().insert(name, value.to_owned());
    }

    /// Writes the policy file as editors do: aside, then renamed into its place.
    pub fn policy(&self, text: &str) -> &Self {
        let beside = self.folder.path().join("etc/policy.toml.new");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, self.policy_path()).unwrap();
        self
    }

    pub fn policy_path(&self) -> PathBuf {
        self.folder.path().join("etc/policy.toml")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub fn runtime_dir(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    /// The binary with everything set that it needs; arguments and more are the caller's.
    pub fn command(&self) -> Command {
        self.command_of(Path::new(env!("CARGO_BIN_EXE_storewatch")))
    }

    /// As [`Storewatch::command`], run as a user without rights, to whom the state directory belongs from now on. Says so
    /// where this user can't start one.
    pub fn command_as_nobody(&self) -> Option<Command> {
        if !rustix::process::geteuid().is_root() {
            super::nix::skipped("only root can start a process of another user");
            return None;
        }
        for name in ["state", "run", "home"] {
            chown(self.folder.path().join(name), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        // What it is run from may lie where only its owner may go.
        let program = self.folder.path().join("storewatch");
        if !program.exists() {
            std::fs::copy(env!("CARGO_BIN_EXE_storewatch"), &program).unwrap();
        }
        let mut command = self.command_of(&program);
        command.uid(NOBODY).gid(NOBODY);
        Some(command)
    }

    fn command_of(&self, program: &Path) -> Command {
        let folder = |name| self.folder.path().join(name);
        let mut command = Command::new(program);
        let systemd = ["STATE_DIRECTORY", "NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY", "STOREWATCH_CONFIG", "TZ"];
        FOREIGN_VARIABLES.iter().chain(&systemd).for_each(|name| {
            command.env_remove(name);
        });
        // Keys for object stores that whoever runs the tests has.
        for (name, _) in std::env::vars_os() {
            if ["AWS_", "AZURE_", "GOOGLE_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        // No machine of a cloud is asked, which is nothing but slow where there is none.
        command.env("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9");
        command.envs(self.store.env());
        command.env("HOME", folder("home")).env("RUNTIME_DIRECTORY", folder("run"));
        command.env("STOREWATCH_STATE_DIR", folder("state")).env("CONFIGURATION_DIRECTORY", folder("etc"));
        command.env("STOREWATCH_LOG", "debug").env("RUST_BACKTRACE", "1");
        command.envs(self.variables.borrow().iter());
        if self.policy_path().exists() {
            command.env("STOREWATCH_CONFIG", self.policy_path());
        }
        command
    }

    /// Runs a subcommand to its end.
    pub fn cmd(&self, arguments: &[&str]) -> Said {
        Said::by(self.command().args(arguments))
    }

    /// The cache that there is without a word in the policy.
    pub fn cache(&self) -> CacheDir {
        CacheDir::at(self.state_dir().join("cache"))
    }

    /// A folder of its own for a cache that a policy names.
    pub fn cache_at(&self, name: &str) -> CacheDir {
        CacheDir::at(self.folder.path().join(name))
    }

    /// What `status --json` says.
    pub fn status(&self) -> Value {
        self.cmd(&["status", "--json"]).json()
    }

    /// What `status --json` says of one cache.
    #[track_caller]
    pub fn cache_status(&self, name: &str) -> Value {
        let status = self.status();
        let caches = status["caches"].as_array().unwrap();
        caches.iter().find(|cache| cache["name"] == name).unwrap_or_else(|| panic!("no {name} in {status}")).clone()
    }

    /// The public key of a cache, as Nix takes it.
    #[track_caller]
    pub fn public_key(&self, cache: &str) -> String {
        self.cache_status(cache)["public_key"].as_str().unwrap().to_owned()
    }

    /// The jobs in a state; none as long as there is no queue.
    pub fn jobs(&self, state: &str) -> Vec<Value> {
        self.listed(&["queue", "list", "--json", "--state", state])
    }

    /// The jobs that are not done.
    pub fn jobs_left(&self) -> Vec<Value> {
        self.listed(&["queue", "list", "--json"])
    }

    fn listed(&self, arguments: &[&str]) -> Vec<Value> {
        let said = self.cmd(arguments);
        if said.stderr.contains("no queue in") { Vec::new() } else { said.json().as_array().unwrap().clone() }
    }

    /// The states of a path's jobs, by cache.
    pub fn states_of(&self, path: &str) -> Vec<(String, String)> {
        let text = |job: &Value, key: &str| job[key].as_str().unwrap().to_owned();
        let jobs =
            ["pending", "uploading", "done", "held", "failed", "gone"].into_iter().flat_map(|state| self.jobs(state));
        let mut states: Vec<_> = jobs
            .filter(|job| job["path"] == base_name(path))
            .map(|job| (text(&job, "cache"), text(&job, "state")))
            .collect();
        states.sort();
        states
    }

    /// Starts the service and waits until it watches: what becomes valid from now on is found.
    pub fn start(&self) -> Running {
        self.start_with(|_| ())
    }

    /// As [`Storewatch::start`], after `change` to how it is started.
    pub fn start_with(&self, change: impl FnOnce(&mut Command)) -> Running {
        let mut running = self.run_with(change);
        running.eventually_logs("the Nix database is open");
        running
    }

    /// Starts the service.
    pub fn run(&self) -> Running {
        self.run_with(|_| ())
    }

    /// Starts the service after `change` to how it is started.
    pub fn run_with(&self, change: impl FnOnce(&mut Command)) -> Running {
        self.spawn_with(&["run"], change)
    }

    /// Starts a subcommand that takes its time.
    pub fn spawn(&self, arguments: &[&str]) -> Running {
        self.spawn_with(arguments, |_| ())
    }

    /// Starts the service as a user without rights; says so where this user can't.
    pub fn run_as_nobody(&self) -> Option<Running> {
        Some(self.spawn_command(self.command_as_nobody()?.arg("run"), |_| ()))
    }

    fn spawn_with(&self, arguments: &[&str], change: impl FnOnce(&mut Command)) -> Running {
        self.spawn_command(self.command().args(arguments), change)
    }

    fn spawn_command(&self, command: &mut Command, change: impl FnOnce(&mut Command)) -> Running {
        self.runs.set(self.runs.get() + 1);
        let log = self.folder.path().join(format!("log-{}", self.runs.get()));
        let file = File::create(&log).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        change(command);
        Running { child: command.spawn().unwrap(), log }
    }
}

/// A running process of storewatch, the service for the most part. Dropped, it is killed.
#[derive(Debug)]
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// The most memory that it ever had resident, in KiB.
    pub fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next());
        peak.unwrap().parse().unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it hasn't ended yet.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// All that it wrote so far.
    pub fn log(&self) -> String {
        read(&self.log)
    }

    /// Waits until `condition` holds. Panics with the end of the log where it never does, or where the service ended.
    #[track_caller]
    pub fn eventually(&mut self, what: &str, mut condition: impl FnMut() -> bool) {
        let (child, log) = (&mut self.child, &self.log);
        let holds_or_ended = || {
            // Asked first: what the service did before it ended counts.
            let ended = child.try_wait().unwrap();
            let holds = condition();
            assert!(holds || ended.is_none(), "waiting for {what}: the service ended, {ended:?}\n{}", tail(log));
            holds
        };
        eventually_or(what, holds_or_ended, || tail(log));
    }

    /// Waits until its log has this text.
    #[track_caller]
    pub fn eventually_logs(&mut self, text: &str) {
        let log = self.log.clone();
        self.eventually(&format!("{text:?} in the log"), || read(&log).contains(text));
    }

    /// Waits until its log has this text so many times.
    #[track_caller]
    pub fn eventually_logs_times(&mut self, text: &str, times: usize) {
        let log = self.log.clone();
        self.eventually(&format!("{text:?} in the log, {times} times"), || read(&log).matches(text).count() >= times);
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Asks it to end.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends a signal again and again until the process ends, and compares its exit code.
    #[track_caller]
    pub fn eventually_ends_by(mut self, signal: Signal, code: i32) {
        let (pid, child, log, mut status) = (self.pid(), &mut self.child, &self.log, None);
        let ended = || {
            status = child.try_wait().unwrap();
            if status.is_none() {
                // Not reaped yet, so that the number is still its own.
                kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
            }
            status.is_some()
        };
        eventually_or("the end by a signal", ended, || tail(log));
        assert_eq!(status.unwrap().code(), Some(code));
    }

    /// As a power loss ends it.
    pub fn kill9(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end, and waits for that. Panics where it doesn't end well.
    #[track_caller]
    pub fn stop(self) {
        self.terminate();
        let status = self.wait_exit();
        assert_eq!(status.code(), Some(0));
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait_exit(mut self) -> ExitStatus {
        let (child, log, mut status) = (&mut self.child, &self.log, None);
        let ended = || {
            status = child.try_wait().unwrap();
            status.is_some()
        };
        eventually_or("the end of the service", ended, || tail(log));
        status.unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", tail(&self.log));
        }
    }
}

fn read(log: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned()
}

fn tail(log: &Path) -> String {
    let text = read(log);
    let lines: Vec<&str> = text.lines().collect();
    format!("the end of its log:\n{}", lines[lines.len().saturating_sub(TAIL)..].join("\n"))
}
