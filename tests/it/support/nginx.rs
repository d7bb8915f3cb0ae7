//! A real nginx on the loopback, with folders of its own: a web server that takes what is put there, by WebDAV.

use super::nix::{skipped, tool};
use super::port::Port;
use super::{CacheDir, eventually};
use std::fs::File;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// Lets files be put by those who may write, and makes folders on the way.
pub const WRITABLE: &str = "dav_methods PUT DELETE MKCOL; create_full_put_path on; \
                            limit_except GET HEAD { auth_basic nix; auth_basic_user_file writers; }";

/// Who may do everything, and the password.
pub const WRITER: (&str, &str) = ("builder", "s3cret-of-the-builder");

/// Who may only read, and the password.
pub const READER: (&str, &str) = ("reader", "s3cret-of-the-reader");

/// An nginx with a folder, `/nix`, that only those whom it knows may read and write, and that anybody may read at another
/// port. What it has stays when it is stopped.
pub struct Nginx {
    program: PathBuf,
    folder: TempDir,
    port: Port,
    web: Port,
    refusal: String,
    running: Option<Child>,
}

/// A request that came, as the log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub method: String,
    /// Relative to the folder.
    pub file: String,
    pub status: u16,
    /// Whether its body came in chunks, its length untold.
    pub chunked: bool,
}

impl Nginx {
    /// One that takes what is put there. Says so where there is no nginx.
    pub fn start() -> Option<Self> {
        Self::with(WRITABLE)
    }

    /// One with these directives for the folder.
    pub fn with(directives: &str) -> Option<Self> {
        Self::of("", directives)
    }

    /// One that takes what is put there, but for requests of which that condition of nginx's holds: they get that status.
    pub fn refusing(condition: &str, status: u16) -> Option<Self> {
        Self::of(&format!("if ({condition}) {{ return {status}; }}"), WRITABLE)
    }

    fn of(refusal: &str, directives: &str) -> Option<Self> {
        let Some(program) = tool("NGINX", "nginx/bin/nginx") else {
            skipped("there is no nginx; `tests/setup/nginx` installs it, or NGINX names it");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        for name in ["www/nix", "tmp"] {
            std::fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        let (port, web) = (Port::hold(), Port::hold());
        let mut nginx = Self { program, folder, port, web, refusal: refusal.to_owned(), running: None };
        nginx.lets_in("users", &[WRITER, READER]);
        nginx.lets_in("writers", &[WRITER]);
        nginx.change(directives);
        Some(nginx)
    }

    /// From now on, with these directives for the folder.
    pub fn change(&mut self, directives: &str) {
        self.stop();
        let own = self.folder.path().display();
        let temporary = |kind: &str| format!("{kind}_temp_path {own}/tmp/{kind};\n");
        let temporary: String =
            ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].into_iter().map(temporary).collect();
        let config = format!(
            "daemon off;\nmaster_process off;\npid {own}/pid;\nerror_log {own}/error.log;\nevents {{}}\nhttp {{\n{temporary}\
             log_format asked '$request_method $uri $status $http_transfer_encoding';\naccess_log {own}/asked asked;\n\
             root {own}/www;\nclient_max_body_size 0;\n\
             server {{\nlisten 127.0.0.1:{port};\n{refusal}\nauth_basic nix;\nauth_basic_user_file users;\n\
             location /nix/ {{\n{directives}\n}}\n}}\n\
             server {{\nlisten 127.0.0.1:{web};\naccess_log off;\n}}\n}}\n",
            port = self.port.number(),
            refusal = self.refusal,
            web = self.web.number(),
        );
        std::fs::write(self.folder.path().join("nginx.conf"), config).unwrap();
        self.go_on();
    }

    fn go_on(&mut self) {
        let log = self.folder.path().join("log");
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let mut command = Command::new(&self.program);
        command.arg("-p").arg(self.folder.path()).arg("-c").arg(self.folder.path().join("nginx.conf"));
        command.arg("-e").arg(&log).stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let mut running = command.spawn().unwrap_or_else(|error| panic!("start {}: {error}", self.program.display()));
        eventually("nginx", || {
            let ended = running.try_wait().unwrap();
            assert!(ended.is_none(), "nginx ended: {}", std::fs::read_to_string(&log).unwrap_or_default());
            [&self.port, &self.web].iter().all(|port| TcpStream::connect(("127.0.0.1", port.number())).is_ok())
        });
        self.running = Some(running);
    }

    fn stop(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.kill().unwrap();
            running.wait().unwrap();
        }
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// What anybody reads the folder by.
    pub fn website(&self) -> String {
        format!("http://127.0.0.1:{}/nix", self.web.number())
    }

    /// The folder.
    pub fn cache(&self) -> CacheDir {
        CacheDir::at(self.folder.path().join("www/nix"))
    }

    /// Lets these write from now on.
    pub fn allow_to_write(&self, who: &[(&str, &str)]) {
        self.lets_in("writers", who);
    }

    fn lets_in(&self, file: &str, who: &[(&str, &str)]) {
        let lines: String = who.iter().map(|(user, password)| format!("{user}:{{PLAIN}}{password}\n")).collect();
        let beside = self.folder.path().join(format!("{file}.new"));
        std::fs::write(&beside, lines).unwrap();
        std::fs::rename(beside, self.folder.path().join(file)).unwrap();
    }

    /// All requests so far that were answered.
    pub fn asked(&self) -> Vec<Asked> {
        let log = std::fs::read_to_string(self.folder.path().join("asked")).unwrap_or_default();
        log.lines().filter_map(parse).collect()
    }

    /// What has arrived of requests that aren't whole yet.
    pub fn arriving(&self) -> usize {
        std::fs::read_dir(self.folder.path().join("tmp/client_body")).into_iter().flatten().count()
    }
}

fn parse(line: &str) -> Option<Asked> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [method, uri, status, encoding] = words[..] else { return None };
    Some(Asked {
        method: method.to_owned(),
        file: uri.trim_start_matches("/nix/").to_owned(),
        status: status.parse().ok()?,
        chunked: encoding.eq_ignore_ascii_case("chunked"),
    })
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.stop();
    }
}
