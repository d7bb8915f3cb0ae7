//! The policy file as it stands: keys known and types right, but not yet whether it makes sense.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{CACHE, DISK, MATCH, RULE, STORE, TOP, UPSTREAMS};
use super::problems::Problems;
use super::raw_cache::RawCache;
use super::raw_limits::RawLimits;
use super::reader::{List, Table, type_of};

/// The one version of the file format that there is.
pub const VERSION: i64 = 1;

#[derive(Default)]
pub(super) struct RawPolicy {
    pub(super) builtin_rules: Option<bool>,
    pub(super) store: RawStore,
    pub(super) caches: Vec<RawCache>,
    pub(super) upstreams: RawUpstreams,
    pub(super) limits: RawLimits,
    pub(super) disk: RawDisk,
    pub(super) rules: Vec<RawRule>,
}

#[derive(Default)]
pub(super) struct RawStore {
    pub(super) dir: Option<Spanned<String>>,
    pub(super) state_dir: Option<Spanned<String>>,
    pub(super) log_dir: Option<Spanned<String>>,
    pub(super) real_dir: Option<Spanned<String>>,
    pub(super) remote: Option<Spanned<String>>,
    pub(super) pin: Option<Spanned<String>>,
}

#[derive(Default)]
pub(super) struct RawUpstreams {
    pub(super) keys: Option<List>,
    pub(super) caches: Option<List>,
    pub(super) remember: Option<Spanned<String>>,
}

#[derive(Default)]
pub(super) struct RawDisk {
    pub(super) low: Option<Spanned<String>>,
    pub(super) critical: Option<Spanned<String>>,
}

pub(super) struct RawRule {
    pub(super) span: Range<usize>,
    pub(super) name: Option<String>,
    pub(super) matches: RawMatch,
    pub(super) action: Option<Spanned<String>>,
    pub(super) to: Option<List>,
    pub(super) from: Option<List>,
}

#[derive(Default)]
pub(super) struct RawMatch {
    pub(super) name: Option<List>,
    pub(super) kind: Option<List>,
    pub(super) built: Option<Spanned<String>>,
    pub(super) deriver: Option<List>,
    pub(super) signed_by: Option<List>,
    pub(super) size: Option<Spanned<String>>,
    pub(super) content_addressed: Option<bool>,
}

impl RawPolicy {
    /// Reads a file. Where it is no TOML, that alone is reported: half a file would only bring false alarms.
    pub(super) fn read(text: &str, problems: &mut Problems<'_>) -> Self {
        let (document, errors) = DeTable::parse_recoverable(text);
        for err in &errors {
            problems.add(err.span().unwrap_or_default(), format!("this is no TOML: {}", err.message()));
        }
        if !errors.is_empty() || !version_is_ours(document.get_ref(), problems) {
            return Self::default();
        }
        let top = Table::new("the policy", &TOP, document.get_ref(), 0..0, problems);
        let caches = top.named_tables("caches", &CACHE, problems);
        let rules = top.tables("rules", "[[rules]]", &RULE, problems);
        Self {
            builtin_rules: top.boolean("builtin_rules", problems).map(Spanned::into_inner),
            store: RawStore::read(&top, problems),
            caches: caches.into_iter().map(|(name, table)| RawCache::read(name, &table, problems)).collect(),
            upstreams: RawUpstreams::read(&top, problems),
            limits: RawLimits::read(&top, problems),
            disk: RawDisk::read(&top, problems),
            rules: rules.iter().map(|table| RawRule::read(table, problems)).collect(),
        }
    }
}

/// A newer file is not read any further: what it has more would be reported as mistakes.
fn version_is_ours(document: &DeTable<'_>, problems: &mut Problems<'_>) -> bool {
    let Some(value) = document.get("version") else {
        problems.add(0..0, format!("the policy has no version: write `version = {VERSION}` as its first line"));
        return true;
    };
    let integer = value.get_ref().as_integer();
    match integer.and_then(|int| i64::from_str_radix(int.as_str(), int.radix()).ok()) {
        Some(VERSION) => true,
        Some(newer) if newer > VERSION => {
            let message = format!(
                "version {newer} was made for a newer storewatch; this one knows version {VERSION}: take a newer \
                 storewatch, or write the policy anew for version {VERSION}"
            );
            problems.add(value.span(), message);
            false
        }
        Some(_) => {
            problems.add(value.span(), format!("there is no such version: write `version = {VERSION}`"));
            true
        }
        None => {
            let found = match value.get_ref() {
                DeValue::Integer(_) => "a number that is too large",
                other => type_of(other),
            };
            let message = format!("the version is {found}, expected a whole number: write `version = {VERSION}`");
            problems.add(value.span(), message);
            true
        }
    }
}

impl RawStore {
    fn read(top: &Table<'_>, problems: &mut Problems<'_>) -> Self {
        let Some(table) = top.table("store", "[store]", &STORE, problems) else { return Self::default() };
        Self {
            dir: table.string("dir", problems),
            state_dir: table.string("state_dir", problems),
            log_dir: table.string("log_dir", problems),
            real_dir: table.string("real_dir", problems),
            remote: table.string("remote", problems),
            pin: table.string("pin", problems),
        }
    }
}

impl RawUpstreams {
    fn read(top: &Table<'_>, problems: &mut Problems<'_>) -> Self {
        let Some(table) = top.table("upstreams", "[upstreams]", &UPSTREAMS, problems) else { return Self::default() };
        Self {
            keys: table.list("keys", problems),
            caches: table.list("caches", problems),
            remember: table.string("remember", problems),
        }
    }
}

impl RawDisk {
    fn read(top: &Table<'_>, problems: &mut Problems<'_>) -> Self {
        let Some(table) = top.table("disk", "[disk]", &DISK, problems) else { return Self::default() };
        Self { low: table.string("low", problems), critical: table.string("critical", problems) }
    }
}

impl RawRule {
    fn read(table: &Table<'_>, problems: &mut Problems<'_>) -> Self {
        table.require("match", problems);
        table.require("action", problems);
        let matches = table.table("match", "match", &MATCH, problems);
        Self {
            span: table.span.clone(),
            name: rule_name(table, problems),
            matches: matches.map(|table| RawMatch::read(&table, problems)).unwrap_or_default(),
            action: table.string("action", problems),
            to: table.list("to", problems),
            from: table.list("from", problems),
        }
    }
}

/// A name by which somebody can tell the rule from others.
fn rule_name(table: &Table<'_>, problems: &mut Problems<'_>) -> Option<String> {
    let name = table.string("name", problems)?;
    if name.get_ref().trim().is_empty() {
        problems.add(name.span(), "`name` is empty: write one, or leave it out");
    }
    Some(name.into_inner())
}

impl RawMatch {
    fn read(table: &Table<'_>, problems: &mut Problems<'_>) -> Self {
        Self {
            name: table.one_or_list("name", problems),
            kind: table.one_or_list("kind", problems),
            built: table.string("built", problems),
            deriver: table.one_or_list("deriver", problems),
            signed_by: table.one_or_list("signed_by", problems),
            size: table.string("size", problems),
            content_addressed: table.boolean("content_addressed", problems).map(Spanned::into_inner),
        }
    }
}
