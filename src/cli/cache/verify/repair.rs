//! Repairing what isn't well: what this host has is uploaded anew.
//!
//! Nothing is taken away. What is shown badly is noted in the queue as such, before the paths are admitted; a push of such a
//! path goes as any other, and what it shows at its end takes the place of what was shown. So what is refused by the policy, by
//! a pause, a full disk or the store, or is cut at any moment, leaves the cache as it was. An archive with which no narinfo is
//! content is doomed, as by a prune: no host names it anew, and when its paths have been uploaded anew, a prune removes it.
//! Where they can't be, and it stays named, that holds until a prune finds it so a grace period later; each repair says it
//! again.
//!
//! What only lacks the signature of the cache's key is uploaded anew, too, and keeps the signatures that it has.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::Arc;

use serde::Serialize;
use tokio::runtime::Runtime;

use super::super::care::failed;
use super::super::{CliError, Global, Setup};
use super::Args;
use crate::cache::care::{Fault, Finding, Shelf, doom};
use crate::cli::backfill::named_caches;
use crate::cli::error::NOT_ALL_DELIVERED;
use crate::cli::progress::{exit_code, summarise, work_off};
use crate::cli::setup;
use crate::config::CacheConfig;
use crate::daemon::ServiceError;
use crate::daemon::backfill::Request;
use crate::nix::{HashPart, PathInfo, StoreDir, StorePath};
use crate::policy::{CacheName, NeedsReferences, Policy};
use crate::queue::Distrust;
use crate::report::one_line;

/// What to do about what isn't here.
const ELSEWHERE: &str = "this host doesn't have it: repair it from a host that does, or build it again and push it; \
                         until then, who needs it builds it";

/// What to do about a narinfo that nobody here knows the path of.
const NAMELESS: &str = "this host has no path of that name: repair it from a host that has one, or remove the narinfo, which is \
                        of no use to anybody as it is";

/// What a repair has come to.
#[derive(Debug, Default, Serialize)]
pub(super) struct Repair {
    /// Paths that were uploaded anew.
    uploaded: u64,
    /// Paths that were there already by then.
    already_there: u64,
    /// Paths that stay queued: it was interrupted before their turn had come.
    waiting: u64,
    /// Paths that could not be uploaded and stay as they are: failed, held back, denied, or not understood.
    undelivered: Vec<String>,
    /// What this host can't repair.
    not_here: Vec<String>,
}

/// What isn't well with a cache.
#[derive(Default)]
pub(super) struct Broken {
    pub(super) findings: Vec<Finding>,
    /// What nobody can use.
    pub(super) bad_archives: BTreeSet<String>,
}

