//! Why a path is decided as it is.

use crate::nix::{PathInfo, StoreDir, StorePath};

use super::decide::{Compiled, CompiledEffect};
use super::evidence::signer;
use super::{Action, Built, ByteSize, CacheName, Condition, Decision, Kind, NeedsReferences, Policy, RuleLabel};

/// A decision with its reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The path that was asked about.
    pub path: StorePath,
    /// The rules in their order, as far as they were asked.
    pub steps: Vec<Step>,
    /// How many rules stand behind the last one asked.
    pub not_asked: usize,
    /// What was decided for each of the policy's caches, in the policy's order.
    pub verdicts: Vec<Verdict>,
    /// The decision itself.
    pub decision: Decision,
}

/// What one rule answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It matched.
    Matched {
        /// The rule.
        rule: RuleLabel,
        /// What it does: `upload to team`, `deny`.
        effect: String,
        /// Names of keys whose signature counted without being verified, as their public half is not known.
        unverified: Vec<String>,
    },
    /// It didn't.
    Failed {
        /// The rule.
        rule: RuleLabel,
        /// The first condition that failed.
        condition: Condition,
        /// That condition as it stands in the policy: `name = "cuda*"`.
        wanted: String,
        /// What the path has there.
        seen: String,
    },
}

/// What happens to the path at one cache, and by which rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The cache.
    pub cache: CacheName,
    /// What happens.
    pub action: Action,
    /// The rule that decided.
    pub rule: RuleLabel,
}

impl Policy {
    /// Decides one path and keeps the reasons.
    ///
    /// # Errors
    /// [`NeedsReferences`] as for [`Policy::decide`].
    pub fn explain(&self, info: &PathInfo, store_dir: &StoreDir) -> Result<Explanation, NeedsReferences> {
        let mut steps = Vec::new();
        let mut matched: Vec<(RuleLabel, Option<Vec<CacheName>>)> = Vec::new();
        let decision = self.walk(info, store_dir, |rule, failure| {
            if failure.is_none() {
                let caches = match &rule.effect {
                    CompiledEffect::DenySome(from) => Some(from.to_vec()),
                    _ => None,
                };
                matched.push((rule.label.clone(), caches));
            }
            steps.push(step(rule, failure, info));
        })?;
        let decides = |cache: &CacheName| {
            let first = matched.iter().find(|(_, some)| some.as_ref().is_none_or(|some| some.contains(cache)));
            first.map_or(RuleLabel::None, |(rule, _)| rule.clone())
        };
        let verdict =
            |cache: &CacheName| Verdict { cache: cache.clone(), action: decision.verdict(cache), rule: decides(cache) };
        Ok(Explanation {
            path: info.path.clone(),
            not_asked: self.rules.len() - steps.len(),
            verdicts: self.caches().iter().map(verdict).collect(),
            steps,
            decision,
        })
    }
}

impl Policy {
    /// The rule that decided about the path at that one cache, which [`Decision::rule`] need not be: a rule that denies a
    /// path to some caches leaves the others to the rules behind it.
    ///
    /// # Errors
    /// [`NeedsReferences`] as for [`Policy::decide`].
    pub fn rule_for(
        &self,
        info: &PathInfo,
        store_dir: &StoreDir,
        cache: &CacheName,
    ) -> Result<RuleLabel, NeedsReferences> {
        let verdicts = self.explain(info, store_dir)?.verdicts;
        let at_that = verdicts.into_iter().find(|verdict| verdict.cache == *cache);
        Ok(at_that.map_or(RuleLabel::None, |verdict| verdict.rule))
    }
}

fn step(rule: &Compiled, failure: Option<Condition>, info: &PathInfo) -> Step {
    match failure {
        None => Step::Matched {
            rule: rule.label.clone(),
            effect: effect(&rule.effect),
            unverified: rule.unverified(info).map(str::to_owned).collect(),
        },
        Some(condition) => Step::Failed {
            rule: rule.label.clone(),
            condition,
            wanted: rule.matches.text(condition),
            seen: match condition {
                Condition::SignedBy => signatures(info, &rule.signer_names()),
                condition => seen(info, condition),
            },
        },
    }
}

fn effect(effect: &CompiledEffect) -> String {
    let list = |caches: &[CacheName]| caches.iter().map(CacheName::as_str).collect::<Vec<_>>().join(", ");
    match effect {
        CompiledEffect::Upload(to) => format!("upload to {}", list(to)),
        CompiledEffect::Skip => "skip".to_owned(),
        CompiledEffect::DenySome(from) => format!("deny from {}", list(from)),
        CompiledEffect::DenyAll => "deny".to_owned(),
    }
}

/// What the path has where the condition looked.
fn seen(info: &PathInfo, condition: Condition) -> String {
    match condition {
        Condition::Kind => Kind::of(info).to_string(),
        Condition::Built => Built::of(info).to_string(),
        Condition::ContentAddressed => info.ca.is_some().to_string(),
        Condition::Size => format!("{} ({} bytes)", ByteSize(info.nar_size), info.nar_size),
        Condition::Name => info.path.name().to_owned(),
        Condition::Deriver => info.deriver.as_ref().map_or("no known deriver", StorePath::name).to_owned(),
        Condition::SignedBy => signatures(info, &[]),
    }
}

/// What signatures the path has, none of which is a valid one by a key of these names: such as bear one of the names are
/// told apart from those of other keys, which may well be valid.
fn signatures(info: &PathInfo, wanted: &[&str]) -> String {
    let (feigned, others): (Vec<&str>, Vec<&str>) =
        info.sigs.iter().map(|sig| signer(sig)).partition(|name| wanted.contains(name));
    let feigned = (!feigned.is_empty()).then(|| format!("a signature as {} that is not valid", feigned.join(", ")));
    let others = (!others.is_empty()).then(|| format!("a signature by another key, {}", others.join(", ")));
    match (feigned, others) {
        (None, None) => "no signature".to_owned(),
        (Some(some), None) | (None, Some(some)) => some,
        (Some(feigned), Some(others)) => format!("{feigned}, and {others}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nix::NarHash;

    #[test]
    fn signatures_of_other_keys_are_not_called_invalid() {
        let info = |signers: &[&str]| PathInfo {
            id: None,
            path: StorePath::from_base_name(&format!("{}-x", "0".repeat(32))).expect("a path"),
            nar_hash: NarHash([0; 32]),
            nar_size: 0,
            registration_time: 0,
            deriver: None,
            ultimate: false,
            sigs: signers.iter().map(|name| format!("{name}:AAAA")).collect(),
            ca: None,
            references: None,
        };
        for (signers, told) in [
            (&[][..], "no signature"),
            (&["nixos"], "a signature as nixos that is not valid"),
            (&["host", "ci"], "a signature by another key, host, ci"),
            (&["host", "nixos"], "a signature as nixos that is not valid, and a signature by another key, host"),
        ] {
            assert_eq!(signatures(&info(signers), &["nixos"]), told);
        }
    }
}
