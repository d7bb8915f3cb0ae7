//! What the tests stand on: real Nix of several versions ([`nix`]), expressions for it to build ([`expr`]), the program
//! under test ([`storewatch`]), and waiting for a condition instead of for a time ([`wait`]); servers to upload to
//! ([`attic`], [`s3`], [`nginx`]), what hands out credentials ([`cloud`]), and what can stand between ([`proxy`], [`tls`]).

pub mod attic;
pub mod backend;
pub mod cache;
pub mod cloud;
pub mod collecting;
pub mod disk;
pub mod expr;
pub mod http;
pub mod nginx;
pub mod nix;
pub mod port;
pub mod proxy;
pub mod reader;
pub mod receiver;
pub mod rows;
pub mod s3;
pub mod storewatch;
pub mod tls;
pub mod wait;

pub(crate) use attic::each_attic;
pub use attic::{AtticServer, Grant, Kind, Visibility};
pub use cache::CacheDir;
pub use disk::Disk;
pub use nginx::Nginx;
pub use nix::{Nix, ScratchStore};
pub use proxy::{Canned, Fault, FlakyProxy, On};
pub use reader::Reader;
pub use receiver::Receiver;
pub use s3::{FakeS3, Garage};
pub use storewatch::{NOBODY, Running, Storewatch};
pub use wait::eventually;

use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// Makes one test of each function and version of Nix, `NAME::nix_2_8` and `NAME::nix_recent`.
///
/// ```text
/// each_nix! {
///     fn a_build_arrives(nix: Nix) { … }
/// }
/// ```
macro_rules! each_nix {
    ($($(#[$meta:meta])* fn $test:ident($nix:ident: Nix) $body:block)+) => {$(
        mod $test {
            use super::*;

            $(#[$meta])*
            fn run($nix: Nix) $body

            #[test]
            fn nix_2_8() {
                Nix::v2_8().into_iter().for_each(run);
            }

            #[test]
            fn nix_recent() {
                Nix::recent().into_iter().for_each(run);
            }
        }
    )+};
}
pub(crate) use each_nix;

/// What a command that ended said.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    /// Runs a command to its end, without input.
    pub fn by(command: &mut Command) -> Self {
        let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("run {command:?}: {error}"));
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Standard output where the command succeeded, otherwise its standard error.
    pub fn result(self) -> Result<String, String> {
        if self.code == Some(0) { Ok(self.stdout) } else { Err(self.stderr) }
    }

    /// Standard output of a command that has to succeed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "the command failed\n{}{}", self.stdout, self.stderr);
        self.stdout
    }

    /// The JSON that a command which has to succeed wrote.
    #[track_caller]
    pub fn json(self) -> serde_json::Value {
        let stdout = self.ok();
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("not JSON ({error}): {stdout}"))
    }
}

/// A folder of a test's own that others may read, too. Its path is canonical, as Nix wants it, and short, as sockets do.
fn scratch_folder() -> TempDir {
    use std::os::unix::fs::PermissionsExt;
    let parent = std::env::temp_dir().canonicalize().unwrap();
    let readable = std::fs::Permissions::from_mode(0o755);
    tempfile::Builder::new().prefix("sw-").permissions(readable).tempdir_in(parent).unwrap()
}

/// Writes a file that only its owner can read, as storewatch wants it of a secret. Aside and renamed, as those do it who
/// replace a secret while it is used.
pub fn write_secret(file: &Path, content: impl AsRef<[u8]>) {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let beside = file.with_extension("new");
    let mut written =
        std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&beside).unwrap();
    written.write_all(content.as_ref()).unwrap();
    std::fs::rename(beside, file).unwrap();
}

/// Makes every folder below `root` writable, so that it can be removed: Nix takes that permission from its store.
fn make_removable(root: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let Ok(entries) = std::fs::read_dir(root) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        let _ = std::fs::set_permissions(entry.path(), std::fs::Permissions::from_mode(0o755));
        make_removable(&entry.path());
    }
}
