//! `storewatch policy explain`: an explanation as text and as JSON.

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::{Value, json};

use crate::nix::{PathInfo, StoreDir};
use crate::policy::{Built, ByteSize, CacheName, Explanation, Kind, Policy, Step};

use super::PolicyCommandError;
use super::hold::{Hold, Holds, MOST_PATHS};

/// Explains what the policy says of each path, what would hold it back, and which caches are off on this host, with the
/// reason; the references must be loaded.
///
/// # Errors
/// [`PolicyCommandError::NeedsReferences`], or [`PolicyCommandError::Output`].
pub(super) fn explain(
    policy: &Policy,
    store_dir: &StoreDir,
    paths: impl IntoIterator<Item = (PathInfo, Holds)>,
    off: &BTreeMap<CacheName, String>,
    as_json: bool,
    out: &mut dyn Write,
) -> Result<(), PolicyCommandError> {
    let mut answers = Vec::new();
    for (at, (info, holds)) in paths.into_iter().enumerate() {
        let why = policy.explain(&info, store_dir)?;
        if as_json {
            answers.push(json(&why, &info, &holds, off, store_dir));
        } else {
            if at > 0 {
                writeln!(out)?;
            }
            text(&why, &info, &holds, off, store_dir, out)?;
        }
    }
    if as_json {
        writeln!(out, "{:#}", Value::Array(answers))?;
    }
    Ok(())
}

fn text(
    why: &Explanation,
    info: &PathInfo,
    holds: &Holds,
    off: &BTreeMap<CacheName, String>,
    store_dir: &StoreDir,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    writeln!(out, "{}", store_dir.full(&why.path))?;
    writeln!(out, "  {}", facts(info))?;
    for step in &why.steps {
        match step {
            Step::Failed { rule, wanted, seen, .. } => {
                writeln!(out, "  {rule} does not match: it wants {wanted}, and there is: {seen}")?;
            }
            Step::Matched { rule, effect, unverified } => {
                writeln!(out, "  {rule} matches: {effect}")?;
                for key in unverified {
                    writeln!(
                        out,
                        "    by the name `{key}` alone: without its public key the signature is not verified"
                    )?;
                }
            }
        }
    }
    if why.not_asked > 0 {
        let rules = if why.not_asked == 1 { "rule is" } else { "rules are" };
        writeln!(out, "  {} more {rules} not asked", why.not_asked)?;
    }
    let width = why.verdicts.iter().map(|verdict| verdict.cache.as_str().len()).max().unwrap_or(0);
    for verdict in &why.verdicts {
        writeln!(out, "  {:width$}  {:6}  {}", verdict.cache, verdict.action, verdict.rule)?;
        if let Some(why) = off.get(&verdict.cache) {
            writeln!(out, "    {why}")?;
        }
        for Hold { denied, rule, through, .. } in holds.found.iter().filter(|hold| hold.cache == verdict.cache) {
            let through = through.as_ref().map_or_else(String::new, |through| format!(" (through {through})"));
            writeln!(
                out,
                "    held, unless the cache has it already: needs {denied}{through}, which is denied by {rule}"
            )?;
        }
    }
    if holds.cut_short {
        writeln!(out, "  only {MOST_PATHS} paths of what it needs were looked at for what would hold it back")?;
    }
    Ok(())
}

/// What the conditions look at, in one line.
fn facts(info: &PathInfo) -> String {
    let deriver = info.deriver.as_ref().map_or_else(String::new, |deriver| format!(", by {}", deriver.name()));
    let signers: Vec<_> = info.sigs.iter().map(|sig| sig.split(':').next().unwrap_or(sig)).collect();
    let signed = if signers.is_empty() { "not signed".to_owned() } else { format!("signed as {}", signers.join(", ")) };
    let addressed = if info.ca.is_some() { ", content-addressed" } else { "" };
    let (kind, built, size) = (Kind::of(info), Built::of(info), ByteSize(info.nar_size));
    format!("{kind}, built {built}{deriver}, {size}{addressed}, {signed}")
}

