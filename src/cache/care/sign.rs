//! Another key beside the one that a cache has: each narinfo and each realisation that a trusted key has signed gets a
//! signature by the new one.
//!
//! Nothing else of it changes, not even what nobody here knows. What has the signature already is left alone, so that it can be
//! done again, and is when hosts have gone on signing by the old key.
//!
//! Beside an uploader that writes the same file at that moment: it is only replaced if it is still the one that was read,
//! and read again otherwise. Where a store doesn't know such a condition, either of the two may win, and both are true.

mod realisation;

use std::sync::Arc;

pub use self::realisation::{RealisationFault, RealisationFinding};
use super::at_once::{REQUESTS, at_once};
use super::inventory::{Inventory, narinfo_file};
use super::narinfo::{Narinfo, with_signature};
use super::{Condition, Fault, Finding, Listed, Shelf};
use crate::cache::CacheError;
use crate::nix::{HashPart, PublicKey, SecretKey, StoreDir};

/// So often a file is read again that others write at the same moment.
const TRIES: u32 = 5;

/// By which key narinfos and realisations are to be signed, and on whose word.
pub struct Signing {
    /// The logical store directory of the cache.
    pub store_dir: StoreDir,
    /// The key that signs.
    pub key: SecretKey,
    /// What one of these has signed is signed.
    pub trusted: Vec<PublicKey>,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signed {
    /// Of narinfos.
    pub narinfos: Counts,
    /// Of realisations, in both of Nix's formats.
    pub realisations: Counts,
}

/// What came of files of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Those that are signed by the new key now.
    pub signed: u64,
    /// Those that were before.
    pub had_it: u64,
    /// Narinfos that were left alone, since a reader needs no signature: their content address gives their path.
    pub needless: u64,
    /// Those that were left alone, since no trusted key has signed them, or they can't be read.
    pub refused: u64,
}

/// What is told on the way.
#[derive(Clone, Debug)]
pub enum Step {
    /// So many narinfos of so many have been looked at.
    Narinfos(usize, usize),
    /// So many realisations of so many have been looked at.
    Realisations(usize, usize),
    /// A narinfo was left alone.
    Refused(Finding),
    /// A realisation was left alone.
    RefusedRealisation(RealisationFinding),
}

/// Signs what a cache has.
///
/// # Errors
/// [`CacheError`] where the cache can't be asked or written.
pub async fn sign(shelf: &Arc<dyn Shelf>, signing: Signing, mut tell: impl FnMut(Step)) -> Result<Signed, CacheError> {
    let inventory = Inventory::take(&**shelf, Listed::Root).await?;
    let realisations = realisation::listed(&**shelf).await?;
    let (signing, of) = (Arc::new(signing), inventory.narinfos.len());
    let narinfos = inventory.narinfos.into_iter().map(|narinfo| NarinfoOf(narinfo.hash));
    let narinfos = sign_each(shelf, &signing, narinfos, |done, finding| {
        finding.map(Step::Refused).into_iter().for_each(&mut tell);
        tell(Step::Narinfos(done, of));
    })
    .await?;
    let of = realisations.len();
    let realisations = sign_each(shelf, &signing, realisations, |done, finding| {
        finding.map(Step::RefusedRealisation).into_iter().for_each(&mut tell);
        tell(Step::Realisations(done, of));
    })
    .await?;
    Ok(Signed { narinfos, realisations })
}

/// A file of a cache in which signatures stand.
trait SignedFile: Send + Sync + 'static {
    /// Why it is left alone.
    type Finding: Send + 'static;

    /// Relative to the cache.
    fn name(&self) -> String;

    /// What is to be done about it, by what stands in it.
    fn judge(&self, content: &[u8], signing: &Signing) -> Verdict<Self::Finding>;
}

/// What is to be done about a file.
#[derive(Debug, PartialEq, Eq)]
enum Verdict<F> {
    /// This is to take its place.
    Sign(String),
    HasIt,
    Needless,
    Refuse(F),
}

