//! Another key beside the one that a cache has: each narinfo that a trusted key has signed gets a signature by the new one.
//!
//! Nothing else of a narinfo changes, not even lines that nobody here knows. A narinfo that has the signature already is left
//! alone, so that it can be done again, and is when hosts have gone on signing by the old key.
//!
//! Beside an uploader that writes the same narinfo at that moment: it is only replaced if it is still the one that was read,
//! and read again otherwise. Where a store doesn't know such a condition, either of the two may win, and both are true.

use std::sync::Arc;

use super::at_once::{REQUESTS, at_once};
use super::inventory::{Inventory, narinfo_file};
use super::narinfo::{Narinfo, with_signature};
use super::{Condition, Fault, Finding, Listed, Shelf};
use crate::cache::CacheError;
use crate::nix::{HashPart, PublicKey, SecretKey, StoreDir};

/// So often a narinfo is read again that others write at the same moment.
const TRIES: u32 = 5;

/// By which key narinfos are to be signed, and on whose word.
pub struct Signing {
    /// The logical store directory of the cache.
    pub store_dir: StoreDir,
    /// The key that signs.
    pub key: SecretKey,
    /// A narinfo is signed where one of these has signed it.
    pub trusted: Vec<PublicKey>,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signed {
    /// Narinfos that have one more signature now.
    pub signed: u64,
    /// Narinfos that had it.
    pub had_it: u64,
    /// Narinfos that were left alone, since a reader needs no signature: their content address gives their path.
    pub needless: u64,
    /// Narinfos that were left alone, since no trusted key has signed them, or they can't be read.
    pub refused: u64,
}

/// Signs what a cache has.
///
/// # Errors
/// [`CacheError`] where the cache can't be asked or written.
pub async fn sign(
    shelf: &Arc<dyn Shelf>,
    signing: Signing,
    mut tell: impl FnMut(usize, usize, Option<Finding>),
) -> Result<Signed, CacheError> {
    let inventory = Inventory::take(&**shelf, Listed::Root).await?;
    let (signing, mut done, count) = (Arc::new(signing), Signed::default(), inventory.narinfos.len());
    let mut looked_at = 0;
    let one = |hash: HashPart| {
        let (shelf, signing) = (Arc::clone(shelf), Arc::clone(&signing));
        async move { signing.one(&*shelf, hash).await }
    };
    at_once(inventory.narinfos.iter().map(|narinfo| narinfo.hash), REQUESTS, one, |became| {
        let finding = match became {
            Became::Signed => {
                done.signed += 1;
                None
            }
            Became::HadIt => {
                done.had_it += 1;
                None
            }
            Became::Needless => {
                done.needless += 1;
                None
            }
            Became::Gone => None,
            Became::Refused(finding) => {
                done.refused += 1;
                Some(finding)
            }
        };
        looked_at += 1;
        tell(looked_at, count, finding);
    })
    .await?;
    Ok(done)
}

/// What became of one narinfo.
enum Became {
    Signed,
    HadIt,
    Needless,
    Gone,
    Refused(Finding),
}

impl Signing {
    async fn one(&self, shelf: &dyn Shelf, hash: HashPart) -> Result<Became, CacheError> {
        let file = narinfo_file(hash);
        for _ in 0..TRIES {
            let Some(text) = shelf.read(&file).await? else { return Ok(Became::Gone) };
            let refused = |path, fault| Ok(Became::Refused(Finding { hash, path, fault }));
            let narinfo = match Narinfo::read(&text.content, &self.store_dir) {
                Ok(narinfo) => narinfo,
                Err(problem) => return refused(None, Fault::Unreadable(problem)),
            };
            if HashPart::from(&narinfo.path) != hash {
                return refused(None, Fault::OtherPath(narinfo.path));
            }
            if narinfo.is_signed_by(&[self.key.public()]) {
                return Ok(Became::HadIt);
            }
            if !narinfo.is_signed_by(&self.trusted) {
                // To sign it on its own word would vouch for what nobody has looked at: a signature leaves the address out.
                if narinfo.is_content_addressed {
                    return Ok(Became::Needless);
                }
                let keys = self.trusted.iter().map(PublicKey::name).collect::<Vec<_>>().join(", ");
                let signed = narinfo.signers();
                return refused(Some(narinfo.path), Fault::Unsigned { keys, signed });
            }
            // It was read as UTF-8.
            let signed = with_signature(&String::from_utf8_lossy(&text.content), &self.key.sign(&narinfo.fingerprint));
            if shelf.put(&file, signed.into_bytes(), Condition::Unchanged(&text)).await? {
                return Ok(Became::Signed);
            }
        }
        Err(CacheError::Malformed {
            file: format!("{}/{file}", shelf.name()),
            problem: format!("somebody has written it anew {TRIES} times in a row; sign again when nobody does"),
        })
    }
}
