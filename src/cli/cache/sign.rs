//! `storewatch cache sign`

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::care::{LISTED, Steps, Told, failed, line, shelf, trusted};
use super::{CliError, Global, Setup, print};
use crate::cache::care::{Counts, RealisationFinding, Signed, Signing, Step, sign};
use crate::cli::run::runtime;
use crate::cli::words::counted;
use crate::daemon::caches::care;

/// Give every path of a cache one more signature, by another key: the way from an old key to a new one.
///
/// Realisations of content-addressed derivations get one, too. Only what the cache's key, or one given with --trust, has signed
/// is signed anew, and nothing else of it changes. It can be done again, and hosts may upload meanwhile. docs/caches.md has the
/// whole way, step by step. The exit code is 1 if some paths or realisations could not be signed.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The cache's name in the policy: one in a directory or in an object store.
    #[arg(value_name = "CACHE")]
    name: String,
    /// The file of the new secret key [default: the key that the policy names for the cache]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// A public key, NAME:BASE64, whose word is enough, beside that of the cache's key; may be given several times.
    #[arg(long, value_name = "KEY")]
    trust: Vec<String>,
    /// Print JSON: counts, and the first 1000 paths and realisations that could not be signed.
    #[arg(long)]
    pub(super) json: bool,
}

/// What `cache sign --json` prints.
#[derive(Default, Serialize)]
struct Said {
    name: String,
    /// The public key by which it is signed now.
    public_key: String,
    signed: u64,
    had_it: u64,
    needless: u64,
    refused: u64,
    /// The first paths that were refused.
    findings: Vec<Told>,
    realisations: SaidOfRealisations,
}

#[derive(Default, Serialize)]
struct SaidOfRealisations {
    signed: u64,
    had_it: u64,
    refused: u64,
    /// The first of those.
    findings: Vec<ToldOfRealisation>,
}

#[derive(Serialize)]
struct ToldOfRealisation {
    file: String,
    path: Option<String>,
    kind: &'static str,
    what: String,
}

pub(super) fn run(global: &Global, args: &Args) -> Result<ExitCode, CliError> {
    let setup = Setup::read(global)?;
    let cache = setup.cache(&args.name)?;
    let trusted = trusted(cache, &setup, &args.trust)?;
    if trusted.is_empty() {
        return Err(CliError::Usage(format!(
            "the key of `{}` is not known here, so nothing in it could be verified; name its public key with --trust",
            args.name
        )));
    }
    let runtime = runtime()?;
    let shelf = runtime.block_on(shelf(cache, &setup))?;
    let key = care::key_to_sign(cache, args.key.as_deref(), &setup.state_dir, &setup.nix);
    let Some(key) = runtime.block_on(key).map_err(failed(cache))? else {
        return Err(CliError::Usage(format!(
            "the policy names no `signing_key` for `{}`, and none was made for it on this host, as the first upload would; name \
             one with --key",
            args.name
        )));
    };
    let (name, public_key) = (args.name.clone(), key.public().to_string());
    let mut said = Said { name, public_key, ..Said::default() };
    let mut steps = Steps::new();
    steps.step(&format!("listing {}", shelf.name()));
    let signing = Signing { store_dir: setup.nix.logical.clone(), key, trusted };
    let signed = sign(&shelf, signing, |step| match step {
        Step::Narinfos(done, of) => steps.at(done, of),
        Step::Realisations(done, of) => steps.at_kind(done, of, "realisations"),
        Step::Refused(finding) if !args.json => eprintln!("not signed: {}", line(&finding)),
        Step::Refused(finding) => keep(&mut said.findings, || Told::from(&finding)),
        Step::RefusedRealisation(finding) if !args.json => eprintln!("not signed: {}", realisation_line(&finding)),
        Step::RefusedRealisation(finding) => {
            keep(&mut said.realisations.findings, || ToldOfRealisation::from(&finding));
        }
    });
    let signed = runtime.block_on(signed).map_err(failed(cache))?;
    said.count(&signed);
    print(args.json, &said, |out| {
        writeln!(out, "{}", in_words("path", signed.narinfos))?;
        if signed.realisations != Counts::default() {
            writeln!(out, "{}", in_words("realisation", signed.realisations))?;
        }
        writeln!(out, "{}", said.public_key)
    })?;
    let is_all = said.refused + said.realisations.refused == 0;
    Ok(if is_all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Said {
    fn count(&mut self, Signed { narinfos, realisations }: &Signed) {
        Counts { signed: self.signed, had_it: self.had_it, needless: self.needless, refused: self.refused } = *narinfos;
        let of_these = &mut self.realisations;
        // Each of them needs a signature.
        let Counts { signed, had_it, refused, needless: _ } = *realisations;
        (of_these.signed, of_these.had_it, of_these.refused) = (signed, had_it, refused);
    }
}

impl From<&RealisationFinding> for ToldOfRealisation {
    fn from(RealisationFinding { file, path, fault }: &RealisationFinding) -> Self {
        let path = path.as_ref().map(ToString::to_string);
        Self { file: file.clone(), path, kind: fault.kind(), what: fault.to_string() }
    }
}

/// Keeps a finding, as long as so many are printed.
fn keep<T>(findings: &mut Vec<T>, finding: impl FnOnce() -> T) {
    if findings.len() < LISTED {
        findings.push(finding());
    }
}

/// A realisation's finding as a line.
fn realisation_line(RealisationFinding { file, path, fault }: &RealisationFinding) -> String {
    match path {
        Some(path) => format!("{file}: {fault} ({path})"),
        None => format!("{file}: {fault}"),
    }
}

/// What came of them, for people: `3 paths signed, 1 had it already`.
fn in_words(what: &str, Counts { signed, had_it, needless, refused }: Counts) -> String {
    let refused = if refused > 0 { format!(", {refused} left alone") } else { String::new() };
    let needless = match needless {
        0 => String::new(),
        needless => format!(", {needless} need none by their content address"),
    };
    format!("{} signed, {had_it} had it already{needless}{refused}", counted(signed, what))
}
