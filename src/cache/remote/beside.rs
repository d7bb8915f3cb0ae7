//! What goes beside a path on a server: the list of its files, the log of its build, and its realisations.

use std::sync::Arc;

use tokio::task::spawn_blocking;
use tracing::debug;

use super::{Remote, RemoteCache};
use crate::cache::binary::{RealisationFile, whole_log};
use crate::cache::{CacheError, layout};
use crate::limit::Lane;
use crate::nix::PathInfo;
use crate::report::one_line;

impl<R: Remote> RemoteCache<R> {
    /// Puts beside a path that is shown what goes with it. Who reads the cache can do without, so a failure is only noted.
    pub(super) async fn put_beside(
        &self,
        info: &PathInfo,
        lane: Lane,
        listing: impl Future<Output = Result<Option<Vec<u8>>, CacheError>>,
    ) {
        let lacks = |what: &str, error: &CacheError| {
            debug!("{} lacks the {what} of {}: {}", self.remote.name(), info.path, one_line(error));
        };
        if let Err(error) = self.put_listing(info, listing).await {
            lacks("list of the files", &error);
        }
        if let Err(error) = self.put_log(info, lane).await {
            lacks("log of the build", &error);
        }
    }

    /// Puts the list of a path's files there, if there is one, over what another build of that path may have left.
    async fn put_listing(
        &self,
        info: &PathInfo,
        listing: impl Future<Output = Result<Option<Vec<u8>>, CacheError>>,
    ) -> Result<(), CacheError> {
        let Some(json) = listing.await? else { return Ok(()) };
        self.remote.overwrite(&layout::listing_name(&info.path), json.into(), layout::JSON_TYPE).await
    }

    /// Puts the log of a path's build there, if this host has one and the cache lacks it. One of a lane is in memory at a time.
    async fn put_log(&self, info: &PathInfo, lane: Lane) -> Result<(), CacheError> {
        let Some(derivation) = self.binary.logged(info) else { return Ok(()) };
        let (binary, whose) = (Arc::clone(&self.binary), derivation.clone());
        // Most have none, and needn't be asked for or wait for others.
        let is_here = spawn_blocking(move || binary.build_log(&whose).is_some()).await;
        if !is_here.map_err(|_| CacheError::LostThread { action: "open a log" })? {
            return Ok(());
        }
        let file = layout::log_name(derivation);
        if self.remote.has(&file).await? {
            return Ok(());
        }
        let _alone = self.log_in_memory[lane as usize].lock().await;
        // Another output of the same build may have brought it meanwhile.
        if self.remote.has(&file).await? {
            return Ok(());
        }
        let Some(text) = whole_log(&self.binary, derivation).await? else { return Ok(()) };
        self.remote.add(&file, text.into(), layout::LOG_TYPE).await
    }

    /// Puts the realisations of a path there that the cache lacks.
    pub(in crate::cache) async fn add_realisations(&self, info: &PathInfo) -> Result<(), CacheError> {
        for RealisationFile { name, json, .. } in self.binary.realisations(info).await? {
            if !self.remote.has(&name).await? {
                self.remote.add(&name, json.into(), layout::JSON_TYPE).await?;
            }
        }
        Ok(())
    }
}
