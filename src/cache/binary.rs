//! What all binary caches have in common, on whatever their files lie: which store they are for, how they are laid out,
//! and whose key signs what is put there.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::task::spawn_blocking;
use tracing::debug;

use super::care::signatures_over;
use super::layout::{self, StoredNar};
use super::pace::{Effort, Measured};
use super::pack::{Packed, Took};
use super::{CacheError, Compression, Layout, Listed, NarReader, NarStream, Pace};
use crate::nix::{Derivation, PathInfo, SecretKey, StoreDir, StoreFacts, StorePath, fingerprint, open_build_log};

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
    /// Says which realisations Nix has noted.
    pub facts: StoreFacts,
    /// How much effort packing is worth, where the cache is to find that out.
    pub pace: Pace,
}

impl BinaryCache {
    /// How the next archive is packed, which has so many bytes.
    pub(super) fn compression(&self, nar_size: u64) -> Compression {
        match self.layout.compression.unwrap_or_default() {
            Compression::Auto { .. } => self.pace.compression(nar_size),
            given => given,
        }
    }

    /// Notes how long it took to pack an archive and to bring it there.
    pub(super) fn note_pace(&self, packed: &Packed, elapsed: Duration) {
        if !matches!(self.layout.compression, Some(Compression::Auto { .. })) {
            return;
        }
        let none = Took { busy: Duration::ZERO, reading: Duration::ZERO };
        let (effort, Took { busy, reading }) = match (packed.compression, packed.took) {
            (Compression::Auto { level }, Some(took)) => (Effort::Level(level), took),
            (Compression::None, _) => (Effort::AsItIs, none),
            _ => return,
        };
        self.pace.note(Measured { effort, nar_size: packed.nar_size, busy, reading, elapsed });
    }

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

    /// The files of a path's realisations, signed, as far as the cache wants them.
    ///
    /// Nix notes a realisation after its path. Where it notes any, a path that is too young is waited for; which holds up
    /// nobody but what refers to it, and that is young, too.
    ///
    /// # Errors
    /// [`CacheError::Facts`].
    pub(super) async fn realisations(&self, info: &PathInfo) -> Result<Vec<RealisationFile>, CacheError> {
        let Layout { write_realisations, write_build_trace, .. } = self.layout;
        if info.deriver.is_none() || !(write_realisations || write_build_trace) {
            return Ok(Vec::new());
        }
        let Some(mut noted) = self.facts.realisations(&info.path).await? else { return Ok(Vec::new()) };
        let pause = until_noted(info.registration_time, SystemTime::now());
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
            noted = self.facts.realisations(&info.path).await?.unwrap_or_default();
        }
        let wanted = noted.into_iter().filter(|realisation| match realisation.derivation {
            Derivation::Hash { .. } => write_realisations,
            Derivation::Path(_) => write_build_trace,
        });
        let file = |realisation| {
            let (folder, name) = layout::realisation_name(&realisation);
            RealisationFile { folder, name, json: realisation.signed_json(&self.key) }
        };
        Ok(wanted.map(file).collect())
    }

    /// The narinfo of a path, signed.
    pub(super) fn narinfo(&self, info: &PathInfo, nar: &StoredNar) -> String {
        layout::narinfo(&self.store_dir, info, nar, &self.key)
    }

    /// The same, to take the place of one that isn't well: signatures by others stay, where that one says the same of the
    /// path. They aren't verified, which who reads them does.
    pub(super) fn narinfo_in_place_of(&self, shown: &[u8], info: &PathInfo, nar: &StoredNar) -> String {
        let mut info = PathInfo { nar_size: nar.nar_size, ..info.clone() };
        let mut kept = signatures_over(&fingerprint(&self.store_dir, &info), shown, &self.store_dir);
        let is_own = |sig: &str| sig.split_once(':').is_some_and(|(name, _)| name == self.key.name());
        kept.retain(|sig| !is_own(sig) && !info.sigs.contains(sig));
        info.sigs.extend(kept);
        self.narinfo(&info, nar)
    }

    /// The `nix-cache-info` to be written where there is none.
    pub(super) fn cache_info(&self) -> String {
        layout::cache_info(&self.store_dir, self.layout.want_mass_query, self.layout.priority)
    }
}

/// A realisation as it lies in a binary cache.
pub(super) struct RealisationFile {
    /// Its folder, relative to the cache's root.
    pub(super) folder: String,
    /// The file, relative to the cache's root.
    pub(super) name: String,
    pub(super) json: String,
}

/// Nix notes realisations some milliseconds after the path. The time of a path has no more than whole seconds.
const NOTED_AFTER: i64 = 3;

/// How long to wait until what there is to note of a path registered then (seconds since 1970) has been noted. A clock that
/// was put back makes nobody wait longer.
fn until_noted(registration_time: i64, now: SystemTime) -> Duration {
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
    let age = now.saturating_sub(registration_time);
    let left = if (0..NOTED_AFTER).contains(&age) { NOTED_AFTER - age } else { 0 };
    Duration::from_secs(left.unsigned_abs())
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

/// The list of the files of an archive that needn't be sent; counts the bytes that are read for it.
pub(super) async fn list(nar: NarStream, count: &mut u64) -> Result<Option<Vec<u8>>, CacheError> {
    let (mut reader, listed) = nar.start().await?.listed();
    while let Some(chunk) = reader.next().await? {
        *count += chunk.len() as u64;
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nix::NarHash;

    #[test]
    fn a_young_path_is_waited_for_and_no_other() {
        let now = UNIX_EPOCH + Duration::from_millis(1_000_900);
        let seconds = |registered| until_noted(registered, now).as_secs();
        assert_eq!([1_000, 999, 998, 997, 0].map(seconds), [3, 2, 1, 0, 0]);
        assert_eq!([1_001, i64::MAX, i64::MIN].map(seconds), [0, 0, 0], "a clock that stood wrong");
    }

    #[test]
    fn what_uploads_show_moves_the_level_where_it_is_to_be_found() {
        let cache = |compression| BinaryCache {
            store_dir: StoreDir::default(),
            layout: Layout { compression, ..Layout::default() },
            key: SecretKey::generate("test-1").expect("randomness"),
            log_dir: PathBuf::new(),
            facts: StoreFacts::new(PathBuf::new(), PathBuf::new(), StoreDir::default()),
            pace: Pace::default(),
        };
        let nar_size = 64 << 20;
        let upload = |cache: &BinaryCache, busy: Option<Duration>| {
            let took = busy.map(|busy| Took { busy, reading: Duration::ZERO });
            let (compression, file_hash, file_size) = (cache.compression(nar_size), NarHash([1; 32]), 20 << 20);
            let packed = Packed { compression, file_hash, file_size, nar_size, took };
            (0..10).for_each(|_| cache.note_pace(&packed, Duration::from_secs(10)));
        };
        for given in [None, Some(Compression::None), Some(Compression::Zstd { level: 9 })] {
            let cache = cache(given);
            upload(&cache, Some(Duration::from_millis(1)));
            assert_eq!(cache.compression(nar_size), given.unwrap_or(Compression::DEFAULT_ZSTD));
        }
        let cache = cache(Some(Compression::AUTO));
        upload(&cache, None);
        assert_eq!(cache.compression(nar_size), Compression::AUTO, "what is packed already says nothing");
        upload(&cache, Some(Duration::from_millis(1)));
        assert!(
            matches!((cache.compression(nar_size), Compression::AUTO), (Compression::Auto { level: now }, Compression::Auto { level: before }) if now > before)
        );
    }
}
