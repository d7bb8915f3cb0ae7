//! A web server as the place of a cache's files.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use reqwest::StatusCode;
use tokio::time::Instant;
use tracing::info;

use super::files::{Files, Found};
use crate::cache::care::doomed_name;
use crate::cache::http::{Action, Body, HttpError, Progress};
use crate::cache::pack::{Packed, Packing};
use crate::cache::remote::{Arrived, Departure, Put, Remote};
use crate::cache::{BinaryCache, CacheError, Compression, NarStream, StoredNar, layout};
use crate::nix::PathInfo;

impl Remote for Files {
    /// As far as the server says that it holds something: an empty file is what a program that doesn't sync leaves after a
    /// power failure.
    async fn has(&self, file: &str) -> Result<bool, CacheError> {
        Ok(matches!(self.look(file).await?, Found::Some(_)))
    }

    /// A prune is told of by whoever has the files. An archive may be cut by a power failure, too.
    async fn keeps(&self, nar: &StoredNar) -> Result<bool, CacheError> {
        // In this order: an archive goes before what says that it will.
        let is_to_stay = self.is_there(&doomed_name(&nar.url)).await.is_ok_and(|is_doomed| !is_doomed);
        let is_whole =
            |found: Found| matches!(found, Found::Some(size) if size.is_none_or(|size| size == nar.file_size));
        Ok(is_to_stay && is_whole(self.look(&nar.url).await?))
    }

    /// Over one that is there, too: there is no common way to put only what isn't.
    async fn add(&self, file: &str, content: Bytes, kind: &'static str) -> Result<(), CacheError> {
        Ok(self.put(file, content, kind).await?)
    }

    async fn overwrite(&self, file: &str, content: Bytes, kind: &'static str) -> Result<(), CacheError> {
        Ok(self.put(file, content, kind).await?)
    }

    /// Sends an archive, and again where the server has shown what it takes for that.
    async fn send(&self, departure: &Departure<'_>, mut nar: NarStream) -> Result<Arrived<Self>, CacheError> {
        let (mut was_packed, mut had_folder) = (true, false);
        loop {
            let (again, began) = (nar.again(), Instant::now());
            let sent = send_once(self, departure, nar).await;
            match &sent {
                Err(CacheError::Http(HttpError::Status { status: 411, .. }))
                    if was_packed && departure.info.nar_size > 0 =>
                {
                    was_packed = false;
                    if !self.shared.wants_sizes.swap(true, Ordering::Relaxed) {
                        info!("{} wants to be told sizes beforehand: it gets archives unpacked", self.url(""));
                    }
                }
                Err(CacheError::Http(error)) if !had_folder => {
                    had_folder = true;
                    if !self.has_made_the_folder(error, &format!("{}/", layout::NAR_DIR), began).await {
                        return sent;
                    }
                }
                _ => return sent,
            }
            nar = again;
        }
    }

    /// Over what is shown, in any case.
    async fn publish(
        &self,
        binary: &BinaryCache,
        info: &PathInfo,
        nar: &StoredNar,
        _: bool,
    ) -> Result<Put, CacheError> {
        self.put(&layout::narinfo_name(&info.path), binary.narinfo(info, nar), layout::NARINFO_TYPE).await?;
        Ok(Put::New)
    }

    /// Where a proxy has sent it twice, the second may be told 408 or 423 since the server is still at work with the first. 409
    /// here means that the file's folder is missing, which is certain; an object store says it of two that come at once
    /// (`bucket/error`), where it isn't.
    fn is_certain(error: &CacheError) -> bool {
        let CacheError::Http(HttpError::Status { status, .. }) = error else { return false };
        matches!(status, 400..=407 | 409..=422 | 424..=499)
    }
}

async fn send_once(files: &Files, departure: &Departure<'_>, nar: NarStream) -> Result<Arrived<Files>, CacheError> {
    let wanted = || match files.shared.wants_sizes.load(Ordering::Relaxed) {
        true => Compression::None,
        false => departure.binary.compression(departure.info.nar_size),
    };
    let (reader, mut sending) = departure.begin(files, nar, wanted).await?;
    let (compression, info) = (sending.compression, departure.info);
    // What isn't packed is as long, and hashes to the same, as Nix has registered: the reader sees to that.
    let as_registered =
        Packed { compression, file_hash: info.nar_hash, file_size: info.nar_size, nar_size: info.nar_size, took: None };
    let as_registered = Some(as_registered).filter(|_| compression == Compression::None && info.nar_size > 0);
    let body = match as_registered {
        Some(_) => Body::new(Bytes::new(), reader),
        None => Body::packed(Packing::start(reader, compression, info.nar_size)),
    };
    let progress = body.progress();
    let length = as_registered.map(|packed| packed.file_size);
    let said = match files.put_archive(&sending.url, body, length).await {
        Ok(said) => said,
        Err(error) => {
            // Only of that it is certain: a proxy may cut a body with 400 or 413 when what stands behind it has some of the
            // file.
            if error.is_about_credentials() {
                sending.upload.nothing_was_taken().await;
            }
            return Err(progress.failure().map_or_else(|| error.into(), CacheError::from));
        }
    };
    let packed = all_of_it(files, &progress, as_registered)?;
    // What servers say of a new file, whose name nobody has asked for before.
    if said != StatusCode::CREATED {
        files.find(&sending.url, packed.file_size).await?;
    }
    Ok(sending.arrived(packed))
}

/// What an archive came to that the server says it has.
fn all_of_it(files: &Files, progress: &Progress, as_registered: Option<Packed>) -> Result<Packed, HttpError> {
    let packed = match as_registered {
        Some(packed) => Some(packed).filter(|packed| progress.offered() == packed.file_size),
        None => progress.packed(),
    };
    packed.ok_or_else(|| files.not_understood(Action::Put, "it says that it has everything, before all of it was sent"))
}
