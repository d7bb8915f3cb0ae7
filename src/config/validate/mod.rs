//! From what stands in the file to what the program believes.

mod bandwidth;
mod cache;
mod command;
mod compression;
mod disk;
mod pin;
mod source;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;

use crate::cache::{CacheUrl, Layout, parse_upstream};
use crate::disk::Thresholds;
use crate::limit::{CacheSchedule, Schedule, Way};
use crate::nix::{PublicKey, StoreDir};
use crate::policy::{Built, ByteSize, CacheName, Effect, Globs, Kind, Match, Policy, Rule, Signer, SizeRange};

use super::duration::parse_duration;
use super::problems::Problems;
use super::raw::{RawMatch, RawPolicy, RawRule, RawStore, RawUpstreams};
use super::raw_cache::RawCache;
use super::raw_limits::RawLimits;
use super::reader::{List, listed, suggestion};
use super::store::{Remote, StoreOptions};
use super::{CacheConfig, Defaults, Limits, Priority, Upstreams};

/// The key of cache.nixos.org, as nixpkgs publishes it.
const NIXOS_CACHE_KEY: &str = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

/// More uploads at once than this gain nothing on one host, and each holds its buffers.
const MAX_UPLOADS: i64 = 64;

/// The words for [`Priority`].
const PRIORITIES: [(&str, Priority); 2] = [("low", Priority::Low), ("normal", Priority::Normal)];

/// The words for what a rule does.
const ACTIONS: [&str; 3] = ["upload", "skip", "deny"];

/// Understands a cache URL; the error is a message for the policy's author.
pub type CheckUrl<'a> = &'a dyn Fn(&str) -> Result<CacheUrl, String>;

/// What a file that makes sense comes to.
pub(super) struct Validated {
    pub(super) store: StoreOptions,
    pub(super) pin: Option<ByteSize>,
    pub(super) caches: Vec<CacheConfig>,
    pub(super) upstreams: Upstreams,
    pub(super) policy: Policy,
    pub(super) limits: Limits,
    pub(super) schedule: Schedule,
    pub(super) disk: Thresholds,
}

/// Checks everything, reports all that is wrong, and is `None` where anything was.
pub(super) fn validate(
    raw: RawPolicy,
    defaults: &Defaults,
    check_url: CheckUrl<'_>,
    problems: &mut Problems<'_>,
) -> Option<Validated> {
    let store = store(&raw.store, problems);
    let pin = raw.store.pin.as_ref().and_then(|text| pin::pin(text, problems));
    let mut caches: Vec<_> =
        raw.caches.iter().filter_map(|raw| cache::cache(raw, &store, check_url, problems)).collect();
    each_place_once(&raw.caches, problems);
    if raw.caches.is_empty() {
        caches.push(defaults.cache());
    }
    let upstream_keys = upstream_keys(raw.upstreams.keys.as_ref(), problems);
    let upstreams = upstreams(&raw.upstreams, problems);
    let limits = limits(&raw.limits, problems);
    let mut schedule = bandwidth::schedule(&raw, problems);
    if raw.caches.is_empty() {
        schedule.caches = defaults.schedule().caches;
    }
    let disk = disk::thresholds(&raw.disk, problems);
    // Names also of caches that have another mistake: a rule may name them without making a second one.
    let mut names: Vec<_> = raw.caches.iter().filter_map(|raw| CacheName::new(raw.name.get_ref()).ok()).collect();
    if raw.caches.is_empty() {
        names.extend(caches.iter().map(|cache| cache.name.clone()));
    }
    let rules: Vec<_> = raw.rules.iter().map(|raw| rule(raw, &names, problems)).collect();
    warn_unreachable(&raw.rules, &rules, problems);
    if !problems.is_empty() {
        return None;
    }
    let rules = rules.into_iter().flatten().collect();
    match Policy::new(names, rules, upstream_keys, raw.builtin_rules.unwrap_or(true)) {
        Ok(policy) => Some(Validated { store, pin, caches, upstreams, policy, limits, schedule, disk }),
        Err(unknown) => unreachable!("the rules name known caches alone, or are a problem: {unknown}"),
    }
}

