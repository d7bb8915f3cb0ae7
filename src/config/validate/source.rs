//! Where a secret comes from: exactly one place, and only what goes with it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;

use crate::config::problems::Problems;
use crate::config::raw_cache::{RawNetrc, RawSource};
use crate::config::reader::{List, listed};
use crate::config::store::StoreOptions;
use crate::nix::StoreDir;
use crate::secret::{DEFAULT_LIFETIME, DEFAULT_TIMEOUT, Source};

/// The keys that name a place; exactly one of them is given.
const PLACES: [&str; 6] = ["file", "env", "credential", "command", "keychain", "netrc"];

/// The keys that go with some places only.
const COMPANIONS: [(&str, &[&str]); 4] = [
    ("readable_by_others", &["file", "netrc"]),
    ("timeout", &["command"]),
    ("lifetime", &["command"]),
    ("account", &["keychain"]),
];

/// What a secret is called where one is written of, and where it can't come from.
pub(super) struct Secret<'a> {
    /// The key: `token`, or `header x-name`.
    pub(super) key: &'a str,
    /// `a token`.
    pub(super) what: &'static str,
    /// Whether it is looked up by the server's host, as netrc files do.
    pub(super) has_host: bool,
}

/// Checks a table that says where a secret comes from.
pub(super) fn source(
    secret: &Secret<'_>,
    raw: &RawSource,
    store: &StoreOptions,
    problems: &mut Problems<'_>,
) -> Option<Source> {
    let key = secret.key;
    let place = only_place(key, raw, problems)?;
    let mut fits = true;
    for (companion, at) in &raw.given {
        if let Some((_, with)) = COMPANIONS.iter().find(|(known, with)| known == companion && !with.contains(&place)) {
            let with = with.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(" or ");
            problems.add(at.clone(), format!("`{companion}` goes with {with} only: leave it out"));
            fits = false;
        }
    }
    let readable_by_others = raw.readable_by_others.as_ref().is_some_and(|flag| *flag.get_ref());
    let source = match place {
        "file" => {
            let path = file("file", secret.what, raw.file.as_ref()?, store, problems)?;
            Source::File { path, readable_by_others: Some(readable_by_others) }
        }
        "env" => Source::Env { name: variable(raw.env.as_ref()?, problems)? },
        "credential" => Source::Credential { name: credential(raw.credential.as_ref()?, problems)? },
        "command" => command(raw, raw.command.as_ref()?, problems)?,
        "keychain" => Source::Keychain {
            service: not_empty("keychain", raw.keychain.as_ref()?, problems)?,
            account: match &raw.account {
                Some(account) => Some(not_empty("account", account, problems)?),
                None => None,
            },
        },
        _ => Source::Netrc { path: netrc(secret, raw.netrc.as_ref()?, store, problems)?, readable_by_others },
    };
    fits.then_some(source)
}

