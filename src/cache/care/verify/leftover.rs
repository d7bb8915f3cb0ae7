//! What lies in a cache and nothing names: whether somebody may need it yet, and who removes it.

use super::{Examiner, Found};
use crate::cache::CacheError;
use crate::cache::care::inventory::{Kind, Mark, kind_of};
use crate::cache::care::{Entry, Listed, Seconds};

/// A file that nothing names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// What it is: an archive that no narinfo names, a list of files without a narinfo, an upload that has not ended.
    pub what: &'static str,
    /// The file.
    pub file: String,
    /// Bytes, where that is known.
    pub size: Option<u64>,
    /// Seconds since it was written.
    pub age: Seconds,
    /// Whether anybody needs it.
    pub whose: Whose,
}

/// Whether anybody needs what nothing names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Nobody does.
    Nobodys,
    /// It is so young that an upload may be at it: what is uploaded is named last.
    PerhapsAnUploads,
    /// Nobody may show it any more, as a prune or a repair has said, and a prune removes it a grace period after that.
    ThePrunes,
}

impl Whose {
    fn of(is_doomed: bool, age: Seconds, grace: Seconds) -> Self {
        match is_doomed {
            true => Self::ThePrunes,
            false if age < grace => Self::PerhapsAnUploads,
            false => Self::Nobodys,
        }
    }
}

impl Examiner {
    /// Hands out what nothing names.
    pub(super) async fn leftovers(&self, named: &[bool], mut tell: impl FnMut(Found) + Send) -> Result<(), CacheError> {
        let Self { shelf, verifying, inventory, .. } = self;
        let condemned = inventory.condemned.iter().map(|condemned| condemned.mark);
        let mut doomed: Vec<Mark> = condemned.chain(inventory.doomed.iter().map(|doomed| doomed.mark)).collect();
        doomed.sort_unstable();
        let is_doomed = |mark: Mark| doomed.binary_search(&mark).is_ok();
        let leftover = |what, file, size, modified, is_doomed| {
            let age = verifying.now.saturating_sub(modified);
            Found::Leftover(Leftover { what, file, size, age, whose: Whose::of(is_doomed, age, verifying.grace) })
        };
        // What it is, and whether it is doomed.
        let left = |name: &str| match kind_of(name) {
            Kind::Archive { is_one } => {
                let mark = Mark::of(name);
                // One that has come since the first list is being uploaded.
                let is_named = inventory.archive(mark).is_none_or(|place| named[place]);
                (!is_named && (is_one || is_doomed(mark))).then(|| ("archive", is_doomed(mark)))
            }
            Kind::Listing(hash) => inventory.narinfo(hash).is_none().then_some(("list of files", false)),
            _ => None,
        };
        let mut unnamed =
            inventory.archives.iter().zip(named).filter(|(_, named)| !**named).map(|(archive, _)| archive);
        let has_any = unnamed.any(|archive| archive.is_one || is_doomed(archive.mark))
            || inventory.listings.iter().any(|listing| inventory.narinfo(listing.hash).is_none());
        if has_any {
            // By their names, which were not kept.
            let mut take = |page: Vec<Entry>| {
                for Entry { name, size, modified, .. } in page {
                    if let Some((what, is_doomed)) = left(&name) {
                        tell(leftover(what, name, Some(size), modified, is_doomed));
                    }
                }
            };
            shelf.list(Listed::Everything, &mut take).await?;
        }
        // A cache is sound without that being known.
        let uploads = match shelf.unfinished().await {
            Ok(uploads) => uploads,
            Err(error) => {
                tell(Found::UploadsUnseen(error.with_cure()));
                Vec::new()
            }
        };
        for upload in uploads {
            tell(leftover("upload", upload.name, upload.size, upload.modified, false));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_upload_may_be_at_is_not_called_nobodys() {
        for (is_doomed, age, whose) in [
            (false, 0, Whose::PerhapsAnUploads),
            (false, 99, Whose::PerhapsAnUploads),
            (false, 100, Whose::Nobodys),
            (true, 0, Whose::ThePrunes),
            (true, 100, Whose::ThePrunes),
        ] {
            assert_eq!(Whose::of(is_doomed, age, 100), whose, "{age}");
        }
    }
}
