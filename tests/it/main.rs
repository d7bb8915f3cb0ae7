//! Integration tests: the built binary with real Nix, in stores of their own.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics, with the line that says where")]

mod attic;
mod backend_contract;
mod backfill;
mod bad_input;
mod beside;
mod bucket;
mod bucket_faults;
mod bucket_listing;
mod bucket_roles;
mod care;
mod collected;
mod command;
mod command_line;
mod contents;
mod crash;
mod daemon;
mod database;
mod delivery;
mod denial;
mod disk;
mod evict;
mod harness;
mod layers;
mod nar;
mod nix_database;
mod packing;
mod pausing;
mod pins;
#[cfg(target_os = "linux")]
mod priority;
mod put;
mod realisations;
mod reconfigured;
mod room;
mod rooted;
mod shaping;
mod state_away;
mod support;
mod watching;
