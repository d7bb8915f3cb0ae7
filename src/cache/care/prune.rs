//! Making room in a cache: whole closures go from the top, and hosts may upload to it meanwhile.
//!
//! A path goes in two steps, a grace period apart:
//!
//! ```text
//! shown ──condemned: its narinfo moves to `pruned/`──► hidden ──a grace period later──► its archive is removed
//!   ▲                                                    │
//!   └──────────── put back, if something needs it ◄──────┘
//! ```
//!
//! What protects an upload that is under way meanwhile:
//!
//! - What is younger than the grace period is never touched, neither a narinfo nor an archive. So whatever an upload has
//!   brought itself stays, as long as no upload takes longer than that.
//! - An uploader asks for a path's references again just before it shows the path; what it has seen may be ten minutes old
//!   by then. So a path can be shown just after one of its references was hidden. The narinfos are therefore listed again
//!   before the first goes and after the last has gone, and what new ones need is spared or put back. What waits between
//!   that look and being shown is in no list yet: who uploads there himself says what his uploads need, after the last has
//!   gone ([`Owner::needed`]). What other hosts show later still is put back by the next prune: the archive is there for a
//!   grace period.
//! - An archive is doomed before the first of its paths is hidden, and so is one that no narinfo names: a file beside the
//!   hidden narinfos says it, whose name can be told from the archive's (`doomed_name`). An uploader shows an archive that
//!   is there already under another path's name only if it isn't doomed, and looks for that first, and then for the archive.
//!   So one that was doomed a grace period ago is in nobody's hands, unless a narinfo names it, which is looked for just
//!   before it goes.
//!
//! Before a narinfo goes it is read once more: one that is not the same as when the plan was made stays, with all that it
//! needs. A prune that is cut leaves a sound cache, and the next one goes on with it: no narinfo goes before it is in
//! `pruned/`, and tops go first. In a directory it is renamed, for which there is room on a full disk too, and where not even an
//! empty file fits, that dooms its archive; who uploads there through a web server then doesn't learn of it. An object is
//! copied first.
//!
//! Between that read and the removal lie some milliseconds, in which another host may show the path anew by a narinfo of
//! its own. In a directory that is seen, and the new one stays, but for a kill at that very moment. Of an object store's it
//! goes unseen, since few of them know how to delete an object only if it is still the same: then the path is uploaded once
//! more when something needs it.
//!
//! What a narinfo names outside `nar/` is neither doomed nor removed, and doesn't count as the cache's: whoever may write
//! narinfos could have others' files removed so. It is left alone, and told of ([`Pruned::elsewhere`]).
//!
//! What is old is so by the store's clock, where that can be known (`clock`).
//!
//! Deliberately absent: a lock. Hosts needn't know of each other, and two prunes at once do the same twice.

mod back;
#[cfg(test)]
mod laws;
mod path;
mod sweep;

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use self::path::{hide, put_back};
use self::sweep::Sweep;
pub use self::sweep::doom;
use super::at_once::{REQUESTS, at_once};
use super::graph::Graph;
use super::inventory::{Archive, Inventory, Mark, Named, narinfo_file};
use super::narinfo::{Needs, needs};
use super::plan::{Fate, Node, Plan, Terms, plan};
use super::{Clock, Listed, Seconds, Shelf};
use crate::cache::{BoxFuture, CacheError};
use crate::nix::HashPart;
use crate::times;

/// By what it is chosen what goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// What was shown longest ago.
    Oldest,
    /// What was read longest ago, by the archive: a narinfo is read by whoever only asks. This is done while the same host
    /// uploads, with a grace period too short to tell an upload that waits from one that never ends: those stay.
    LongestUnread,
}

/// Who has a cache pruned: he knows of his own uploads, and hears of what is done as it is done.
pub trait Owner {
    /// What is begun next.
    fn begins(&self, step: &str);

    /// What his uploads need at this moment; asked when all has been hidden that goes.
    fn needed(&self) -> BoxFuture<'_, Vec<HashPart>> {
        Box::pin(async { Vec::new() })
    }

    /// These paths are hidden now; told even if the prune fails there.
    fn hidden<'a>(&'a self, _paths: &'a [HashPart]) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    /// These archives are about to be removed, by their names.
    fn removes<'a>(&'a self, _archives: &'a [String]) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    /// Whether nothing more is to be hidden or removed.
    fn is_called_off(&self) -> bool {
        false
    }
}

