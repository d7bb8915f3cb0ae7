//! What is free on a file system.

use std::io;
use std::path::Path;

/// Free and all, of whatever is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// What this user may still take.
    pub free: u64,
    /// How much there is in all; 0 where nothing is counted, as inodes on a file system that makes them as it goes.
    pub all: u64,
}

/// What a file system has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Bytes.
    pub space: Share,
    /// Inodes.
    pub inodes: Share,
}

impl Share {
    /// What is free, in whole per cent.
    #[must_use]
    pub fn percent(self) -> u64 {
        u64::try_from(u128::from(self.free) * 100 / u128::from(self.all.max(1))).unwrap_or(u64::MAX)
    }
}

impl Room {
    /// Asks the file system of `path`, which has to be there. Blocks for some microseconds, or for ever where the file
    /// system is on a server that is away.
    ///
    /// # Errors
    /// What the system says.
    pub fn of(path: &Path) -> io::Result<Self> {
        let stat = rustix::fs::statvfs(path)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Self {
            space: Share { free: bytes(stat.f_bavail), all: bytes(stat.f_blocks) },
            inodes: Share { free: stat.f_favail, all: stat.f_files },
        })
    }

    /// As it would be with so many bytes more in it.
    #[must_use]
    pub fn with(self, bytes: u64) -> Self {
        Self { space: Share { free: self.space.free.saturating_sub(bytes), ..self.space }, ..self }
    }
}
