//! The policy, and how it decides.

use std::sync::Arc;

use crate::nix::{PathInfo, PublicKey, StoreDir, StorePath};

use super::decision::Denied;
use super::evidence::{Evidence, signer};
use super::{Action, CacheName, Condition, Decision, Effect, Kind, Match, Rule, RuleLabel, Signer};

/// The validated rules, the policy's own and then the built-in ones, over the caches that it names.
#[derive(Debug)]
pub struct Policy {
    pub(super) caches: Arc<[CacheName]>,
    pub(super) rules: Vec<Compiled>,
    /// How many of the rules are the policy's own.
    own_rules: usize,
    /// All keys that signatures are verified with, each once; the upstreams' first.
    keys: Vec<PublicKey>,
    upstream_keys: usize,
    no_caches: Arc<[CacheName]>,
}

/// A rule that is ready to decide.
#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) label: RuleLabel,
    pub(super) matches: Match,
    signers: Option<Vec<Test>>,
    pub(super) effect: CompiledEffect,
}

#[derive(Debug)]
pub(super) enum CompiledEffect {
    Upload(Arc<[CacheName]>),
    Skip,
    DenySome(Arc<[CacheName]>),
    DenyAll,
}

/// How one signer is recognised.
#[derive(Debug)]
enum Test {
    /// By a key, as its index in the policy's keys.
    Key(usize),
    /// By name alone.
    Name(String),
}

/// A rule's answer hangs on a signature, and a signature covers the references: load them and ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path's references are needed to verify its signatures")]
pub struct NeedsReferences;

/// A rule names a cache that the policy doesn't have; it would silently upload nowhere, or deny nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule} names the cache `{cache}`, which the policy does not have")]
pub struct UnknownCache {
    /// The rule.
    pub rule: RuleLabel,
    /// The name that is unknown.
    pub cache: CacheName,
}

impl Policy {
    /// Puts the policy's rules in front of the built-in ones, where those are wanted: skip derivations; skip what an
    /// upstream's key has verifiably signed and what was not built here; upload the rest to every cache.
    ///
    /// # Errors
    /// [`UnknownCache`] where a rule names one that is not among the caches.
    pub fn new(
        caches: Vec<CacheName>,
        rules: Vec<Rule>,
        upstream_keys: Vec<PublicKey>,
        builtin_rules: bool,
    ) -> Result<Self, UnknownCache> {
        let own_rules = rules.len();
        let mut policy = Self {
            caches: caches.into(),
            rules: Vec::new(),
            own_rules,
            upstream_keys: upstream_keys.len(),
            keys: upstream_keys,
            no_caches: Arc::new([]),
        };
        for (at, rule) in rules.into_iter().enumerate() {
            let label = RuleLabel::User { number: at + 1, name: rule.name.map(Into::into) };
            policy.compile(label, rule.matches, rule.effect)?;
        }
        if builtin_rules {
            let derivations = Match { kind: Some(vec![Kind::Derivation]), ..Match::default() };
            let signers = policy.keys[..policy.upstream_keys].iter().cloned().map(Signer::Key).collect();
            let upstream = Match { built: Some(super::Built::Elsewhere), signed_by: Some(signers), ..Match::default() };
            policy.compile(RuleLabel::BuiltIn("derivation"), derivations, Effect::Skip)?;
            policy.compile(RuleLabel::BuiltIn("signed by an upstream"), upstream, Effect::Skip)?;
            policy.compile(RuleLabel::BuiltIn("everything else"), Match::default(), Effect::Upload { to: None })?;
        }
        Ok(policy)
    }

    fn compile(&mut self, label: RuleLabel, matches: Match, effect: Effect) -> Result<(), UnknownCache> {
        let known = |named: Vec<CacheName>| -> Result<Arc<[CacheName]>, UnknownCache> {
            if let Some(cache) = named.iter().find(|cache| !self.caches.contains(cache)) {
                return Err(UnknownCache { rule: label.clone(), cache: cache.clone() });
            }
            Ok(self.caches.iter().filter(|cache| named.contains(cache)).cloned().collect())
        };
        let effect = match effect {
            Effect::Upload { to: None } => CompiledEffect::Upload(Arc::clone(&self.caches)),
            Effect::Upload { to: Some(to) } => CompiledEffect::Upload(known(to)?),
            Effect::Skip => CompiledEffect::Skip,
            Effect::Deny { from: None } => CompiledEffect::DenyAll,
            Effect::Deny { from: Some(from) } => CompiledEffect::DenySome(known(from)?),
        };
        let signers =
            matches.signed_by.as_ref().map(|signers| signers.iter().flat_map(|signer| self.tests(signer)).collect());
        self.rules.push(Compiled { label, matches, signers, effect });
        Ok(())
    }

    /// How to recognise that signer: a name may stand for several upstream keys.
    fn tests(&mut self, signer: &Signer) -> Vec<Test> {
        match signer {
            Signer::Key(key) => {
                let at = self.keys.iter().position(|known| known == key).unwrap_or_else(|| {
                    self.keys.push(key.clone());
                    self.keys.len() - 1
                });
                vec![Test::Key(at)]
            }
            Signer::Name(name) => {
                let of_that_name = |at: &usize| self.keys[*at].name() == name;
                let known: Vec<_> = (0..self.upstream_keys).filter(of_that_name).map(Test::Key).collect();
                if known.is_empty() { vec![Test::Name(name.clone())] } else { known }
            }
        }
    }

    /// The caches that the policy names, in its order.
    #[must_use]
    pub fn caches(&self) -> &[CacheName] {
        &self.caches
    }

    /// How many rules of its own the policy has, without the built-in ones.
    #[must_use]
    pub fn own_rules(&self) -> usize {
        self.own_rules
    }

