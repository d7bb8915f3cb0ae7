//! Laws that hold for every policy and every path.

use ed25519_dalek::{Signer as _, SigningKey};
use nix_narinfo::NixSignature;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;
use crate::nix::{NarHash, PathInfo, PublicKey, StoreDir, StorePath};

const HASH: &str = "0123456789abcdfghijklmnpqrsvwxyz";
const CACHES: [&str; 3] = ["team", "public", "archive"];
const NAMES: [&str; 4] = ["cuda-12", "hello-2.12", "hello-2.12.drv", "source"];
const GLOBS: [&str; 5] = ["cuda*", "hello*", "*.drv", "*", "source"];

fn cache(name: &str) -> CacheName {
    CacheName::new(name).expect("a name")
}

fn all_caches() -> Vec<CacheName> {
    CACHES.map(cache).to_vec()
}

fn store_path(name: &str) -> StorePath {
    StorePath::from_base_name(&format!("{HASH}-{name}")).expect("a path")
}

/// The key pair that is made of that byte: names are `key-BYTE`.
fn signing_key(byte: u8) -> SigningKey {
    SigningKey::from_bytes(&[byte; 32])
}

fn public_key(byte: u8) -> PublicKey {
    let bytes = signing_key(byte).verifying_key().to_bytes();
    let text = NixSignature::from_bytes(format!("key-{byte}"), &bytes).expect("a key").to_nix_string();
    PublicKey::parse(&text).expect("a key")
}

/// Signs as that key; written out here once more, so that a wrong fingerprint over there is found.
fn sign(info: &PathInfo, byte: u8) -> String {
    let references: Vec<_> =
        info.references.iter().flatten().map(|reference| format!("/nix/store/{reference}")).collect();
    let fingerprint =
        format!("1;/nix/store/{};{};{};{}", info.path, info.nar_hash, info.nar_size, references.join(","));
    let signature = signing_key(byte).sign(fingerprint.as_bytes()).to_bytes();
    NixSignature::from_bytes(format!("key-{byte}"), &signature).expect("a signature").to_nix_string()
}

prop_compose! {
    fn path_info()(
        name in select(NAMES.to_vec()),
        ultimate: bool,
        size in select(vec![0, 1023, 1024, 5 << 20]),
        ca: bool,
        deriver: bool,
        hash: [u8; 32],
        references in vec(select(NAMES.to_vec()), 0..3),
        honest in vec(1..4_u8, 0..3),
        forged in vec(1..4_u8, 0..2),
    ) -> PathInfo {
        let mut references: Vec<_> = references.into_iter().map(store_path).collect();
        references.sort();
        references.dedup();
        let mut info = PathInfo {
            id: Some(1),
            path: store_path(name),
            nar_hash: NarHash(hash),
            nar_size: size,
            registration_time: 0,
            deriver: deriver.then(|| store_path("hello-2.12.drv")),
            ultimate,
            sigs: Vec::new(),
            ca: ca.then(|| "fixed:r:sha256:abc".to_owned()),
            references: Some(references),
        };
        let false_ones = forged.into_iter().map(|byte| sign(&info, byte + 100).replacen("key-10", "key-", 1));
        info.sigs = honest.into_iter().map(|byte| sign(&info, byte)).chain(false_ones).collect();
        info
    }
}

fn some_caches() -> impl Strategy<Value = Option<Vec<CacheName>>> {
    option::of(proptest::sample::subsequence(all_caches(), 1..=CACHES.len()))
}

fn effect() -> impl Strategy<Value = Effect> {
    prop_oneof![
        some_caches().prop_map(|to| Effect::Upload { to }),
        Just(Effect::Skip),
        some_caches().prop_map(|from| Effect::Deny { from }),
    ]
}

fn signer() -> impl Strategy<Value = Signer> {
    (1..4_u8, any::<bool>()).prop_map(|(byte, full)| match full {
        true => Signer::Key(public_key(byte)),
        false => Signer::Name(format!("key-{byte}")),
    })
}

