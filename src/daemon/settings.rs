//! The policy file, kept in force: read again when it has changed, refused as a whole when it is bad.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tracing::{error, info, warn};

use crate::config::{Config, ConfigError};

/// Reads the policy file and says what it means.
pub type Load = Box<dyn Fn() -> Result<Config, ConfigError> + Send>;

/// The configuration in force and where it came from.
pub struct Settings {
    file: Option<PathBuf>,
    /// What was read last, good or bad, so that a bad edit is told once.
    bytes: Option<Vec<u8>>,
    config: Config,
    load: Load,
}

impl Settings {
    /// Reads the policy for the first time. Where `file` isn't there it may yet come.
    ///
    /// # Errors
    /// What `load` says.
    pub fn read(file: Option<PathBuf>, load: Load) -> Result<Self, ConfigError> {
        let bytes = file.as_ref().and_then(|file| std::fs::read(file).ok());
        Ok(Self { config: load()?, file, bytes, load })
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The policy file, there or not.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// A hash of the policy file as it was read last, 64 hexadecimal digits; `None` where there is none.
    #[must_use]
    pub fn fingerprint(&self) -> Option<String> {
        let hash = Sha256::digest(self.bytes.as_ref()?);
        Some(hash.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Lets the next [`Settings::reload`] read the file, changed or not, and say what came of it.
    pub fn forget(&mut self) {
        self.bytes = Some(Vec::new());
    }

    /// Reads the file if it has changed, and says whether another configuration is in force now.
    pub fn reload(&mut self) -> bool {
        let Some(file) = &self.file else { return false };
        let bytes = match std::fs::read(file) {
            Ok(bytes) => bytes,
            // An editor may have removed it for a moment, and a bad moment is no reason to forget a policy.
            Err(error) => {
                let news = self.bytes.take().is_some();
                if news && error.kind() == ErrorKind::NotFound && self.config.source.is_none() {
                    info!("there is no policy file, the built-in policy stays in force");
                } else if news {
                    warn!("the policy file can't be read, the old policy stays in force: {}: {error}", file.display());
                }
                return false;
            }
        };
        if self.bytes.as_ref() == Some(&bytes) {
            return false;
        }
        self.bytes = Some(bytes);
        match (self.load)() {
            Ok(config) => {
                for warning in &config.warnings {
                    warn!("{warning}");
                }
                if config.store != self.config.store {
                    warn!("[store] has changed; that takes effect at the next start");
                }
                if config.limits.priority != self.config.limits.priority {
                    warn!("limits.priority has changed; that takes effect at the next start");
                }
                info!(file = %file.display(), "the policy has changed and is in force");
                self.config = config;
                true
            }
            Err(problems) => {
                error!("the policy file has problems, the old one stays in force:\n{problems}");
                false
            }
        }
    }
}