impl<F: Fn(&str)> Owner for F {
    fn begins(&self, step: &str) {
        self(step);
    }
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Pruning {
    /// What goes first.
    pub choice: Choice,
    /// Paths that stay, however old they are, and what they need.
    pub needed: Vec<HashPart>,
    /// Paths shown within so many seconds stay, and what they need. `None`: only the size counts.
    pub keep: Option<Seconds>,
    /// Bytes that the cache may have at most.
    pub max_size: Option<u64>,
    /// What is younger than so many seconds stays in any case.
    pub grace: Seconds,
    /// The time, by which all ages are reckoned.
    pub clock: Clock,
    /// Whether something is removed, or only said what would be.
    pub is_meant: bool,
}

impl Pruning {
    /// Whether something has been so for a grace period.
    fn is_over(&self, since: Seconds) -> bool {
        self.clock.now().saturating_sub(self.clock.believed(since, self.grace)) >= self.grace
    }
}

/// What a prune has removed, or would.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Paths that go.
    pub paths: u64,
    /// Paths that stay since they are young enough, or since the rest fits.
    pub kept: u64,
    /// Paths that are old and stay since one that stays needs them.
    pub needed: u64,
    /// Paths that stay since they were shown anew, or are needed by something that was, since the plan was made.
    pub spared: u64,
    /// Paths that were pruned before and are shown again, since something needs them.
    pub put_back: u64,
    /// Bytes that are free now.
    pub freed: u64,
    /// Bytes of archives that no narinfo names any more, and that go a grace period later.
    pub freed_later: u64,
    /// Archives that no narinfo named. They were doomed by an earlier prune.
    pub orphans: u64,
    /// Lists of files without a narinfo.
    pub listings: u64,
    /// Uploads that have never ended.
    pub uploads: u64,
    /// Why it isn't known which there are, should that be so: they stay then.
    pub uploads_unseen: Option<String>,
    /// Bytes of what stays shown.
    pub left: u64,
    /// Archives that were removed, by their names.
    pub archives: Vec<String>,
    /// What pruned paths had for archives where no cache has any, by its names: it was left alone.
    pub elsewhere: Vec<String>,
    /// Paths that were hidden, by their hash parts.
    pub hidden: Vec<HashPart>,
}

/// Prunes a cache.
///
/// # Errors
/// [`CacheError`] where the cache can't be asked, or something can't be removed; what was removed by then is, and the cache
/// is sound.
pub async fn prune(shelf: &Arc<dyn Shelf>, pruning: &Pruning, owner: &impl Owner) -> Result<Pruned, CacheError> {
    owner.begins(&format!("listing {}", shelf.name()));
    let inventory = Inventory::take(&**shelf, Listed::Everything).await?;
    if pruning.keep.is_some_and(|keep| !pruning.clock.is_vouched_for(keep, &inventory)) {
        let now = UNIX_EPOCH + Duration::from_secs(pruning.clock.now().into());
        return Err(CacheError::RestsTooLong { cache: shelf.name().to_owned(), now: times::here(now) });
    }
    owner.begins(&format!("reading {} narinfos", inventory.narinfos.len()));
    let mut pruned = Pruned::default();
    let mut contents = Contents::read(shelf, inventory).await?;
    if pruning.is_meant && !contents.lacking.is_empty() {
        // A prune before this one has hidden what an upload had just seen.
        owner.begins("putting back what is needed");
        pruned.put_back = contents.put_back_what_is_needed(&**shelf).await?;
        contents = Contents::read(shelf, Inventory::take(&**shelf, Listed::Everything).await?).await?;
    }
    let plan = contents.plan(pruning);
    pruned.left = plan.size;
    for fate in &plan.fates {
        match fate {
            Fate::Goes => pruned.paths += 1,
            Fate::Kept => pruned.kept += 1,
            Fate::Needed => pruned.needed += 1,
        }
    }
    let mut gone = vec![false; plan.fates.len()];
    let mut hiding = Ok(());
    if pruning.is_meant {
        if pruned.paths > 0 {
            owner.begins(&format!("hiding {} {}", pruned.paths, if pruned.paths == 1 { "path" } else { "paths" }));
        }
        hiding = contents.condemn(shelf, owner, &plan, &mut gone).await.map(|spared| pruned.spared = spared);
        let hidden = contents.inventory.narinfos.iter().zip(&gone).filter(|(_, gone)| **gone);
        pruned.hidden = hidden.map(|(narinfo, _)| narinfo.hash).collect();
        if !pruned.hidden.is_empty() {
            owner.hidden(&pruned.hidden).await;
        }
        pruned.paths -= pruned.spared;
        if owner.is_called_off() {
            return hiding.map(|()| pruned);
        }
    } else {
        gone = plan.fates.iter().map(|fate| *fate == Fate::Goes).collect();
    }
    owner.begins(if pruning.is_meant { "removing what nothing names" } else { "looking for what nothing names" });
    // Even if not all could be hidden: on a full disk nothing can, and what is due now makes room.
    let swept = Sweep { shelf, pruning, owner, contents: &contents, gone: &gone }.run(&mut pruned).await;
    hiding.and(swept).map(|()| pruned)
}

