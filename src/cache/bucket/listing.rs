//! What a bucket has, learnt by listing it where that is cheaper than to ask for each path.
//!
//! The rule: **a bucket is listed once asking path by path has cost as much.** What was asked for lately is counted; a page
//! of a listing counts as [`PAGE_COSTS`] such requests. A first page shows all of a small bucket. How many pages a larger one
//! has is reckoned from that page and how far it gets, since hash parts are evenly spread. So a few paths never cause a
//! listing, a backfill does soon, a large bucket is listed only for many paths, and where the listing was of no use it has
//! at most doubled the costs.
//!
//! That a path is there is believed for minutes. That one is missing is believed for some seconds ([`MISSING_HOLDS`]):
//! many are asked for at once where much is to be uploaded, and should another host bring one just then, its archive is
//! sent in vain, no more. A path that the same opening of the cache has brought since is never taken for missing, and
//! neither is one that a listing may have left out, because memory is bounded or the store didn't go through with it:
//! that is asked for as before. So nothing but the reckoning depends on a store's order, and nothing on whether it may
//! be listed at all.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as Lock, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::debug;

use super::error::BucketError;
use super::pages::Pages;
use super::store::Store;
use crate::cache::http::Action;
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

/// How long what a listing didn't show is taken for missing, from its beginning on.
const MISSING_HOLDS: Duration = Duration::from_secs(10);

/// What has been seen in a bucket.
pub(super) struct Listing {
    /// How long it is believed.
    holds: Duration,
    /// Locked while the bucket is listed: who asks meanwhile had rather wait than ask for each path.
    seen: Mutex<Seen>,
    since: Lock<Since>,
    /// Something was removed since.
    is_doubtful: AtomicBool,
}

/// What has happened since the bucket was last listed.
#[derive(Default)]
struct Since {
    /// When that began.
    listed: Option<Instant>,
    /// What this process has brought, as long as the listing tells what is missing.
    brought: HashSet<HashPart>,
}

impl Since {
    /// Whether what the listing didn't show is missing.
    fn tells(&self, path: &StorePath) -> bool {
        self.is_new() && !self.brought.contains(&HashPart::from(path))
    }

    fn is_new(&self) -> bool {
        self.listed.is_some_and(|listed| listed.elapsed() < MISSING_HOLDS)
    }
}

struct Seen {
    since: Instant,
    /// By the first characters, in order.
    sections: Vec<Section>,
    listed: bool,
    /// Paths that were asked for one by one since then.
    asked: usize,
    /// What a listing is known to cost at least.
    price: usize,
}

/// The paths whose hash parts begin with one character.
#[derive(Clone, Default)]
struct Section {
    /// In order.
    hash_parts: Vec<HashPart>,
    /// Whether there are no others.
    is_whole: bool,
}

impl Section {
    fn of(mut hash_parts: Vec<HashPart>, is_whole: bool) -> Self {
        let is_whole = is_whole && hash_parts.len() <= REMEMBERED;
        hash_parts.truncate(REMEMBERED);
        hash_parts.shrink_to_fit();
        hash_parts.sort_unstable();
        Self { hash_parts, is_whole }
    }
}

impl Seen {
    fn nothing() -> Self {
        let sections = vec![Section::default(); FIRST.len()];
        Self { since: Instant::now(), sections, listed: false, asked: 0, price: PAGE_COSTS }
    }

    /// Whether a path was there; `None` where that isn't known.
    fn tells(&self, path: &StorePath) -> Option<bool> {
        let section = &self.sections[FIRST.iter().position(|first| path.hash_part().as_bytes()[0] == *first)?];
        if section.hash_parts.binary_search(&HashPart::from(path)).is_ok() {
            return Some(true);
        }
        section.is_whole.then_some(false)
    }
}

impl Listing {
    /// What is seen is believed for so long.
    pub(super) fn new(holds: Duration) -> Self {
        let (seen, is_doubtful) = (Mutex::new(Seen::nothing()), AtomicBool::new(false));
        Self { holds, seen, since: Lock::default(), is_doubtful }
    }

