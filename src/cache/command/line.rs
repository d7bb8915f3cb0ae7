//! What storewatch and a program say to each other: one line of JSON each way.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::error::Category;

use super::{CommandOptions, Gives};
use crate::nix::{PathInfo, StorePath};

/// A path, as a program is told of it.
#[derive(Serialize)]
struct PushLine<'a> {
    version: u32,
    action: &'static str,
    cache: &'a str,
    gives: &'static str,
    store_path: String,
    real_path: String,
    nar_hash: String,
    /// Null where a very old Nix did not note it.
    nar_size: Option<u64>,
    references: Vec<String>,
    deriver: Option<String>,
    signatures: &'a [String],
    ca: Option<&'a str>,
}

/// Paths of which a program is asked whether they are missing.
#[derive(Serialize)]
struct MissingLine<'a> {
    version: u32,
    action: &'static str,
    cache: &'a str,
    store_paths: Vec<String>,
}

/// The version of what is said.
const VERSION: u32 = 1;

/// The line by which a path is handed over.
pub(super) fn push_line(options: &CommandOptions, info: &PathInfo) -> Vec<u8> {
    let full = |path: &StorePath| options.store_dir.full(path);
    one_line(&PushLine {
        version: VERSION,
        action: "push",
        cache: &options.name,
        gives: match options.gives {
            Gives::Path => "path",
            Gives::Nar => "nar",
        },
        store_path: full(&info.path),
        real_path: options.real_store.join(info.path.base_name()).to_string_lossy().into_owned(),
        nar_hash: info.nar_hash.to_string(),
        nar_size: Some(info.nar_size).filter(|size| *size > 0),
        references: info.references.iter().flatten().map(full).collect(),
        deriver: info.deriver.as_ref().map(full),
        signatures: &info.sigs,
        ca: info.ca.as_deref(),
    })
}

/// The line by which a program is asked what is missing.
pub(super) fn question(options: &CommandOptions, paths: &[StorePath]) -> Vec<u8> {
    let store_paths = paths.iter().map(|path| options.store_dir.full(path)).collect();
    one_line(&MissingLine { version: VERSION, action: "missing", cache: &options.name, store_paths })
}

fn one_line(said: &impl Serialize) -> Vec<u8> {
    // Strings and numbers can always be written.
    let mut line = serde_json::to_vec(said).unwrap_or_default();
    line.push(b'\n');
    line
}

/// More than any path comes to (bytes, 1 PiB): whoever says so counts something else.
const MOST_SENT: u64 = 1 << 50;

/// What became of a path, in a program's own words.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Answer {
    pub(super) kind: Option<Kind>,
    /// Bytes that the path came to.
    pub(super) sent: Option<u64>,
    pub(super) reason: Option<String>,
    /// Seconds.
    pub(super) retry_after: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    Uploaded,
    AlreadyThere,
    Refused,
    Retry,
}

impl Answer {
    /// The last line of what a program has written that is meant as an answer, if one is: programs write other things, too.
    ///
    /// # Errors
    /// What is wrong with it, without any of its words.
    pub(super) fn last_of(output: &[u8]) -> Result<Option<Self>, String> {
        let Some(line) = last_object(output) else { return Ok(None) };
        let answer: Self = serde_json::from_slice(line).map_err(|error| {
            wrong(&error, "`kind`, `sent`, `reason` or `retry_after` has a value that docs/commands.md doesn't have")
        })?;
        match answer.sent {
            Some(sent) if sent > MOST_SENT => Err(format!("`sent` is more than any path comes to ({sent} bytes)")),
            _ => Ok(Some(answer)),
        }
    }
}

/// What is wrong with a line. serde's own words repeat values that it doesn't understand, which may be secrets; what it says
/// of text that is no JSON repeats nothing.
fn wrong(error: &serde_json::Error, value: &str) -> String {
    match error.classify() {
        Category::Data => format!("{value} (column {})", error.column()),
        Category::Io | Category::Syntax | Category::Eof => error.to_string(),
    }
}

/// Which of `paths` a program says that it lacks, in their order.
///
/// # Errors
/// What is wrong with what it says, without any of its words.
pub(super) fn lacking(output: &[u8], paths: &[StorePath]) -> Result<Vec<StorePath>, String> {
    #[derive(Deserialize)]
    struct Lacking {
        missing: Vec<String>,
    }
    let line = last_object(output).ok_or("it does not say what is missing: no line begins with `{`")?;
    let Lacking { missing } =
        serde_json::from_slice(line).map_err(|error| wrong(&error, "`missing` is no list of paths"))?;
    let places: HashMap<&str, usize> =
        paths.iter().enumerate().map(|(place, path)| (path.base_name(), place)).collect();
    let mut lacking = vec![false; paths.len()];
    for path in missing {
        let name = path.rsplit('/').next().unwrap_or_default();
        let place = places.get(name).ok_or("it says that a path is missing that it was not asked for")?;
        lacking[*place] = true;
    }
    Ok(paths.iter().zip(lacking).filter(|(_, lacking)| *lacking).map(|(path, _)| path.clone()).collect())
}

fn last_object(output: &[u8]) -> Option<&[u8]> {
    output.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).rfind(|line| line.starts_with(b"{"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_is_not_repeated() {
        let asked = [StorePath::from_base_name("0123456789abcdfghijklmnpqrsvwxyz-a").expect("a legal name")];
        for said in [
            r#"{"kind":"TOKEN"}"#,
            r#"{"sent":"TOKEN"}"#,
            r#"{"kind":"TO\u001bKEN"}"#,
            r#"{"retry_after":"TOKEN"}"#,
            r#"{"reason":["TOKEN"]}"#,
            r#"{"sent":TOKEN}"#,
            r#"{"kind":"uploaded"} TOKEN"#,
        ] {
            let problem = Answer::last_of(said.as_bytes()).expect_err("nonsense");
            assert!(!problem.contains("KEN") && problem.contains("column"), "{said}: {problem}");
            assert!(!problem.contains(char::is_control) && problem.len() < 200, "{said}: {problem}");
        }
        for said in [r#"{"missing":"TOKEN"}"#, r#"{"missing":["/nix/store/TOKEN"]}"#, "TOKEN"] {
            let problem = lacking(said.as_bytes(), &asked).expect_err("nonsense");
            assert!(!problem.contains("TOKEN"), "{said}: {problem}");
        }
    }

    /// One such number, and no sum of it and others could be shown.
    #[test]
    fn no_path_comes_to_more_than_any_could() {
        let sent = |bytes: u64| Answer::last_of(format!("{{\"sent\":{bytes}}}").as_bytes());
        assert_eq!(sent(MOST_SENT).expect("a number").expect("an answer").sent, Some(MOST_SENT));
        for bytes in [MOST_SENT + 1, i64::MAX.cast_unsigned(), u64::MAX] {
            assert!(sent(bytes).is_err_and(|problem| problem.contains("more than any path")), "{bytes}");
        }
    }
}
