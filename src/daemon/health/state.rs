//! The state directory: whether it can be written, who works there, and the queue in it.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD};

use super::Finding;
use crate::disk::nearest;
use crate::queue::{AtWork, Queue, QueueError, StateLock};
use crate::report::one_line;

const DIRECTORY: &str = "state directory";
const LOCK: &str = "lock";
const QUEUE: &str = "queue";

pub(super) fn examine(state_dir: &Path, without_state: Option<&str>) -> Vec<Finding> {
    if let Some(service) = without_state {
        let found = format!("{} is gone, with which {service} works: it was unmounted or removed", state_dir.display());
        return vec![Finding::trouble(DIRECTORY, found).cured_by(AtWork::CURE)];
    }
    vec![directory(state_dir), worker(state_dir), queue(state_dir)]
}

fn directory(dir: &Path) -> Finding {
    let path = dir.display();
    let (written, found) = if dir.exists() {
        (write_and_remove(dir), format!("{path} can be written"))
    } else {
        let may = nearest(dir).and_then(|(there, _)| {
            Ok(rustix::fs::accessat(CWD, there, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)?)
        });
        (may, format!("{path} isn't there yet; the first start makes it"))
    };
    match written {
        Ok(()) => Finding::ok(DIRECTORY, found),
        Err(error) => Finding::trouble(DIRECTORY, format!("{path} can't be written: {error}")).cured_by(
            "it belongs to the user that the service runs as: ask as that user, or give another with --state-dir",
        ),
    }
}

fn write_and_remove(dir: &Path) -> io::Result<()> {
    let file = dir.join(format!(".storewatch-doctor-{}.file", std::process::id()));
    OpenOptions::new().write(true).create_new(true).open(&file)?;
    fs::remove_file(&file)
}

fn worker(dir: &Path) -> Finding {
    match StateLock::holder(dir) {
        Ok(Some(holder)) => Finding::ok(LOCK, format!("{holder} works the queue off")),
        Ok(None) => Finding::ok(LOCK, "nobody works the queue off now; `storewatch run` does"),
        Err(error) => {
            let found = format!("whether somebody works the queue off can't be known to this user: {error}");
            Finding::warning(LOCK, found).cured_by("ask as the user that the service runs as")
        }
    }
}

fn queue(dir: &Path) -> Finding {
    let counts = match Queue::open_to_look(dir).and_then(|queue| queue.counts()) {
        Ok(counts) => counts,
        Err(QueueError::NoQueue { .. }) => return Finding::ok(QUEUE, "there is none yet; the first start makes it"),
        Err(error) => return Finding::trouble(QUEUE, one_line(&error)).cured_by(error.hint()),
    };
    let sum = |count: fn(&crate::queue::CacheCounts) -> u64| counts.iter().map(count).sum::<u64>();
    let to_do = sum(|cache| cache.pending + cache.uploading);
    let stuck = sum(|cache| cache.held + cache.failed);
    let found = format!("{} done, {to_do} to do, {stuck} held or failed", sum(|cache| cache.done));
    if stuck == 0 {
        return Finding::ok(QUEUE, found);
    }
    Finding::warning(QUEUE, found).cured_by("`storewatch queue list` says why")
}
