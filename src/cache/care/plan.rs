//! What a prune removes. Pure: what the cache has, what time it is and what is asked for decide.
//!
//! 1. Roots are the paths younger than what is to be kept. They stay with their closures.
//! 2. Where the rest is still too large, the oldest top goes, and again, until it fits. A top is a path that none that
//!    stays refers to.
//! 3. Nothing younger than the grace period goes, and nothing that such a path needs.
//!
//! Paths that refer to each other in a circle stay or go together.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::Seconds;
use super::graph::Graph;

/// A path as far as a prune cares.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    /// When it was shown, or shown again.
    pub(super) modified: Seconds,
    /// Bytes that are its own: the narinfo, the list of files.
    pub(super) size: u64,
    /// Its archive, which may be that of others too.
    pub(super) archive: Option<u32>,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) now: Seconds,
    /// What is younger than so many seconds is kept. `None`: only the size counts.
    pub(super) keep: Option<Seconds>,
    /// What is younger than so many seconds stays in any case.
    pub(super) grace: Seconds,
    /// Bytes that the cache may have.
    pub(super) max_size: Option<u64>,
}

/// Why a path stays, or that it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Goes,
    /// It is young enough.
    Kept,
    /// It is old, and a path that stays needs it.
    Needed,
}

/// What goes and what stays.
#[derive(Debug)]
pub(super) struct Plan {
    /// Of each path.
    pub(super) fates: Vec<Fate>,
    /// What goes, tops first: none refers to one of an earlier group.
    pub(super) groups: Vec<Vec<u32>>,
    /// Bytes of what stays.
    pub(super) size: u64,
}

/// Decides. `archives` are the sizes of the archives in bytes, `fixed` the bytes of what stays in any case.
pub(super) fn plan(nodes: &[Node], graph: &Graph, archives: &[u64], fixed: u64, terms: &Terms) -> Plan {
    let circles = Circles::of(nodes, graph);
    let keep = terms.keep.map_or(Seconds::MAX, |keep| keep.max(terms.grace));
    let mut fates = vec![Fate::Goes; circles.count()];
    // Referrers have the higher numbers, so one pass tells all that is needed.
    for circle in (0..circles.count()).rev() {
        if terms.now.saturating_sub(circles.youngest[circle]) < keep {
            fates[circle] = Fate::Kept;
        }
        if fates[circle] != Fate::Goes {
            for reference in circles.references(circle, graph) {
                if fates[reference] == Fate::Goes {
                    fates[reference] = Fate::Needed;
                }
            }
        }
    }
    let mut size = Size::of(nodes, &circles, archives, fixed, &fates);
    if let Some(max_size) = terms.max_size {
        shrink(&circles, graph, nodes, &mut fates, &mut size, terms, max_size);
    }
    Plan {
        groups: groups(&circles, graph, &fates),
        fates: circles.of.iter().map(|circle| fates[*circle as usize]).collect(),
        size: size.total,
    }
}

/// Removes the oldest tops until the rest fits, as far as the grace period lets it.
fn shrink(
    circles: &Circles,
    graph: &Graph,
    nodes: &[Node],
    fates: &mut [Fate],
    size: &mut Size<'_>,
    terms: &Terms,
    max_size: u64,
) {
    let mut referrers = vec![0_u32; circles.count()];
    for circle in (0..circles.count()).filter(|circle| fates[*circle] != Fate::Goes) {
        circles.references(circle, graph).for_each(|reference| referrers[reference] += 1);
    }
    let is_old = |circle: usize| terms.now.saturating_sub(circles.youngest[circle]) >= terms.grace;
    let tops = (0..circles.count())
        .filter(|circle| fates[*circle] != Fate::Goes && referrers[*circle] == 0 && is_old(*circle));
    let mut tops: BinaryHeap<_> = tops.map(|circle| Reverse((circles.youngest[circle], circle))).collect();
    while size.total > max_size
        && let Some(Reverse((_, circle))) = tops.pop()
    {
        let mut going = vec![circle];
        while let Some(circle) = going.pop() {
            fates[circle] = Fate::Goes;
            circles.members(circle).iter().for_each(|member| size.remove(&nodes[*member as usize]));
            for reference in circles.references(circle, graph) {
                referrers[reference] -= 1;
                if referrers[reference] == 0 && is_old(reference) {
                    // What is too old to be kept on its own account was only needed by what has just gone.
                    match fates[reference] {
                        Fate::Needed => going.push(reference),
                        Fate::Goes | Fate::Kept => tops.push(Reverse((circles.youngest[reference], reference))),
                    }
                }
            }
        }
    }
}

