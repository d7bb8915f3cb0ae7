//! Where secrets come from, and from where they must not come.
//!
//! A [`Source`] says where a secret lies and holds none itself. A [`Provider`] fetches it from there, again and again, so
//! that a new token is in use without a restart. A [`Secret`] is the text itself.
//!
//! Invariant kept here: **nothing leaks.** A secret comes from a file that only its owner can read, or from what the
//! system or a command hands over; never from the Nix store, which everybody can read. It is held in memory that is
//! wiped, has no `Debug` that shows it, and no error repeats it, nor what a command says beside it.
//!
//! Deliberately absent: what a secret is for. Whether a server takes a token is the server's to say.

mod blackened;
mod command;
mod core_file;
mod error;
mod file;
mod keychain;
mod netrc;
mod provider;
mod source;
mod text;

pub use blackened::blackened;
pub use core_file::leave_no_core_file;
pub use error::{NoText, SecretError};
pub use file::{read, sweep, write_new};
pub use provider::{Fingerprint, Provider, read_here};
pub use source::{DEFAULT_LIFETIME, DEFAULT_TIMEOUT, Source};
pub use text::Secret;
