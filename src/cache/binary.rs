//! What all binary caches have in common, on whatever their files lie: which store they are for, how they are laid out,
//! and whose key signs what is put there.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::task::spawn_blocking;
use tracing::debug;

use super::layout::{self, StoredNar};
use super::{CacheError, Compression, Layout, Listed, NarReader, NarStream};
use crate::nix::{PathInfo, SecretKey, StoreDir, StorePath, open_build_log};

/// Longest log that is sent to a server, in bytes: it is held in memory.
const LONGEST_LOG: u64 = 16 * 1024 * 1024;

/// A binary cache, apart from where its files lie.
pub struct BinaryCache {
    /// The logical store directory of this host.
    pub store_dir: StoreDir,
    /// How it is laid out.
    pub layout: Layout,
    /// Signs the narinfos.
    pub key: SecretKey,
    /// Nix's folder of logs on this host.
    pub log_dir: PathBuf,
}

impl BinaryCache {
    /// Draws a name for a path's archive that no other upload has.
    pub(super) fn new_nar_name(&self, info: &PathInfo, compression: Compression) -> io::Result<String> {
        let mut suffix = [0; 5];
        getrandom::fill(&mut suffix).map_err(|error| io::Error::other(error.to_string()))?;
        Ok(layout::nar_name(&info.nar_hash, suffix, compression))
    }

    /// The reader, and what it is to write down, if the cache wants that.
    pub(super) fn listed(&self, reader: NarReader) -> (NarReader, Option<Listed>) {
        if !self.layout.write_nar_listing {
            return (reader, None);
        }
        let (reader, listed) = reader.listed();
        (reader, Some(listed))
    }

    /// The derivation whose log goes with a path, if the cache wants that.
    pub(super) fn logged<'i>(&self, info: &'i PathInfo) -> Option<&'i StorePath> {
        info.deriver.as_ref().filter(|_| self.layout.write_build_logs)
    }

    /// The log of that derivation's build, where this host has it. That it can't be read is no reason not to upload what was
    /// built. Blocks.
    pub(super) fn build_log(&self, derivation: &StorePath) -> Option<Box<dyn Read + Send>> {
        open_build_log(&self.log_dir, derivation).unwrap_or_else(|error| {
            debug!("open the log of {derivation}: {error}");
            None
        })
    }

    /// The narinfo of a path, signed.
    pub(super) fn narinfo(&self, info: &PathInfo, nar: &StoredNar) -> String {
        layout::narinfo(&self.store_dir, info, nar, &self.key)
    }

    /// The `nix-cache-info` to be written where there is none.
    pub(super) fn cache_info(&self) -> String {
        layout::cache_info(&self.store_dir, self.layout.want_mass_query, self.layout.priority)
    }
}

/// The whole log of that derivation's build, where this host has it and it is short enough to be sent.
pub(super) async fn whole_log(
    binary: &Arc<BinaryCache>,
    derivation: &StorePath,
) -> Result<Option<Vec<u8>>, CacheError> {
    let (binary, derivation) = (Arc::clone(binary), derivation.clone());
    let read = spawn_blocking(move || {
        let mut text = Vec::new();
        let log = binary.build_log(&derivation)?;
        match log.take(LONGEST_LOG + 1).read_to_end(&mut text) {
            Ok(read) if read as u64 > LONGEST_LOG => debug!("the log of {derivation} is too long to be sent"),
            Ok(_) => return Some(text),
            Err(error) => debug!("read the log of {derivation}: {error}"),
        }
        None
    });
    read.await.map_err(|_| CacheError::LostThread { action: "read a log" })
}

/// The list of the files of an archive that needn't be sent.
pub(super) async fn list(nar: NarStream) -> Result<Option<Vec<u8>>, CacheError> {
    let (mut reader, listed) = nar.start().await?.listed();
    while reader.next().await?.is_some() {}
    Ok(listed.take())
}

/// Whether a cache's `nix-cache-info` says that it is for this host's store. `cache` is what messages call the cache, and
/// `file` its `nix-cache-info`.
pub(super) fn agree_on_store(text: &str, store_dir: &StoreDir, cache: &str, file: &str) -> Result<(), CacheError> {
    match layout::store_dir_of(text) {
        Some(theirs) if theirs == store_dir.as_str() => Ok(()),
        Some(theirs) => Err(CacheError::OtherStore {
            cache: cache.to_owned(),
            theirs: super::http::plain(theirs),
            ours: store_dir.as_str().to_owned(),
        }),
        None => {
            Err(CacheError::Malformed { file: file.to_owned(), problem: "it has no line `StoreDir: …`".to_owned() })
        }
    }
}