fn json(
    why: &Explanation,
    info: &PathInfo,
    holds: &Holds,
    off: &BTreeMap<CacheName, String>,
    store_dir: &StoreDir,
) -> Value {
    let step = |step: &Step| match step {
        Step::Failed { rule, condition, wanted, seen } => json!({
            "rule": rule.to_string(), "matches": false,
            "condition": condition.to_string(), "wanted": wanted, "seen": seen,
        }),
        Step::Matched { rule, effect, unverified } => json!({
            "rule": rule.to_string(), "matches": true, "effect": effect, "unverified_signers": unverified,
        }),
    };
    let caches: serde_json::Map<_, _> = why
        .verdicts
        .iter()
        .map(|verdict| {
            let held_by = holds.found.iter().find(|hold| hold.cache == verdict.cache).map(|hold| {
                json!({
                    "path": store_dir.full(&hold.denied), "rule": hold.rule.to_string(),
                    "through": hold.through.as_ref().map(|through| store_dir.full(through)),
                })
            });
            let (action, rule) = (verdict.action.to_string(), verdict.rule.to_string());
            let why_off = off.get(&verdict.cache);
            let value = json!({ "action": action, "rule": rule, "held_by": held_by, "why_off": why_off });
            (verdict.cache.to_string(), value)
        })
        .collect();
    json!({
        "path": store_dir.full(&why.path),
        "action": why.decision.action().to_string(),
        "rule": why.decision.rule().to_string(),
        "caches": caches,
        "closure_searched": !holds.cut_short,
        "rules": why.steps.iter().map(step).collect::<Vec<_>>(),
        "rules_not_asked": why.not_asked,
        "kind": Kind::of(info).to_string(),
        "built": Built::of(info).to_string(),
        "nar_size": info.nar_size,
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{config, path_info};
    use super::*;

    const POLICY: &str = r#"
        version = 1
        [caches.team]
        url = "file:///team"
        [caches.public]
        url = "file:///public"
        [[rules]]
        name = "licensed"
        match = { name = "cuda*" }
        action = "deny"
        [[rules]]
        match = { signed_by = "host-1" }
        action = "deny"
        from = ["public"]
        [[rules]]
        match = { kind = ["output", "derivation"] }
        action = "upload"
        to = ["public"]
    "#;

    fn explained(policy: &str, info: PathInfo, as_json: bool) -> String {
        let off = BTreeMap::from([(CacheName::new("team").expect("a name"), "off on this host: why".to_owned())]);
        let mut out = Vec::new();
        explain(&config(policy).policy, &StoreDir::default(), [(info, Holds::default())], &off, as_json, &mut out)
            .expect("explained");
        String::from_utf8(out).expect("UTF-8").replace(&"0".repeat(32), "HASH")
    }

    #[test]
    fn as_text() {
        let signed = PathInfo { sigs: vec!["host-1:AAAA".to_owned()], ..path_info("hello-2.12") };
        assert_eq!(
            explained(POLICY, signed, false),
            r#"/nix/store/HASH-hello-2.12
  output, built locally, by hello.drv, 2.0 KiB, signed as host-1
  rule 1 "licensed" does not match: it wants name = "cuda*", and there is: hello-2.12
  rule 2 matches: deny from public
    by the name `host-1` alone: without its public key the signature is not verified
  rule 3 matches: upload to public
  3 more rules are not asked
  team    skip    rule 3
    off on this host: why
  public  deny    rule 2
"#
        );
        let source = PathInfo {
            ultimate: false,
            deriver: None,
            ca: Some("fixed:r:sha256:abc".to_owned()),
            sigs: vec!["cache.nixos.org-1:AAAA".to_owned()],
            ..path_info("source")
        };
        assert_eq!(
            explained("version = 1", source, false),
            r#"/nix/store/HASH-source
  source, built elsewhere, 2.0 KiB, content-addressed, signed as cache.nixos.org-1
  built-in rule "derivation" does not match: it wants kind = "derivation", and there is: source
  built-in rule "signed by an upstream" does not match: it wants signed_by = "cache.nixos.org-1", and there is: a signature as cache.nixos.org-1 that is not valid
  built-in rule "everything else" matches: upload to local
  local  upload  built-in rule "everything else"
"#
        );
        let nothing = explained("version = 1\nbuiltin_rules = false", path_info("hello"), false);
        assert!(nothing.ends_with("  local  skip    no rule matches\n"), "{nothing}");
    }

    #[test]
    fn as_json() {
        let value: Value = serde_json::from_str(&explained(POLICY, path_info("cuda-12"), true)).expect("JSON");
        assert_eq!(
            value,
            json!([{
                "path": "/nix/store/HASH-cuda-12",
                "action": "deny",
                "rule": "rule 1 \"licensed\"",
                "caches": {
                    "team": { "action": "deny", "rule": "rule 1 \"licensed\"", "held_by": null, "why_off": "off on this host: why" },
                    "public": { "action": "deny", "rule": "rule 1 \"licensed\"", "held_by": null, "why_off": null },
                },
                "closure_searched": true,
                "rules": [
                    { "rule": "rule 1 \"licensed\"", "matches": true, "effect": "deny", "unverified_signers": [] },
                ],
                "rules_not_asked": 5,
                "kind": "output",
                "built": "locally",
                "nar_size": 2048,
            }])
        );
    }
}
