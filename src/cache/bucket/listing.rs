//! What a bucket has, learnt by listing it where that is cheaper than to ask for each path.
//!
//! The rule: **a bucket is listed once asking path by path has cost as much.** What was asked for lately is counted; a page
//! of a listing counts as [`PAGE_COSTS`] such requests. How many pages a bucket has is reckoned from one of them and how
//! far it gets, since hash parts are evenly spread. So a few paths never cause a listing, a backfill does soon, a large
//! bucket is listed only for many paths, and where the listing was of no use it has at most doubled the costs.
//!
//! A listing only ever tells that a path is there. What it doesn't show is asked for as before: it may have come since, or
//! the listing is incomplete, because memory is bounded or the store didn't go through with it. So nothing but the
//! reckoning depends on a store's order, and nothing on whether it may be listed at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::debug;

use super::error::BucketError;
use super::store::Store;
use crate::nix::{HashPart, StorePath};
use crate::report::one_line;

/// The first characters of hash parts. Under none of them alone lies what else is in a cache: `nar/` and its like are
/// passed over as folders.
const FIRST: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// A page of a thousand names counts as so many questions for one: by Amazon's prices they cost the same.
const PAGE_COSTS: usize = 12;

/// Sections that are listed at once: enough that waiting for a distant store doesn't add up, few enough for their pages
/// to be held.
const AT_ONCE: usize = 8;

/// Hash parts that are remembered of a section at most: 320 KB, and 10 MB of all, which are those of 512,000 paths. Of a
/// larger bucket a part is known, which saves as much for what it cost.
const REMEMBERED: usize = 16_000;

/// The least that a listing costs: a page of each section.
const LEAST: usize = FIRST.len() * PAGE_COSTS;

/// What has been seen in a bucket.
pub(super) struct Listing {
    /// How long it is believed.
    holds: Duration,
    /// Locked while the bucket is listed: who asks meanwhile had rather wait than ask for each path.
    seen: Mutex<Seen>,
    /// Something was removed since.
    is_doubtful: AtomicBool,
}

struct Seen {
    since: Instant,
    /// By the first characters, in order.
    sections: Vec<Vec<HashPart>>,
    listed: bool,
    /// Paths that were asked for one by one since then.
    asked: usize,
    /// What a listing is known to cost at least.
    price: usize,
}

impl Seen {
    fn nothing() -> Self {
        Self { since: Instant::now(), sections: vec![Vec::new(); FIRST.len()], listed: false, asked: 0, price: LEAST }
    }

    fn has(&self, path: &StorePath) -> bool {
        let section = FIRST.iter().position(|first| path.hash_part().as_bytes()[0] == *first);
        section.is_some_and(|section| self.sections[section].binary_search(&HashPart::from(path)).is_ok())
    }
}

impl Listing {
    /// What is seen is believed for so long.
    pub(super) fn new(holds: Duration) -> Self {
        Self { holds, seen: Mutex::new(Seen::nothing()), is_doubtful: AtomicBool::new(false) }
    }

    /// From now on, nothing that has been seen is believed.
    pub(super) fn forget(&self) {
        self.is_doubtful.store(true, Ordering::Relaxed);
    }

    /// Which of these paths are known to be there, by their places; the bucket is listed first where that pays. The
    /// others are taken as asked for one by one from here.
    pub(super) async fn known(&self, store: &Store, paths: &[StorePath]) -> Vec<bool> {
        let mut seen = self.seen.lock().await;
        if self.is_doubtful.swap(false, Ordering::Relaxed) || seen.since.elapsed() >= self.holds {
            *seen = Seen::nothing();
        }
        let look = |seen: &Seen| paths.iter().map(|path| seen.has(path)).collect::<Vec<_>>();
        let unknown = |known: &[bool]| known.iter().filter(|known| !**known).count();
        let mut known = look(&seen);
        let budget = seen.asked + unknown(&known);
        if !seen.listed && budget >= seen.price {
            list(store, &mut seen, budget).await;
            known = look(&seen);
        }
        seen.asked += unknown(&known);
        known
    }
}

