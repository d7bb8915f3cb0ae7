//! Three real Garages that keep each object together, on the loopback.

use super::super::port::Port;
use super::super::{Said, eventually};
use super::garage::{Contents, config, field, program, read};
use super::{BUCKET, Key, hex};

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

const NODES: usize = 3;

/// A cluster in which each object lies on every node, and two of them are enough to go on.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    key: Key,
}

#[derive(Debug)]
struct Node {
    program: PathBuf,
    folder: TempDir,
    rpc: Port,
    s3: Port,
    web: Port,
    running: Option<Child>,
}

impl Cluster {
    /// `None` where there is no program.
    pub fn start() -> Option<Self> {
        let program = program()?;
        let secret = hex(32);
        let nodes: Vec<Node> = (0..NODES).map(|_| Node::start(&program, &secret)).collect();
        let first = &nodes[0];
        let ids: Vec<String> =
            nodes.iter().map(|node| node.admin(&["node", "id", "--quiet"]).trim().to_owned()).collect();
        for id in &ids[1..] {
            first.admin(&["node", "connect", id]);
        }
        for id in &ids {
            let id = id.split('@').next().unwrap();
            // The others make themselves known to each other meanwhile.
            eventually("a node to be known", || {
                Said::by(&mut first.command(&["layout", "assign", "--zone", "here", "--capacity", "1G", id])).code
                    == Some(0)
            });
        }
        first.admin(&["layout", "apply", "--version", "1"]);
        eventually("the bucket", || Said::by(&mut first.command(&["bucket", "create", BUCKET])).code == Some(0));
        let said = first.admin(&["key", "create", "writer"]);
        let key = Key { id: field(&said, "Key ID:"), secret: field(&said, "Secret key:") };
        first.admin(&["bucket", "allow", "--read", "--write", "--owner", BUCKET, "--key", &key.id]);
        first.admin(&["bucket", "website", "--allow", BUCKET]);
        Some(Self { nodes, key })
    }

    /// The port of the first node, which is never stopped.
    pub fn port(&self) -> u16 {
        self.nodes[0].s3.number()
    }

    pub fn key(&self) -> &Key {
        &self.key
    }

    /// What Nix reads the bucket by, at the first node.
    pub fn website(&self) -> String {
        format!("http://{BUCKET}.web.localhost:{}", self.nodes[0].web.number())
    }

    /// What Nix is given of a file by the first node, if it is there.
    pub fn read(&self, file: &str) -> Option<Vec<u8>> {
        read(&self.nodes[0].web, file)
    }

    /// What the first node says of the bucket.
    pub fn contents(&self) -> Contents {
        Contents::parse(&self.nodes[0].admin(&["bucket", "info", BUCKET]))
    }

    /// Ends the last node as a power loss does.
    pub fn stop_one(&mut self) {
        self.nodes[NODES - 1].stop();
    }
}

impl Node {
    fn start(program: &Path, secret: &str) -> Self {
        let (folder, rpc, s3, web) = (tempfile::tempdir().unwrap(), Port::hold(), Port::hold(), Port::hold());
        let config = config(folder.path(), [&rpc, &s3, &web], NODES, secret);
        std::fs::write(folder.path().join("garage.toml"), config).unwrap();
        let mut node = Self { program: program.to_owned(), folder, rpc, s3, web, running: None };
        let log = node.folder.path().join("log");
        let file = File::create(&log).unwrap();
        let mut command = node.command(&["server"]);
        command.env("RUST_LOG", "garage=info").stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let mut running = command.spawn().unwrap_or_else(|error| panic!("start {}: {error}", program.display()));
        eventually("a node of Garage", || {
            let ended = running.try_wait().unwrap();
            let port = node.rpc.number();
            assert!(ended.is_none(), "Garage at {port} ended: {}", std::fs::read_to_string(&log).unwrap_or_default());
            Said::by(&mut node.command(&["status"])).code == Some(0)
        });
        node.running = Some(running);
        node
    }

    fn stop(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.kill().unwrap();
            running.wait().unwrap();
        }
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

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
    }
}
