//! Which Nix store this host has, and where its parts lie.
//!
//! The environment wins over the policy's `[store]`, and that over Nix's own defaults; in each, what the store's URL says
//! wins over the single settings, as in Nix.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;

use crate::nix::{StoreDir, StoreFacts};

const DEFAULT_STORE_DIR: &str = "/nix/store";
const DEFAULT_STATE_DIR: &str = "/nix/var/nix";
const DEFAULT_LOG_DIR: &str = "/nix/var/log/nix";

/// A Nix store on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NixStore {
    /// The store directory as it stands in store paths.
    pub logical: StoreDir,
    /// Where the files of the paths are.
    pub real: PathBuf,
    /// Nix's state: `/nix/var/nix`.
    pub state: PathBuf,
    /// Nix's logs of builds: `/nix/var/log/nix`.
    pub log: PathBuf,
    /// The Nix daemon's socket; nothing says that it is there.
    pub socket: PathBuf,
}

/// What the policy's `[store]` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreOptions {
    /// The logical store directory.
    pub dir: Option<StoreDir>,
    /// Nix's state directory.
    pub state_dir: Option<PathBuf>,
    /// Nix's folder of logs.
    pub log_dir: Option<PathBuf>,
    /// Where the files really are.
    pub real_dir: Option<PathBuf>,
    /// A store URL.
    pub remote: Option<Remote>,
}

/// A store URL that means a store of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remote {
    /// The daemon's socket (`unix://SOCKET`).
    pub socket: Option<PathBuf>,
    /// Below which folder the whole store lies (`root=`).
    pub root: Option<PathBuf>,
    /// The logical store directory (`store=`).
    pub store: Option<StoreDir>,
    /// Where the files really are (`real=`).
    pub real: Option<PathBuf>,
    /// Nix's state directory (`state=`).
    pub state: Option<PathBuf>,
    /// Nix's folder of logs (`log=`).
    pub log: Option<PathBuf>,
}

/// A store URL that storewatch can't work with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRemote {
    /// Its database is elsewhere; reading this host's instead would upload the wrong paths.
    #[error(
        "a store of scheme `{0}` is not on this host: storewatch reads the Nix database, so it must run on the host \
         that has the store"
    )]
    ElsewhereOrUnknown(String),
    /// No URL and no absolute path.
    #[error(
        "{0} is no store that storewatch knows: expected `daemon`, `local`, `local?root=/…`, `unix:///…` or an absolute \
         path"
    )]
    NotAStore(String),
    /// A folder in it depends on where storewatch was started.
    #[error("{0} must be an absolute path")]
    Relative(&'static str),
}

/// A variable of the environment that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Nix would refuse it too.
    #[error("the environment variable `{0}` must be an absolute path in UTF-8")]
    BadPath(&'static str),
    /// Not a store of this host.
    #[error("the environment variable `NIX_REMOTE` is wrong")]
    BadRemote(#[from] BadRemote),
}

impl NixStore {
    /// Asks Nix about the paths of this store.
    #[must_use]
    pub fn facts(&self) -> StoreFacts {
        StoreFacts::new(self.db_path(), self.socket.clone(), self.logical.clone())
    }

    /// Resolves the store from `NIX_REMOTE`, `NIX_STORE_DIR`, `NIX_STATE_DIR`, `NIX_LOG_DIR` and `NIX_DAEMON_SOCKET_PATH`
    /// over what the policy says. A variable that is empty counts as not set.
    ///
    /// # Errors
    /// [`StoreError`] for a variable that makes no sense.
    pub fn resolve(options: &StoreOptions, env: impl Fn(&str) -> Option<OsString>) -> Result<Self, StoreError> {
        let variable = |name: &'static str| -> Result<Option<String>, StoreError> {
            let value = env(name).filter(|value| !value.is_empty());
            value.map(|value| value.into_string().map_err(|_| StoreError::BadPath(name))).transpose()
        };
        let path = |name: &'static str| -> Result<Option<String>, StoreError> {
            match variable(name)? {
                Some(path) if !path.starts_with('/') => Err(StoreError::BadPath(name)),
                path => Ok(path),
            }
        };
        let from_env = variable("NIX_REMOTE")?.map(|text| Remote::parse(&text)).transpose()?;
        let policys = Remote::default();
        let policys = if from_env.is_some() { &policys } else { options.remote.as_ref().unwrap_or(&policys) };
        let from_env = from_env.unwrap_or_default();
        let below = |root: &Option<PathBuf>, dir: &str| root.as_ref().map(|root| root.join(dir));

        let logical = (from_env.store)
            .or(path("NIX_STORE_DIR")?.map(|dir| StoreDir::new(&dir)))
            .or(options.dir.clone())
            .or(policys.store.clone())
            .unwrap_or_else(|| StoreDir::new(DEFAULT_STORE_DIR));
        let real = (from_env.real)
            .or(below(&from_env.root, "nix/store"))
            .or(options.real_dir.clone())
            .or(policys.real.clone())
            .or(below(&policys.root, "nix/store"))
            .unwrap_or_else(|| logical.to_path_buf());
        let state = (from_env.state)
            .or(below(&from_env.root, "nix/var/nix"))
            .or(path("NIX_STATE_DIR")?.map(PathBuf::from))
            .or(options.state_dir.clone())
            .or(policys.state.clone())
            .or(below(&policys.root, "nix/var/nix"))
            .unwrap_or_else(|| DEFAULT_STATE_DIR.into());
        let log = (from_env.log)
            .or(below(&from_env.root, "nix/var/log/nix"))
            .or(path("NIX_LOG_DIR")?.map(PathBuf::from))
            .or(options.log_dir.clone())
            .or(policys.log.clone())
            .or(below(&policys.root, "nix/var/log/nix"))
            .unwrap_or_else(|| DEFAULT_LOG_DIR.into());
        let socket = (from_env.socket)
            .or(path("NIX_DAEMON_SOCKET_PATH")?.map(PathBuf::from))
            .or(policys.socket.clone())
            .unwrap_or_else(|| state.join("daemon-socket/socket"));
        Ok(Self { logical, real, state, log, socket })
    }

    /// Nix's database.
    #[must_use]
    pub fn db_path(&self) -> PathBuf {
        self.state.join("db/db.sqlite")
    }
}

