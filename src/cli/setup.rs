//! What nearly every command begins with: where things are, and what the policy says.

use std::path::{Path, PathBuf};

use super::{CliError, Global};
use crate::cache::CacheUrl;
use crate::config::{Config, ConfigError, Defaults, NixStore, PolicyFile, SYSTEM_STATE_DIR, Surroundings};
use crate::daemon::Settings;
use crate::nix::StoreDir;
use crate::queue::{AtWork, Queue};

/// Where things are, and what the policy says.
pub(super) struct Setup {
    pub(super) state_dir: PathBuf,
    pub(super) settings: Settings,
    pub(super) nix: NixStore,
}

/// What there is for those who look at what another process does.
pub(super) struct View {
    pub(super) state_dir: PathBuf,
    /// The policy file that goes with the state directory; it need not be there.
    pub(super) policy_file: Option<PathBuf>,
    /// The service that works with it, where the state directory is gone: then what is there is none of its.
    pub(super) without_state: Option<String>,
    /// What it says, or what is wrong with it: there is much to see without it.
    pub(super) config: Result<Config, ConfigError>,
}

impl Setup {
    /// Reads the policy file, if there is one.
    pub(super) fn read(global: &Global) -> Result<Self, CliError> {
        let state_dir = state_dir(global)?;
        check_state_is_there(global, &state_dir)?;
        let settings = settings(global, &state_dir)?;
        let nix = nix_store(settings.config())?;
        Ok(Self { state_dir, settings, nix })
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

/// The runtime directory, by environment or custom; `None` where there is none.
pub(super) fn runtime_dir(global: &Global) -> Option<PathBuf> {
    let dir = surroundings(global).runtime_dir()?;
    std::path::absolute(dir).ok()
}

impl View {
    /// Finds what there is, and reads the policy that goes with it.
    pub(super) fn find(global: &Global) -> Result<Self, CliError> {
        let state_dir = client_state_dir(global)?;
        let file = policy_beside(&state_dir, surroundings(global)).map(absolute);
        let defaults = Defaults { state_dir: state_dir.clone() };
        let config = Config::load(file.as_ref(), &defaults, &check_url);
        let without_state = service_without(global, &state_dir);
        Ok(Self { without_state, state_dir, policy_file: file.map(|file| file.path), config })
    }

    /// Whether the state directory is the one that a service works with, if any does.
    ///
    /// # Errors
    /// [`CliError::StateAway`].
    pub(super) fn check_state_is_there(&self) -> Result<(), CliError> {
        let away = |service: &String| CliError::StateAway { service: service.clone(), dir: self.state_dir.clone() };
        self.without_state.as_ref().map(away).map_or(Ok(()), Err)
    }
}

/// The service that works with a state directory which is gone, as far as can be known.
fn service_without(global: &Global, state_dir: &Path) -> Option<String> {
    let surroundings = surroundings(global);
    let root = surroundings.root || state_dir == Path::new(SYSTEM_STATE_DIR);
    let runtime_dir = Surroundings { root, ..surroundings }.runtime_dir()?;
    AtWork::without_its_state(&std::path::absolute(runtime_dir).ok()?, state_dir)
}

/// Whether the state directory is the one that a service works with, if any does: what was written elsewhere would be lost.
///
/// # Errors
/// [`CliError::StateAway`].
pub(super) fn check_state_is_there(global: &Global, state_dir: &Path) -> Result<(), CliError> {
    service_without(global, state_dir)
        .map_or(Ok(()), |service| Err(CliError::StateAway { service, dir: state_dir.to_owned() }))
}

/// The store that a policy and the environment name.
pub(super) fn nix_store(config: &Config) -> Result<NixStore, CliError> {
    Ok(NixStore::resolve(&config.store, |name| std::env::var_os(name))?)
}

/// The state directory for those who look at what another process does: where nobody has said which and this user's own
/// has no queue, that of the system's service.
pub(super) fn client_state_dir(global: &Global) -> Result<PathBuf, CliError> {
    let own = state_dir(global)?;
    let system = Path::new(SYSTEM_STATE_DIR);
    let elsewhere = global.state_dir.is_none()
        && !own.join(Queue::FILE_NAME).exists()
        && system.exists()
        && service_without(global, &own).is_none();
    Ok(if elsewhere { system.to_owned() } else { own })
}

/// The policy file by which a state directory's service works, if nobody has said which: the system's goes with the
/// system's state directory, whoever looks at it. By another policy its caches would look like nobody's.
fn policy_beside(state_dir: &Path, surroundings: Surroundings<'_>) -> Option<PolicyFile> {
    let root = surroundings.root || state_dir == Path::new(SYSTEM_STATE_DIR);
    Surroundings { root, ..surroundings }.policy_file()
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
    let understood = CacheUrl::parse(url).map_err(|error| error.to_string())?;
    let stores = [Some(StoreDir::default().to_path_buf()), std::env::var_os("NIX_STORE_DIR").map(PathBuf::from)];
    if let CacheUrl::File { dir, .. } = &understood
        && stores.iter().flatten().any(|store| dir.starts_with(store))
    {
        return Err(
            "a cache must not lie in the Nix store, where garbage collection deletes it: keep it elsewhere".to_owned()
        );
    }
    Ok(understood)
}

fn settings(global: &Global, state_dir: &Path) -> Result<Settings, CliError> {
    let defaults = Defaults { state_dir: state_dir.to_owned() };
    let file = surroundings(global).policy_file().map(absolute);
    let path = file.as_ref().map(|file| file.path.clone());
    let load = move |content| match &file {
        Some(file) => Config::of_file(file, content, &defaults, &check_url),
        None => Ok(Config::built_in(&defaults)),
    };
    Settings::read(path, Box::new(load)).map_err(CliError::BadPolicy)
}

/// Whoever changes the folder later still means the same file.
fn absolute(PolicyFile { path, named }: PolicyFile) -> PolicyFile {
    PolicyFile { path: std::path::absolute(&path).unwrap_or(path), named }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cache_is_kept_where_garbage_is_collected() {
        let refused = check_url("file:///nix/store/cache").expect_err("refused");
        assert!(refused.contains("garbage collection"), "{refused}");
        check_url("file:///nix/storehouse?compression=none").expect("another folder");
    }

    #[test]
    fn the_systems_queue_goes_with_the_systems_policy() {
        let file = |state_dir: &str, config: Option<&str>| {
            let env = |name: &str| (name == "HOME").then(|| "/home/me".into());
            let config = config.map(Path::new);
            let surroundings = Surroundings { state_dir: None, config, root: false, env: &env };
            policy_beside(Path::new(state_dir), surroundings).expect("a place").path
        };
        assert_eq!(file(SYSTEM_STATE_DIR, None), Path::new("/etc/storewatch/policy.toml"));
        let own = Path::new("/home/me/.config/storewatch/policy.toml");
        assert_eq!(file("/home/me/.local/state/storewatch", None), own);
        assert_eq!(file(SYSTEM_STATE_DIR, Some("/mine.toml")), Path::new("/mine.toml"));
    }
}