/// Two caches in one place would each take what the other wrote for what is there, and sign it with another key.
fn each_place_once(caches: &[RawCache], problems: &mut Problems<'_>) {
    let mut seen = BTreeMap::new();
    for (raw, text) in caches.iter().filter_map(|raw| Some((raw, raw.url.as_ref()?))) {
        let place = match CacheUrl::parse(text.get_ref()) {
            // Without a slash at its end.
            Ok(CacheUrl::File { dir, .. }) => dir.components().as_path().to_string_lossy().into_owned(),
            Ok(url @ (CacheUrl::Http { .. } | CacheUrl::Bucket { .. } | CacheUrl::Attic { .. })) => {
                url.normal(text.get_ref())
            }
            // One program may serve several, by its arguments.
            Ok(CacheUrl::Command { .. }) | Err(_) => continue,
        };
        let first = *seen.entry(place).or_insert(raw);
        if !std::ptr::eq(first, raw) {
            let (name, line) = (first.name.get_ref(), problems.line(&first.name.span()));
            let message = format!("the cache `{name}` of line {line} is in the same place: leave one of the two out");
            problems.add(text.span(), message);
        }
    }
}

fn absolute(key: &str, path: &Spanned<String>, problems: &mut Problems<'_>) -> Option<PathBuf> {
    if Path::new(path.get_ref()).is_absolute() {
        return Some(path.get_ref().into());
    }
    problems.add(path.span(), format!("`{key}` must be an absolute path: write it from the `/` on"));
    None
}

fn store(raw: &RawStore, problems: &mut Problems<'_>) -> StoreOptions {
    let mut path = |key, value: &Option<Spanned<String>>| value.as_ref().and_then(|path| absolute(key, path, problems));
    let dir = path("dir", &raw.dir).map(|dir| StoreDir::new(&dir.to_string_lossy()));
    let (state_dir, real_dir) = (path("state_dir", &raw.state_dir), path("real_dir", &raw.real_dir));
    let log_dir = path("log_dir", &raw.log_dir);
    let remote = raw.remote.as_ref().and_then(|text| match Remote::parse(text.get_ref()) {
        Ok(remote) => Some(remote),
        Err(err) => {
            problems.add(text.span(), format!("`remote`: {err}"));
            None
        }
    });
    if let (Some(given), Some(url)) = (&remote, &raw.remote) {
        for (key, parameter, twice) in [
            ("dir", "store", dir.is_some() && given.store.is_some()),
            ("real_dir", "real", real_dir.is_some() && given.real.is_some()),
            ("log_dir", "log", log_dir.is_some() && given.log.is_some()),
            ("state_dir", "state", state_dir.is_some() && given.state.is_some()),
        ] {
            if twice {
                problems.add(url.span(), format!("`{parameter}=` in `remote` and `{key}` say the same: leave one out"));
            }
        }
    }
    StoreOptions { dir, state_dir, log_dir, real_dir, remote }
}

fn upstream_keys(raw: Option<&List>, problems: &mut Problems<'_>) -> Vec<PublicKey> {
    let Some(keys) = raw else { return PublicKey::parse(NIXOS_CACHE_KEY).into_iter().collect() };
    keys.get_ref().iter().filter_map(|key| public_key(key, problems)).collect()
}

/// More is no memory but a guess: caches collect garbage.
const LONGEST_REMEMBERED: Duration = Duration::from_secs(30 * 24 * 60 * 60);

fn upstreams(raw: &RawUpstreams, problems: &mut Problems<'_>) -> Upstreams {
    let mut upstreams = Upstreams::default();
    for text in raw.caches.iter().flat_map(|list| list.get_ref()) {
        match parse_upstream(text.get_ref()) {
            Ok(url) if upstreams.caches.contains(&url) => {
                problems.add(text.span(), "this upstream cache stands here twice")
            }
            Ok(url) => upstreams.caches.push(url),
            Err(err) => problems.add(text.span(), err.to_string()),
        }
    }
    if let Some(remember) = &raw.remember {
        let range = Duration::from_secs(1)..=LONGEST_REMEMBERED;
        upstreams.remember = duration("remember", remember, range, "1s to 30d", problems).unwrap_or(upstreams.remember);
    }
    upstreams
}

