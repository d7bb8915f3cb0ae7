//! Integration tests: the built binary with real Nix, in stores of their own.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics, with the line that says where")]

mod attic;
mod backend_contract;
mod backfill;
mod bad_input;
mod beside;
mod bucket;
mod bucket_listing;
mod collected;
mod command;
mod command_line;
mod contents;
mod crash;
mod daemon;
mod database;
mod delivery;
mod denial;
mod harness;
mod layers;
mod nar;
mod put;
mod reconfigured;
mod room;
mod support;
mod watching;
