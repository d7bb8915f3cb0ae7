//! `storewatch cache prune`

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

use super::care::{GRACE_WRITTEN, LISTED, Steps, failed, now, shelf, uploads_unseen};
use super::{CliError, Global, Setup, print};
use crate::cache::BoxFuture;
use crate::cache::care::{Choice, Clock, Owner, Pruned, Pruning, prune, seconds};
use crate::cache::http::plain;
use crate::cli::run::runtime;
use crate::cli::words::bytes;
use crate::cli::words::counted;
use crate::config::{CacheConfig, parse_duration};
use crate::daemon::caches::care;
use crate::nix::HashPart;
use crate::policy::{BadSize, ByteSize};
use crate::queue::QueueError;

/// Remove old paths from a cache, or say what would be removed.
///
/// A path goes when it is older than --keep and nothing that stays refers to it; with --max-size, the oldest go until the
/// rest fits. A path's age is that of its narinfo. Its archive goes a grace period after the path, by the next prune then, so
/// that no upload under way elsewhere can be broken: prune once a day, by a timer. What nobody needs goes, too: archives that
/// no narinfo names, and uploads that have never ended. Nothing is removed without --yes.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The cache's name in the policy: one in a directory or in an object store.
    #[arg(value_name = "CACHE")]
    name: String,
    /// Keep what was uploaded within so long, and all that it needs: 12h, 90d, 26w.
    #[arg(long, value_name = "AGE", value_parser = parse_duration, allow_hyphen_values = true, required_unless_present = "max_size")]
    keep: Option<Duration>,
    /// Then remove the oldest paths that nothing needs until the cache has no more than this: 500GiB, 2TB. What waits for its
    /// grace period doesn't count.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, allow_hyphen_values = true)]
    max_size: Option<ByteSize>,
    /// Remove nothing younger than this, and no archive earlier than this after its path. Longer than any upload takes;
    /// 0s only where nobody uploads meanwhile.
    #[arg(long, value_name = "AGE", value_parser = parse_duration, allow_hyphen_values = true, default_value = GRACE_WRITTEN)]
    grace: Duration,
    /// Remove it. Otherwise it is only said what would be.
    #[arg(long)]
    yes: bool,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// So many names of files that are left alone are shown.
const SHOWN: usize = 10;

fn parse_size(text: &str) -> Result<ByteSize, BadSize> {
    ByteSize::parse(text)
}

/// What `cache prune --json` prints.
#[derive(Serialize)]
struct Told {
    name: String,
    /// Whether it was done, or only looked at.
    done: bool,
    paths_removed: u64,
    paths_kept: u64,
    paths_kept_as_needed: u64,
    paths_kept_as_shown_anew: u64,
    paths_put_back: u64,
    bytes_freed: u64,
    bytes_freed_later: u64,
    orphaned_archives: u64,
    orphaned_listings: u64,
    /// The first of what removed paths had for archives outside `nar/`: it was left alone.
    archives_left_alone: Vec<String>,
    unfinished_uploads: u64,
    /// Why it isn't known which there are, should that be so.
    uploads_unseen: Option<String>,
    bytes_left: u64,
    /// Whether that, and what is freed later, is no more than was asked for.
    fits: bool,
    /// Whether it will be when that is freed.
    will_fit: bool,
}

pub(super) fn run(global: &Global, args: &Args) -> Result<ExitCode, CliError> {
    let setup = Setup::read(global)?;
    let cache = setup.cache(&args.name)?;
    let runtime = runtime()?;
    let shelf = runtime.block_on(shelf(cache, &setup))?;
    let pruning = Pruning {
        choice: Choice::Oldest,
        needed: Vec::new(),
        keep: args.keep.map(seconds),
        max_size: args.max_size.map(|size| size.0),
        grace: seconds(args.grace),
        clock: runtime.block_on(Clock::of(&*shelf, now())),
        is_meant: args.yes,
    };
    if args.yes {
        care::can_forget(&setup.state_dir)?;
    }
    let host = ThisHost { state_dir: &setup.state_dir, cache, untold: Mutex::default() };
    let pruned = runtime.block_on(prune(&shelf, &pruning, &host)).map_err(failed(cache));
    let untold = host.untold.into_inner().unwrap_or_else(PoisonError::into_inner).map(CliError::from);
    let pruned = match pruned {
        Ok(pruned) => pruned,
        Err(error) => return CliError::all([error].into_iter().chain(untold).collect()).map(|()| ExitCode::SUCCESS),
    };
    let told = Told {
        name: args.name.clone(),
        done: args.yes,
        paths_removed: pruned.paths,
        paths_kept: pruned.kept,
        paths_kept_as_needed: pruned.needed,
        paths_kept_as_shown_anew: pruned.spared,
        paths_put_back: pruned.put_back,
        bytes_freed: pruned.freed,
        bytes_freed_later: pruned.freed_later,
        orphaned_archives: pruned.orphans,
        orphaned_listings: pruned.listings,
        archives_left_alone: pruned.elsewhere.iter().take(LISTED).cloned().collect(),
        unfinished_uploads: pruned.uploads,
        uploads_unseen: pruned.uploads_unseen.clone(),
        bytes_left: pruned.left,
        fits: args.max_size.is_none_or(|size| pruned.left + pruned.freed_later <= size.0),
        will_fit: args.max_size.is_none_or(|size| pruned.left <= size.0),
    };
    print(args.json, &told, |out| write(out, args, &pruned, &told))?;
    untold.map_or(Ok(ExitCode::SUCCESS), Err)
}

