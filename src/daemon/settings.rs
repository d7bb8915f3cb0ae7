//! The policy file, kept in force: read again when it has changed, refused as a whole when it is bad.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tracing::{error, info, warn};

use crate::config::{Config, ConfigError, read_file};

/// Says what the policy file means, by its content: what was looked at is what is in force, whatever becomes of the file.
pub type Load = Box<dyn Fn(io::Result<Vec<u8>>) -> Result<Config, ConfigError> + Send>;

/// The configuration in force and where it came from.
pub struct Settings {
    file: Option<PathBuf>,
    /// What was read last, good or bad, so that a bad edit is told once.
    bytes: Option<Vec<u8>>,
    config: Config,
    /// What the file said from which that was made.
    in_force: Option<Vec<u8>>,
    load: Load,
    /// Somebody says that the file is as it should be.
    told: bool,
}

/// A policy file that was written within this time may not be whole yet: editors write it at once, scripts may not. Half
/// of one can lack what the other half denies.
const SETTLED: Duration = Duration::from_secs(1);

/// What came of looking at the policy file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// Another configuration is to be put in force.
    InForce,
    /// The same as before is to be put in force once more, since somebody says so: what it names may be another.
    Again,
    /// It is the same, or can't be used, which has been told.
    Nothing,
    /// It was written just now: to be looked at again after so long.
    Later(Duration),
}

impl Settings {
    /// Reads the policy for the first time. Where `file` isn't there it may yet come.
    ///
    /// # Errors
    /// What `load` says.
    pub fn read(file: Option<PathBuf>, load: Load) -> Result<Self, ConfigError> {
        let content = file.as_ref().map_or_else(|| Err(ErrorKind::NotFound.into()), |file| read_file(file));
        let bytes = content.as_ref().ok().cloned();
        Ok(Self { config: load(content)?, file, in_force: bytes.clone(), bytes, load, told: false })
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

    /// A hash of the policy file that is in force, 64 hexadecimal digits; `None` where the built-in policy is.
    #[must_use]
    pub fn fingerprint(&self) -> Option<String> {
        Some(fingerprint(self.in_force.as_ref()?))
    }

    /// Lets the next [`Settings::reload`] read the file, changed or not, just written or not, and say what came of it.
    pub fn forget(&mut self) {
        self.told = true;
    }

    /// Reads the file if it has changed and has been left alone for a moment, and says what came of it.
    pub fn reload(&mut self) -> Reload {
        // Of this look alone: whatever comes of it, what is written later has to settle.
        let told = std::mem::take(&mut self.told);
        let Some(file) = &self.file else { return Reload::Nothing };
        let bytes = match read_file(file) {
            Ok(bytes) => bytes,
            // An editor may have removed it for a moment, and a bad moment is no reason to forget a policy.
            Err(error) => {
                let news = self.bytes.take().is_some() || told;
                if news && error.kind() == ErrorKind::NotFound && self.config.source.is_none() {
                    info!("there is no policy file, the built-in policy stays in force");
                } else if news {
                    warn!("the policy file can't be read, the old policy stays in force: {}: {error}", file.display());
                }
                return Reload::Nothing;
            }
        };
        if self.bytes.as_ref() == Some(&bytes) && !told {
            return Reload::Nothing;
        }
        if !told && let Some(left) = unsettled(file) {
            return Reload::Later(left);
        }
        self.bytes = Some(bytes.clone());
        let is_as_before = self.in_force.as_ref() == Some(&bytes);
        if is_as_before && !told {
            info!("the policy file is as it was, and nothing changes");
            return Reload::Nothing;
        }
        match (self.load)(Ok(bytes.clone())) {
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
                self.config = config;
                self.in_force = Some(bytes);
                if is_as_before { Reload::Again } else { Reload::InForce }
            }
            Err(problems) => {
                error!("the policy file has problems, the old one stays in force:\n{problems}");
                Reload::Nothing
            }
        }
    }
}

/// A hash of a policy file's content, 64 hexadecimal digits.
#[must_use]
pub fn fingerprint(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How long to wait until a file that was just written counts as whole. A time that lies ahead is no reason to wait: then
/// the clock was put back.
fn unsettled(file: &Path) -> Option<Duration> {
    let written = std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok()?;
    SETTLED.checked_sub(written.elapsed().ok()?).filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::cache::CacheUrl;
    use crate::config::{Defaults, PolicyFile};

    #[test]
    fn a_file_that_is_still_being_written_is_not_in_force() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("policy.toml");
        std::fs::write(&path, "version = 1\n").expect("written");
        let defaults = Defaults { state_dir: dir.path().to_owned() };
        let file = PolicyFile { path: path.clone(), named: true };
        let check = |url: &str| CacheUrl::parse(url).map_err(|error| error.to_string());
        let load: Load = Box::new(move |content| {
            // Somebody begins to write it once more just then.
            std::fs::write(&file.path, "version = 1\n").expect("written");
            Config::of_file(&file, content, &defaults, &check)
        });
        let mut settings = Settings::read(Some(path.clone()), load).expect("a good policy");
        let whole = "version = 1\n[caches.team]\nurl = \"file:///srv/team\"\n";
        std::fs::write(&path, whole).expect("written");
        assert!(matches!(settings.reload(), Reload::Later(left) if left <= SETTLED));
        assert_eq!(settings.config().caches[0].name.as_str(), "local");
        let written = std::fs::File::options().write(true).open(&path).expect("opened");
        written.set_modified(SystemTime::now() - SETTLED).expect("a time");
        assert_eq!(settings.reload(), Reload::InForce);
        assert_eq!(settings.config().caches[0].name.as_str(), "team", "what was looked at");
        // Who says so by SIGHUP means it.
        settings.forget();
        assert_eq!(settings.reload(), Reload::InForce);
        assert_eq!(settings.reload(), Reload::Nothing);
        settings.forget();
        assert_eq!(settings.reload(), Reload::Again, "nothing has changed");
        // As some editors do: it is gone for a moment.
        let in_force = settings.fingerprint();
        std::fs::rename(&path, dir.path().join("aside")).expect("gone");
        assert_eq!(settings.reload(), Reload::Nothing);
        assert!(in_force.is_some() && settings.fingerprint() == in_force, "what is in force was in it");
        std::fs::rename(dir.path().join("aside"), &path).expect("back");
        let written = std::fs::File::options().write(true).open(&path).expect("opened");
        written.set_modified(SystemTime::now() - SETTLED).expect("a time");
        assert_eq!(settings.reload(), Reload::Nothing, "it is as it was");
        assert_eq!(settings.fingerprint(), in_force);
        assert_eq!(settings.config().caches[0].name.as_str(), "local");
        // And means what is there at that time.
        std::fs::remove_file(&path).expect("removed");
        settings.forget();
        assert_eq!(settings.reload(), Reload::Nothing);
        std::fs::write(&path, whole).expect("written");
        assert!(matches!(settings.reload(), Reload::Later(_)));
    }
}
