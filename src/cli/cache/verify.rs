//! `storewatch cache verify`

mod repair;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use self::repair::{Broken, Repair, repair};
use super::care::{GRACE, LISTED, Steps, Told, failed, line, now, shelf, trusted, uploads_unseen};
use super::{CliError, Global, Setup, print};
use crate::cache::Upstreams;
use crate::cache::care::{Finding, Found, Leftover, OnTrust, Verifying, Whose, seconds, verify};
use crate::cache::http::plain;
use crate::cli::run::runtime;
use crate::cli::words::bytes;
use crate::cli::words::counted;
use crate::config::parse_duration;

/// Find out whether all that a cache shows is there and is what it is said to be.
///
/// Of each narinfo: it can be read, its references are in the cache or at an upstream, its archive is there in the size that
/// it says, and it has a good signature by the cache's key. A reference that this host has with the signature of one of
/// `[upstreams] keys` is left to that upstream, and told. What nothing names is listed, too; `cache prune` removes it, a day
/// later if it may be an upload's or others may still count on it.
/// Hosts may upload to the cache meanwhile. The exit code is 0 when all is well, or has been repaired, and 1 otherwise; 3
/// where the policy keeps something back of a repair, or it has failed or is held, and 4 where --timeout or a signal ended it.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The cache's name in the policy: one in a directory or in an object store.
    #[arg(value_name = "CACHE")]
    name: String,
    /// Read every archive, unpack it, and compare its hashes: as much work as to download the whole cache.
    #[arg(long)]
    deep: bool,
    /// Upload anew what is not well, as far as this host still has it, by the policy and the queue as `push` does. Nothing is
    /// taken away before something better takes its place; what this host doesn't have, or the policy keeps back, is said,
    /// with what to do, and left as it is.
    #[arg(long)]
    repair: bool,
    /// End a repair after so long at most, whatever is waited for: 90s, 10m, 2h. What is left stays queued, and is listed with
    /// the reason.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, allow_hyphen_values = true, requires = "repair")]
    timeout: Option<Duration>,
    /// A public key, NAME:BASE64, whose signatures are good as well; may be given several times.
    #[arg(long, value_name = "KEY")]
    trust: Vec<String>,
    /// Print JSON: counts, and the first 1000 of each kind of finding.
    #[arg(long)]
    pub(super) json: bool,
}

/// Said of what may be an upload's.
const PERHAPS: &str = "perhaps under way, being younger than a day: what no upload needs by then is removed by a prune";

/// Said of what a prune or a repair has marked.
const WAITING: &str = "that a prune or a repair has marked: a prune removes them a grace period later";

/// What has been found out.
#[derive(Default, Serialize)]
struct Examined {
    name: String,
    narinfos: usize,
    /// Whether there was a key to verify by.
    signatures_verified: bool,
    faults: u64,
    faults_by_kind: BTreeMap<&'static str, u64>,
    /// The first of them.
    findings: Vec<Told>,
    /// References that an upstream is trusted to deliver.
    on_trust: u64,
    /// The first of them.
    on_trust_paths: Vec<String>,
    /// Files that nobody needs.
    leftovers: u64,
    leftover_bytes: u64,
    /// Files that nothing names, and that are so young that an upload may be at them.
    perhaps_under_way: u64,
    perhaps_under_way_bytes: u64,
    /// Archives that nobody may show any more, and that a prune removes when their grace period is over.
    waiting_for_prune: u64,
    waiting_for_prune_bytes: u64,
    /// The first of all these.
    leftover_files: Vec<LeftoverFile>,
    /// Why it isn't known which uploads have never ended, should that be so.
    uploads_unseen: Option<String>,
    /// Archives whose packing is unknown here, or wants too much memory.
    not_unpacked: u64,
    /// What was done about it, if that was asked for.
    repair: Option<Repair>,
}

#[derive(Serialize)]
struct LeftoverFile {
    /// `left_over`, `perhaps_under_way` or `waiting_for_prune`.
    state: &'static str,
    what: &'static str,
    file: String,
    size: Option<u64>,
    age_seconds: u32,
}

