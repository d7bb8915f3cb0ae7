//! The policy file, kept in force: read again when it has changed, refused as a whole when it is bad.

use std::path::{Path, PathBuf};

use tracing::{error, info, warn};

use crate::config::{Config, ConfigError};

/// Reads the policy: the text of the file, and what it means.
pub type Load = Box<dyn Fn(&str) -> Result<Config, ConfigError> + Send>;

/// The configuration in force and where it came from.
pub struct Settings {
    file: Option<PathBuf>,
    /// What was read last, good or bad, so that a bad edit is told once.
    text: Option<String>,
    config: Config,
    load: Load,
}

impl Settings {
    /// Settings that were read from `file` as `text`; no text where there is no file, which may yet come.
    #[must_use]
    pub fn new(file: Option<PathBuf>, text: Option<String>, config: Config, load: Load) -> Self {
        Self { file, text, config, load }
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

    /// Reads the file if it has changed, and says whether another configuration is in force now.
    pub fn reload(&mut self) -> bool {
        let Some(file) = &self.file else { return false };
        // An editor may have removed it for a moment, and a bad moment is no reason to forget a policy.
        let Ok(text) = std::fs::read_to_string(file) else { return false };
        if self.text.as_ref() == Some(&text) {
            return false;
        }
        let loaded = (self.load)(&text);
        self.text = Some(text);
        match loaded {
            Ok(config) => {
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
                error!("the policy has changed for the worse, the old one stays in force:\n{problems}");
                false
            }
        }
    }
}
