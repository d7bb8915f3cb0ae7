//! The NAR of a store path: what is hashed, signed and uploaded.
//!
//! A NAR is made of words, each a 64-bit little-endian length, the bytes, and zeros up to a multiple of eight. The
//! format is Figure 5.2 of Eelco Dolstra's thesis, "The Purely Functional Software Deployment Model" (2006), with one
//! word of version in front; Nix's own writer is `src/libutil/archive.cc`:
//!
//! ```text
//! nar    = "nix-archive-1" node
//! node   = "(" "type" "regular" ["executable" ""] "contents" BYTES ")"
//!        | "(" "type" "symlink" "target" BYTES ")"
//!        | "(" "type" "directory" { "entry" "(" "name" BYTES "node" node ")" } ")"     names sorted by their bytes
//! ```
//!
//! This is the hot path: each byte that is uploaded comes through here. A file's bytes are read straight into the
//! chunk that is handed on, small files share one, and chunks come back to be filled again once whoever took them has
//! let go of them. In memory are a few chunks and the names of the directories between the root and where the encoder
//! stands; never a file, never the tree.
//!
//! What it holds to:
//! - No symlink is ever followed, neither one that was there nor one that was put in a directory's place meanwhile.
//! - What changes while it is read is an error where that shows ([`NarError::Changed`]). It need not show (a byte
//!   altered in place), so whoever uploads compares the hash with the database's (invariant 3).
//! - The depth of a tree costs memory, but no stack and no more than a fixed number of file descriptors.
//!
//! Deliberately absent: unpacking NARs. Caches take them as they are, and Nix unpacks them; a [`Listing`] says what is in
//! one.

mod chunks;
mod encode;
mod hashed;
mod listing;
#[cfg(test)]
mod registered;

use std::io;
use std::path::{Path, PathBuf};

pub use chunks::CHUNK;
pub use encode::encode;
pub use hashed::encode_hashed;
pub use listing::Listing;
#[cfg(test)]
pub(crate) use registered::registered;

/// How names are to be read. The default is Nix's own for this platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NarOptions {
    /// Whether `~nix~case~hack~N` at the end of a name was put there by Nix, because the volume takes `a` and `A` for
    /// one name, and isn't in the NAR. On by default on macOS, as Nix's own `use-case-hack`.
    pub case_hack: bool,
}

impl Default for NarOptions {
    // On Linux this is what the derived one would do, on macOS it isn't.
    #[allow(clippy::derivable_impls)]
    fn default() -> Self {
        Self { case_hack: cfg!(target_os = "macos") }
    }
}

/// Why there is no NAR, or only the beginning of one.
#[derive(Debug, thiserror::Error)]
pub enum NarError<E> {
    /// The file system refused.
    #[error("{action} `{}`", path.display())]
    Io {
        /// What was tried: "open", "read", "list" …
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something that no NAR can hold; Nix doesn't put it into a store either.
    #[error("`{}` is a {kind}, and a NAR holds only files, directories and symlinks", path.display())]
    Unsupported {
        /// Where it lies.
        path: PathBuf,
        /// "fifo", "socket" …
        kind: &'static str,
    },
    /// It is no longer what it was when it was looked at: a hash of it would be a hash of nothing that ever was.
    #[error("`{}` changed while it was read", path.display())]
    Changed {
        /// What changed.
        path: PathBuf,
    },
    /// Without Nix's suffixes two entries of one directory have the same name: unpacked, one would hide the other.
    #[error("two names in `{}` are both `{name}` without Nix's case hack", directory.display())]
    CaseClash {
        /// The directory.
        directory: PathBuf,
        /// The name that both would have in the NAR.
        name: String,
    },
    /// Whoever takes the chunks said no.
    #[error(transparent)]
    Sink(E),
}

impl<E> NarError<E> {
    /// Whether it failed since `root` isn't there, or not any more: a garbage collection, not a fault.
    ///
    /// Where something below the root was missing, this looks at the root again. While a collector is still at work
    /// the root may be there and half empty; the answer is then no, and the Nix database knows better.
    #[must_use]
    pub fn is_root_gone(&self, root: &Path) -> bool {
        let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        match self {
            Self::Io { source, .. } if gone(source) => root.symlink_metadata().is_err_and(|error| gone(&error)),
            Self::Changed { .. } => root.symlink_metadata().is_err_and(|error| gone(&error)),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
