//! Where storewatch's own things live: its state and its policy file.
//!
//! What is given by flag or variable wins, then systemd's directories, then the system's as root, then XDG.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The policy file's name in its folder.
pub const POLICY_FILE_NAME: &str = "policy.toml";

/// Where root's daemon keeps its state, and where a client without one of its own looks.
pub const SYSTEM_STATE_DIR: &str = "/var/lib/storewatch";

/// Where root's daemon finds its policy.
pub const SYSTEM_CONFIG_DIR: &str = "/etc/storewatch";

/// Where root's daemon keeps what is gone with a reboot.
pub const SYSTEM_RUNTIME_DIR: &str = if cfg!(target_os = "macos") { "/var/run/storewatch" } else { "/run/storewatch" };

/// What the process was started with.
pub struct Surroundings<'a> {
    /// `--state-dir`, or `STOREWATCH_STATE_DIR`.
    pub state_dir: Option<&'a Path>,
    /// `--config`, or `STOREWATCH_CONFIG`.
    pub config: Option<&'a Path>,
    /// Whether it runs as root.
    pub root: bool,
    /// Looks up a variable of the environment.
    pub env: &'a dyn Fn(&str) -> Option<OsString>,
}

/// A policy file, which may be missing where nobody asked for it by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyFile {
    /// Where it is, or would be.
    pub path: PathBuf,
    /// Whether it was named by flag or variable: then it is an error that it is missing.
    pub named: bool,
}

/// There is no place for the state: losing the queue at each restart would lose paths.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no place for the state: HOME is not set; name one with --state-dir or STOREWATCH_STATE_DIR")]
pub struct NoStateDir;

impl Surroundings<'_> {
    /// The state directory: as given, `STATE_DIRECTORY`, `/var/lib/storewatch` as root, `$XDG_STATE_HOME/storewatch`,
    /// `~/.local/state/storewatch`.
    ///
    /// # Errors
    /// [`NoStateDir`] where none of these is to be had.
    pub fn state_dir(&self) -> Result<PathBuf, NoStateDir> {
        self.given_or_systemds(self.state_dir, "STATE_DIRECTORY")
            .or_else(|| self.root.then(|| SYSTEM_STATE_DIR.into()))
            .or_else(|| self.xdg("XDG_STATE_HOME", ".local/state"))
            .ok_or(NoStateDir)
    }

    /// The policy file: as given, or `policy.toml` in `CONFIGURATION_DIRECTORY`, `/etc/storewatch` as root,
    /// `$XDG_CONFIG_HOME/storewatch`, `~/.config/storewatch`. `None` where none of these is to be had: then there is none.
    #[must_use]
    pub fn policy_file(&self) -> Option<PolicyFile> {
        if let Some(path) = self.config {
            return Some(PolicyFile { path: path.to_owned(), named: true });
        }
        let dir = self
            .given_or_systemds(None, "CONFIGURATION_DIRECTORY")
            .or_else(|| self.root.then(|| SYSTEM_CONFIG_DIR.into()))
            .or_else(|| self.xdg("XDG_CONFIG_HOME", ".config"))?;
        Some(PolicyFile { path: dir.join(POLICY_FILE_NAME), named: false })
    }

    /// The runtime directory, which is gone after a reboot: `RUNTIME_DIRECTORY`, `/run/storewatch` as root (`/var/run` on
    /// macOS), `$XDG_RUNTIME_DIR/storewatch`. `None` where none of these is to be had.
    #[must_use]
    pub fn runtime_dir(&self) -> Option<PathBuf> {
        let xdg = || (self.env)("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
        self.given_or_systemds(None, "RUNTIME_DIRECTORY")
            .or_else(|| self.root.then(|| SYSTEM_RUNTIME_DIR.into()))
            .or_else(|| Some(xdg()?.join("storewatch")))
    }

    fn given_or_systemds(&self, given: Option<&Path>, variable: &str) -> Option<PathBuf> {
        // systemd lists several with colons between them, the unit's own order.
        let first = || {
            let value = (self.env)(variable)?.into_string().ok()?;
            value.split(':').next().filter(|dir| !dir.is_empty()).map(PathBuf::from)
        };
        given.map(Path::to_owned).or_else(first)
    }

    /// By the XDG base directory specification: a relative path in the variable counts as none.
    fn xdg(&self, variable: &str, below_home: &str) -> Option<PathBuf> {
        let absolute = |name: &str| (self.env)(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = absolute(variable).or_else(|| absolute("HOME").map(|home| home.join(below_home)))?;
        Some(base.join("storewatch"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// State directory and policy file, and whether the latter was named.
    fn places(flags: bool, root: bool, env: &[(&str, &str)]) -> (Option<String>, Option<(String, bool)>) {
        let look_up = |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value));
        let surroundings = Surroundings {
            state_dir: flags.then_some(Path::new("/flag/state")),
            config: flags.then_some(Path::new("flag.toml")),
            root,
            env: &look_up,
        };
        let text = |path: PathBuf| path.display().to_string();
        (surroundings.state_dir().ok().map(text), surroundings.policy_file().map(|file| (text(file.path), file.named)))
    }

    #[test]
    fn the_nearest_word_wins() {
        let home = ("HOME", "/home/me");
        let xdg = [home, ("XDG_STATE_HOME", "/xdg/state"), ("XDG_CONFIG_HOME", "/xdg/config")];
        let relative = [home, ("XDG_STATE_HOME", "state"), ("XDG_CONFIG_HOME", "config")];
        let systemd = [home, ("STATE_DIRECTORY", "/sd/state:/sd/other"), ("CONFIGURATION_DIRECTORY", "/sd/config")];
        for (flags, root, env, state, config, named) in [
            (true, true, &systemd[..], "/flag/state", "flag.toml", true),
            (false, true, &systemd, "/sd/state", "/sd/config/policy.toml", false),
            (false, true, &xdg, "/var/lib/storewatch", "/etc/storewatch/policy.toml", false),
            (false, false, &xdg, "/xdg/state/storewatch", "/xdg/config/storewatch/policy.toml", false),
            (
                false,
                false,
                &relative,
                "/home/me/.local/state/storewatch",
                "/home/me/.config/storewatch/policy.toml",
                false,
            ),
        ] {
            let expected = (Some(state.to_owned()), Some((config.to_owned(), named)));
            assert_eq!(places(flags, root, env), expected);
        }
        assert_eq!(places(false, false, &[]), (None, None));
    }

    #[test]
    fn what_is_gone_with_a_reboot_is_never_in_the_home_folder() {
        let runtime = |root, env: &[(&str, &str)]| {
            let look_up =
                |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value));
            let surroundings = Surroundings { state_dir: None, config: None, root, env: &look_up };
            surroundings.runtime_dir().map(|dir| dir.display().to_string())
        };
        let home = ("HOME", "/home/me");
        let xdg = [home, ("XDG_RUNTIME_DIR", "/run/user/1000")];
        let systemd = [home, ("RUNTIME_DIRECTORY", "/run/sw:/run/other"), ("XDG_RUNTIME_DIR", "/run/user/0")];
        assert_eq!(runtime(true, &systemd).as_deref(), Some("/run/sw"));
        assert_eq!(runtime(true, &xdg).as_deref(), Some(SYSTEM_RUNTIME_DIR));
        assert_eq!(runtime(false, &xdg).as_deref(), Some("/run/user/1000/storewatch"));
        assert_eq!(runtime(false, &[home, ("XDG_RUNTIME_DIR", "run")]), None);
        assert_eq!(runtime(false, &[home]), None);
    }
}
