//! Whether events of the file system arrive. Nothing is lost without them, but everything comes some seconds later.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::Finding;
use crate::disk::nearest;
use crate::report::one_line;
use crate::watch::wake::{Folder, Wake, WakeError};

const ABOUT: &str = "events";

/// An event takes less than a millisecond; one that hasn't come by now isn't on its way.
const PATIENCE: Duration = Duration::from_secs(5);

/// A folder that is removed when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn beside(state_dir: &Path) -> io::Result<Self> {
        let folder = nearest(state_dir)?.0.join(format!(".storewatch-doctor-{}", std::process::id()));
        fs::create_dir(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // An empty folder that can't be removed does no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(super) async fn examine(state_dir: &Path, db_path: Option<&Path>) -> Vec<Finding> {
    if let Some(folder) = db_path.and_then(Path::parent) {
        let mut wake = Wake::start(vec![Folder { path: folder.to_owned(), names: Vec::new() }]);
        // A database that isn't there has been found already.
        let unwatched = wake.rearm().into_iter().map(|unwatched| unwatched.why).filter(|why| !why.is_missing());
        let findings: Vec<_> = unwatched.map(|why| without_events(&why)).collect();
        // This is the folder that counts: that one arrives from another would be no comfort.
        if !findings.is_empty() {
            return findings;
        }
    }
    vec![observe(state_dir).await]
}

/// Makes an event, and waits for it.
async fn observe(state_dir: &Path) -> Finding {
    let scratch = match Scratch::beside(state_dir) {
        Ok(scratch) => scratch,
        Err(error) => {
            let found = format!("not tried, since nothing can be written in {}: {error}", state_dir.display());
            return Finding::warning(ABOUT, found);
        }
    };
    let mut wake = Wake::start(vec![Folder { path: scratch.0.clone(), names: Vec::new() }]);
    if let Some(unwatched) = wake.rearm().pop() {
        return without_events(&unwatched.why);
    }
    let began = Instant::now();
    if let Err(error) = fs::write(scratch.0.join("event"), "") {
        return Finding::warning(ABOUT, format!("not tried: write in {}: {error}", scratch.0.display()));
    }
    match timeout(PATIENCE, wake.changed()).await {
        Ok(_) => {
            let took = began.elapsed().as_secs_f64() * 1_000.0;
            Finding::ok(ABOUT, format!("one arrived {took:.1} ms after a file was written"))
        }
        Err(_) => {
            let found = format!(
                "none has arrived within {} s; storewatch looks every five to fifteen seconds",
                PATIENCE.as_secs()
            );
            Finding::warning(ABOUT, found)
                .cured_by("a network share or FUSE sends none; keep the store on a local disk")
        }
    }
}

fn without_events(why: &WakeError) -> Finding {
    let cure = match why {
        WakeError::Exhausted { .. } => "raise that setting with `sysctl`, or `boot.kernel.sysctl` on NixOS",
        WakeError::Missing { .. } | WakeError::Other { .. } => {
            "the user that the service runs as must be able to list that folder"
        }
    };
    Finding::warning(ABOUT, format!("{}; storewatch looks every five seconds", one_line(why))).cured_by(cure)
}