pub(super) fn run(global: &Global, args: &Args) -> Result<ExitCode, CliError> {
    let setup = Setup::read(global)?;
    let cache = setup.cache(&args.name)?;
    let keys = trusted(cache, &setup, &args.trust)?;
    let runtime = runtime()?;
    let shelf = runtime.block_on(shelf(cache, &setup))?;
    let mut examined =
        Examined { name: args.name.clone(), signatures_verified: !keys.is_empty(), ..Examined::default() };
    if keys.is_empty() {
        eprintln!("its key is not known here, so signatures are not looked at; --trust names one");
    }
    let (mut steps, mut broken) = (Steps::new(), Broken::default());
    steps.step(&format!("listing {}", shelf.name()));
    let verifying = Verifying {
        store_dir: setup.nix.logical.clone(),
        keys,
        upstreams: Upstreams::new(&setup.config.upstreams.caches, setup.config.upstreams.remember),
        policy: Arc::clone(&setup.config.policy),
        facts: setup.nix.facts(),
        deep: args.deep,
        now: now(),
        grace: seconds(GRACE),
    };
    let verified = verify(&shelf, verifying, |found| {
        if let Found::BadArchive(file) = &found {
            broken.bad_archives.insert(file.clone());
        }
        examined.take(found, args.json, &mut steps, |finding| {
            if args.repair {
                broken.findings.push(finding);
            }
        });
    });
    runtime.block_on(verified).map_err(failed(cache))?;
    let mut code = if examined.faults == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if !args.json {
        print(false, &(), |out| examined.write(out))?;
    }
    if !broken.findings.is_empty() {
        let (repaired, exit_code) = repair(global, &setup, cache, &shelf, broken, runtime, args)?;
        (examined.repair, code) = (Some(repaired), exit_code);
    }
    if args.json {
        print(true, &examined, |_| Ok(()))?;
    }
    Ok(code)
}

impl Examined {
    fn take(&mut self, found: Found, json: bool, steps: &mut Steps, mut keep: impl FnMut(Finding)) {
        match found {
            Found::Narinfos(count) => {
                self.narinfos = count;
                steps.step(&format!("reading {}", counted(count as u64, "narinfo")));
            }
            Found::At(done) => steps.at(done, self.narinfos),
            Found::Fault(finding) => {
                self.faults += 1;
                *self.faults_by_kind.entry(finding.fault.kind()).or_default() += 1;
                if json && self.findings.len() < LISTED {
                    self.findings.push(Told::from(&finding));
                } else if !json {
                    tell(&line(&finding));
                }
                keep(finding);
            }
            Found::BadArchive(_) => {}
            Found::OnTrust(OnTrust { path, key }) => {
                self.on_trust += 1;
                if json && self.on_trust_paths.len() < LISTED {
                    self.on_trust_paths.push(path.to_string());
                } else if !json {
                    tell(&format!("on trust: {path} is not in the cache, and {key} has signed it"));
                }
            }
            Found::Leftover(leftover) => self.take_leftover(leftover, json),
            Found::UploadsUnseen(why) => {
                if !json {
                    tell(&uploads_unseen(&why));
                }
                self.uploads_unseen = Some(why);
            }
            Found::NotUnpacked(file) => {
                self.not_unpacked += 1;
                if !json {
                    tell(&format!("{file}: it can't be unpacked here, only the hash of the file was compared"));
                }
            }
        }
    }

    fn take_leftover(&mut self, Leftover { what, file, size, age, whose }: Leftover, json: bool) {
        let (state, words) = match whose {
            Whose::Nobodys => ("left_over", "left over"),
            Whose::PerhapsAnUploads => ("perhaps_under_way", "perhaps under way"),
            Whose::ThePrunes => ("waiting_for_prune", "waits for a prune"),
        };
        let (files, all) = match whose {
            Whose::Nobodys => (&mut self.leftovers, &mut self.leftover_bytes),
            Whose::PerhapsAnUploads => (&mut self.perhaps_under_way, &mut self.perhaps_under_way_bytes),
            Whose::ThePrunes => (&mut self.waiting_for_prune, &mut self.waiting_for_prune_bytes),
        };
        *files += 1;
        *all += size.unwrap_or(0);
        if json && self.leftover_files.len() < LISTED {
            self.leftover_files.push(LeftoverFile { state, what, file, size, age_seconds: age });
        } else if !json {
            let size = size.map_or_else(|| "size unknown".to_owned(), bytes);
            let age = indicatif::HumanDuration(Duration::from_secs(age.into()));
            tell(&format!("{words}: {what} {}, {size}, {age} old", plain(&file)));
        }
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let narinfos = counted(self.narinfos as u64, "path");
        match self.faults {
            0 => writeln!(out, "{narinfos}, all well")?,
            faults => writeln!(out, "{narinfos}, {} found", counted(faults, "fault"))?,
        }
        if self.on_trust > 0 {
            let paths = counted(self.on_trust, "reference");
            writeln!(out, "{paths} taken on trust: left to an upstream whose key has signed what this host has of it")?;
        }
        let needless = format!("that nobody needs: `storewatch cache prune {}` removes them", self.name);
        for (files, size, what) in [
            (self.leftovers, self.leftover_bytes, needless.as_str()),
            (self.perhaps_under_way, self.perhaps_under_way_bytes, PERHAPS),
            (self.waiting_for_prune, self.waiting_for_prune_bytes, WAITING),
        ] {
            if files > 0 {
                writeln!(out, "{} ({}) {what}", counted(files, "file"), bytes(size))?;
            }
        }
        Ok(())
    }
}

/// Prints a finding as it comes. Who has seen enough and closes the pipe is told by the summary.
fn tell(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}