/// Lists a bucket, unless a first page shows that this costs more than the budget.
async fn list(store: &Store, seen: &mut Seen, budget: usize) {
    // From before the first page: what is gone by the end was there then.
    let since = Instant::now();
    seen.price = match store.page(&first(0), None).await {
        Ok((_, None)) => LEAST,
        Ok((names, Some(_))) => LEAST * pages(&names),
        Err(error) => return give_up(store, seen, &error),
    };
    if seen.price > budget {
        debug!("{} is too large to be listed for {budget} paths", store.name);
        return;
    }
    // Kept also when it comes to nothing: the next try is after what was seen isn't believed any more.
    (seen.since, seen.listed, seen.asked) = (since, true, 0);
    let (mut listing, mut next) = (JoinSet::new(), 0);
    loop {
        while next < FIRST.len() && listing.len() < AT_ONCE {
            let (store, place) = (store.clone(), next);
            listing.spawn(async move { (place, section(&store, place).await) });
            next += 1;
        }
        match listing.join_next().await {
            Some(Ok((place, Ok(section)))) => seen.sections[place] = section,
            // The others would fare no better. What was seen so far is true.
            Some(Ok((_, Err(error)))) => return give_up(store, seen, &error),
            // A section that isn't known is asked for path by path.
            Some(Err(_)) => {}
            None => break,
        }
    }
    let paths: usize = seen.sections.iter().map(Vec::len).sum();
    debug!("{} was listed: {paths} paths in {:.1} s", store.name, since.elapsed().as_secs_f64());
}

/// Not an error of anybody's: each path is asked for, and if the store has a trouble, that tells it.
fn give_up(store: &Store, seen: &mut Seen, error: &Arc<BucketError>) {
    debug!("{} can't be listed now: {}", store.name, one_line(&**error));
    seen.listed = true;
}

/// What the names in a section begin with.
fn first(section: usize) -> String {
    char::from(FIRST[section]).to_string()
}

/// How many pages a section has whose first page is this: as far as it got, so far do the others.
fn pages(names: &[String]) -> usize {
    let last = *names.iter().filter_map(|name| hash_of(name)).max().unwrap_or_default().as_bytes();
    // Four characters behind the first, which all have in common.
    let reached = u32::from_be_bytes([last[0], last[1], last[2], last[3]]) >> 7 & 0xf_ffff;
    (1_usize << 20).div_ceil(reached as usize + 1)
}

/// The hash parts of the narinfos in a section, in order, as far as they are to be remembered.
async fn section(store: &Store, section: usize) -> Result<Vec<HashPart>, Arc<BucketError>> {
    let (first, mut found, mut token) = (first(section), Vec::new(), None);
    loop {
        let (names, next) = store.page(&first, token).await?;
        found.extend(names.iter().filter_map(|name| hash_of(name)));
        token = next;
        if token.is_none() || found.len() >= REMEMBERED {
            break;
        }
    }
    found.truncate(REMEMBERED);
    found.shrink_to_fit();
    found.sort_unstable();
    Ok(found)
}

/// The hash part that a narinfo has its name from.
fn hash_of(name: &str) -> Option<HashPart> {
    HashPart::parse(name.strip_suffix(".narinfo")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_page_tells_how_many_there_are() {
        let page = |last: &str| {
            vec!["00000000000000000000000000000001.narinfo".to_owned(), format!("0{last}{}.narinfo", "z".repeat(30))]
        };
        assert_eq!(pages(&page("z")), 1);
        assert_eq!(pages(&page("h")), 2, "it got to the middle");
        assert_eq!(pages(&page("0")), 32);
        assert!(pages(&[]) > 1_000_000, "a page that shows nothing promises nothing");
    }

    #[test]
    fn what_was_seen_is_known_and_its_like_is_not() {
        let path = |first: char| {
            let base = format!("{first}123456789abcdfghijklmnpqrsvwxyz-a");
            StorePath::from_base_name(&base).expect("a legal name")
        };
        let mut seen = Seen::nothing();
        seen.sections[11] = vec![HashPart::from(&path('b'))];
        assert!(seen.has(&path('b')));
        assert!(!seen.has(&path('c')) && !seen.has(&path('0')));
    }
}