prop_compose! {
    fn matches()(
        name in option::weighted(0.3, vec(select(GLOBS.to_vec()), 1..3)),
        kind in option::weighted(0.2, vec(select(Kind::WORDS.map(|(_, kind)| kind).to_vec()), 1..3)),
        built in option::weighted(0.2, select(Built::WORDS.map(|(_, built)| built).to_vec())),
        deriver in option::weighted(0.1, select(GLOBS.to_vec())),
        signed_by in option::weighted(0.3, vec(signer(), 1..3)),
        size in option::weighted(0.2, select(vec![">= 1 KiB", "< 1 KiB", "1 KiB..1 MiB"])),
        content_addressed in option::weighted(0.1, any::<bool>()),
    ) -> Match {
        Match {
            name: name.map(|globs| Globs::new(globs).expect("globs")),
            kind,
            built,
            deriver: deriver.map(|glob| Globs::new([glob]).expect("a glob")),
            signed_by,
            size: size.map(|size| SizeRange::parse(size).expect("a size")),
            content_addressed,
        }
    }
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    vec((matches(), effect()).prop_map(|(matches, effect)| Rule { name: None, matches, effect }), 0..5)
}

fn everything(effect: Effect) -> Rule {
    Rule { name: None, matches: Match::default(), effect }
}

/// With the upstream key 1, so that signers 2 and 3 are known by name alone unless a rule has the key.
fn policy(rules: Vec<Rule>, builtin_rules: bool) -> Policy {
    Policy::new(all_caches(), rules, vec![public_key(1)], builtin_rules).expect("known caches")
}

fn decide(policy: &Policy, info: &PathInfo) -> Decision {
    policy.decide(info, &StoreDir::default()).expect("references are loaded")
}

/// What the rules say of one cache, read from the book: the first that matches and speaks of the cache decides.
fn by_the_book(rules: &[Rule], info: &PathInfo, cache: &CacheName) -> Action {
    for rule in rules {
        let alone = policy(vec![Rule { effect: Effect::Deny { from: None }, ..rule.clone() }], false);
        if decide(&alone, info).action() != Action::Deny {
            continue;
        }
        match &rule.effect {
            Effect::Upload { to } if to.as_ref().is_none_or(|to| to.contains(cache)) => return Action::Upload,
            Effect::Upload { .. } | Effect::Skip => return Action::Skip,
            Effect::Deny { from } if from.as_ref().is_none_or(|from| from.contains(cache)) => return Action::Deny,
            Effect::Deny { .. } => {}
        }
    }
    Action::Skip
}

