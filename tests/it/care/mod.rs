//! Care of a cache that has no server: it is broken in every way, and mended; it is pruned, beside uploads too; it gets
//! another key. Each time real Nix reads back what is left, signatures required.

mod again;
mod nested;
mod others;
mod prune;
mod repair;
mod sign;
mod site;
mod verify;

use crate::support::{Said, Storewatch};

/// Makes a test of each case and each place for a cache: a directory, a strict fake of S3, of Google's
/// interface and of Azure's, and Garage, a real store.
macro_rules! each_site {
    ($($(#[$meta:meta])* fn $case:ident($site:ident: $which:ident, $store:ident: ScratchStore) $body:block)+) => {$(
        mod $case {
            use super::*;

            $(#[$meta])*
            fn run($site: Site, $store: ScratchStore) $body

            fn with(site: fn() -> Option<Site>) {
                let (Some(nix), Some(site)) = (Nix::recent(), site()) else { return };
                run(site, ScratchStore::new(&nix));
            }

            #[test]
            fn file() {
                with(Site::file);
            }

            #[test]
            fn fake_s3() {
                with(Site::fake);
            }

            #[test]
            fn fake_google() {
                with(Site::google);
            }

            #[test]
            fn fake_azure() {
                with(Site::azure);
            }

            each_site!(@garage $which);
        }
    )+};
    (@garage Site) => {
        #[test]
        fn garage() {
            with(Site::garage);
        }
    };
    // What a test has to make older than it is.
    (@garage AgedSite) => {};
}
use each_site;

/// What `cache VERB team …` says, with what it was told beside.
fn cache(storewatch: &Storewatch<'_>, verb: &str, more: &[&str]) -> Said {
    let arguments = ["cache", verb, "team"];
    storewatch.cmd(&[&arguments, more].concat())
}

/// What it prints as JSON, and its exit code.
#[track_caller]
fn json(storewatch: &Storewatch<'_>, verb: &str, more: &[&str]) -> (serde_json::Value, Option<i32>) {
    let said = cache(storewatch, verb, &[more, &["--json"]].concat());
    let json = serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    (json, said.code)
}

/// That nothing is wrong with the cache.
#[track_caller]
fn assert_sound(storewatch: &Storewatch<'_>) {
    let said = cache(storewatch, "verify", &["--deep"]);
    assert_eq!(said.code, Some(0), "{}{}", said.stdout, said.stderr);
}