impl Remote {
    /// Takes what Nix takes as `--store` or `NIX_REMOTE`, as far as it means a store of this host. `auto`, `daemon` and
    /// `local` say nothing about where it lies. Parameters that Nix has beside those of [`Remote`] are not looked at.
    ///
    /// # Errors
    /// [`BadRemote`]; of the text no more is repeated in it than a word, as URLs may hold passwords.
    pub fn parse(text: &str) -> Result<Self, BadRemote> {
        let (base, query) = text.split_once('?').unwrap_or((text, ""));
        let mut remote = Self::default();
        match base.split_once("://") {
            Some(("unix" | "local", "")) => {}
            Some(("unix", socket)) => remote.socket = Some(absolute("what follows `unix://`", socket)?),
            Some(("local", root)) => remote.root = Some(absolute("what follows `local://`", root)?),
            Some((scheme, _)) => return Err(BadRemote::ElsewhereOrUnknown(scheme.to_owned())),
            None if base.starts_with('/') => remote.root = Some(absolute("the path", base)?),
            None if matches!(base, "" | "auto" | "daemon" | "local") => {}
            None => return Err(BadRemote::NotAStore(shown(base))),
        }
        for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            match key {
                "root" if value.is_empty() => remote.root = None,
                "root" => remote.root = Some(absolute("`root=`", value)?),
                "real" => remote.real = Some(absolute("`real=`", value)?),
                "log" => remote.log = Some(absolute("`log=`", value)?),
                "state" => remote.state = Some(absolute("`state=`", value)?),
                "store" => remote.store = Some(StoreDir::new(&absolute("`store=`", value)?.to_string_lossy())),
                _ => {}
            }
        }
        Ok(remote)
    }
}

/// What was written, where it is but a word; in all else there could be a password.
fn shown(base: &str) -> String {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/');
    if base.bytes().all(word) && base.len() <= 32 { format!("`{base}`") } else { "this".to_owned() }
}