fn only_place(key: &str, raw: &RawSource, problems: &mut Problems<'_>) -> Option<&'static str> {
    let mut places =
        raw.given.iter().filter_map(|(key, at)| PLACES.iter().find(|place| *place == key).map(|p| (*p, at)));
    let Some((first, _)) = places.next() else {
        let message =
            format!("`{key}` does not say where the secret comes from: write one of {}", listed(PLACES.into_iter()));
        problems.add(raw.span.clone(), message);
        return None;
    };
    if let Some((second, at)) = places.next() {
        problems.add(at.clone(), format!("`{key}` comes from `{first}` already: leave out that or `{second}`"));
        return None;
    }
    Some(first)
}

/// A file outside the Nix store, as far as its name says.
fn file(
    key: &str,
    what: &str,
    file: &Spanned<String>,
    store: &StoreOptions,
    problems: &mut Problems<'_>,
) -> Option<PathBuf> {
    let path = super::absolute(key, file, problems)?;
    if in_store(&path, store) {
        let message = format!("{what} must not lie in the Nix store, where everybody can read it: keep it elsewhere");
        problems.add(file.span(), message);
        return None;
    }
    Some(path)
}

/// Whether a path lies in the Nix store, as far as its name says.
pub(super) fn in_store(path: &Path, store: &StoreOptions) -> bool {
    let default_store = StoreDir::default();
    let logical = [Some(&default_store), store.dir.as_ref()];
    logical.iter().flatten().any(|dir| path.starts_with(dir.as_str()))
        || store.real_dir.as_ref().is_some_and(|dir| path.starts_with(dir))
}

/// The text is not repeated: it may be the secret itself, put in the wrong place.
fn variable(name: &Spanned<String>, problems: &mut Problems<'_>) -> Option<String> {
    let text = name.get_ref();
    let legal = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if text.is_empty() || !legal || text.starts_with(|first: char| first.is_ascii_digit()) {
        problems.add(name.span(), "`env` is no name of a variable: write letters, digits and `_`, such as CACHE_TOKEN");
        return None;
    }
    Some(text.clone())
}

fn credential(name: &Spanned<String>, problems: &mut Problems<'_>) -> Option<String> {
    let text = name.get_ref();
    if text.is_empty() || text.contains('/') || text.contains(char::is_control) || matches!(text.as_str(), "." | "..") {
        let message = "`credential` is no name of a credential: write what stands before the `:` in `LoadCredential=`";
        problems.add(name.span(), message);
        return None;
    }
    Some(text.clone())
}

fn command(raw: &RawSource, argv: &List, problems: &mut Problems<'_>) -> Option<Source> {
    let seconds = Duration::from_secs;
    let mut within = |key, text: &Option<Spanned<String>>, longest, expected, default| match text {
        Some(text) => super::duration(key, text, seconds(1)..=seconds(longest), expected, problems),
        None => Some(default),
    };
    let timeout = within("timeout", &raw.timeout, 10 * 60, "1s to 10m", DEFAULT_TIMEOUT);
    let lifetime = within("lifetime", &raw.lifetime, 7 * 24 * 60 * 60, "1s to 7d", DEFAULT_LIFETIME);
    let program = argv.get_ref().first().map_or("", |program| program.get_ref().as_str());
    if program.is_empty() || (program.contains('/') && !program.starts_with('/')) {
        let message = "`command` must begin with a program, by its absolute path or as `PATH` knows it";
        problems.add(argv.span(), message);
        return None;
    }
    if argv.get_ref().iter().any(|word| word.get_ref().contains('\0')) {
        problems.add(argv.span(), "`command` has a zero byte in it, which no command can be given");
        return None;
    }
    let argv = argv.get_ref().iter().map(|word| word.get_ref().clone()).collect();
    Some(Source::Command { argv, timeout: timeout?, lifetime: lifetime? })
}

fn not_empty(key: &str, text: &Spanned<String>, problems: &mut Problems<'_>) -> Option<String> {
    if text.get_ref().is_empty() || text.get_ref().contains('\0') {
        problems.add(text.span(), format!("`{key}` is empty or has a zero byte in it: name the keychain's item"));
        return None;
    }
    Some(text.get_ref().clone())
}

/// The file, if one is named.
fn netrc(
    secret: &Secret<'_>,
    raw: &Spanned<RawNetrc>,
    store: &StoreOptions,
    problems: &mut Problems<'_>,
) -> Option<Option<PathBuf>> {
    if !secret.has_host {
        let message =
            format!("a netrc file has passwords by host, and {} belongs to none: take another source", secret.what);
        problems.add(raw.span(), message);
        return None;
    }
    match raw.get_ref() {
        RawNetrc::Flag(true) => Some(None),
        RawNetrc::Flag(false) => {
            problems
                .add(raw.span(), format!("`netrc = false` says nothing: leave `{}` out if there is none", secret.key));
            None
        }
        RawNetrc::File(path) => file("netrc", secret.what, path, store, problems).map(Some),
    }
}