/// A cache, and what its narinfos say.
struct Contents {
    inventory: Inventory,
    graph: Graph,
    /// The archive that each narinfo names: its mark, and its place where it is there.
    archives: Vec<Option<(Mark, Option<u32>)>>,
    /// References that are hidden.
    lacking: Vec<HashPart>,
    /// Archives that may be those of narinfos which name none in a way that is known.
    perhaps: Vec<Mark>,
}

/// What each of these narinfos needs, by its place, in no order.
async fn read_all(
    shelf: &Arc<dyn Shelf>,
    hashes: &[HashPart],
    mut take: impl FnMut((usize, Needs)),
) -> Result<(), CacheError> {
    let read = |place: usize| {
        let (shelf, hash) = (Arc::clone(shelf), hashes[place]);
        async move {
            let text = shelf.read(&narinfo_file(hash)).await?;
            Ok((place, text.map(|text| needs(&text.content)).unwrap_or_default()))
        }
    };
    at_once(0..hashes.len(), REQUESTS, read, &mut take).await
}

impl Contents {
    async fn read(shelf: &Arc<dyn Shelf>, inventory: Inventory) -> Result<Self, CacheError> {
        let hashes: Vec<HashPart> = inventory.narinfos.iter().map(|narinfo| narinfo.hash).collect();
        let mut references: Vec<Box<[u32]>> = vec![Box::default(); hashes.len()];
        let (mut archives, mut lacking, mut perhaps) = (vec![None; hashes.len()], Vec::new(), Vec::new());
        read_all(shelf, &hashes, |(place, needs)| {
            lacking.extend(needs.references.iter().filter(|hash| inventory.is_hidden(**hash)));
            perhaps.extend(needs.perhaps.iter().map(|file| Mark::of(file)));
            // What isn't in the cache can't be removed from it.
            let known = needs.references.into_iter().filter_map(|hash| Some(inventory.narinfo(hash)? as u32));
            references[place] = known.collect();
            let mark = needs.archive.as_deref().map(Mark::of);
            archives[place] = mark.map(|mark| (mark, inventory.archive(mark).map(|place| place as u32)));
        })
        .await?;
        let graph = Graph::new(references.into_iter().map(|references| references.into_vec()));
        Ok(Self { inventory, graph, archives, lacking, perhaps })
    }

