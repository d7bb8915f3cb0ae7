//! The last step of a prune: what nothing names is removed.
//!
//! What is named is asked once more just before, since a narinfo may have come meanwhile. And what nothing names goes only
//! when it was doomed a grace period ago: a host may remember an archive whose path another host has shown by its own, and
//! show it again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Choice, Contents, Owner, Pruned, Pruning, read_all};
use crate::cache::CacheError;
use crate::cache::care::at_once::{REQUESTS, at_once};
use crate::cache::care::inventory::{
    Archive, Inventory, Mark, Named, condemned_name, doomed_file, is_archive, listing_file,
};
use crate::cache::care::{Condition, Entry, Listed, Seconds, Shelf};
use crate::nix::HashPart;

/// Removes archives that nothing names, and what else is left over.
pub(super) struct Sweep<'a, O> {
    pub(super) shelf: &'a Arc<dyn Shelf>,
    pub(super) pruning: &'a Pruning,
    pub(super) owner: &'a O,
    pub(super) contents: &'a Contents,
    /// Which of the narinfos are hidden now.
    pub(super) gone: &'a [bool],
}

/// Says of archives, by their names, that nobody may show them any more: no host names one anew then, and a prune
/// removes those that no narinfo names a grace period later. A full disk, on which that can't be said, keeps nobody
/// from what comes next.
///
/// # Errors
/// [`CacheError`] where it can't be said otherwise.
pub async fn doom(shelf: &Arc<dyn Shelf>, archives: impl IntoIterator<Item = String>) -> Result<(), CacheError> {
    match doom_marked(shelf, archives.into_iter().map(|archive| Mark::of(&archive))).await {
        Err(error) if error.is_for_want_of_room() => Ok(()),
        doomed => doomed,
    }
}

async fn doom_marked(shelf: &Arc<dyn Shelf>, archives: impl IntoIterator<Item = Mark>) -> Result<(), CacheError> {
    let doom = |mark: Mark| {
        let shelf = Arc::clone(shelf);
        async move { shelf.put(&doomed_file(mark), Vec::new(), Condition::Always).await.map(drop) }
    };
    at_once(archives, REQUESTS, doom, |()| {}).await
}

