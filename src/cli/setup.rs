//! What nearly every command begins with: where things are, and what the policy says.

use std::path::{Path, PathBuf};

use super::{CliError, Global};
use crate::cache::CacheUrl;
use crate::config::{Config, Defaults, NixStore, PolicyFile, SYSTEM_STATE_DIR, Surroundings};
use crate::daemon::Settings;
use crate::queue::Queue;

/// Where things are, and what the policy says.
pub(super) struct Setup {
    pub(super) state_dir: PathBuf,
    pub(super) settings: Settings,
    pub(super) nix: NixStore,
}

impl Setup {
    /// Reads the policy file, if there is one.
    pub(super) fn read(global: &Global) -> Result<Self, CliError> {
        let state_dir = state_dir(global)?;
        let settings = settings(global, &state_dir)?;
        let nix = NixStore::resolve(&settings.config().store, |name| std::env::var_os(name))?;
        Ok(Self { state_dir, settings, nix })
    }

    /// As [`Setup::read`], for those who look at what another process does.
    pub(super) fn read_as_client(global: &Global) -> Result<Self, CliError> {
        let state_dir = client_state_dir(global)?;
        Ok(Self { state_dir, ..Self::read(global)? })
    }

    pub(super) fn config(&self) -> &Config {
        self.settings.config()
    }
}

/// The state directory, by option, environment or custom.
pub(super) fn state_dir(global: &Global) -> Result<PathBuf, CliError> {
    let dir = surroundings(global).state_dir().map_err(|_| CliError::NoStateDir)?;
    std::path::absolute(&dir).map_err(|source| CliError::System { action: "find the state directory", source })
}

/// The state directory for those who look at what another process does: where nobody has said which and this user's own
/// has no queue, that of the system's service.
pub(super) fn client_state_dir(global: &Global) -> Result<PathBuf, CliError> {
    let own = state_dir(global)?;
    let system = Path::new(SYSTEM_STATE_DIR);
    let elsewhere = global.state_dir.is_none() && !own.join(Queue::FILE_NAME).exists() && system.exists();
    Ok(if elsewhere { system.to_owned() } else { own })
}

fn surroundings(global: &Global) -> Surroundings<'_> {
    Surroundings {
        state_dir: global.state_dir.as_deref(),
        config: global.config.as_deref(),
        root: rustix::process::geteuid().is_root(),
        env: &|name| std::env::var_os(name),
    }
}

/// Understands a cache URL, or says what is wrong with it.
pub(super) fn check_url(url: &str) -> Result<CacheUrl, String> {
    CacheUrl::parse(url).map_err(|error| error.to_string())
}

fn settings(global: &Global, state_dir: &Path) -> Result<Settings, CliError> {
    let defaults = Defaults { state_dir: state_dir.to_owned() };
    let file = surroundings(global)
        .policy_file()
        .map(|file| PolicyFile { path: std::path::absolute(&file.path).unwrap_or(file.path), named: file.named });
    let path = file.as_ref().map(|file| file.path.clone());
    let load = move || Config::load(file.as_ref(), &defaults, &check_url);
    Ok(Settings::read(path, Box::new(load))?)
}