    /// From now on, nothing that has been seen is believed.
    pub(super) fn forget(&self) {
        self.is_doubtful.store(true, Ordering::Relaxed);
    }

    /// Notes a path that this process has brought.
    pub(super) fn brought(&self, path: &StorePath) {
        let mut since = self.since();
        if since.is_new() {
            since.brought.insert(HashPart::from(path));
        } else {
            *since = Since::default();
        }
    }

    /// Which of these paths are there and which are missing, by their places, as far as that is known; the bucket is listed
    /// first where that pays. The others are taken as asked for one by one from here.
    pub(super) async fn tells(&self, store: &Store, paths: &[StorePath]) -> Vec<Option<bool>> {
        let mut seen = self.seen.lock().await;
        if self.is_doubtful.swap(false, Ordering::Relaxed) || seen.since.elapsed() >= self.holds {
            *seen = Seen::nothing();
        }
        let mut told = self.look(&seen, paths);
        let budget = seen.asked + unknown(&told);
        if !seen.listed && budget >= seen.price {
            // From before the first page: what is gone by the end was there then.
            seen.since = Instant::now();
            *self.since() = Since { listed: Some(seen.since), brought: HashSet::new() };
            list(store, &mut seen, budget).await;
            told = self.look(&seen, paths);
        }
        seen.asked += unknown(&told);
        told
    }

    fn look(&self, seen: &Seen, paths: &[StorePath]) -> Vec<Option<bool>> {
        let since = self.since();
        let told = |path| seen.tells(path).filter(|was_there| *was_there || since.tells(path));
        paths.iter().map(told).collect()
    }

    fn since(&self) -> MutexGuard<'_, Since> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unknown(told: &[Option<bool>]) -> usize {
    told.iter().filter(|told| told.is_none()).count()
}

/// Lists a bucket, unless a first page shows that this costs more than the budget.
async fn list(store: &Store, seen: &mut Seen, budget: usize) {
    // Larger than that it will be later, too.
    if seen.price == PAGE_COSTS {
        let names = match store.page("", None).await {
            Ok((names, None)) => {
                (seen.listed, seen.asked, seen.sections) = (true, 0, sections(&names));
                return;
            }
            Ok((names, Some(_))) => names,
            Err(error) => return give_up(store, seen, &error),
        };
        seen.price = pages(&names).max(FIRST.len()) * PAGE_COSTS;
    }
    if seen.price > budget {
        debug!("{} is too large to be listed for {budget} paths", store.name);
        return;
    }
    // Kept also when it comes to nothing: the next try is after what was seen isn't believed any more.
    (seen.listed, seen.asked) = (true, 0);
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
    let paths: usize = seen.sections.iter().map(|section| section.hash_parts.len()).sum();
    debug!("{} was listed: {paths} paths in {:.1} s", store.name, seen.since.elapsed().as_secs_f64());
}

/// Not an error of anybody's: each path is asked for, and if the store has a trouble, that tells it.
fn give_up(store: &Store, seen: &mut Seen, error: &Arc<BucketError>) {
    debug!("{} can't be listed now: {}", store.name, one_line(&**error));
    seen.listed = true;
}

/// How many pages a bucket has whose first page is this: as far as it got, so far do the others.
fn pages(names: &[String]) -> usize {
    let last = *names.iter().filter_map(|name| hash_of(name)).max().unwrap_or_default().as_bytes();
    // The first four characters.
    let reached = u32::from_be_bytes([last[0], last[1], last[2], last[3]]) >> 12;
    (1_usize << 20).div_ceil(reached as usize + 1)
}

/// All sections of a bucket that has no other names.
fn sections(names: &[String]) -> Vec<Section> {
    let mut hash_parts = vec![Vec::new(); FIRST.len()];
    for name in names {
        let place = FIRST.iter().position(|first| name.as_bytes().first() == Some(first));
        if let (Some(place), Some(hash_part)) = (place, hash_of(name)) {
            hash_parts[place].push(hash_part);
        }
    }
    hash_parts.into_iter().map(|hash_parts| Section::of(hash_parts, true)).collect()
}