impl<O: Owner> Sweep<'_, O> {
    pub(super) async fn run(self, pruned: &mut Pruned) -> Result<(), CacheError> {
        let Self { shelf, pruning, contents, gone, .. } = &self;
        let inventory = &contents.inventory;
        let narinfos = inventory.narinfos.iter().zip(*gone).filter(|(_, gone)| **gone);
        let own = |hash| u64::from(inventory.listing(hash).map_or(0, |listing| listing.size));
        pruned.freed += narinfos.map(|(narinfo, _)| u64::from(narinfo.size) + own(narinfo.hash)).sum::<u64>();
        let named = self.named().await?;
        let (clock, now) = (pruning.clock, pruning.clock.now());
        let is_over = |since: Seconds| pruning.is_over(since);
        // When the last path of each archive was hidden, or the archive was doomed; nothing where that was by a clock that stood
        // wrong: then it is doomed anew.
        let mut doomed_since: HashMap<Mark, Option<Seconds>> = HashMap::new();
        let condemned = inventory.condemned.iter().map(|condemned| (condemned.mark, condemned.since));
        let just_now = contents.archives.iter().zip(*gone).filter(|(_, gone)| **gone);
        let just_now = just_now.filter_map(|(archive, _)| Some(((*archive)?.0, now)));
        let condemned = condemned.chain(just_now);
        let had_paths: HashSet<Mark> = condemned.clone().map(|(mark, _)| mark).collect();
        for (mark, since) in condemned.chain(inventory.doomed.iter().map(|doomed| (doomed.mark, doomed.since))) {
            let last = doomed_since.entry(mark).or_default();
            *last = Some(since).filter(|since| !clock.is_behind(*since)).max(*last);
        }
        let (mut goes, mut goes_later, mut elsewhere) = (HashSet::new(), Vec::new(), HashSet::new());
        for Archive { mark, modified, is_one, size, .. } in &inventory.archives {
            if named.contains(mark) {
                continue;
            }
            if !is_one {
                elsewhere.extend(had_paths.contains(mark).then_some(*mark));
                continue;
            }
            let is_old = is_over(*modified);
            let since = doomed_since.get(mark).copied().flatten();
            if since.is_none() && !is_old {
                continue;
            }
            if is_old && is_over(since.unwrap_or(now)) {
                goes.insert(*mark);
                pruned.freed += size;
                pruned.orphans += u64::from(!had_paths.contains(mark));
            } else {
                pruned.freed_later += size;
                goes_later.extend(since.is_none().then_some(*mark));
            }
        }
        let lone = inventory
            .listings
            .iter()
            .filter(|listing| inventory.narinfo(listing.hash).is_none() && is_over(listing.modified));
        let lone: Vec<HashPart> = lone
            .inspect(|listing| {
                pruned.listings += 1;
                pruned.freed += u64::from(listing.size);
            })
            .map(|listing| listing.hash)
            .collect();
        let uploads = match pruning.choice {
            Choice::Oldest => shelf.unfinished().await.unwrap_or_else(|error| {
                pruned.uploads_unseen = Some(error.with_cure());
                Vec::new()
            }),
            Choice::LongestUnread => Vec::new(),
        };
        let uploads: Vec<_> = uploads.into_iter().filter(|upload| is_over(upload.modified)).collect();
        pruned.uploads = uploads.len() as u64;
        pruned.freed += uploads.iter().filter_map(|upload| upload.size).sum::<u64>();
        if !elsewhere.is_empty() {
            pruned.elsewhere = self.files(|file| elsewhere.contains(&Mark::of(&file.name))).await?;
        }
        if !pruning.is_meant {
            return Ok(());
        }
        // No archive goes for good before its narinfos.
        shelf.settle().await?;
        // What is due first: where there is no room, it makes some.
        self.remove_archives(&goes, pruned).await?;
        let over = inventory.condemned.iter().map(|condemned| (condemned.mark, condemned.hash, condemned.since));
        let just_now = inventory.narinfos.iter().zip(&contents.archives).zip(*gone).filter(|(_, gone)| **gone);
        let just_now = just_now.filter_map(|((narinfo, archive), _)| Some(((*archive)?.0, narinfo.hash, now)));
        // An archive that is named again, isn't there, or is left alone has nothing more to wait for.
        let is_settled = |mark, since| {
            let is_left = || inventory.archive(mark).is_none_or(|place| !inventory.archives[place].is_one);
            is_over(since) && (goes.contains(&mark) || named.contains(&mark) || is_left())
        };
        let over = over.chain(just_now).filter(|(mark, _, since)| is_settled(*mark, *since));
        let settled = doomed_since.iter().filter(|(mark, since)| is_settled(**mark, since.unwrap_or_default()));
        let files = over.map(|(mark, hash, _)| condemned_name(mark, hash)).chain(lone.into_iter().map(listing_file));
        self.remove(files.chain(settled.map(|(mark, _)| doomed_file(*mark)))).await?;
        let mut abandoned = Ok(());
        for upload in &uploads {
            // One that may not be taken back keeps nothing else from being done.
            abandoned = abandoned.and(shelf.abandon(upload).await);
        }
        doom_marked(shelf, goes_later).await.and(abandoned)
    }

    /// The archives that are named by what is shown at this moment.
    async fn named(&self) -> Result<HashSet<Mark>, CacheError> {
        let Self { shelf, contents, gone, .. } = self;
        let stays = contents.archives.iter().zip(*gone).filter(|(_, gone)| !**gone);
        let mut named: HashSet<Mark> = stays.filter_map(|(archive, _)| archive.map(|(mark, _)| mark)).collect();
        let now = Inventory::take(&***shelf, Listed::Root).await?;
        let is_known = |named: &&Named| contents.inventory.narinfos.binary_search(named).is_ok();
        let new: Vec<HashPart> = now.narinfos.iter().filter(|named| !is_known(named)).map(|named| named.hash).collect();
        named.extend(&contents.perhaps);
        read_all(shelf, &new, |(_, needs)| {
            named.extend(needs.archive.iter().chain(&needs.perhaps).map(|file| Mark::of(file)));
        })
        .await?;
        Ok(named)
    }

    /// The names of files, which are found by listing them again: they were too long to be kept.
    async fn files(&self, mut is_meant: impl FnMut(&Entry) -> bool + Send) -> Result<Vec<String>, CacheError> {
        let mut files = Vec::new();
        let mut take = |page: Vec<Entry>| {
            files.extend(page.into_iter().filter(|entry| is_meant(entry)).map(|entry| entry.name));
        };
        self.shelf.list(Listed::Everything, &mut take).await?;
        Ok(files)
    }

    /// Removes archives.
    async fn remove_archives(&self, doomed: &HashSet<Mark>, pruned: &mut Pruned) -> Result<(), CacheError> {
        if doomed.is_empty() {
            return Ok(());
        }
        // One that was written anew since it was listed is an upload's.
        let pruning = self.pruning;
        let is_doomed = |file: &Entry| {
            pruning.is_over(file.modified) && is_archive(&file.name) && doomed.contains(&Mark::of(&file.name))
        };
        let files = self.files(is_doomed).await?;
        // Before: of what is forgotten in vain nothing is lost, and what fails half way is forgotten as well.
        self.owner.removes(&files).await;
        self.remove(files.iter().cloned()).await?;
        pruned.archives = files;
        Ok(())
    }

    async fn remove(&self, files: impl IntoIterator<Item = String>) -> Result<(), CacheError> {
        let remove = |file: String| {
            let shelf = Arc::clone(self.shelf);
            async move { shelf.remove(&file).await }
        };
        at_once(files, REQUESTS, remove, |()| {}).await
    }
}
