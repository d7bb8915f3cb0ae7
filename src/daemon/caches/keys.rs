//! The keys that caches are signed with: given by the policy, or made here.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use tokio::runtime::Handle;
use tracing::{debug, warn};

use super::CacheSurroundings;
use crate::cache::{CacheError, CacheUrl};
use crate::config::{CacheConfig, NixStore};
use crate::nix::{BadSecretKey, PublicKey, SecretKey};
use crate::report::one_line;
use crate::secret::{self, Provider, Secret, SecretError, Source};

/// The key that signs what goes into a cache. Blocks, on a thread of the runtime's that may.
pub(super) fn signing_key(config: &CacheConfig, surroundings: &CacheSurroundings) -> Result<SecretKey, CacheError> {
    match &config.signing_key {
        Some(source) => given_key(source, config, surroundings),
        None => own_key(config, surroundings),
    }
}

/// The key that the policy says; its public half is written down, since whoever asks for that later may not be allowed
/// what the service is, or would have to run a command for it.
fn given_key(source: &Source, config: &CacheConfig, surroundings: &CacheSurroundings) -> Result<SecretKey, CacheError> {
    let provider = Provider::new(source.clone(), &surroundings.nix.real, None);
    // Caches are opened on a thread that may wait.
    let text = Handle::current().block_on(provider.get())?;
    let key = parse_key(&text, &source.to_string())?;
    write_public(&key.public().to_string(), &public_key_file(&surroundings.state_dir, config))?;
    Ok(key)
}

/// The key that is to sign what goes into a cache, as whoever asks finds it.
#[derive(Debug)]
pub enum FoundKey {
    /// Nobody has made it: the first start does.
    NotYet,
    /// Where it comes from, and whether it can be used.
    At(Source, Result<(), CacheError>),
}

/// Looks for the key that is to sign what goes into a cache where opening the cache would, and makes none. `None` where
/// storewatch signs nothing.
pub async fn find_key(config: &CacheConfig, state_dir: &Path, nix: &NixStore) -> Option<FoundKey> {
    let (source, secret) = match &config.signing_key {
        Some(source) => (source.clone(), Provider::new(source.clone(), &nix.real, None).get().await),
        None if matches!(config.place, CacheUrl::Attic { .. } | CacheUrl::Command { .. }) => return None,
        None => {
            let file = own_key_file(state_dir, config);
            if !file.exists() {
                return Some(FoundKey::NotYet);
            }
            let secret = secret::read(&file, &nix.real);
            (Source::owners_file(file), secret)
        }
    };
    let parsed = secret.map_err(CacheError::from).and_then(|text| parse_key(&text, &source.to_string()));
    Some(FoundKey::At(source, parsed.map(drop)))
}

pub(super) fn parse_key(text: &Secret, from: &str) -> Result<SecretKey, CacheError> {
    SecretKey::parse(text.expose()).map_err(key_error(from))
}

fn key_error(from: &str) -> impl FnOnce(BadSecretKey) -> CacheError {
    move |problem| CacheError::Key { from: from.to_owned(), problem: problem.to_string() }
}