fn duration(
    key: &str,
    text: &Spanned<String>,
    range: RangeInclusive<Duration>,
    expected: &str,
    problems: &mut Problems<'_>,
) -> Option<Duration> {
    match parse_duration(text.get_ref()) {
        Ok(duration) if range.contains(&duration) => return Some(duration),
        Ok(_) => problems.add(text.span(), format!("`{key}` must be from {expected}")),
        Err(err) => problems.add(text.span(), format!("`{key}`: {err}")),
    }
    None
}

/// The text of a key is never repeated: it may be a secret one.
fn public_key(text: &Spanned<String>, problems: &mut Problems<'_>) -> Option<PublicKey> {
    PublicKey::parse(text.get_ref()).map_err(|err| problems.add(text.span(), err.to_string())).ok()
}

fn limits(raw: &RawLimits, problems: &mut Problems<'_>) -> Limits {
    let uploads = raw.uploads.as_ref().and_then(|number| uploads(number, problems));
    let priority = raw.priority.as_ref().and_then(|priority| word("priority", priority, &PRIORITIES, problems));
    Limits { uploads, priority: priority.unwrap_or_default() }
}

fn uploads(number: &Spanned<i64>, problems: &mut Problems<'_>) -> Option<usize> {
    let fits = (1..=MAX_UPLOADS).contains(number.get_ref());
    if !fits {
        problems.add(number.span(), format!("`uploads` must be between 1 and {MAX_UPLOADS}"));
    }
    usize::try_from(*number.get_ref()).ok().filter(|_| fits)
}

/// One of a few words.
fn word<T: Copy>(key: &str, word: &Spanned<String>, words: &[(&str, T)], problems: &mut Problems<'_>) -> Option<T> {
    let found = words.iter().find(|(known, _)| known == word.get_ref()).map(|(_, value)| *value);
    if found.is_none() {
        problems.add(word.span(), no_word(key, word.get_ref(), words.iter().map(|(known, _)| *known)));
    }
    found
}

fn no_word<'w>(key: &str, word: &str, words: impl Iterator<Item = &'w str> + Clone) -> String {
    let hint = suggestion(word, words.clone()).unwrap_or_else(|| format!("write one of {}", listed(words)));
    format!("`{key}` can not be `{word}`: {hint}")
}

fn rule(raw: &RawRule, caches: &[CacheName], problems: &mut Problems<'_>) -> Option<Rule> {
    let matches = matches(&raw.matches, problems);
    let to = raw.to.as_ref().and_then(|list| cache_names("to", list, caches, problems));
    let from = raw.from.as_ref().and_then(|list| cache_names("from", list, caches, problems));
    let action = raw.action.as_ref()?;
    let mut belongs_to = |key: &str, list: &Option<List>, wanted: &str| {
        if let Some(list) = list
            && action.get_ref() != wanted
            && ACTIONS.contains(&action.get_ref().as_str())
        {
            problems.add(list.span(), format!("`{key}` goes with `action = \"{wanted}\"` only: leave it out"));
        }
    };
    belongs_to("to", &raw.to, "upload");
    belongs_to("from", &raw.from, "deny");
    let effect = match action.get_ref().as_str() {
        "upload" => Effect::Upload { to },
        "skip" => Effect::Skip,
        "deny" => Effect::Deny { from },
        other => {
            problems.add(action.span(), no_word("action", other, ACTIONS.into_iter()));
            return None;
        }
    };
    Some(Rule { name: raw.name.clone(), matches, effect })
}

fn cache_names(key: &str, list: &List, known: &[CacheName], problems: &mut Problems<'_>) -> Option<Vec<CacheName>> {
    not_empty(key, list, problems)?;
    let mut names = Vec::new();
    for name in list.get_ref() {
        match known.iter().find(|known| known.as_str() == name.get_ref()) {
            Some(known) => names.push(known.clone()),
            None => {
                let words = || known.iter().map(CacheName::as_str);
                let hint = suggestion(name.get_ref(), words())
                    .unwrap_or_else(|| format!("the caches are {}", listed(words())));
                problems.add(name.span(), format!("`{key}` names an unknown cache `{}`: {hint}", name.get_ref()));
            }
        }
    }
    Some(names)
}

/// An empty list says nothing, or the opposite of what leaving it out says: nobody means it.
fn not_empty(key: &str, list: &List, problems: &mut Problems<'_>) -> Option<()> {
    if list.get_ref().is_empty() {
        problems.add(list.span(), format!("`{key}` is an empty list: name at least one, or leave it out"));
        return None;
    }
    Some(())
}