    /// Decides one path.
    ///
    /// # Errors
    /// [`NeedsReferences`] where that hangs on a signature and the references have not been loaded.
    pub fn decide(&self, info: &PathInfo, store_dir: &StoreDir) -> Result<Decision, NeedsReferences> {
        self.walk(info, store_dir, |_, _| ())
    }

    /// Decides one path, and loads its references where the decision hangs on them; they stay in `info` then. Where they
    /// can't be understood, `load` gives none: no signature can be checked, so none counts, and they go out of `info`.
    ///
    /// # Errors
    /// What `load` errs with.
    pub fn decide_loading<E>(
        &self,
        info: &mut PathInfo,
        store_dir: &StoreDir,
        load: impl FnOnce(&PathInfo) -> Result<Option<Vec<StorePath>>, E>,
    ) -> Result<Decision, E> {
        if let Ok(decision) = self.decide(info, store_dir) {
            return Ok(decision);
        }
        info.references = load(info)?;
        if info.references.is_none() {
            info.sigs.clear();
        }
        let decided = self.decide(info, store_dir);
        Ok(decided.unwrap_or_else(|NeedsReferences| unreachable!("the references are there, or no signature")))
    }

    /// The name of an upstream's key that has verifiably signed the path, where it was not built here: what refers to the
    /// path may then count on that upstream to deliver it. `None` also while the references have not been loaded.
    #[must_use]
    pub fn delivered_by_upstream(&self, info: &PathInfo, store_dir: &StoreDir) -> Option<&str> {
        if info.ultimate {
            return None;
        }
        let mut evidence = Evidence::new(info, store_dir, &self.keys);
        let key = (0..self.upstream_keys).find(|key| evidence.verified(*key) == Ok(true))?;
        Some(self.keys[key].name())
    }

    /// Whether a key of one of these names has verifiably signed the path, where it was not built here. A name for which
    /// the policy knows no key proves nothing.
    #[must_use]
    pub fn signed_by_named(&self, info: &PathInfo, store_dir: &StoreDir, names: &[String]) -> bool {
        if info.ultimate || names.is_empty() {
            return false;
        }
        let mut evidence = Evidence::new(info, store_dir, &self.keys);
        let named = |key: &usize| names.iter().any(|name| name == self.keys[*key].name());
        (0..self.keys.len()).filter(named).any(|key| evidence.verified(key) == Ok(true))
    }

    /// Asks the rules in their order until all caches are decided, and tells `observe` what each answered.
    pub(super) fn walk(
        &self,
        info: &PathInfo,
        store_dir: &StoreDir,
        mut observe: impl FnMut(&Compiled, Option<Condition>),
    ) -> Result<Decision, NeedsReferences> {
        let mut evidence = Evidence::new(info, store_dir, &self.keys);
        let (mut denied, mut denied_by) = (Denied::Nowhere, None);
        for rule in &self.rules {
            let failure = rule.first_failure(&mut evidence)?;
            observe(rule, failure);
            if failure.is_some() {
                continue;
            }
            match &rule.effect {
                CompiledEffect::DenyAll => return Ok(self.denial(Denied::Everywhere, rule)),
                CompiledEffect::DenySome(from) => {
                    denied.add(from);
                    denied_by = Some(rule);
                    if denied.spare(&self.caches).is_empty() {
                        return Ok(self.denial(denied, rule));
                    }
                }
                CompiledEffect::Skip => return Ok(self.nowhere(denied, rule.label.clone())),
                CompiledEffect::Upload(to) => {
                    let uploads = denied.spare(to);
                    return Ok(match denied_by {
                        Some(by) if uploads.is_empty() => self.denial(denied, by),
                        _ if uploads.is_empty() => self.nowhere(denied, rule.label.clone()),
                        _ => Decision { action: Action::Upload, uploads, denied, rule: rule.label.clone() },
                    });
                }
            }
        }
        Ok(self.nowhere(denied, RuleLabel::None))
    }

    fn denial(&self, denied: Denied, rule: &Compiled) -> Decision {
        Decision { action: Action::Deny, uploads: Arc::clone(&self.no_caches), denied, rule: rule.label.clone() }
    }

    fn nowhere(&self, denied: Denied, rule: RuleLabel) -> Decision {
        Decision { action: Action::Skip, uploads: Arc::clone(&self.no_caches), denied, rule }
    }
}

impl Compiled {
    /// The first condition that fails. Signatures come last: they are the only ones that cost.
    fn first_failure(&self, evidence: &mut Evidence<'_>) -> Result<Option<Condition>, NeedsReferences> {
        if let Some(condition) = self.matches.first_failure(evidence.info) {
            return Ok(Some(condition));
        }
        let Some(signers) = &self.signers else { return Ok(None) };
        for test in signers {
            let signed = match test {
                Test::Key(key) => evidence.verified(*key)?,
                Test::Name(name) => evidence.info.sigs.iter().any(|sig| signer(sig) == name),
            };
            if signed {
                return Ok(None);
            }
        }
        Ok(Some(Condition::SignedBy))
    }

    /// The names of the keys whose signature this rule asks for.
    pub(super) fn signer_names(&self) -> Vec<&str> {
        let signers = self.matches.signed_by.iter().flatten();
        signers
            .map(|signer| match signer {
                Signer::Key(key) => key.name(),
                Signer::Name(name) => name.as_str(),
            })
            .collect()
    }

    /// Of the keys that this rule knows by name alone, those that are said to have signed the path.
    pub(super) fn unverified<'a>(&'a self, info: &'a PathInfo) -> impl Iterator<Item = &'a str> {
        self.signers.iter().flatten().filter_map(|test| match test {
            Test::Name(name) if info.sigs.iter().any(|sig| signer(sig) == name) => Some(name.as_str()),
            _ => None,
        })
    }
}
