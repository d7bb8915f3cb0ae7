//! A real `atticd` with SQLite and a folder of its own.

use super::super::port::Port;
use super::super::{Said, eventually};
use super::Grant;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::ffi::OsString;
use std::fs::File;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A real server. What it has stays when it is stopped.
#[derive(Debug)]
pub struct Real {
    program: PathBuf,
    folder: TempDir,
    port: Port,
    running: Option<Child>,
}

impl Real {
    /// The program that `ATTICD` names, with `atticadm` beside it.
    pub fn start(program: OsString) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("storage")).unwrap();
        let mut real = Self { program: program.into(), folder, port: Port::hold(), running: None };
        real.change_key();
        real.go_on();
        real
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Takes another key for tokens: those there are hold no more once it has been started anew.
    pub fn change_key(&self) {
        let mut key = [0; 32];
        getrandom::fill(&mut key).unwrap();
        let own = self.folder.path().display();
        let config = format!(
            "listen = \"127.0.0.1:{}\"\n[database]\nurl = \"sqlite://{own}/server.db?mode=rwc\"\n\
             [storage]\ntype = \"local\"\npath = \"{own}/storage\"\n\
             [chunking]\nnar-size-threshold = 65536\nmin-size = 16384\navg-size = 65536\nmax-size = 262144\n\
             [compression]\ntype = \"zstd\"\n[garbage-collection]\ninterval = \"0 s\"\n\
             [jwt.signing]\ntoken-hs256-secret-base64 = \"{}\"\n",
            self.port(),
            BASE64.encode(key)
        );
        std::fs::write(self.config(), config).unwrap();
    }

    pub fn token(&self, grant: &Grant) -> String {
        let mut command = Command::new(self.program.with_file_name("atticadm"));
        command.arg("-f").arg(self.config()).args(["make-token", "--sub", "test", "--validity", "1 day"]);
        let options = |option: &'static str, caches: &'static [&'static str]| {
            caches.iter().flat_map(move |cache| [option, cache]).collect::<Vec<_>>()
        };
        command.args(options("--pull", grant.pull)).args(options("--push", grant.push));
        if grant.administers {
            command.args(["--create-cache", "*", "--configure-cache", "*", "--pull", "*"]);
        }
        Said::by(&mut command).ok().trim().to_owned()
    }

    /// Forgets a path, in all caches.
    pub fn lose(&self, hash: &str) {
        let database = rusqlite::Connection::open(self.folder.path().join("server.db")).unwrap();
        assert_eq!(database.execute("DELETE FROM object WHERE store_path_hash = ?1", [hash]).unwrap(), 1);
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
        let mut command = Command::new(&self.program);
        command.arg("-f").arg(self.config()).current_dir(self.folder.path());
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let mut running = command.spawn().unwrap_or_else(|error| panic!("start {}: {error}", self.program.display()));
        let port = self.port();
        eventually("atticd's port", || {
            let ended = running.try_wait().unwrap();
            assert!(ended.is_none(), "atticd ended: {}", std::fs::read_to_string(&log).unwrap_or_default());
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        self.running = Some(running);
    }

    fn config(&self) -> PathBuf {
        Path::join(self.folder.path(), "server.toml")
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        self.stop();
    }
}