/// The key generated for a cache whose policy names none; made now if it isn't there yet.
fn own_key(config: &CacheConfig, surroundings: &CacheSurroundings) -> Result<SecretKey, CacheError> {
    let file = own_key_file(&surroundings.state_dir, config);
    let from = file.display().to_string();
    if !file.exists() {
        let key = SecretKey::generate(&key_name(config)).map_err(key_error(&from))?;
        match secret::write_new(&file, &key.to_nix_string()) {
            Err(SecretError::Io { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists => {}
            written => written?,
        }
    }
    let key = parse_key(&secret::read(&file, &surroundings.nix.real)?, &from)?;
    secret::sweep(&file);
    write_public(&key.public().to_string(), &public_key_file(&surroundings.state_dir, config))?;
    Ok(key)
}

/// The key that was generated for a cache, if it was: none is made, and nothing is written.
pub(super) fn own_key_there(
    config: &CacheConfig,
    state_dir: &Path,
    nix: &NixStore,
) -> Result<Option<SecretKey>, CacheError> {
    let file = own_key_file(state_dir, config);
    match secret::read(&file, &nix.real) {
        Err(SecretError::Missing { .. }) => Ok(None),
        read => parse_key(&read?, &file.display().to_string()).map(Some),
    }
}

/// Writes a public key down for those who only look.
pub(super) fn write_public(key: &str, file: &Path) -> Result<(), CacheError> {
    let text = format!("{key}\n");
    if std::fs::read_to_string(file).is_ok_and(|there| there == text) {
        return Ok(());
    }
    let write_error = |source| CacheError::Io { action: "write", path: file.to_owned(), source };
    if let Some(folder) = file.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(write_error)?;
    }
    std::fs::write(file, text).map_err(write_error)
}

/// Notes the key that an Attic server says of a cache, for those who ask for it without asking the server. Returns what people
/// should know where another was noted before: a cache that was made anew has another key, and Nix refuses what it serves as
/// long as it trusts the old one alone.
pub(super) fn note_servers_key(key: &PublicKey, file: &Path) -> Option<String> {
    let before = noted_key(file);
    if let Err(error) = write_public(&key.to_string(), file) {
        debug!("{}", one_line(&error));
    }
    let before = before.filter(|before| before != key)?;
    Some(format!(
        "its server signs with another key than before, {key} in place of {before}: was the cache made anew? Nix takes what it \
         serves where the new key stands in `trusted-public-keys`"
    ))
}

/// As the service does when it opens the cache, for who has just asked the server: only where a key is noted already, so that
/// no file is made that the service couldn't change.
#[must_use]
pub fn note_key_that_was_told(config: &CacheConfig, state_dir: &Path, told: Option<&str>) -> Option<String> {
    let is_attics = matches!(config.place, CacheUrl::Attic { .. });
    let file = public_key_file(state_dir, config);
    let key = PublicKey::parse(told?).ok().filter(|_| is_attics && noted_key(&file).is_some())?;
    note_servers_key(&key, &file)
}

/// As [`note_servers_key`], and tells it in the log.
pub(super) fn tell_servers_key(cache: &str, key: &PublicKey, file: &Path) {
    if let Some(news) = note_servers_key(key, file) {
        warn!(%cache, "{news}");
    }
}

fn noted_key(file: &Path) -> Option<PublicKey> {
    PublicKey::parse(std::fs::read_to_string(file).ok()?.trim()).ok()
}

/// The file of the key that is made for a cache whose policy names none.
fn own_key_file(state_dir: &Path, config: &CacheConfig) -> PathBuf {
    state_dir.join("keys").join(format!("{}.secret", config.name))
}

/// Where the key is written down that verifies what a cache serves: its own key's public half, or what its server says.
pub(super) fn public_key_file(state_dir: &Path, config: &CacheConfig) -> PathBuf {
    let signer = match config.place {
        CacheUrl::Attic { .. } => "server.",
        CacheUrl::File { .. } | CacheUrl::Http { .. } | CacheUrl::Bucket { .. } | CacheUrl::Command { .. } => "",
    };
    state_dir.join("keys").join(format!("{}.{signer}public", config.name))
}

/// `HOST-CACHE-1`, much as Nix's manual names keys; the number leaves room for a next one. Nix knows one key of each name, so
/// who reads from two caches needs two names.
fn key_name(config: &CacheConfig) -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let legal: String = host.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    format!("{}-{}-1", if legal.is_empty() { "storewatch" } else { &legal }, config.name)
}

/// The key that verifies what a cache's narinfos are signed with, where this user may know it.
#[must_use]
pub fn public_key(config: &CacheConfig, state_dir: &Path, nix: &NixStore) -> Option<PublicKey> {
    if let CacheUrl::Command { .. } = config.place {
        // Whoever signs there, it isn't storewatch.
        return None;
    }
    let given = config.signing_key.as_ref().and_then(|source| secret::read_here(source, &nix.real)?.ok());
    if let Some(key) = given {
        return Some(SecretKey::parse(key.expose()).ok()?.public());
    }
    noted_key(&public_key_file(state_dir, config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_key_is_news_where_it_is_another_than_the_noted_one() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("keys/team.server.public");
        let keys = ["team", "team"].map(|name| SecretKey::generate(name).expect("a key").public());
        for (key, news) in [(0, false), (0, false), (1, true), (1, false), (0, true)] {
            let told = note_servers_key(&keys[key], &file);
            assert_eq!(told.is_some(), news, "{told:?}");
            assert!(told.is_none_or(|told| told.contains(&keys[key].to_string())));
            assert!(noted_key(&file).as_ref() == Some(&keys[key]));
        }
    }
}
