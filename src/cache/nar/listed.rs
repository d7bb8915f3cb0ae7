//! A listing of an archive's files, made while the archive is read.

use std::sync::{Arc, Mutex, PoisonError};

use super::NarReader;
use crate::nix::nar::Listing;

/// Longest listing that is made, in bytes: some 40,000 files. It is held in memory until the archive's end.
const LONGEST: usize = 4 * 1024 * 1024;

/// What a [`NarReader`] writes down, for who asks at its end.
pub struct Listed(Arc<Mutex<Listing>>);

impl Listed {
    /// The listing, as Nix has it in `.ls` files; `None` unless the archive was read to its end, or where it is too long or
    /// has names that no JSON can hold.
    #[must_use]
    pub fn take(self) -> Option<Vec<u8>> {
        let mut listing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *listing, Listing::new(0)).finish()
    }
}

impl NarReader {
    /// The same, and what it writes down of the archive's files as they go by.
    #[must_use]
    pub fn listed(mut self) -> (Self, Listed) {
        let listing = Arc::new(Mutex::new(Listing::new(LONGEST)));
        self.listing = Some(Arc::clone(&listing));
        (self, Listed(listing))
    }

    /// Notes that these bytes are handed out.
    pub(super) fn note(&mut self, chunk: &[u8]) {
        self.total += chunk.len() as u64;
        if let Some(listing) = &self.listing {
            listing.lock().unwrap_or_else(PoisonError::into_inner).feed(chunk);
        }
    }
}
