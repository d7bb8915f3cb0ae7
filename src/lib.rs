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
//!    upload   closure → missing? → root it → NAR stream → verify → caches
//!       │
//!    cache    an Attic server's cache, a signed binary cache, or a program
//!       │ outcome
//!    queue    done | retry at | failed | gone
//! ```
//!
//! The rooms, in the order in which they are best read. Each uses only what stands on a lower floor, and the floors are
//! drawn in `docs/architecture.md`:
//!
//! - [`nix`]: what Nix is, as far as it matters here: store paths, the database, the daemon, NARs, keys and signatures.
//! - [`policy`]: decides what becomes of one path: upload, skip or deny, and by which rule.
//! - [`queue`]: remembers durably what is to be uploaded where, and how far the Nix database has been read.
//! - [`watch`]: finds what is new in the Nix database, lets the policy decide, and admits it to the queue.
//! - [`limit`]: how much is done at once and how much is sent, when, and for whom first.
//! - [`disk`]: how much room the file systems have that are read and written here.
//! - [`cache`]: what a binary cache does for us, and the kinds of caches there are.
//! - [`upload`]: claims jobs from the queue and brings each path into its cache, references first.
//! - [`pins`]: keeps queued paths from the garbage collector, within a budget.
//! - [`secret`]: reads secrets, and refuses those that others could read too.
//! - [`config`]: the policy file, checked, and where everything lives.
//! - [`daemon`]: wires watcher, queue and uploader together as the service or as a backfill, and ends them in order;
//!   examines the host that it runs on.
//! - [`cli`]: the commands that people type, with their help, hints and exit codes.
//! - [`program`]: programs of others that are run, and of which nothing is left.
//! - [`report`]: an error with all its causes as one line of text.
//! - [`times`]: times as people read them.

pub mod cache;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod disk;
pub mod limit;
pub mod nix;
pub mod pins;
pub mod policy;
pub mod program;
pub mod queue;
pub mod report;
pub mod secret;
pub mod times;
pub mod upload;
pub mod watch;
