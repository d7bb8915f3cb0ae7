//! What was decided, and by which rule.

use std::fmt;
use std::sync::Arc;

use super::CacheName;

/// What happens to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// It goes to a cache.
    Upload,
    /// It goes nowhere on its own account.
    Skip,
    /// It must not go there, as a dependency neither.
    Deny,
}

/// A rule, as logs and explanations call it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RuleLabel {
    /// One of the policy's own.
    User {
        /// Its place in the file, from 1.
        number: usize,
        /// Its name, if it has one.
        name: Option<Arc<str>>,
    },
    /// One of those that stand behind the policy's own.
    BuiltIn(&'static str),
    /// None: the policy did without the built-in rules, and none of its own matched.
    None,
}

/// What the policy says of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub(super) action: Action,
    pub(super) uploads: Arc<[CacheName]>,
    pub(super) denied: Denied,
    pub(super) rule: RuleLabel,
}

/// Where a path must never go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    Nowhere,
    From(Arc<[CacheName]>),
    Everywhere,
}

impl Decision {
    /// [`Action::Upload`] where it goes to at least one cache; [`Action::Deny`] where every cache that it could have gone
    /// to is denied to it; otherwise [`Action::Skip`]. What holds for one cache is [`Decision::verdict`].
    #[must_use]
    pub fn action(&self) -> Action {
        self.action
    }

    /// The caches that the path is uploaded to on its own account, in the policy's order.
    #[must_use]
    pub fn uploads_to(&self) -> &[CacheName] {
        &self.uploads
    }

    /// Whether the path must never reach that cache, as a dependency neither.
    #[must_use]
    pub fn denies(&self, cache: &CacheName) -> bool {
        match &self.denied {
            Denied::Nowhere => false,
            Denied::From(caches) => caches.contains(cache),
            Denied::Everywhere => true,
        }
    }

    /// What happens to the path at that one cache.
    #[must_use]
    pub fn verdict(&self, cache: &CacheName) -> Action {
        if self.denies(cache) {
            Action::Deny
        } else if self.uploads.contains(cache) {
            Action::Upload
        } else {
            Action::Skip
        }
    }

    /// The rule that decided: for single caches another may have, which [`super::Policy::explain`] tells.
    #[must_use]
    pub fn rule(&self) -> &RuleLabel {
        &self.rule
    }
}

impl Denied {
    /// Denies some more caches.
    pub(super) fn add(&mut self, from: &Arc<[CacheName]>) {
        *self = match std::mem::replace(self, Self::Nowhere) {
            Self::Nowhere => Self::From(Arc::clone(from)),
            Self::From(before) => {
                let more = from.iter().filter(|cache| !before.contains(cache));
                Self::From(before.iter().chain(more).cloned().collect())
            }
            Self::Everywhere => Self::Everywhere,
        };
    }

    /// Of those caches, the ones that are not denied.
    pub(super) fn spare(&self, caches: &Arc<[CacheName]>) -> Arc<[CacheName]> {
        match self {
            Self::Nowhere => Arc::clone(caches),
            Self::From(denied) => caches.iter().filter(|cache| !denied.contains(cache)).cloned().collect(),
            Self::Everywhere => Arc::new([]),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Upload => "upload",
            Self::Skip => "skip",
            Self::Deny => "deny",
        })
    }
}

impl fmt::Display for RuleLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User { number, name: Some(name) } => write!(f, "rule {number} {name:?}"),
            Self::User { number, name: None } => write!(f, "rule {number}"),
            Self::BuiltIn(name) => write!(f, "built-in rule \"{name}\""),
            Self::None => f.write_str("no rule matches"),
        }
    }
}