fn matches(raw: &RawMatch, problems: &mut Problems<'_>) -> Match {
    let mut globs = |key, list: &Option<List>| {
        let list = list.as_ref()?;
        not_empty(key, list, problems)?;
        // One by one, so that each bad one is found at its own place.
        for pattern in list.get_ref() {
            if let Err(err) = Globs::new([pattern.get_ref().as_str()]) {
                problems.add(pattern.span(), err.to_string());
            }
        }
        Globs::new(list.get_ref().iter().map(|pattern| pattern.get_ref().as_str())).ok()
    };
    let (name, deriver) = (globs("name", &raw.name), globs("deriver", &raw.deriver));
    let kind = raw.kind.as_ref().and_then(|list| {
        not_empty("kind", list, problems)?;
        Some(list.get_ref().iter().filter_map(|kind| word("kind", kind, &Kind::WORDS, problems)).collect())
    });
    let signed_by = raw.signed_by.as_ref().and_then(|list| {
        not_empty("signed_by", list, problems)?;
        Some(list.get_ref().iter().filter_map(|signer| self::signer(signer, problems)).collect())
    });
    let size = raw.size.as_ref().and_then(|size| {
        SizeRange::parse(size.get_ref()).map_err(|err| problems.add(size.span(), err.to_string())).ok()
    });
    let built = raw.built.as_ref().and_then(|built| word("built", built, &Built::WORDS, problems));
    Match { name, kind, built, deriver, signed_by, size, content_addressed: raw.content_addressed }
}

fn signer(text: &Spanned<String>, problems: &mut Problems<'_>) -> Option<Signer> {
    if text.get_ref().contains(':') {
        return public_key(text, problems).map(Signer::Key);
    }
    if text.get_ref().is_empty() {
        problems.add(text.span(), "`signed_by` is empty: name a key, or write it in full as NAME:BASE64");
        return None;
    }
    Some(Signer::Name(text.get_ref().clone()))
}

fn warn_unreachable(raw: &[RawRule], rules: &[Option<Rule>], problems: &mut Problems<'_>) {
    let final_one = rules.iter().position(|rule| {
        rule.as_ref()
            .is_some_and(|rule| rule.matches.is_everything() && !matches!(rule.effect, Effect::Deny { from: Some(_) }))
    });
    if let Some(at) = final_one
        && let Some(behind) = raw.get(at + 1)
    {
        let message = format!("never asked, like all rules behind it: rule {} matches everything", at + 1);
        problems.warn(behind.span.clone(), message);
    }
}

impl Defaults {
    /// The cache that there is without a word in the policy.
    pub(super) fn cache(&self) -> CacheConfig {
        let dir = self.state_dir.join("cache");
        let name = CacheName::new(super::LOCAL_CACHE).unwrap_or_else(|_| unreachable!("the name is a legal one"));
        let url = format!("file://{}", encoded(&dir));
        let place = CacheUrl::File { dir, layout: Layout::default() };
        CacheConfig { builtin: true, ..CacheConfig::new(name, url, place) }
    }

    /// Nothing limits that cache, to which no line leads.
    pub(super) fn schedule(&self) -> Schedule {
        let local = CacheSchedule { bandwidth: None, windows: Vec::new(), way: Way::Disk };
        Schedule { caches: [(super::LOCAL_CACHE.to_owned(), local)].into(), ..Schedule::default() }
    }

    /// All that holds without a policy file.
    pub(super) fn policy(&self) -> Arc<Policy> {
        let keys = PublicKey::parse(NIXOS_CACHE_KEY).into_iter().collect();
        let policy = Policy::new(vec![self.cache().name], Vec::new(), keys, true);
        Arc::new(policy.unwrap_or_else(|_| unreachable!("the built-in rules name no cache")))
    }
}

/// A path as it stands in a URL.
fn encoded(path: &Path) -> percent_encoding::PercentEncode<'_> {
    use std::os::unix::ffi::OsStrExt;
    /// What would end a path in a URL, or be taken for an encoded character.
    const MEANT: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS.add(b'%').add(b'?').add(b'#').add(b' ');
    percent_encoding::percent_encode(path.as_os_str().as_bytes(), MEANT)
}
