//! Store paths as arguments.

use std::path::{Path, PathBuf};

use super::CliError;
use crate::config::NixStore;
use crate::daemon::ServiceError;
use crate::nix::{FactsError, PathInfo, StoreDir, StorePath, StorePathError};

/// A valid path that an argument names.
pub(super) struct Named {
    pub(super) path: StorePath,
    /// What Nix knows of it, or why just that can't be understood: the others' commands go on without it.
    pub(super) info: Result<PathInfo, FactsError>,
}

/// The valid paths that arguments are, lie below of, or lead to. All that isn't one is told at once.
pub(super) async fn valid_paths(arguments: &[PathBuf], nix: &NixStore) -> Result<Vec<Named>, CliError> {
    let facts = nix.facts();
    let (mut named, mut wrong) = (Vec::with_capacity(arguments.len()), Vec::new());
    for argument in arguments {
        match store_path(argument, &nix.logical) {
            Ok(path) => match facts.path_info(&path).await {
                Ok(Some(info)) => named.push(Named { path, info: Ok(info) }),
                Ok(None) => wrong.push(CliError::NotValid(nix.logical.full(&path))),
                Err(error) if error.is_of_the_path() => named.push(Named { path, info: Err(error) }),
                Err(error) => return Err(ServiceError::from(error).into()),
            },
            Err(error) => wrong.push(error.into()),
        }
    }
    CliError::all(wrong).map(|()| named)
}

/// Why an argument is no path of this store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoStorePath {
    /// There is nothing of that name.
    #[error("there is no file `{0}`, and no store path is called so")]
    NothingThere(String),
    /// It lies in a store, but not in this one: most likely the store is not the one that is meant.
    #[error("`{path}` lies in another store: this host's is `{store_dir}`")]
    AnotherStore {
        /// The argument.
        path: String,
        /// The store directory.
        store_dir: String,
    },
    /// It is there, and has nothing to do with a store.
    #[error("`{path}` does not lie in the store `{store_dir}`, nor does it lead there")]
    Elsewhere {
        /// The argument.
        path: String,
        /// The store directory.
        store_dir: String,
    },
    /// It is the store.
    #[error("`{0}` is the store itself: name a path in it")]
    StoreItself(String),
    /// It lies in the store, where Nix puts no such thing.
    #[error(transparent)]
    Malformed(StorePathError),
}

impl NoStorePath {
    /// What a person may do about it, where the error itself doesn't say.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NothingThere(_) => {
                Some("give a store path, a file in one, a link to one such as `result`, or its base name")
            }
            Self::AnotherStore { .. } => {
                Some("NIX_STORE_DIR, NIX_REMOTE or [store] in the policy say which store is meant")
            }
            Self::Malformed(_) => Some("store paths are called HASH-NAME, and the name is wanted, too"),
            Self::Elsewhere { .. } | Self::StoreItself(_) => None,
        }
    }
}

/// The store path that an argument is, lies below of, leads to, or is the base name of.
fn store_path(argument: &Path, store_dir: &StoreDir) -> Result<StorePath, NoStorePath> {
    let absolute = std::path::absolute(argument).unwrap_or_else(|_| argument.to_owned());
    let mut at = absolute.clone();
    // A result link may lead to a link: Nix makes no long chains of them.
    for _ in 0..16 {
        if let Ok(path) = store_dir.parse_below(&at) {
            return Ok(path);
        }
        let Ok(target) = std::fs::read_link(&at) else { break };
        at = at.parent().unwrap_or(Path::new("/")).join(target);
    }
    // As logs and `queue list` call it, and no file here: those were tried first.
    if let Some(Ok(path)) = argument.to_str().map(StorePath::from_base_name) {
        return Ok(path);
    }
    let refused = match store_dir.parse_below(&absolute) {
        Ok(path) => return Ok(path),
        Err(refused) => refused,
    };
    let (path, dir) = (argument.display().to_string(), store_dir.as_str().to_owned());
    Err(match refused {
        StorePathError::OutsideStore { .. } if at == store_dir.to_path_buf() => NoStorePath::StoreItself(path),
        StorePathError::OutsideStore { .. } if is_in_a_store(&at) => NoStorePath::AnotherStore { path, store_dir: dir },
        StorePathError::OutsideStore { .. } if absolute.symlink_metadata().is_err() => NoStorePath::NothingThere(path),
        StorePathError::OutsideStore { .. } => NoStorePath::Elsewhere { path, store_dir: dir },
        malformed => NoStorePath::Malformed(malformed),
    })
}

/// Whether some part of it is called as a store path is, within a folder that is called as stores are.
fn is_in_a_store(path: &Path) -> bool {
    let named = |path: &Path| path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    path.ancestors().any(|part| {
        let is_path = named(part).is_some_and(|name| StorePath::from_base_name(&name).is_ok());
        is_path && part.parent().and_then(named).as_deref() == Some("store")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_that_are_none_of_this_stores_paths() {
        let dir = tempfile::tempdir().expect("a folder");
        let here = |name: &str| dir.path().join(name).display().to_string();
        let base = "0123456789abcdfghijklmnpqrsvwxyz-x";
        std::fs::write(here("file"), "").expect("written");
        let linked = |to: &str, name: &str| std::os::unix::fs::symlink(to, here(name)).expect("a link");
        linked(&format!("/nix/store/{base}/bin"), "result");
        linked(&format!("/gnu/store/{base}"), "another");
        let store_dir = StoreDir::default();
        let told = |argument: &str| match store_path(Path::new(argument), &store_dir) {
            Ok(path) => path.to_string(),
            Err(error) => error.to_string(),
        };
        for argument in [base, &format!("/nix/store/{base}/bin/x"), &here("result")] {
            assert_eq!(told(argument), base, "{argument}");
        }
        for argument in [here("nothing"), here("file/below")] {
            assert_eq!(told(&argument), format!("there is no file `{argument}`, and no store path is called so"));
        }
        for argument in [here("another"), format!("/gnu/store/{base}/bin")] {
            let expected = format!("`{argument}` lies in another store: this host's is `/nix/store`");
            assert_eq!(told(&argument), expected);
        }
        assert_eq!(told("/nix/store/"), "`/nix/store/` is the store itself: name a path in it");
        let file = here("file");
        assert_eq!(told(&file), format!("`{file}` does not lie in the store `/nix/store`, nor does it lead there"));
        assert!(told("/nix/store/abc-name").contains("32 character hash"), "{}", told("/nix/store/abc-name"));
    }
}