/// What became of a file.
enum Became<F> {
    Signed,
    HadIt,
    Needless,
    Gone,
    Refused(F),
}

/// Signs all these files, and tells after each how many it were, and why it was left alone, if it was.
async fn sign_each<S: SignedFile>(
    shelf: &Arc<dyn Shelf>,
    signing: &Arc<Signing>,
    files: impl IntoIterator<Item = S>,
    mut tell: impl FnMut(usize, Option<S::Finding>),
) -> Result<Counts, CacheError> {
    let (mut counts, mut done) = (Counts::default(), 0);
    let one = |file: S| {
        let (shelf, signing) = (Arc::clone(shelf), Arc::clone(signing));
        async move { sign_one(&*shelf, &signing, &file).await }
    };
    at_once(files, REQUESTS, one, |became| {
        let mut refused = None;
        match became {
            Became::Signed => counts.signed += 1,
            Became::HadIt => counts.had_it += 1,
            Became::Needless => counts.needless += 1,
            Became::Gone => {}
            Became::Refused(finding) => {
                counts.refused += 1;
                refused = Some(finding);
            }
        }
        done += 1;
        tell(done, refused);
    })
    .await?;
    Ok(counts)
}

async fn sign_one<S: SignedFile>(
    shelf: &dyn Shelf,
    signing: &Signing,
    file: &S,
) -> Result<Became<S::Finding>, CacheError> {
    let name = file.name();
    for _ in 0..TRIES {
        let Some(text) = shelf.read(&name).await? else { return Ok(Became::Gone) };
        match file.judge(&text.content, signing) {
            Verdict::Sign(signed) => {
                if shelf.put(&name, signed.into_bytes(), Condition::Unchanged(&text)).await? {
                    return Ok(Became::Signed);
                }
            }
            Verdict::HasIt => return Ok(Became::HadIt),
            Verdict::Needless => return Ok(Became::Needless),
            Verdict::Refuse(finding) => return Ok(Became::Refused(finding)),
        }
    }
    Err(CacheError::Malformed {
        file: format!("{}/{name}", shelf.name()),
        problem: format!("somebody has written it anew {TRIES} times in a row; sign again when nobody does"),
    })
}

/// The narinfo of a path.
struct NarinfoOf(HashPart);

impl SignedFile for NarinfoOf {
    type Finding = Finding;

    fn name(&self) -> String {
        narinfo_file(self.0)
    }

    fn judge(&self, content: &[u8], Signing { store_dir, key, trusted }: &Signing) -> Verdict<Finding> {
        let hash = self.0;
        let refuse = |path, fault| Verdict::Refuse(Finding { hash, path, fault });
        let narinfo = match Narinfo::read(content, store_dir) {
            Ok(narinfo) => narinfo,
            Err(problem) => return refuse(None, Fault::Unreadable(problem)),
        };
        if HashPart::from(&narinfo.path) != hash {
            return refuse(None, Fault::OtherPath(narinfo.path));
        }
        if narinfo.is_signed_by(&[key.public()]) {
            return Verdict::HasIt;
        }
        if !narinfo.is_signed_by(trusted) {
            // To sign it on its own word would vouch for what nobody has looked at: a signature leaves the address out.
            if narinfo.is_content_addressed {
                return Verdict::Needless;
            }
            let signed = narinfo.signers();
            return refuse(Some(narinfo.path), Fault::Unsigned { keys: names(trusted), signed });
        }
        // It was read as UTF-8.
        Verdict::Sign(with_signature(&String::from_utf8_lossy(content), &key.sign(&narinfo.fingerprint)))
    }
}

/// The names of keys, as they are shown.
fn names(keys: &[PublicKey]) -> String {
    keys.iter().map(PublicKey::name).collect::<Vec<_>>().join(", ")
}