/// What goes, in groups: each path in a later one than all its referrers.
fn groups(circles: &Circles, graph: &Graph, fates: &[Fate]) -> Vec<Vec<u32>> {
    let mut depths = vec![0; circles.count()];
    let mut groups: Vec<Vec<u32>> = Vec::new();
    for circle in (0..circles.count()).rev().filter(|circle| fates[*circle] == Fate::Goes) {
        let depth = depths[circle];
        for reference in circles.references(circle, graph) {
            depths[reference] = depths[reference].max(depth + 1);
        }
        if groups.len() <= depth {
            groups.resize_with(depth + 1, Vec::new);
        }
        groups[depth].extend(circles.members(circle));
    }
    groups
}

/// Circles of paths.
struct Circles {
    /// The circle of each path.
    of: Vec<u32>,
    /// All paths, circle by circle.
    members: Vec<u32>,
    starts: Vec<u32>,
    /// When the youngest of each was shown.
    youngest: Vec<Seconds>,
}

impl Circles {
    fn of(nodes: &[Node], graph: &Graph) -> Self {
        let of = graph.circles();
        let count = of.iter().max().map_or(0, |last| *last as usize + 1);
        let (mut youngest, mut starts) = (vec![0; count], vec![0_u32; count + 1]);
        for (circle, node) in of.iter().zip(nodes) {
            let circle = *circle as usize;
            youngest[circle] = node.modified.max(youngest[circle]);
            starts[circle + 1] += 1;
        }
        for circle in 0..count {
            starts[circle + 1] += starts[circle];
        }
        let (mut members, mut free) = (vec![0; of.len()], starts.clone());
        for (place, circle) in (0..).zip(&of) {
            let free = &mut free[*circle as usize];
            members[*free as usize] = place;
            *free += 1;
        }
        Self { of, members, starts, youngest }
    }

    fn count(&self) -> usize {
        self.youngest.len()
    }

    fn members(&self, circle: usize) -> &[u32] {
        &self.members[self.starts[circle] as usize..self.starts[circle + 1] as usize]
    }

    /// The circles that one refers to, each as often as it does.
    fn references<'a>(&'a self, circle: usize, graph: &'a Graph) -> impl Iterator<Item = usize> + 'a {
        let references = self.members(circle).iter().flat_map(|member| graph.references(*member));
        references.map(|reference| self.of[*reference as usize] as usize).filter(move |other| *other != circle)
    }
}

/// Bytes of what stays, each archive once, however many paths have it.
struct Size<'a> {
    archives: &'a [u64],
    /// Paths that stay, of each archive.
    named: Vec<u32>,
    total: u64,
}

impl<'a> Size<'a> {
    fn of(nodes: &[Node], circles: &Circles, archives: &'a [u64], fixed: u64, fates: &[Fate]) -> Self {
        let mut size = Self { archives, named: vec![0; archives.len()], total: fixed };
        for (node, circle) in nodes.iter().zip(&circles.of) {
            if fates[*circle as usize] != Fate::Goes {
                size.total += node.size;
                if let Some(archive) = node.archive {
                    let named = &mut size.named[archive as usize];
                    size.total += if *named == 0 { archives[archive as usize] } else { 0 };
                    *named += 1;
                }
            }
        }
        size
    }

    fn remove(&mut self, node: &Node) {
        self.total -= node.size;
        if let Some(archive) = node.archive {
            let named = &mut self.named[archive as usize];
            *named -= 1;
            self.total -= if *named == 0 { self.archives[archive as usize] } else { 0 };
        }
    }
}

#[cfg(test)]
mod laws;
