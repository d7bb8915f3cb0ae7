//! Decisions: what the policy says of one path. Pure: no I/O, no clock, the same answer for the same arguments.
//!
//! The first rule that matches decides, cache by cache: a `deny` that names caches decides for those alone, and for the
//! others the next rules are asked. Behind the user's rules stand the built-in ones ([`Policy::new`]).
//!
//! What never happens, whatever the rules say:
//! - a cache that a rule denied gets the path by a later rule (invariant 5, nothing leaks);
//! - a signature counts that was not verified, where the key's public half is known;
//! - a path that was built here is left out for a signature, or counted as delivered by an upstream: hosts often sign
//!   what they build with the very key of their cache.
//!
//! Deliberately absent: what a cache holds already, and the closure. A decision is about one path on its own account;
//! [`Decision::denies`] alone also binds those who bring it along as a dependency.
//!
//! A decision allocates nothing but where several caches are denied by name, or a signature is verified: a first scan
//! asks a million times.

mod cache_name;
mod decide;
mod decision;
mod diff;
mod evidence;
mod explain;
mod globs;
#[cfg(test)]
mod laws;
mod rule;
mod size;

pub use cache_name::{BadCacheName, CacheName, MAX_CACHE_NAME_LEN};
pub use decide::{NeedsReferences, Policy, UnknownCache};
pub use decision::{Action, Decision, RuleLabel};
pub use diff::Change;
pub use explain::{Explanation, Step, Verdict};
pub use globs::{BadGlob, Globs};
pub use rule::{Built, Condition, Effect, Kind, Match, Rule, Signer};
pub use size::{BadSize, ByteSize, SizeRange};