/// A folder in a store URL, its `%` sequences decoded.
fn absolute(what: &'static str, text: &str) -> Result<PathBuf, BadRemote> {
    let path = percent_decode_str(text).decode_utf8_lossy().into_owned();
    if Path::new(&path).is_absolute() { Ok(path.into()) } else { Err(BadRemote::Relative(what)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve_all(options: &StoreOptions, env: &[(&str, &str)]) -> Result<NixStore, StoreError> {
        NixStore::resolve(options, |name| {
            env.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
        })
    }

    /// Without the logs, which have a test of their own.
    fn resolve(options: &StoreOptions, env: &[(&str, &str)]) -> Result<NixStore, StoreError> {
        resolve_all(options, env).map(|store| NixStore { log: PathBuf::new(), ..store })
    }

    #[test]
    fn where_the_logs_are() {
        let policys = |log_dir: Option<&str>, remote: &str| StoreOptions {
            log_dir: log_dir.map(PathBuf::from),
            ..policys(remote)
        };
        for (options, env, expected) in [
            (policys(None, ""), vec![], "/nix/var/log/nix"),
            (policys(None, "/p"), vec![], "/p/nix/var/log/nix"),
            (policys(None, "local?root=/p&log=/l"), vec![], "/l"),
            (policys(Some("/o"), "local?root=/p"), vec![], "/o"),
            (policys(Some("/o"), ""), vec![("NIX_LOG_DIR", "/e")], "/e"),
            (policys(None, ""), vec![("NIX_LOG_DIR", "/e"), ("NIX_REMOTE", "/p")], "/p/nix/var/log/nix"),
        ] {
            assert_eq!(resolve_all(&options, &env).map(|store| store.log), Ok(expected.into()), "{options:?} {env:?}");
        }
    }

    fn policys(remote: &str) -> StoreOptions {
        StoreOptions { remote: Some(Remote::parse(remote).expect("a store")), ..StoreOptions::default() }
    }

    /// Logical, real, state and socket of what is expected.
    fn store(logical: &str, real: &str, state: &str, socket: &str) -> Result<NixStore, StoreError> {
        let (real, state, socket) = (real.into(), state.into(), socket.into());
        Ok(NixStore { logical: StoreDir::new(logical), real, state, log: PathBuf::new(), socket })
    }

    #[test]
    fn the_stores_that_people_have() {
        let usual = store("/nix/store", "/nix/store", "/nix/var/nix", "/nix/var/nix/daemon-socket/socket");
        for remote in ["", "auto", "daemon", "local", "local?", "unix://", "local?require-sigs=false"] {
            assert_eq!(resolve(&StoreOptions::default(), &[("NIX_REMOTE", remote)]), usual, "{remote}");
            assert_eq!(resolve(&policys(remote), &[]), usual, "{remote}");
        }
        let rooted = store("/nix/store", "/p/nix/store", "/p/nix/var/nix", "/p/nix/var/nix/daemon-socket/socket");
        for remote in ["/p", "local?root=/p", "local:///p", "local?root=%2Fp", "unix://?root=/p"] {
            assert_eq!(resolve(&StoreOptions::default(), &[("NIX_REMOTE", remote)]), rooted, "{remote}");
            assert_eq!(resolve(&policys(remote), &[]), rooted, "{remote}");
        }
        for (remote, expected) in [
            ("unix:///run/s?root=/p", store("/nix/store", "/p/nix/store", "/p/nix/var/nix", "/run/s")),
            ("local?store=/l&real=/r&state=/s", store("/l", "/r", "/s", "/s/daemon-socket/socket")),
            (
                "local?root=/p&store=/l",
                store("/l", "/p/nix/store", "/p/nix/var/nix", "/p/nix/var/nix/daemon-socket/socket"),
            ),
            ("local?store=/l", store("/l", "/l", "/nix/var/nix", "/nix/var/nix/daemon-socket/socket")),
        ] {
            assert_eq!(resolve(&StoreOptions::default(), &[("NIX_REMOTE", remote)]), expected, "{remote}");
        }
    }

    #[test]
    fn the_environment_wins_over_the_policy() {
        let options = StoreOptions {
            dir: Some(StoreDir::new("/policy/store")),
            state_dir: Some("/policy/state".into()),
            log_dir: None,
            real_dir: Some("/policy/real".into()),
            remote: None,
        };
        let socket = "/policy/state/daemon-socket/socket";
        assert_eq!(resolve(&options, &[]), store("/policy/store", "/policy/real", "/policy/state", socket));
        let env =
            [("NIX_STORE_DIR", "/env/store"), ("NIX_STATE_DIR", "/env/state"), ("NIX_DAEMON_SOCKET_PATH", "/env/s")];
        assert_eq!(resolve(&options, &env), store("/env/store", "/policy/real", "/env/state", "/env/s"));
        let env = [("NIX_STATE_DIR", "/env/state"), ("NIX_REMOTE", "local?root=/p"), ("NIX_STORE_DIR", "")];
        let socket = "/p/nix/var/nix/daemon-socket/socket";
        assert_eq!(resolve(&options, &env), store("/policy/store", "/p/nix/store", "/p/nix/var/nix", socket));
        assert_eq!(resolve(&options, &[]).map(|store| store.db_path()), Ok("/policy/state/db/db.sqlite".into()));
    }

    #[test]
    fn stores_of_other_hosts_are_refused() {
        for (remote, message) in [
            (
                "ssh-ng://me:secret@host",
                "a store of scheme `ssh-ng` is not on this host: storewatch reads the Nix database, so it must run on the \
                 host that has the store",
            ),
            (
                "nonsense",
                "`nonsense` is no store that storewatch knows: expected `daemon`, `local`, `local?root=/…`, `unix:///…` or an \
                 absolute path",
            ),
            (
                "me:secret@host",
                "this is no store that storewatch knows: expected `daemon`, `local`, `local?root=/…`, `unix:///…` or an \
                 absolute path",
            ),
            ("local?root=here", "`root=` must be an absolute path"),
            ("unix://here", "what follows `unix://` must be an absolute path"),
        ] {
            assert_eq!(Remote::parse(remote).expect_err(remote).to_string(), message);
        }
        let relative = resolve(&StoreOptions::default(), &[("NIX_STATE_DIR", "here")]);
        assert_eq!(relative, Err(StoreError::BadPath("NIX_STATE_DIR")));
    }
}
