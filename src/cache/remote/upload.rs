//! The upload of a path to a server: its archive, what has to come true before the path is shown, its narinfo, and what goes
//! beside it.

use std::path::PathBuf;
use std::time::Instant;

use tokio::join;

use super::{Put, Remote, RemoteCache};
use crate::cache::binary::list;
use crate::cache::pack::Packed;
use crate::cache::unfinished::{Notes, Upload};
use crate::cache::{
    BinaryCache, CacheError, Class, Compression, Listed, NarReader, NarStream, Push, Pushed, StoredNar, layout,
};
use crate::limit::Slot;
use crate::nix::PathInfo;

/// What is known of an archive that is about to be sent.
pub(in crate::cache) struct Departure<'p> {
    pub(in crate::cache) info: &'p PathInfo,
    pub(in crate::cache) binary: &'p BinaryCache,
    notes: &'p Notes,
}

/// An archive that is being sent.
pub(in crate::cache) struct Sending<'p, R: Remote> {
    /// Its name, relative to the cache's root.
    pub(in crate::cache) url: String,
    pub(in crate::cache) compression: Compression,
    pub(in crate::cache) upload: Upload<R>,
    binary: &'p BinaryCache,
    listed: Option<Listed>,
    /// Held until all of it is sent, and not while references are waited for.
    _slot: Slot,
    began: Instant,
}

/// An archive that has arrived, and that no narinfo names yet.
pub(in crate::cache) struct Arrived<R: Remote> {
    nar: StoredNar,
    upload: Upload<R>,
    listing: Option<Vec<u8>>,
}

impl<'p> Departure<'p> {
    /// Waits for a turn to read the archive, draws a name for it, and notes that it is being sent there. How it is packed is not
    /// asked before its turn has come: until then others show what the link is like.
    pub(in crate::cache) async fn begin<R: Remote>(
        &self,
        remote: &R,
        nar: NarStream,
        compression: impl FnOnce() -> Compression,
    ) -> Result<(NarReader, Sending<'p, R>), CacheError> {
        let Self { info, binary, notes } = *self;
        let (reader, listed) = binary.listed(nar.start().await?);
        let (slot, compression) = (reader.slot(), compression());
        let url = binary.new_nar_name(info, compression).map_err(|source| CacheError::Io {
            action: "draw a name for an archive in",
            path: PathBuf::from(remote.name()),
            source,
        })?;
        let upload = notes.begin(remote, remote.noted(&url), &layout::narinfo_name(&info.path)).await?;
        Ok((reader, Sending { url, compression, upload, binary, listed, _slot: slot, began: Instant::now() }))
    }
}

impl<R: Remote> Sending<'_, R> {
    /// All of it is there. Nothing is held any more that others wait for.
    pub(in crate::cache) fn arrived(self, packed: Packed) -> Arrived<R> {
        self.binary.note_pace(&packed, self.began.elapsed());
        Arrived { nar: packed.stored_at(self.url), upload: self.upload, listing: self.listed.and_then(Listed::take) }
    }
}

impl<R: Remote> RemoteCache<R> {
    /// Puts a path into the cache.
    pub(in crate::cache) async fn upload(&self, mut push: Push) -> Result<Pushed, CacheError> {
        let known = push.recall().await?;
        let Push { info, nar, arrivals, go_ahead, contents, anew } = push;
        let (remote, lane) = (&self.remote, nar.lane());
        if let Some(known) = known
            && remote.keeps(&known).await?
        {
            // Given up, unless it is read: others wait for who has a seat in a reading.
            let nar = Some(nar).filter(|_| self.binary.layout.write_nar_listing);
            go_ahead.await?;
            let put = remote.publish(&self.binary, &info, &known, anew).await?;
            let mut read = 0;
            // Not before: to wait for a turn and to read all of it may take longer than the time after which an archive that
            // was there goes.
            let listing = async {
                let Some(nar) = nar.filter(|_| put == Put::New) else { return Ok(None) };
                list(nar, &mut read).await
            };
            self.put_beside(&info, lane, listing).await;
            return Ok(Pushed { read, sent: 0, deduplicated: true });
        }
        let departure = Departure { info: &info, binary: &self.binary, notes: &self.notes };
        let Arrived { nar, upload, listing } = remote.send(&departure, nar).await?;
        arrivals.await?;
        go_ahead.await?;
        upload.let_go().await?;
        // Should all end here, the next run finds the archive again.
        let published = remote.publish(&self.binary, &info, &nar, anew);
        let ((), published) = join!(contents.expect(info.nar_hash, &nar), published);
        let is_named = match &published {
            Ok(Put::New) => true,
            // Another host was faster.
            Ok(Put::Exists) => !self.shows_another(&info, &nar).await,
            // Perhaps; or not, and it is to be asked for again in a while, by the same name.
            Err(error) => !R::is_certain(error) || matches!(error.class(), Class::Throttled { .. }),
        };
        if is_named {
            contents.remember(info.nar_hash, &nar).await;
        } else {
            contents.forget(info.nar_hash, &nar).await;
            self.notes.take_back_unshown(remote, remote.noted(&nar.url), &layout::narinfo_name(&info.path)).await;
        }
        published?;
        // Two builds of one path need not be the same, so that the list of what another host has shown isn't ours.
        let listing = listing.filter(|_| is_named);
        // Not before: a log may have to wait long until it is sent, and the go-ahead holds for a moment.
        self.put_beside(&info, lane, async { Ok(listing) }).await;
        Ok(Pushed { read: nar.nar_size, sent: nar.file_size, deduplicated: !is_named })
    }

    /// Whether the narinfo that is there names another archive. It may be our own, where a proxy has sent it twice since it
    /// heard nothing of the first time; where that can't be learnt, the archive had better stay.
    async fn shows_another(&self, info: &PathInfo, nar: &StoredNar) -> bool {
        let shown = self.remote.shown(&layout::narinfo_name(&info.path)).await;
        shown.is_ok_and(|text| text.is_some_and(|text| layout::field_of(&text, "URL") != Some(nar.url.as_str())))
    }
}
