//! A store of many small and some large paths, for what uploads a closure.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;

use storewatch::nix::nar::{NarOptions, encode_hashed};

use crate::common::machine::Machine;
use crate::common::{Random, write_pieces};
use crate::support::ScratchStore;

const SMALL_FROM: u64 = 1024;
const SMALL_TO: u64 = 256 * 1024;
const LARGE: u64 = 50 * 1024 * 1024;

/// `nix-store --load-db` registers what it is given in the order of the hashes. Builds and copies register references first,
/// and few paths at once; so does the store here.
const REGISTERED_AT_ONCE: usize = 20;

/// What the paths hold.
#[derive(Clone, Copy, Debug)]
pub enum Content {
    /// Files of this machine.
    Machine,
    /// Made-up pieces.
    #[allow(dead_code, reason = "each bench takes what it needs")]
    Pieces,
}

/// Writes paths straight into the store and registers them as `nix-store --load-db` does: one process instead of
/// thousands of builds. Small ones first; each refers to one to three earlier ones, a large one to ten.
/// Returns where they are, large ones last.
pub fn fill(store: &ScratchStore, content: Content, small: usize, large: usize) -> Vec<PathBuf> {
    let machine = matches!(content, Content::Machine).then(Machine::look);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut paths: Vec<PathBuf> = Vec::new();
    let mut registrations = Vec::new();
    for number in 0..small + large {
        let is_large = number >= small;
        let name = if is_large { format!("large-{number}") } else { format!("small-{number}-1.0") };
        let path = store.store_dir().join(format!("{}-{name}", random.hash_part()));
        fs::create_dir(&path).unwrap();
        let len = if is_large { LARGE } else { random.sized(SMALL_FROM, SMALL_TO) };
        match &machine {
            Some(machine) => machine.copy_some(len, &path, &mut random).unwrap(),
            None => write_pieces(&path.join("library.so"), len, &mut random).unwrap(),
        }
        let Ok((hash, nar_size)) = encode_hashed(&path, &NarOptions::default(), |_| Ok::<_, ()>(())) else {
            panic!("no NAR of {path:?}")
        };
        let many = if is_large { 10 } else { 1 + random.below(3) as usize };
        let mut references: Vec<usize> =
            (0..many).filter(|_| number > 0).map(|_| random.below(number.min(small) as u64) as usize).collect();
        references.sort_unstable();
        references.dedup();
        // path, hash, size, deriver, number of references, references.
        let hex: String = hash.0.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut registration = String::new();
        write!(registration, "{}\n{hex}\n{nar_size}\n\n{}\n", path.display(), references.len()).unwrap();
        references.iter().for_each(|reference| writeln!(registration, "{}", paths[*reference].display()).unwrap());
        registrations.push(registration);
        paths.push(path);
    }
    for some in registrations.chunks(REGISTERED_AT_ONCE) {
        let mut load = store.command("nix-store").arg("--load-db").stdin(Stdio::piped()).spawn().unwrap();
        load.stdin.take().unwrap().write_all(some.concat().as_bytes()).unwrap();
        assert!(load.wait().unwrap().success(), "nix-store --load-db failed");
    }
    paths
}
