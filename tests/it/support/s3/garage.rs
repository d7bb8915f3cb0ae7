//! A real Garage of one node, on the loopback, with folders of its own.

use super::super::http::Question;
use super::super::nix::{left_out, skipped, tool};
use super::super::port::Port;
use super::super::{Said, eventually};
use super::{BUCKET, Key, hex};
use hyper::Method;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A Garage. What it has stays when it is stopped.
#[derive(Debug)]
pub struct Garage {
    program: PathBuf,
    folder: TempDir,
    s3: Port,
    web: Port,
    _rpc: Port,
    key: Key,
    running: Option<Child>,
}

/// What it says of the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contents {
    pub objects: u64,
    /// Uploads in parts that were neither completed nor aborted.
    pub unfinished: u64,
}

/// The program. Says so where there is none; in CI that is a failure, but where it is left out by name.
pub(super) fn program() -> Option<PathBuf> {
    let program = tool("GARAGE", "garage/bin/garage");
    match std::env::var_os("GARAGE") {
        _ if program.is_some() => {}
        Some(none) if none == "none" => drop(left_out("GARAGE=none leaves Garage out. A fake stands in")),
        _ => skipped("there is no Garage; `tests/setup/garage` builds it, or GARAGE names it"),
    }
    program
}

/// The configuration of a node whose files are in that folder and which listens for other nodes, for S3 and for readers.
/// Each object lies on so many nodes, which know each other by the secret.
pub(super) fn config(folder: &Path, [rpc, s3, web]: [&Port; 3], copies: usize, secret: &str) -> String {
    let own = folder.display();
    format!(
        "metadata_dir = \"{own}/meta\"\ndata_dir = \"{own}/data\"\nreplication_factor = {copies}\n\
         rpc_bind_addr = \"127.0.0.1:{rpc}\"\nrpc_public_addr = \"127.0.0.1:{rpc}\"\nrpc_secret = \"{secret}\"\n\
         [s3_api]\ns3_region = \"garage\"\napi_bind_addr = \"127.0.0.1:{}\"\n\
         [s3_web]\nbind_addr = \"127.0.0.1:{}\"\nroot_domain = \".web.localhost\"\n",
        s3.number(),
        web.number(),
        rpc = rpc.number(),
    )
}

impl Contents {
    /// Of what `garage bucket info` says.
    pub(super) fn parse(said: &str) -> Self {
        let field = |name: &str| said.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
        let number = |name: &str| field(name).map_or(0, |text| text.parse().unwrap());
        Self {
            objects: number("Objects:"),
            unfinished: number("Unfinished uploads:").max(number("Unfinished multipart uploads:")),
        }
    }
}

/// What Nix is given of a file by a node that listens for readers there, if it is there.
pub(super) fn read(web: &Port, file: &str) -> Option<Vec<u8>> {
    let question = Question::new(web.number(), Method::GET, &format!("/{file}"));
    let answer = question.host(format!("{BUCKET}.web.localhost")).ask().unwrap();
    (answer.status == 200).then(|| answer.body.to_vec())
}

/// What a line says that begins so.
pub(super) fn field(said: &str, name: &str) -> String {
    said.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} {said}")).trim().to_owned()
}

impl Garage {
    /// `None` where there is no program.
    pub fn start() -> Option<Self> {
        program().map(Self::of)
    }

    fn of(program: PathBuf) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = Key { id: format!("GK{}", hex(12)), secret: hex(32) };
        let (s3, web, rpc) = (Port::hold(), Port::hold(), Port::hold());
        let config = config(folder.path(), [&rpc, &s3, &web], 1, &hex(32));
        std::fs::write(folder.path().join("garage.toml"), config).unwrap();
        let mut garage = Self { program, folder, s3, web, _rpc: rpc, key, running: None };
        garage.go_on();
        garage.admin(&["bucket", "website", "--allow", BUCKET]);
        garage
    }

    pub fn port(&self) -> u16 {
        self.s3.number()
    }

    /// Its process.
    #[allow(dead_code, reason = "the benches look what it takes")]
    pub fn pid(&self) -> u32 {
        self.running.as_ref().unwrap().id()
    }

    /// A key that may do everything in the bucket.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// A key that may only read.
    pub fn reader_key(&self) -> Key {
        let said = self.admin(&["key", "create", "reader"]);
        let key = Key { id: field(&said, "Key ID:"), secret: field(&said, "Secret key:") };
        self.admin(&["bucket", "allow", "--read", BUCKET, "--key", &key.id]);
        key
    }

    /// Lets a key write, too.
    pub fn allow_to_write(&self, key: &Key) {
        self.admin(&["bucket", "allow", "--read", "--write", BUCKET, "--key", &key.id]);
    }

    /// What Nix reads the bucket by. curl takes all names below `localhost` for this host.
    pub fn website(&self) -> String {
        format!("http://{BUCKET}.web.localhost:{}", self.web.number())
    }

    /// What Nix is given of a file, if it is there.
    pub fn read(&self, file: &str) -> Option<Vec<u8>> {
        read(&self.web, file)
    }

    pub fn contents(&self) -> Contents {
        Contents::parse(&self.admin(&["bucket", "info", BUCKET]))
    }

    /// Ends it as a power loss does.
    pub fn stop(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.kill().unwrap();
            running.wait().unwrap();
        }
    }

    pub fn go_on(&mut self) {
        let log = self.folder.path().join("log");
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let mut command = self.command(&["server", "--single-node", "--default-bucket"]);
        command.env("GARAGE_DEFAULT_ACCESS_KEY", &self.key.id).env("GARAGE_DEFAULT_SECRET_KEY", &self.key.secret);
        command.env("GARAGE_DEFAULT_BUCKET", BUCKET).env("RUST_LOG", "garage=info");
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let mut running = command.spawn().unwrap_or_else(|error| panic!("start {}: {error}", self.program.display()));
        eventually("Garage's bucket", || {
            let ended = running.try_wait().unwrap();
            assert!(ended.is_none(), "Garage ended: {}", std::fs::read_to_string(&log).unwrap_or_default());
            Said::by(&mut self.command(&["bucket", "info", BUCKET])).code == Some(0)
        });
        self.running = Some(running);
    }

    fn admin(&self, arguments: &[&str]) -> String {
        Said::by(&mut self.command(arguments)).ok()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(self.folder.path().join("garage.toml")).args(arguments);
        command
    }
}

impl Drop for Garage {
    fn drop(&mut self) {
        self.stop();
    }
}
