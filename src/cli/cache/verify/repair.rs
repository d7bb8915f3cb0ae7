//! Repairing what isn't well: what this host has is uploaded anew.
//!
//! A path that the cache shows is not uploaded again. So a bad narinfo is taken away first, and a bad archive with it: no
//! reader could use either. An archive with which another narinfo is content stays: other paths may share it, which this
//! host needn't have, and should no narinfo name it, a prune removes it. Whoever works the queue off is told to forget what it has seen in the cache before the paths
//! are admitted.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::Arc;

use serde::Serialize;
use tokio::runtime::Runtime;

use super::super::care::failed;
use super::super::{CliError, Global, Setup};
use crate::cache::care::{Fault, Finding, Shelf};
use crate::cache::{CacheError, narinfo_name};
use crate::cli::backfill::named_caches;
use crate::cli::progress::{exit_code, summarise, work_off};
use crate::cli::setup;
use crate::config::CacheConfig;
use crate::daemon::ServiceError;
use crate::daemon::backfill::Request;
use crate::daemon::caches::care;
use crate::nix::{HashPart, StorePath};
use crate::report::one_line;

/// What to do about what isn't here.
const ELSEWHERE: &str = "this host doesn't have it: repair it from a host that does, or build it again and push it; \
                         until then, who needs it builds it";

/// What a repair has come to.
#[derive(Debug, Default, Serialize)]
pub(super) struct Repair {
    /// Paths that were uploaded anew.
    uploaded: u64,
    /// Paths that were there already by then.
    already_there: u64,
    /// Paths that could not be uploaded: failed, held back, denied, or not understood.
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

/// What there is to be done about a path.
#[derive(Default)]
struct Cure {
    /// Whether its narinfo has to go.
    is_shown_badly: bool,
    bad_archives: BTreeSet<String>,
}

/// Uploads what isn't well, as far as it is here.
pub(super) fn repair(
    global: &Global,
    setup: &Setup,
    cache: &CacheConfig,
    shelf: &Arc<dyn Shelf>,
    broken: Broken,
    runtime: Runtime,
    json: bool,
) -> Result<(Repair, ExitCode), CliError> {
    let own = setup::Setup::read(global)?;
    let to = named_caches(&[cache.name.to_string()], &own)?;
    care::can_forget(&setup.state_dir)?;
    let (mut repaired, cures) = (Repair::default(), cures(broken, setup));
    let facts = setup.nix.facts();
    let mut here = Vec::new();
    for (path, cure) in cures {
        let known = match &path {
            Ok(path) => match runtime.block_on(facts.path_info(path)) {
                // Its narinfo stays as it is: nothing could come in its place.
                Err(error) if error.is_of_the_path() => {
                    repaired.undelivered.push(format!("{path}: {}", one_line(&error)));
                    continue;
                }
                known => known.map_err(ServiceError::from)?,
            },
            Err(_) => None,
        };
        match (path, known) {
            (Ok(path), Some(_)) => here.push((path, cure)),
            (Ok(path), None) => repaired.not_here.push(path.to_string()),
            (Err(hash), _) => repaired.not_here.push(hash.to_string()),
        }
    }
    let paths: Vec<StorePath> = here.iter().map(|(path, _)| path.clone()).collect();
    runtime.block_on(take_away(&**shelf, &here)).map_err(failed(cache))?;
    let archives: Vec<String> = here.into_iter().flat_map(|(_, cure)| cure.bad_archives).collect();
    care::forget(&setup.state_dir, cache, &archives)?;
    if !json {
        for path in &repaired.not_here {
            println!("{path}: {ELSEWHERE}");
        }
        for path in &repaired.undelivered {
            println!("{path}");
        }
    }
    if paths.is_empty() {
        return Ok((repaired, ExitCode::FAILURE));
    }
    let policy = own.settings.fingerprint();
    let request = Request { paths, since: None, roots: false, to, by_hand: true, policy };
    let finished = work_off(own, request, None, runtime)?;
    if !json {
        summarise(&finished).map_err(|source| CliError::System { action: "print the summary", source })?;
    }
    repaired.uploaded = finished.summary.uploaded;
    repaired.already_there = finished.summary.already_there;
    let all_known = repaired.undelivered.is_empty();
    repaired.undelivered.extend(finished.undelivered.iter().map(|job| format!("{}: {}", job.path, job.reason)));
    let code = match exit_code(&finished, true) {
        0 if !repaired.not_here.is_empty() || !all_known => ExitCode::FAILURE,
        code => ExitCode::from(code),
    };
    Ok((repaired, code))
}

/// What is to be done, path by path; by its hash part where nobody here knows its name.
fn cures(Broken { findings, bad_archives }: Broken, setup: &Setup) -> BTreeMap<Result<StorePath, HashPart>, Cure> {
    let mut cures: BTreeMap<Result<StorePath, HashPart>, Cure> = BTreeMap::new();
    let mut nameless = BTreeSet::new();
    for Finding { hash, path, fault } in findings {
        match (fault, path) {
            (Fault::LacksReference(reference), _) => {
                cures.entry(Ok(reference)).or_default();
            }
            (fault, Some(path)) if HashPart::from(&path) == hash => {
                let cure = cures.entry(Ok(path)).or_default();
                cure.is_shown_badly = true;
                if let Fault::OtherSize { file, .. } | Fault::Damaged { file, .. } = fault {
                    cure.bad_archives.extend(Some(file).filter(|file| bad_archives.contains(file)));
                }
            }
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
        cures.entry(Ok(path)).or_default().is_shown_badly = true;
    }
    cures.extend(nameless.into_iter().map(|hash| (Err(hash), Cure::default())));
    cures
}

async fn take_away(shelf: &dyn Shelf, here: &[(StorePath, Cure)]) -> Result<(), CacheError> {
    for (path, cure) in here {
        if cure.is_shown_badly {
            shelf.remove(&narinfo_name(path)).await?;
        }
        for archive in &cure.bad_archives {
            shelf.remove(archive).await?;
        }
    }
    Ok(())
}
