//! `storewatch cache sign`

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::care::{LISTED, Steps, Told, failed, line, shelf, trusted};
use super::{CliError, Global, Setup, print};
use crate::cache::care::{Signing, sign};
use crate::cli::run::runtime;
use crate::cli::words::counted;
use crate::daemon::caches::care;

/// Give every path of a cache one more signature, by another key: the way from an old key to a new one.
///
/// Only what the cache's key, or one given with --trust, has signed is signed anew, and nothing else of it changes. It can be
/// done again, and hosts may upload meanwhile. docs/caches.md has the whole way, step by step. The exit code is 1 if some
/// paths could not be signed.
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
    /// Print JSON: counts, and the first 1000 paths that could not be signed.
    #[arg(long)]
    pub(super) json: bool,
}

/// What `cache sign --json` prints.
#[derive(Serialize)]
struct Said {
    name: String,
    /// The public key by which it is signed now.
    public_key: String,
    signed: u64,
    had_it: u64,
    needless: u64,
    refused: u64,
    findings: Vec<Told>,
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
    let mut said = Said {
        name: args.name.clone(),
        public_key: key.public().to_string(),
        signed: 0,
        had_it: 0,
        needless: 0,
        refused: 0,
        findings: Vec::new(),
    };
    let mut steps = Steps::new();
    steps.step(&format!("listing {}", shelf.name()));
    let signing = Signing { store_dir: setup.nix.logical.clone(), key, trusted };
    let signed = sign(&shelf, signing, |done, of, finding| {
        steps.at(done, of);
        if let Some(finding) = finding {
            if !args.json {
                eprintln!("not signed: {}", line(&finding));
            } else if said.findings.len() < LISTED {
                said.findings.push(Told::from(&finding));
            }
        }
    });
    let signed = runtime.block_on(signed).map_err(failed(cache))?;
    (said.signed, said.had_it, said.needless, said.refused) =
        (signed.signed, signed.had_it, signed.needless, signed.refused);
    print(args.json, &said, |out| {
        let refused = if said.refused > 0 { format!(", {} left alone", said.refused) } else { String::new() };
        let needless = match said.needless {
            0 => String::new(),
            needless => format!(", {needless} need none by their content address"),
        };
        writeln!(out, "{} signed, {} had it already{needless}{refused}", counted(said.signed, "path"), said.had_it)?;
        writeln!(out, "{}", said.public_key)
    })?;
    Ok(if said.refused == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