    fn plan(&self, pruning: &Pruning) -> Plan {
        let Self { inventory, graph, archives, .. } = self;
        let believed = |time| pruning.clock.believed(time, pruning.grace);
        let node = |(narinfo, archive): (&Named, &Option<(Mark, Option<u32>)>)| {
            let listing = inventory.listing(narinfo.hash).map_or(0, |listing| u64::from(listing.size));
            let archive = archive.and_then(|(_, place)| place);
            let read = archive.map_or(0, |place| inventory.archives[place as usize].read);
            let modified = match pruning.choice {
                Choice::Oldest => believed(narinfo.modified),
                Choice::LongestUnread => believed(narinfo.modified).max(believed(read)),
            };
            Node { modified, size: u64::from(narinfo.size) + listing, archive }
        };
        let mut nodes: Vec<Node> = inventory.narinfos.iter().zip(archives).map(node).collect();
        for place in pruning.needed.iter().filter_map(|hash| inventory.narinfo(*hash)) {
            // As young as can be, for who needs it.
            nodes[place].modified = Seconds::MAX;
        }
        let size = |archive: &Archive| if archive.is_one { archive.size } else { 0 };
        let sizes: Vec<u64> = inventory.archives.iter().map(size).collect();
        let &Pruning { clock, keep, grace, max_size, .. } = pruning;
        plan(&nodes, graph, &sizes, inventory.others, &Terms { now: clock.now(), keep, grace, max_size })
    }

    /// Hides what goes, tops first, and says in `gone` what went. Returns how many paths were spared.
    async fn condemn(
        &self,
        shelf: &Arc<dyn Shelf>,
        owner: &impl Owner,
        plan: &Plan,
        gone: &mut [bool],
    ) -> Result<u64, CacheError> {
        let mut spared = vec![false; gone.len()];
        if plan.groups.is_empty() {
            return Ok(0);
        }
        self.spare_what_is_new(shelf, &mut spared).await?;
        for group in &plan.groups {
            let goes = group.iter().copied().filter(|place| !spared[*place as usize]);
            let goes = goes.take_while(|_| !owner.is_called_off());
            let hide = |place: u32| {
                let narinfo = self.inventory.narinfos[place as usize];
                let mark = self.archives[place as usize].map(|(mark, _)| mark);
                let (shelf, has_listing) = (Arc::clone(shelf), self.inventory.listing(narinfo.hash).is_some());
                async move {
                    let hidden = hide(&*shelf, narinfo.hash, narinfo.modified, mark, has_listing).await?;
                    Ok((place, hidden))
                }
            };
            let mut changed = Vec::new();
            at_once(goes, REQUESTS, hide, |(place, hidden)| match hidden {
                true => gone[place as usize] = true,
                false => changed.push(place),
            })
            .await?;
            self.graph.mark_closure(changed, &mut spared);
        }
        let mut needed = vec![false; gone.len()];
        // In this order: an upload that isn't under way any more by then has shown its path, which is listed next.
        let by_owner = owner.needed().await.into_iter().filter_map(|hash| self.inventory.narinfo(hash));
        self.graph.mark_closure(by_owner.map(|place| place as u32), &mut needed);
        self.spare_what_is_new(shelf, &mut needed).await?;
        let mut back: Vec<usize> = (0..gone.len()).filter(|place| needed[*place] && gone[*place]).collect();
        if !back.is_empty() {
            // References first.
            let circles = self.graph.circles();
            back.sort_unstable_by_key(|place| circles[*place]);
        }
        for place in back {
            // One that named no archive was nothing that anybody could read.
            if let Some((mark, _)) = self.archives[place] {
                put_back(&**shelf, self.inventory.narinfos[place].hash, mark).await?;
                gone[place] = false;
            }
        }
        let goes = plan.fates.iter().filter(|fate| **fate == Fate::Goes).count();
        Ok((goes - gone.iter().filter(|gone| **gone).count()) as u64)
    }

    /// Marks what narinfos need that are new, or other ones than before.
    async fn spare_what_is_new(&self, shelf: &Arc<dyn Shelf>, spared: &mut [bool]) -> Result<(), CacheError> {
        let now = Inventory::take(&**shelf, Listed::Root).await?;
        let mut needed = Vec::new();
        let is_known = |named: &&Named| self.inventory.narinfos.binary_search(named).is_ok();
        let new: Vec<HashPart> = now.narinfos.iter().filter(|named| !is_known(named)).map(|named| named.hash).collect();
        read_all(shelf, &new, |(place, needs)| {
            let all = needs.references.into_iter().chain([new[place]]);
            needed.extend(all.filter_map(|hash| self.inventory.narinfo(hash)).map(|place| place as u32));
        })
        .await?;
        self.graph.mark_closure(needed, spared);
        Ok(())
    }
}
