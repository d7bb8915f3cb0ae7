//! Rules: what they match and what they do.

use std::fmt;

use crate::nix::{PathInfo, PublicKey, StorePath};

use super::{CacheName, Globs, SizeRange};

/// One rule, as a person wrote it.
#[derive(Clone, Debug)]
pub struct Rule {
    /// What logs and explanations call it beside its number.
    pub name: Option<String>,
    /// Which paths it matches.
    pub matches: Match,
    /// What happens to them.
    pub effect: Effect,
}

/// What a rule does with the paths that it matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The path goes to these caches, or to all where none are named. To others it doesn't go on its own account.
    Upload {
        /// `None`: all of the policy's caches.
        to: Option<Vec<CacheName>>,
    },
    /// The path goes nowhere on its own account; it still goes where something uploaded needs it.
    Skip,
    /// The path never reaches these caches, or any where none are named, as a dependency neither.
    Deny {
        /// `None`: all caches, also those that the policy doesn't name.
        from: Option<Vec<CacheName>>,
    },
}

/// Conditions, all of which must hold; with none at all every path matches.
#[derive(Clone, Debug, Default)]
pub struct Match {
    /// Globs on the name behind the hash: `hello-2.12`.
    pub name: Option<Globs>,
    /// One of these kinds.
    pub kind: Option<Vec<Kind>>,
    /// Where it was built.
    pub built: Option<Built>,
    /// Globs on the deriver's name: `hello-2.12.drv`. A path without a known deriver doesn't match.
    pub deriver: Option<Globs>,
    /// Signed by one of these.
    pub signed_by: Option<Vec<Signer>>,
    /// Size of the NAR.
    pub size: Option<SizeRange>,
    /// Whether the path has a content address.
    pub content_addressed: Option<bool>,
}

/// What a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A derivation: its name ends in `.drv`.
    Derivation,
    /// Added to the store by its content, not built here and without a known deriver: flake sources, `nix-store --add`.
    Source,
    /// All others: what builders made, here or elsewhere.
    Output,
}

/// Where a path was built, as far as this host's Nix noted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Built {
    /// On this host (`ultimate`).
    Locally,
    /// On another: substituted, copied, or built by a remote builder. Sources and derivations count as this, too.
    Elsewhere,
}

/// Whose signature a rule asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signer {
    /// This key: the signature is verified.
    Key(PublicKey),
    /// A key of this name: verified where the upstream keys hold its public half, otherwise taken by name alone.
    Name(String),
}

/// One of the conditions that a rule may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the key of that name")]
pub enum Condition {
    Kind,
    Built,
    ContentAddressed,
    Size,
    Name,
    Deriver,
    SignedBy,
}