/// Uploads what isn't well, as far as it is here and the policy lets it.
pub(super) fn repair(
    global: &Global,
    setup: &Setup,
    cache: &CacheConfig,
    shelf: &Arc<dyn Shelf>,
    broken: Broken,
    runtime: Runtime,
    &Args { timeout, json, .. }: &Args,
) -> Result<(Repair, ExitCode), CliError> {
    let own = setup::Setup::read(global)?;
    let to = named_caches(&[cache.name.to_string()], &own)?;
    let archives: Vec<String> = broken.bad_archives.iter().cloned().collect();
    let (mut repaired, facts) = (Repair::default(), setup.nix.facts());
    let (mut paths, mut shown_badly, mut is_kept_back) = (Vec::new(), Vec::new(), false);
    // What is to be said of what isn't here.
    let mut told = Vec::new();
    for (path, is_shown_badly) in affected(broken, setup) {
        let path = match path {
            Ok(path) => path,
            Err(hash) => {
                told.push(format!("{hash}.narinfo: {NAMELESS}"));
                repaired.not_here.push(hash.to_string());
                continue;
            }
        };
        let info = match runtime.block_on(facts.path_info(&path)) {
            Ok(Some(info)) => info,
            Ok(None) => {
                told.push(format!("{path}: {ELSEWHERE}"));
                repaired.not_here.push(path.to_string());
                continue;
            }
            Err(error) if error.is_of_the_path() => {
                repaired.undelivered.push(format!("{path}: {}", one_line(&error)));
                continue;
            }
            Err(error) => return Err(ServiceError::from(error).into()),
        };
        if let Some(reason) = kept_back(&setup.config.policy, &info, &setup.nix.logical, &cache.name) {
            is_kept_back = true;
            repaired.undelivered.push(format!("{path}: it is not uploaded, {reason}"));
            continue;
        }
        if is_shown_badly {
            shown_badly.push(path.clone());
        }
        paths.push(path);
    }
    if !json {
        told.iter().chain(&repaired.undelivered).for_each(|line| println!("{line}"));
    }
    let is_all = repaired.not_here.is_empty() && repaired.undelivered.is_empty();
    let code = |code| match code {
        0 if is_kept_back => ExitCode::from(NOT_ALL_DELIVERED),
        0 if !is_all => ExitCode::FAILURE,
        code => ExitCode::from(code),
    };
    // Other hosts remember them as well, and would name them anew.
    runtime.block_on(doom(shelf, archives.iter().cloned())).map_err(failed(cache))?;
    if paths.is_empty() {
        let code = code(0);
        return Ok((repaired, code));
    }
    let (distrust, policy) = (Distrust { paths: shown_badly, archives }, own.settings.fingerprint());
    let request = Request { paths, since: None, roots: false, to, by_hand: true, policy, distrust: Some(distrust) };
    let finished = work_off(own, request, timeout, runtime)?;
    if !json {
        summarise(&finished).map_err(|source| CliError::System { action: "print the summary", source })?;
    }
    let code = code(exit_code(&finished, true));
    repaired.uploaded = finished.summary.uploaded;
    repaired.already_there = finished.summary.already_there;
    repaired.waiting = finished.summary.open;
    repaired.undelivered.extend(finished.undelivered.iter().map(|job| format!("{}: {}", job.path, job.reason)));
    Ok((repaired, code))
}

/// Why the policy keeps a path away from the cache that somebody has named, if it does.
fn kept_back(policy: &Policy, info: &PathInfo, store_dir: &StoreDir, name: &CacheName) -> Option<String> {
    let decision = match policy.decide(info, store_dir) {
        Ok(decision) => decision,
        Err(undecided @ NeedsReferences) => return Some(undecided.to_string()),
    };
    decision.denies(name).then(|| {
        let rule = policy.rule_for(info, store_dir, name).unwrap_or_else(|_| decision.rule().clone());
        format!("denied by {rule}")
    })
}

/// The paths that are concerned, by their hash parts where nobody here knows their names, and whether what the cache shows of
/// each isn't well.
fn affected(Broken { findings, .. }: Broken, setup: &Setup) -> BTreeMap<Result<StorePath, HashPart>, bool> {
    let (mut affected, mut nameless) = (BTreeMap::new(), BTreeSet::new());
    for Finding { hash, path, fault } in findings {
        match (fault, path) {
            (Fault::LacksReference(reference), _) => {
                affected.entry(Ok(reference)).or_default();
            }
            (_, Some(path)) if HashPart::from(&path) == hash => drop(affected.insert(Ok(path), true)),
            // It stands under another's name, or says none.
            _ => drop(nameless.insert(hash)),
        }
    }
    // Who has the path has a file of its name.
    let entries = std::fs::read_dir(&setup.nix.real).into_iter().flatten().flatten();
    let found = entries.filter(|_| !nameless.is_empty()).filter_map(|entry| {
        let path = StorePath::from_base_name(entry.file_name().to_str()?).ok()?;
        nameless.contains(&HashPart::from(&path)).then_some(path)
    });
    let found: Vec<StorePath> = found.collect();
    for path in found {
        nameless.remove(&HashPart::from(&path));
        affected.insert(Ok(path), true);
    }
    affected.extend(nameless.into_iter().map(|hash| (Err(hash), true)));
    affected
}
