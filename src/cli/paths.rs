//! Store paths as arguments.

use std::path::{Path, PathBuf};

use super::CliError;
use crate::config::NixStore;
use crate::daemon::ServiceError;
use crate::nix::{PathInfo, StoreDir, StoreFacts, StorePath};

/// Asks Nix about this store's paths.
pub(super) fn store_facts(nix: &NixStore) -> StoreFacts {
    StoreFacts::new(nix.db_path(), nix.socket.clone(), nix.logical.clone())
}

/// What Nix knows of the paths that arguments are, lie below of, or lead to.
pub(super) async fn valid_paths(arguments: &[PathBuf], nix: &NixStore) -> Result<Vec<PathInfo>, CliError> {
    let facts = store_facts(nix);
    let mut infos = Vec::with_capacity(arguments.len());
    for argument in arguments {
        let path = store_path(argument, &nix.logical)?;
        let info = facts.path_info(&path).await.map_err(ServiceError::from)?;
        infos.push(info.ok_or_else(|| CliError::NotValid(nix.logical.full(&path)))?);
    }
    Ok(infos)
}

/// The store path that an argument is, lies below of, leads to, or is the base name of.
fn store_path(argument: &Path, store_dir: &StoreDir) -> Result<StorePath, CliError> {
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
    match argument.to_str().map(StorePath::from_base_name) {
        Some(Ok(path)) => Ok(path),
        _ => Ok(store_dir.parse_below(&absolute)?),
    }
}
