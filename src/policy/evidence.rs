//! Which keys have verifiably signed a path.

use crate::nix::{PathInfo, PublicKey, StoreDir, fingerprint};

use super::NeedsReferences;

/// The signatures of one path, verified once and only when asked.
pub(super) struct Evidence<'a> {
    pub(super) info: &'a PathInfo,
    store_dir: &'a StoreDir,
    keys: &'a [PublicKey],
    fingerprint: Option<String>,
    /// By key; empty until the first question, so that most decisions allocate nothing.
    answers: Vec<Option<bool>>,
}

impl<'a> Evidence<'a> {
    pub(super) fn new(info: &'a PathInfo, store_dir: &'a StoreDir, keys: &'a [PublicKey]) -> Self {
        Self { info, store_dir, keys, fingerprint: None, answers: Vec::new() }
    }

    /// Whether that key has verifiably signed the path; cheap where no signature bears its name.
    ///
    /// # Errors
    /// [`NeedsReferences`] where a signature bears its name and the references have not been loaded.
    pub(super) fn verified(&mut self, key: usize) -> Result<bool, NeedsReferences> {
        if let Some(Some(answer)) = self.answers.get(key) {
            return Ok(*answer);
        }
        let (info, public) = (self.info, &self.keys[key]);
        let mut candidates = info.sigs.iter().filter(|sig| signer(sig) == public.name()).peekable();
        if candidates.peek().is_none() {
            return Ok(false);
        }
        if info.references.is_none() {
            return Err(NeedsReferences);
        }
        let fingerprint = self.fingerprint.get_or_insert_with(|| fingerprint(self.store_dir, info));
        let answer = candidates.any(|sig| public.verify(fingerprint, sig));
        self.answers.resize(self.keys.len(), None);
        self.answers[key] = Some(answer);
        Ok(answer)
    }
}

/// The name of the key that is said to have made the signature.
pub(super) fn signer(sig: &str) -> &str {
    sig.split_once(':').map_or(sig, |(name, _)| name)
}
