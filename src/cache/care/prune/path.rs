//! Hiding one path, and showing it again.

use crate::cache::CacheError;
use crate::cache::care::inventory::{Mark, condemned_name, doomed_file, is_archive, listing_file, narinfo_file};
use crate::cache::care::narinfo::needs;
use crate::cache::care::{Condition, Seconds, Shelf};
use crate::nix::HashPart;

/// Hides a path, if its narinfo is still the one that was read before. Returns whether it is hidden.
pub(super) async fn hide(
    shelf: &dyn Shelf,
    hash: HashPart,
    modified: Seconds,
    mark: Option<Mark>,
    has_listing: bool,
) -> Result<bool, CacheError> {
    let file = narinfo_file(hash);
    let Some(text) = shelf.read(&file).await? else { return Ok(true) };
    let archive = needs(&text.content).archive;
    if text.modified != modified || archive.as_deref().map(Mark::of) != mark {
        return Ok(false);
    }
    // A narinfo that names no archive is nothing that could be put back.
    if let Some(mark) = mark {
        if archive.is_some_and(|archive| is_archive(&archive)) {
            match shelf.put(&doomed_file(mark), Vec::new(), Condition::Always).await {
                // A directory without room for an empty file: there the hidden narinfo itself dooms the archive, whose mark
                // begins its name.
                Err(error) if error.is_for_want_of_room() => {}
                put => drop(put?),
            }
        }
        if !shelf.rename(&file, text, &condemned_name(mark, hash), Condition::Always).await? {
            return Ok(false);
        }
    } else {
        shelf.remove(&file).await?;
    }
    if has_listing {
        // A path that is hidden is so without a failure: a list that is left goes by a later prune.
        let _ = shelf.remove(&listing_file(hash)).await;
    }
    Ok(true)
}

/// Shows a pruned path again, unless somebody has uploaded it anew: then what is kept of it waits for its archive to go.
/// Returns whether it is shown by this.
pub(super) async fn put_back(shelf: &dyn Shelf, hash: HashPart, mark: Mark) -> Result<bool, CacheError> {
    let condemned = condemned_name(mark, hash);
    let Some(text) = shelf.read(&condemned).await? else { return Ok(false) };
    shelf.rename(&condemned, text, &narinfo_file(hash), Condition::Absent).await
}