proptest! {
    #[test]
    fn the_first_match_decides_for_each_cache(rules in rules(), info in path_info()) {
        let decision = decide(&policy(rules.clone(), false), &info);
        for cache in all_caches() {
            prop_assert_eq!(decision.verdict(&cache), by_the_book(&rules, &info, &cache), "{}", cache);
        }
    }

    #[test]
    fn uploads_and_denials_exclude_each_other(rules in rules(), builtin: bool, info in path_info()) {
        let decision = decide(&policy(rules, builtin), &info);
        prop_assert!(!decision.uploads_to().iter().any(|cache| decision.denies(cache)));
        prop_assert_eq!(decision.action() == Action::Upload, !decision.uploads_to().is_empty());
        prop_assert!(decision.uploads_to().iter().all(|cache| CACHES.contains(&cache.as_str())));
    }

    #[test]
    fn rules_behind_one_that_matches_all_change_nothing(
        front in rules(),
        back in rules(),
        final_one in prop_oneof![Just(Effect::Skip), Just(Effect::Deny { from: None }), some_caches().prop_map(|to| Effect::Upload { to })],
        info in path_info(),
    ) {
        let mut short = front;
        short.push(everything(final_one));
        let long: Vec<_> = short.iter().cloned().chain(back).collect();
        prop_assert_eq!(decide(&policy(short.clone(), false), &info), decide(&policy(long.clone(), false), &info));
        // The built-in rules stand behind as well.
        prop_assert_eq!(decide(&policy(short, false), &info), decide(&policy(long, true), &info));
    }

    #[test]
    fn deny_wins_over_all_later_rules(from in some_caches(), later in rules(), builtin: bool, info in path_info()) {
        let rules: Vec<_> = [everything(Effect::Deny { from: from.clone() })].into_iter().chain(later).collect();
        let decision = decide(&policy(rules, builtin), &info);
        for cache in from.unwrap_or_else(all_caches) {
            prop_assert!(decision.denies(&cache) && !decision.uploads_to().contains(&cache));
        }
    }

    #[test]
    fn the_same_arguments_give_the_same_decision(rules in rules(), builtin: bool, info in path_info()) {
        let (one, other) = (policy(rules.clone(), builtin), policy(rules, builtin));
        let decision = decide(&one, &info);
        prop_assert_eq!(&decision, &decide(&one, &info));
        prop_assert_eq!(&decision, &decide(&other, &info));
    }

    #[test]
    fn explanations_agree_with_decisions(rules in rules(), builtin: bool, info in path_info()) {
        let policy = policy(rules.clone(), builtin);
        let (decision, why) = (decide(&policy, &info), policy.explain(&info, &StoreDir::default()).expect("loaded"));
        prop_assert_eq!(&why.decision, &decision);
        for verdict in &why.verdicts {
            prop_assert_eq!(verdict.action, decision.verdict(&verdict.cache));
            if let RuleLabel::User { number, .. } = &verdict.rule {
                // The rule is to blame: with the rules before it alone, the cache would have been decided otherwise or later.
                let front = rules[..*number].to_vec();
                prop_assert_eq!(decide(&self::policy(front, false), &info).verdict(&verdict.cache), verdict.action);
            }
        }
    }

    #[test]
    fn what_was_built_here_is_never_left_out_for_a_signature(mut info in path_info()) {
        info.ultimate = true;
        let policy = policy(Vec::new(), true);
        prop_assert_eq!(policy.delivered_by_upstream(&info, &StoreDir::default()), None);
        let wanted = if info.path.is_derivation() { Action::Skip } else { Action::Upload };
        prop_assert_eq!(decide(&policy, &info).action(), wanted);
    }

    #[test]
    fn a_signature_covers_hash_size_and_references(mut info in path_info(), tampering in 0..4, at: Index) {
        info.ultimate = false;
        info.sigs = vec![sign(&info, 1)];
        let (policy, store_dir) = (policy(Vec::new(), true), StoreDir::default());
        prop_assert_eq!(policy.delivered_by_upstream(&info, &store_dir), Some("key-1"));
        prop_assert_eq!(decide(&policy, &info).action(), Action::Skip);
        match tampering {
            0 => info.nar_hash.0[at.index(32)] ^= 1,
            1 => info.nar_size += 1,
            2 => info.references.as_mut().expect("loaded").push(store_path("zzz")),
            _ => info.path = store_path("other"),
        }
        prop_assert_eq!(policy.delivered_by_upstream(&info, &store_dir), None);
        let wanted = if info.path.is_derivation() { Action::Skip } else { Action::Upload };
        prop_assert_eq!(decide(&policy, &info).action(), wanted);
    }

    #[test]
    fn references_are_asked_for_only_where_a_signature_hangs_on_them(rules in rules(), info in path_info()) {
        let policy = policy(rules, true);
        let bare = PathInfo { references: None, ..info.clone() };
        match policy.decide(&bare, &StoreDir::default()) {
            Ok(decision) => prop_assert_eq!(decision, decide(&policy, &info)),
            Err(NeedsReferences) => prop_assert!(!info.sigs.is_empty()),
        }
        let mut loaded = bare;
        let references = info.references.clone().expect("loaded");
        let decision = policy.decide_loading::<()>(&mut loaded, &StoreDir::default(), |_| Ok(Some(references)));
        prop_assert_eq!(decision, Ok(decide(&policy, &info)));
    }

    #[test]
    fn a_policy_changes_nothing_against_itself(rules in rules(), builtin: bool, info in path_info()) {
        let (old, new) = (policy(rules.clone(), builtin), policy(rules, builtin));
        prop_assert_eq!(Change::between(&old, &new, &info, &StoreDir::default()), Ok(None));
    }
}

#[test]
fn a_rule_can_not_name_an_unknown_cache() {
    let rule = everything(Effect::Upload { to: Some(vec![cache("elsewhere")]) });
    let err = Policy::new(all_caches(), vec![rule], Vec::new(), true).expect_err("unknown");
    assert_eq!(err.to_string(), "rule 1 names the cache `elsewhere`, which the policy does not have");
}
