//! Small disks, to be filled and to be pulled out.

use super::Said;
use super::nix::skipped;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

pub const MIB: u64 = 1024 * 1024;

/// A small disk in memory. Gone when dropped.
#[derive(Debug)]
pub struct Disk {
    mounted: PathBuf,
}

impl Disk {
    /// Mounts it; says so where that isn't allowed here.
    pub fn mount(at: &Path, bytes: u64) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let size = format!("size={bytes},mode=755");
        let said = Said::by(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "storewatch-test"]).arg(at));
        if said.code != Some(0) {
            skipped(&format!("no disk can be mounted here: {}", said.stderr.trim()));
            return None;
        }
        Some(Self { mounted: at.to_owned() })
    }

    /// Shows a folder in another place, too, until this is dropped.
    pub fn bind(folder: &Path, at: &Path) -> Self {
        fs::create_dir_all(at).unwrap();
        Said::by(Command::new("mount").arg("--bind").arg(folder).arg(at)).ok();
        Self { mounted: at.to_owned() }
    }

    pub fn remount(&self, mode: &str) {
        Said::by(Command::new("mount").args(["-o", &format!("remount,{mode}")]).arg(&self.mounted)).ok();
    }

    /// Gives it more room than it had.
    pub fn make_larger(&self, bytes: u64) {
        self.remount(&format!("size={bytes}"));
    }

    /// Fills it until so many per cent are free.
    pub fn leave_percent(&self, percent: u64) {
        self.clear();
        let stat = rustix::fs::statvfs(&self.mounted).unwrap();
        self.leave_free(stat.f_blocks * stat.f_frsize * percent / 100);
    }

    /// Leaves not a byte.
    pub fn fill(&self) {
        self.leave_free(0);
    }

    /// Fills it until only so many bytes are free.
    pub fn leave_free(&self, bytes: u64) {
        let filler = vec![1; usize::try_from(self.free() - bytes).unwrap()];
        match fs::write(self.filler(), filler) {
            // Somebody else has taken some of it meanwhile.
            Err(error) if error.kind() == ErrorKind::StorageFull => {}
            written => written.unwrap(),
        }
    }

    /// Bytes that are free.
    pub fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.mounted).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    /// Removes what it was filled with, if it was.
    pub fn clear(&self) {
        match fs::remove_file(self.filler()) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            removed => removed.unwrap(),
        }
    }

    /// Pulls it out. What was on it is lost.
    pub fn unmount(&self) {
        Said::by(Command::new("umount").arg("--lazy").arg(&self.mounted)).ok();
    }

    fn filler(&self) -> PathBuf {
        self.mounted.join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whoever still has a file open there doesn't keep it.
        let _ = Command::new("umount").arg("--lazy").arg(&self.mounted).output();
    }
}
