//! storewatch watches a Nix store and puts every newly valid path into binary caches.
//!
//! ```text
//! Nix commits a path        inotify / FSEvents / a timer: only a wake-up, never a fact
//!       │
//!    watch    new rows of ValidPaths, by id                  read-only, short transactions
//!       │ PathInfo
//!    policy   pure: (PathInfo, policy) -> Decision           upload to caches | skip | deny, by which rule
//!       │
//!    queue    ONE transaction: jobs + cursor                 durable before anything else happens
//!       │ claim: references first, fresh before backfill
//!    upload   closure → missing? → NAR stream → verify → cache
//!       │
//!    cache    a signed binary cache directory, for now
//!       │ outcome
//!    queue    done | retry at | failed | gone
//! ```
//!
//! The rooms, from the ground up; each uses only what stands below it:
//! [`nix`], [`policy`], [`queue`].

pub mod cache;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod limit;
pub mod nix;
pub mod policy;
pub mod queue;
pub mod report;
pub mod secret;
pub mod upload;
pub mod watch;