/// A section of a bucket, as far as it is to be remembered.
async fn section(store: &Store, place: usize) -> Result<Section, Arc<BucketError>> {
    let (first, mut found, mut token) = (char::from(FIRST[place]).to_string(), Vec::new(), None);
    let mut pages = Pages::default();
    loop {
        let (names, next) = store.page(&first, token).await?;
        found.extend(names.iter().filter_map(|name| hash_of(name)));
        token = next;
        match &token {
            Some(next) if found.len() < REMEMBERED => {
                pages.next(Action::Missing, &store.name, next, names.is_empty())?
            }
            _ => break,
        }
    }
    Ok(Section::of(found, token.is_none()))
}

/// The hash part that a narinfo has its name from.
fn hash_of(name: &str) -> Option<HashPart> {
    HashPart::parse(name.strip_suffix(".narinfo")?)
}

#[cfg(test)]
mod tests {
    use super::super::pages::tests::Endless;
    use super::*;
    use crate::cache::layout;

    #[test]
    fn the_first_page_tells_how_many_there_are() {
        let page = |last: &str| {
            vec!["00000000000000000000000000000001.narinfo".to_owned(), format!("{last}{}.narinfo", "z".repeat(31))]
        };
        assert_eq!(pages(&page("z")), 1);
        assert_eq!(pages(&page("h")), 2, "it got to the middle");
        assert_eq!(pages(&page("0")), 32);
        assert!(pages(&[]) > 1_000_000, "a page that shows nothing promises nothing");
    }

    fn path(first: char) -> StorePath {
        StorePath::from_base_name(&format!("{first}123456789abcdfghijklmnpqrsvwxyz-a")).expect("a legal name")
    }

    fn name(first: char) -> String {
        layout::narinfo_name(&path(first))
    }

    #[test]
    fn what_is_not_among_all_names_is_missing_and_of_some_names_nobody_knows() {
        let names = [name('b'), "nix-cache-info".to_owned(), "b.narinfo".to_owned()];
        let mut seen = Seen { sections: sections(&names), ..Seen::nothing() };
        let told = |seen: &Seen| ['b', 'c', '0'].map(|first| seen.tells(&path(first)));
        assert_eq!(told(&seen), [Some(true), Some(false), Some(false)]);
        seen.sections[11].is_whole = false;
        seen.sections[12].is_whole = false;
        assert_eq!(told(&seen), [Some(true), None, Some(false)]);
        assert_eq!(told(&Seen::nothing()), [None, None, None]);
        let too_many = (0..=REMEMBERED).map(|_| HashPart::from(&path('b'))).collect();
        assert!(!Section::of(too_many, true).is_whole);
    }

    #[tokio::test(start_paused = true)]
    async fn that_a_path_is_missing_is_believed_for_some_seconds_and_never_of_what_was_brought() {
        let listing = Listing::new(Duration::from_secs(300));
        *listing.since() = Since { listed: Some(Instant::now()), brought: HashSet::new() };
        let seen = Seen { sections: sections(&[name('b')]), ..Seen::nothing() };
        let told = || listing.look(&seen, &['b', 'c', 'd'].map(path));
        listing.brought(&path('c'));
        assert_eq!(told(), [Some(true), None, Some(false)]);
        tokio::time::advance(MISSING_HOLDS).await;
        assert_eq!(told(), [Some(true), None, None]);
        listing.brought(&path('d'));
        assert!(listing.since().brought.is_empty(), "nothing is kept that nobody needs");
    }

    #[tokio::test]
    async fn a_section_whose_pages_have_no_end_is_given_up() {
        let store = Store { pages: Arc::new(Endless::default()), ..Store::in_memory() };
        assert!(section(&store, 0).await.is_err());
    }
}