/// Whoever works this host's queue off hears at once of what is gone, whatever comes behind it: a service would show paths
/// that need it.
struct ThisHost<'a> {
    state_dir: &'a Path,
    cache: &'a CacheConfig,
    /// Why it could not be told, should that be so.
    untold: Mutex<Option<QueueError>>,
}

impl ThisHost<'_> {
    fn forgets(&self, archives: &[String]) {
        if let Err(error) = care::forget(self.state_dir, self.cache, archives) {
            self.untold.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    }
}

impl Owner for ThisHost<'_> {
    fn begins(&self, step: &str) {
        Steps::new().step(step);
    }

    fn hidden<'a>(&'a self, _paths: &'a [HashPart]) -> BoxFuture<'a, ()> {
        Box::pin(async { self.forgets(&[]) })
    }

    fn removes<'a>(&'a self, archives: &'a [String]) -> BoxFuture<'a, ()> {
        Box::pin(async { self.forgets(archives) })
    }
}

fn write(out: &mut impl Write, args: &Args, pruned: &Pruned, told: &Told) -> io::Result<()> {
    let Pruned { paths, kept, needed, spared, put_back, freed, freed_later, orphans, listings, uploads, left, .. } =
        pruned;
    let would = if args.yes { "" } else { "would be " };
    writeln!(out, "{} {would}removed, {} {would}freed", counted(*paths, "path"), bytes(*freed))?;
    if *freed_later > 0 {
        let grace = indicatif::HumanDuration(args.grace);
        writeln!(out, "{} more are freed by a prune in {grace} or later", bytes(*freed_later))?;
    }
    for (count, what) in [
        (orphans, "archive that no narinfo names"),
        (listings, "list of files without a path"),
        (uploads, "upload that never ended"),
    ] {
        if *count > 0 {
            writeln!(out, "  of that: {count} × {what}")?;
        }
    }
    if !pruned.elsewhere.is_empty() {
        let (count, its) = (pruned.elsewhere.len() as u64, if pruned.elsewhere.len() == 1 { "lies" } else { "lie" });
        writeln!(
            out,
            "{} of removed paths {its} outside `nar/` and may be others': left alone, remove what is the cache's",
            counted(count, "archive")
        )?;
        for file in pruned.elsewhere.iter().take(SHOWN) {
            writeln!(out, "  {}", plain(file))?;
        }
        if pruned.elsewhere.len() > SHOWN {
            writeln!(out, "  and {} more, which --json lists", pruned.elsewhere.len() - SHOWN)?;
        }
    }
    writeln!(
        out,
        "{} of {} left: {kept} young enough, {needed} needed by these",
        counted(kept + needed + spared, "path"),
        bytes(*left)
    )?;
    if *spared > 0 {
        writeln!(out, "  {spared} uploaded or needed anew meanwhile")?;
    }
    if *put_back > 0 {
        writeln!(out, "{} put back, since something needs them", counted(*put_back, "path"))?;
    }
    if !told.will_fit {
        writeln!(out, "that is more than --max-size, but what is left is younger than --grace, or needed by what is")?;
    } else if !told.fits {
        writeln!(out, "that is no more than --max-size, but for what is freed later")?;
    }
    if let Some(why) = &pruned.uploads_unseen {
        writeln!(out, "{}", uploads_unseen(why))?;
    }
    if !args.yes {
        writeln!(out, "nothing was removed; --yes does it")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::CacheUrl;
    use crate::nix::NarHash;
    use crate::policy::CacheName;
    use crate::queue::{Content, Queue};

    #[tokio::test]
    async fn this_host_hears_of_what_is_gone_as_it_goes() {
        let dir = tempfile::tempdir().expect("a folder");
        let name = CacheName::new("team").expect("a legal name");
        let place = CacheUrl::parse("s3://team").expect("a good URL");
        let cache = CacheConfig::new(name, "s3://team".to_owned(), place);
        let mut queue = Queue::open(dir.path()).expect("a queue").queue;
        let id = queue.cache_id("team", &cache.url).expect("a cache");
        let hash = NarHash([7; 32]);
        let content = Content {
            url: "nar/a".to_owned(),
            compression: "none".to_owned(),
            file_hash: NarHash([7; 32]),
            file_size: 1,
            nar_size: 1,
        };
        queue.note_content(id, &hash, &content, 1).expect("noted");
        let host = ThisHost { state_dir: dir.path(), cache: &cache, untold: Mutex::default() };
        let doubts = queue.doubts().expect("asked");
        host.hidden(&[]).await;
        assert!(queue.doubts().expect("asked") > doubts, "a service would believe that it is there");
        assert_eq!(queue.content(id, &hash).expect("asked"), Some(content));
        host.removes(&["nar/a".to_owned()]).await;
        assert_eq!(queue.content(id, &hash).expect("asked"), None);
        assert!(host.untold.into_inner().expect("not poisoned").is_none());
    }
}
