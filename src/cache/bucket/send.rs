//! Sending a packed archive to a bucket: small ones in one request, larger ones in parts.

use std::sync::Arc;

use bytes::Bytes;
use object_store::multipart::PartId;
use object_store::path::Path;
use object_store::{Attributes, PutMultipartOptions, PutPayload};
use tokio::task::JoinSet;

use super::error::unwrapped;
use super::store::{Store, content_type};
use crate::cache::http::Action;
use crate::cache::pack::{Packed, Packing};
use crate::cache::unfinished::Upload;
use crate::cache::{CacheError, NarFailure, layout};
use crate::limit::Tap;

/// Bytes of a part, and of what is sent in one request: the least that S3 takes for a part. Two of them are in memory for
/// each upload, and [`SPARE`] for all, so that four uploads at once stay within 128 MiB with all that compression needs.
pub(super) const PART: u64 = 5 * 1024 * 1024;

/// S3 puts so many parts together at most.
const PARTS: u64 = 10_000;

/// A size for parts of which nobody knows how many there will be (bytes): 300 GB fit.
const PART_OF_UNKNOWN: u64 = 32 * 1024 * 1024;

/// Of each upload one part is on its way while the next is gathered. So many more parts are on their way at the same time, of
/// whichever uploads: one upload alone, to a distant store, never waits for an answer then.
pub(super) const SPARE: usize = 1;

/// Sends all of an archive of `nar_size` bytes (0: nobody knows).
pub(super) async fn send(
    store: &Store,
    file: &str,
    mut packing: Packing,
    nar_size: u64,
    upload: &mut Upload<Store>,
) -> Result<Packed, CacheError> {
    let mut parts = Gathering { packing: &mut packing, left: Bytes::new(), size: part_size(nar_size), ended: false };
    let first = parts.next().await?.unwrap_or_default();
    if parts.ended {
        if let Err(error) = store.put(file, first, layout::NAR_TYPE).await {
            return Err(refused(upload, error.into()).await);
        }
    } else {
        send_parts(store, &store.object(file), first, &mut parts, upload).await?;
    }
    packing.packed()
}

async fn send_parts(
    store: &Store,
    object: &Path,
    first: PutPayload,
    parts: &mut Gathering<'_>,
    upload: &mut Upload<Store>,
) -> Result<(), CacheError> {
    let failed = |error: object_store::Error| CacheError::from(unwrapped(Action::Upload, &store.name, &error));
    // Azure is told what an object is only where it comes in one piece, and has nothing to abort.
    let attributes = if store.aborts { content_type(layout::NAR_TYPE) } else { Attributes::new() };
    let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
    let (begun_in, begun_at) = (store.clone(), object.clone());
    let begin = async move {
        let begun = begun_in.multiparts.create_multipart_opts(&begun_at, options).await;
        begun.map_err(|error| unwrapped(Action::Upload, &begun_in.name, &error).into())
    };
    let id = match upload.begin_parts(begin).await {
        Ok(id) => id,
        Err(error) => return Err(refused(upload, error).await),
    };
    // Dropped with this future, and what is on its way with it.
    let mut on_their_way = JoinSet::new();
    let mut sent: Vec<PartId> = Vec::new();
    let mut next = Some(first);
    while let Some(part) = next {
        let spare = loop {
            match on_their_way.len() {
                0 => break None,
                1 => tokio::select! {
                    spare = Arc::clone(&store.spare).acquire_owned() => break spare.ok(),
                    taken = take(&mut on_their_way, &mut sent) => taken.map_err(failed)?,
                },
                _ => take(&mut on_their_way, &mut sent).await.map_err(failed)?,
            }
        };
        let index = sent.len();
        sent.push(PartId { content_id: String::new() });
        let (multiparts, object, id) = (store.multiparts.clone(), object.clone(), id.clone());
        let sending = async move {
            let _spare = spare;
            (index, multiparts.put_part(&object, &id, index, part).await)
        };
        on_their_way.spawn(Tap::of_this_task().scope(sending));
        next = parts.next().await?;
    }
    while !on_their_way.is_empty() {
        take(&mut on_their_way, &mut sent).await.map_err(failed)?;
    }
    store.multiparts.complete_multipart(object, &id, sent).await.map_err(failed)?;
    upload.put_together();
    Ok(())
}

/// The store has not taken the first that it was to take.
pub(super) async fn refused(upload: &mut Upload<Store>, error: CacheError) -> CacheError {
    if let CacheError::Bucket(why) = &error
        && why.is_certain()
    {
        upload.nothing_was_taken().await;
    }
    error
}

type Sent = (usize, Result<PartId, object_store::Error>);

/// Waits for one part to arrive.
async fn take(on_their_way: &mut JoinSet<Sent>, sent: &mut [PartId]) -> Result<(), object_store::Error> {
    match on_their_way.join_next().await {
        Some(Ok((index, part))) => sent[index] = part?,
        Some(Err(error)) => return Err(object_store::Error::JoinError { source: error }),
        None => {}
    }
    Ok(())
}

/// How long the parts of an archive are: all the same, as some stores want it, and few enough.
fn part_size(nar_size: u64) -> u64 {
    if nar_size == 0 {
        return PART_OF_UNKNOWN;
    }
    // What can't be compressed grows by less than a hundredth.
    (nar_size + nar_size / 100).div_ceil(PARTS).max(PART)
}

/// Gathers what is packed into parts.
struct Gathering<'p> {
    packing: &'p mut Packing,
    /// What didn't fit into the last part.
    left: Bytes,
    size: u64,
    /// Whether there is no more.
    ended: bool,
}

impl Gathering<'_> {
    /// The next part, of that very size but for the last; `None` when there is no more.
    async fn next(&mut self) -> Result<Option<PutPayload>, NarFailure> {
        let (mut gathered, mut length) = (Vec::new(), 0);
        loop {
            let room = usize::try_from(self.size - length).unwrap_or(usize::MAX);
            let mut chunk = std::mem::take(&mut self.left);
            if chunk.len() > room {
                self.left = chunk.split_off(room);
            }
            length += chunk.len() as u64;
            if !chunk.is_empty() {
                gathered.push(chunk);
            }
            if length == self.size && (!self.left.is_empty() || self.ended) {
                break;
            }
            // Asked for beyond a full part too: who knows whether it is the last?
            if self.ended {
                break;
            }
            match self.packing.next().await? {
                Some(chunk) => self.left = chunk,
                None => self.ended = true,
            }
        }
        Ok((length > 0).then(|| PutPayload::from_iter(gathered)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_parts_are_enough_for_everything() {
        for nar_size in [1, PART, 1 << 30, 40 << 30, 1 << 40, 5 << 40] {
            let size = part_size(nar_size);
            assert!(size >= PART && (nar_size + nar_size / 200).div_ceil(size) <= PARTS, "{nar_size}");
        }
        assert_eq!(part_size(40 << 30), PART, "memory stays as it is up to some 50 GB");
    }
}
