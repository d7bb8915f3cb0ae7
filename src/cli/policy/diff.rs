//! `storewatch policy diff`: what another policy would decide otherwise, as text and as JSON.

use std::io::Write;

use serde_json::{Value, json};

use crate::nix::{PathInfo, StoreDir};
use crate::policy::{Action, Change, Policy};

use super::PolicyCommandError;

/// Asks both policies about each path and says where they differ; the references must be loaded.
///
/// # Errors
/// [`PolicyCommandError::NeedsReferences`], or [`PolicyCommandError::Output`].
pub fn diff(
    old: &Policy,
    new: &Policy,
    store_dir: &StoreDir,
    paths: impl IntoIterator<Item = PathInfo>,
    as_json: bool,
    out: &mut dyn Write,
) -> Result<(), PolicyCommandError> {
    let (mut asked, mut changes) = (0_usize, Vec::new());
    for info in paths {
        asked += 1;
        changes.extend(Change::between(old, new, &info, store_dir)?);
    }
    if as_json {
        let changes: Vec<_> = changes.iter().map(|change| json(change, store_dir)).collect();
        writeln!(out, "{:#}", json!({ "asked": asked, "changes": changes }))?;
        return Ok(());
    }
    for change in &changes {
        text(change, store_dir, out)?;
    }
    let paths = if asked == 1 { "path" } else { "paths" };
    match changes.len() {
        0 => writeln!(out, "Nothing would be decided otherwise for {asked} {paths}.")?,
        number => writeln!(out, "{number} of {asked} {paths} would be decided otherwise.")?,
    }
    Ok(())
}

fn text(change: &Change, store_dir: &StoreDir, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "{}", store_dir.full(&change.path))?;
    for (cache, old, new) in &change.caches {
        writeln!(out, "  {cache}: {} -> {}", word(*old), word(*new))?;
    }
    writeln!(out, "  by {} -> {}", change.old.rule(), change.new.rule())
}

fn word(action: Option<Action>) -> String {
    action.map_or_else(|| "no such cache".to_owned(), |action| action.to_string())
}

fn json(change: &Change, store_dir: &StoreDir) -> Value {
    let action = |action: &Option<Action>| action.map(|action| action.to_string());
    let caches: serde_json::Map<_, _> = change
        .caches
        .iter()
        .map(|(cache, old, new)| (cache.to_string(), json!({ "old": action(old), "new": action(new) })))
        .collect();
    json!({
        "path": store_dir.full(&change.path),
        "caches": caches,
        "old_rule": change.old.rule().to_string(),
        "new_rule": change.new.rule().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{config, path_info};
    use super::*;

    const OTHER: &str = r#"
        version = 1
        [caches.local]
        url = "file:///elsewhere"
        [caches.team]
        url = "file:///team"
        [[rules]]
        match = { name = "cuda*" }
        action = "deny"
        [[rules]]
        match = {}
        action = "upload"
        to = ["local"]
    "#;

    fn compared(new: &str, as_json: bool) -> String {
        let mut out = Vec::new();
        let paths = ["hello", "cuda-12", "hello.drv"].map(path_info);
        let (old, new) = (config("version = 1"), config(new));
        diff(&old.policy, &new.policy, &StoreDir::default(), paths, as_json, &mut out).expect("compared");
        String::from_utf8(out).expect("UTF-8").replace(&"0".repeat(32), "HASH")
    }

    #[test]
    fn as_text() {
        assert_eq!(compared("version = 1", false), "Nothing would be decided otherwise for 3 paths.\n");
        assert_eq!(
            compared(OTHER, false),
            r#"/nix/store/HASH-cuda-12
  local: upload -> deny
  team: no such cache -> deny
  by built-in rule "everything else" -> rule 1
/nix/store/HASH-hello.drv
  local: skip -> upload
  by built-in rule "derivation" -> rule 2
2 of 3 paths would be decided otherwise.
"#
        );
    }

    #[test]
    fn as_json() {
        let value: Value = serde_json::from_str(&compared(OTHER, true)).expect("JSON");
        assert_eq!(value["asked"], 3);
        assert_eq!(
            value["changes"][0],
            json!({
                "path": "/nix/store/HASH-cuda-12",
                "caches": { "local": { "old": "upload", "new": "deny" }, "team": { "old": null, "new": "deny" } },
                "old_rule": "built-in rule \"everything else\"",
                "new_rule": "rule 1",
            })
        );
    }
}
