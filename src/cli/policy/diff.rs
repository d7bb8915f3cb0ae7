//! `storewatch policy diff`: what another policy would decide otherwise, as text and as JSON.

use std::io::Write;

use serde_json::{Value, json};

use crate::config::{CacheConfig, Config};
use crate::nix::{PathInfo, StoreDir};
use crate::policy::{Action, Change};

use super::PolicyCommandError;

/// Says where the caches of two policies differ, asks both about each path, and says where their answers do; the references
/// must be loaded.
///
/// # Errors
/// [`PolicyCommandError::NeedsReferences`], or [`PolicyCommandError::Output`].
pub fn diff(
    old: &Config,
    new: &Config,
    store_dir: &StoreDir,
    paths: impl IntoIterator<Item = PathInfo>,
    as_json: bool,
    out: &mut dyn Write,
) -> Result<(), PolicyCommandError> {
    let caches = caches(&old.caches, &new.caches);
    let (old, new) = (&old.policy, &new.policy);
    let (mut asked, mut changes) = (0_usize, Vec::new());
    for info in paths {
        asked += 1;
        changes.extend(Change::between(old, new, &info, store_dir)?);
    }
    if as_json {
        let changes: Vec<_> = changes.iter().map(|change| json(change, store_dir)).collect();
        let caches: Vec<_> = caches.iter().map(cache_json).collect();
        writeln!(out, "{:#}", json!({ "asked": asked, "caches": caches, "changes": changes }))?;
        return Ok(());
    }
    for cache in &caches {
        writeln!(out, "{}", cache_text(cache))?;
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

/// How a cache of one policy differs from that of the other of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum CacheChange {
    Added { name: String, url: String },
    Removed { name: String, url: String },
    Elsewhere { name: String, old: String, new: String },
    OtherKeys { name: String },
}

fn caches(old: &[CacheConfig], new: &[CacheConfig]) -> Vec<CacheChange> {
    let same = |one: &CacheConfig, other: &CacheConfig| one.name == other.name;
    let gone = old.iter().filter(|cache| !new.iter().any(|other| same(cache, other)));
    let gone =
        gone.map(|CacheConfig { name, url, .. }| CacheChange::Removed { name: name.to_string(), url: url.clone() });
    let others = new.iter().filter_map(|cache| {
        let (name, url) = (cache.name.to_string(), cache.url.clone());
        match old.iter().find(|before| same(before, cache)) {
            None => Some(CacheChange::Added { name, url }),
            Some(before) if before.url != url => {
                Some(CacheChange::Elsewhere { name, old: before.url.clone(), new: url })
            }
            Some(before) if before != cache => Some(CacheChange::OtherKeys { name }),
            Some(_) => None,
        }
    });
    gone.chain(others).collect()
}

fn cache_text(change: &CacheChange) -> String {
    match change {
        CacheChange::Added { name, url } => format!("cache {name}: new, {url}"),
        CacheChange::Removed { name, url } => format!("cache {name}: no longer there, {url}"),
        CacheChange::Elsewhere { name, old, new } => {
            format!(
                "cache {name}: {old} -> {new}, another cache, to which nothing has been uploaded yet by this policy"
            )
        }
        CacheChange::OtherKeys { name } => format!("cache {name}: the same, with other keys in its table"),
    }
}

fn cache_json(change: &CacheChange) -> Value {
    match change {
        CacheChange::Added { name, url } => json!({ "cache": name, "old_url": null, "new_url": url }),
        CacheChange::Removed { name, url } => json!({ "cache": name, "old_url": url, "new_url": null }),
        CacheChange::Elsewhere { name, old, new } => json!({ "cache": name, "old_url": old, "new_url": new }),
        CacheChange::OtherKeys { name } => json!({ "cache": name, "other_keys": true }),
    }
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
        diff(&old, &new, &StoreDir::default(), paths, as_json, &mut out).expect("compared");
        String::from_utf8(out).expect("UTF-8").replace(&"0".repeat(32), "HASH")
    }

    #[test]
    fn as_text() {
        assert_eq!(compared("version = 1", false), "Nothing would be decided otherwise for 3 paths.\n");
        assert_eq!(
            compared(OTHER, false),
            r#"cache local: file:///state/cache -> file:///elsewhere, another cache, to which nothing has been uploaded yet by this policy
cache team: new, file:///team
/nix/store/HASH-cuda-12
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
    fn where_only_the_caches_differ() {
        let team = "version = 1\n[caches.team]\nurl = \"file:///team\"\n";
        let told = |old: &str, new: &str| {
            let changes = caches(&config(old).caches, &config(new).caches);
            changes.iter().map(cache_text).collect::<Vec<_>>().join("; ")
        };
        assert_eq!(told(team, team), "");
        assert_eq!(told(team, &format!("{team}uploads = 2")), "cache team: the same, with other keys in its table");
        let renamed = team.replace(".team]", ".crew]");
        assert_eq!(told(team, &renamed), "cache team: no longer there, file:///team; cache crew: new, file:///team");
    }

    #[test]
    fn as_json() {
        let value: Value = serde_json::from_str(&compared(OTHER, true)).expect("JSON");
        assert_eq!(value["asked"], 3);
        let elsewhere = json!({ "cache": "local", "old_url": "file:///state/cache", "new_url": "file:///elsewhere" });
        assert_eq!(value["caches"][0], elsewhere);
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