impl Kind {
    /// All kinds, by the word that the policy has for each.
    pub const WORDS: [(&'static str, Self); 3] =
        [("derivation", Self::Derivation), ("source", Self::Source), ("output", Self::Output)];

    /// What that path is.
    #[must_use]
    pub fn of(info: &PathInfo) -> Self {
        if info.path.is_derivation() {
            Self::Derivation
        } else if info.ca.is_some() && info.deriver.is_none() && !info.ultimate {
            Self::Source
        } else {
            Self::Output
        }
    }
}

impl Built {
    /// Both places, by the word that the policy has for each.
    pub const WORDS: [(&'static str, Self); 2] = [("locally", Self::Locally), ("elsewhere", Self::Elsewhere)];

    /// Where that path was built.
    #[must_use]
    pub fn of(info: &PathInfo) -> Self {
        if info.ultimate { Self::Locally } else { Self::Elsewhere }
    }
}

impl Match {
    /// Whether it has no condition at all, so that every path matches.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        let Self { name, kind, built, deriver, signed_by, size, content_addressed } = self;
        name.is_none()
            && kind.is_none()
            && built.is_none()
            && deriver.is_none()
            && signed_by.is_none()
            && size.is_none()
            && content_addressed.is_none()
    }

    /// The first condition that fails on what the database says alone; signatures are another matter.
    pub(super) fn first_failure(&self, info: &PathInfo) -> Option<Condition> {
        let fails = |failed: bool, condition| failed.then_some(condition);
        let Self { name, kind, built, deriver, signed_by: _, size, content_addressed } = self;
        kind.as_ref()
            .and_then(|kinds| fails(!kinds.contains(&Kind::of(info)), Condition::Kind))
            .or_else(|| built.and_then(|built| fails(built != Built::of(info), Condition::Built)))
            .or_else(|| content_addressed.and_then(|ca| fails(ca != info.ca.is_some(), Condition::ContentAddressed)))
            .or_else(|| size.as_ref().and_then(|size| fails(!size.contains(info.nar_size), Condition::Size)))
            .or_else(|| name.as_ref().and_then(|globs| fails(!globs.matches(info.path.name()), Condition::Name)))
            .or_else(|| {
                let deriver_name = info.deriver.as_ref().map(StorePath::name);
                deriver
                    .as_ref()
                    .and_then(|globs| fails(!deriver_name.is_some_and(|name| globs.matches(name)), Condition::Deriver))
            })
    }

    /// The condition as it stands in the policy: `name = "cuda*"`.
    pub(super) fn text(&self, condition: Condition) -> String {
        let value = match condition {
            Condition::Name => self.name.as_ref().map(Globs::to_string),
            Condition::Deriver => self.deriver.as_ref().map(Globs::to_string),
            Condition::Size => self.size.as_ref().map(|size| format!("\"{size}\"")),
            Condition::ContentAddressed => self.content_addressed.map(|wanted| wanted.to_string()),
            Condition::Built => self.built.map(|built| format!("\"{built}\"")),
            Condition::Kind => self.kind.as_ref().map(|kinds| quoted(kinds)),
            Condition::SignedBy => self.signed_by.as_ref().map(|signers| quoted(signers)),
        };
        format!("{condition} = {}", value.unwrap_or_default())
    }
}

/// One value in quotes, or several in brackets, as TOML has them.
fn quoted(values: &[impl fmt::Display]) -> String {
    let words: Vec<_> = values.iter().map(|value| format!("\"{value}\"")).collect();
    match words.as_slice() {
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    }
}

/// The word of a value in one of the `WORDS` above.
fn word<T: PartialEq>(words: &[(&'static str, T)], value: &T) -> &'static str {
    words.iter().find(|(_, known)| known == value).map_or("", |(word, _)| word)
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(word(&Self::WORDS, self))
    }
}

impl fmt::Display for Built {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(word(&Self::WORDS, self))
    }
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => f.write_str(key.name()),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for Condition {
    /// The key in the policy.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kind => "kind",
            Self::Built => "built",
            Self::ContentAddressed => "content_addressed",
            Self::Size => "size",
            Self::Name => "name",
            Self::Deriver => "deriver",
            Self::SignedBy => "signed_by",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nix::NarHash;

    fn path_info(name: &str) -> PathInfo {
        PathInfo {
            id: None,
            path: StorePath::from_base_name(&format!("{}-{name}", "0".repeat(32))).expect("a path"),
            nar_hash: NarHash([0; 32]),
            nar_size: 2048,
            registration_time: 0,
            deriver: None,
            ultimate: false,
            sigs: Vec::new(),
            ca: None,
            references: None,
        }
    }

    #[test]
    fn kinds_of_paths() {
        let deriver = Some(path_info("source.drv").path);
        let ca = || Some("fixed:r:sha256:abc".to_owned());
        let text = || Some("text:sha256:abc".to_owned());
        for (info, kind) in [
            (PathInfo { ca: text(), ..path_info("a.drv") }, Kind::Derivation),
            (PathInfo { ca: ca(), ..path_info("source") }, Kind::Source),
            (PathInfo { ca: ca(), deriver: deriver.clone(), ..path_info("fetched") }, Kind::Output),
            (PathInfo { ca: ca(), ultimate: true, ..path_info("fetched") }, Kind::Output),
            (path_info("substituted"), Kind::Output),
        ] {
            assert_eq!(Kind::of(&info), kind, "{}", info.path);
        }
    }

    #[test]
    fn all_conditions_must_hold() {
        let info =
            PathInfo { ultimate: true, deriver: Some(path_info("hello-2.12.drv").path), ..path_info("hello-2.12") };
        let matching = || Match {
            name: Globs::new(["hello*"]).ok(),
            kind: Some(vec![Kind::Source, Kind::Output]),
            built: Some(Built::Locally),
            deriver: Globs::new(["*.drv"]).ok(),
            signed_by: None,
            size: SizeRange::parse(">= 1 KiB").ok(),
            content_addressed: Some(false),
        };
        assert_eq!(matching().first_failure(&info), None);
        for (other, condition, text) in [
            (Match { name: Globs::new(["x", "y*"]).ok(), ..matching() }, Condition::Name, r#"name = ["x", "y*"]"#),
            (Match { kind: Some(vec![Kind::Source]), ..matching() }, Condition::Kind, r#"kind = "source""#),
            (Match { built: Some(Built::Elsewhere), ..matching() }, Condition::Built, r#"built = "elsewhere""#),
            (Match { deriver: Globs::new(["x"]).ok(), ..matching() }, Condition::Deriver, r#"deriver = "x""#),
            (Match { size: SizeRange::parse("> 2 KiB").ok(), ..matching() }, Condition::Size, r#"size = "> 2 KiB""#),
            (
                Match { content_addressed: Some(true), ..matching() },
                Condition::ContentAddressed,
                "content_addressed = true",
            ),
        ] {
            assert_eq!(other.first_failure(&info), Some(condition));
            assert_eq!(other.text(condition), text);
            assert!(!other.is_everything());
        }
        let no_deriver = PathInfo { deriver: None, ..info };
        assert_eq!(matching().first_failure(&no_deriver), Some(Condition::Deriver));
        assert!(Match::default().is_everything());
    }
}
