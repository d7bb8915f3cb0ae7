//! What a prune has hidden and something needs is shown again, as long as its archive is there.

use std::collections::HashSet;

use super::Contents;
use super::path::put_back;
use crate::cache::CacheError;
use crate::cache::care::Shelf;
use crate::cache::care::inventory::{Condemned, Mark, condemned_name};
use crate::cache::care::narinfo::{Needs, needs};
use crate::nix::HashPart;

impl Contents {
    /// Puts back what earlier prunes have hidden, as far as its archive is still there, references first. Returns how many
    /// paths.
    pub(super) async fn put_back_what_is_needed(&self, shelf: &dyn Shelf) -> Result<u64, CacheError> {
        let (mut seen, mut count) = (HashSet::new(), 0);
        // Each path, and what is to be put back once its references are.
        let mut waiting: Vec<(HashPart, Option<Mark>)> = self.lacking.iter().map(|hash| (*hash, None)).collect();
        while let Some((hash, ready)) = waiting.pop() {
            if let Some(mark) = ready {
                count += u64::from(put_back(shelf, hash, mark).await?);
                continue;
            }
            if !seen.insert(hash) {
                continue;
            }
            let Some((mark, references)) = self.kept_of(shelf, hash).await? else { continue };
            waiting.push((hash, Some(mark)));
            let hidden = references.into_iter().filter(|hash| self.inventory.is_hidden(*hash));
            waiting.extend(hidden.map(|hash| (hash, None)));
        }
        Ok(count)
    }

    /// What earlier prunes have kept of a path: the mark of its archive, if that is still there, and its references.
    async fn kept_of(&self, shelf: &dyn Shelf, hash: HashPart) -> Result<Option<(Mark, Vec<HashPart>)>, CacheError> {
        for Condemned { mark, .. } in self.inventory.condemned(hash) {
            let Some(text) = shelf.read(&condemned_name(*mark, hash)).await? else { continue };
            let Needs { references, archive, .. } = needs(&text.content);
            // It may lie in a folder of others, which isn't listed.
            let is_there = match archive {
                _ if self.inventory.archive(*mark).is_some() => true,
                Some(file) => shelf.find(&file).await?.is_some(),
                None => false,
            };
            if is_there {
                return Ok(Some((*mark, references)));
            }
        }
        Ok(None)
    }
}
